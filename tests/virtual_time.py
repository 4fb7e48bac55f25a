"""A hand-driven clock: an event loop whose time jumps to the next timer instead of waiting for it.

Nothing waits in real time and nothing is random but what the caller's seed makes so. A blocked loop is
`loop.now += seconds`. What would wait or spin for ever is a RuntimeError. No sockets, no threads.
"""

from __future__ import annotations

import asyncio
import math
import random
import selectors
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


_SPINNING = 100_000  # turns of the loop without time going on


class _NoWaiting(selectors.SelectSelector):
    """A selector that lets virtual time pass instead of blocking."""

    loop: VirtualTimeLoop
    _seen, _turns = -math.inf, 0

    def select(self, timeout: float | None = None) -> list[Any]:
        self._turns = self._turns + 1 if self.loop.now == self._seen else 0
        self._seen = self.loop.now
        if self._turns > _SPINNING:
            raise RuntimeError("time stands still: something asks again and again")
        if timeout is None:
            raise RuntimeError("nothing is left to happen: the test would wait for ever")
        if timeout > 0:
            self.loop.now += max(0.0, timeout + self.loop.late())
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time.

    Args:
        late: returns by how many seconds the next timer fires late; negative for early.
        early: by how many seconds a timer may fire early at most; uvloop's by up to 0.001, since libuv
            rounds to milliseconds. Without it, a timer that is not due is waited for again.
        start: what the clock shows at first, in seconds.
    """

    def __init__(
        self, late: Callable[[], float] = lambda: 0.0, *, early: float = 0.0, start: float = 1000.0
    ) -> None:
        selector = _NoWaiting()
        super().__init__(selector)
        selector.loop = self
        self.now = start
        self.late = late
        # asyncio fires what is due within this, which must be more than the rounding of its sums.
        self._clock_resolution = max(early, 1e-8, 8 * math.ulp(start))

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self.now


def run(
    main: Callable[[], Coroutine[Any, Any, Any]],
    late: Callable[[], float] = lambda: 0.0,
    *,
    early: float = 0.0,
    start: float = 1000.0,
) -> Any:
    """Run `main()` to its end in virtual time, in no time; the arguments are those of the loop."""
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(late, early=early, start=start)) as runner:
        return runner.run(main())


def lateness(seed: int, most: float = 0.0012, early: float = 0.0) -> Callable[[], float]:
    """Return a seeded `late`: from `early` seconds too early to `most` too late, asyncio's by default."""
    dice = random.Random(seed)
    return lambda: dice.uniform(-early, most)
