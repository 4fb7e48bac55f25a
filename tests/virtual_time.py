"""A hand-driven clock: an event loop whose time jumps to the next timer instead of waiting for it."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class _NoWaiting(selectors.SelectSelector):
    """A selector that lets virtual time pass instead of blocking."""

    loop: VirtualTimeLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("nothing is left to happen: the test would wait for ever")
        self.loop.now += max(0.0, timeout) + (self.loop.late() if timeout > 0 else 0.0)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time.

    Args:
        late: returns by how many seconds the next timer fires late; negative for early, as libuv's do.
    """

    def __init__(self, late: Callable[[], float] = lambda: 0.0) -> None:
        selector = _NoWaiting()
        super().__init__(selector)
        selector.loop = self
        self.now = 1000.0
        self.late = late

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self.now


def run(main: Callable[[], Coroutine[Any, Any, Any]], late: Callable[[], float] = lambda: 0.0) -> Any:
    """Run `main()` to its end in virtual time, in no time."""
    loop = VirtualTimeLoop(late)
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()
