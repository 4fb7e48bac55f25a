"""One call as observers see it, from its beginning to its end."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Self

import msgspec

from leadstatus_async.results import BatchStats

if TYPE_CHECKING:
    import asyncio
    from types import TracebackType

    from leadstatus_async._engine.observer import Observer
    from leadstatus_async._steps.chunk import Endpoint
    from leadstatus_async.events import CallKind

_numbers = count(1)  # of all sessions, since they may share an observer


class Call:
    """A call under way: a context manager around all that it does, in the caller's task.

    Args:
        observer: told when it begins and how it ends.
        loop: whose clock it is timed by.
        kind: of call.
        where: the endpoint of the campaign.
        leads: how many positions it is to answer; None where not known yet.

    Attributes:
        id: its number, unlike that of any other call of the process.
        leads, failures: how many leads have their outcome, and how many of them failed; the call tells.
        stats: what it has cost.
    """

    __slots__ = (
        "_asked",
        "_began",
        "_kind",
        "_loop",
        "_observer",
        "_where",
        "failures",
        "id",
        "leads",
        "stats",
    )

    def __init__(
        self,
        observer: Observer,
        loop: asyncio.AbstractEventLoop,
        kind: CallKind,
        where: Endpoint,
        leads: int | None,
    ) -> None:
        self.id = next(_numbers)
        self.leads = self.failures = 0
        self.stats: BatchStats | None = None
        self._observer, self._loop, self._where, self._asked = observer, loop, where, leads
        self._kind: CallKind = kind
        self._began = 0.0

    def so_far(self, leads: int, failures: int) -> None:
        """Note how many leads have their outcome by now; the polls of a watch are no news of that."""
        if self._kind != "watch":
            self.leads, self.failures = leads, failures

    def cost(self, stats: BatchStats) -> None:
        """Note what it, or a part of it, has cost."""
        if self.stats is not None:
            pairs = zip(msgspec.structs.astuple(self.stats), msgspec.structs.astuple(stats), strict=True)
            stats = BatchStats(*(before + more for before, more in pairs))
        self.stats = stats

    def __enter__(self) -> Self:
        self._began = self._loop.time()
        self._observer.call_started(self.id, self._kind, self._where, self._asked)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = self._loop.time() - self._began
        left = error is None or isinstance(error, GeneratorExit)
        self._observer.call_finished(
            self.id,
            self.leads,
            self.failures,
            seconds,
            self.stats or BatchStats(elapsed=seconds),
            None if left else type(error).__name__,
        )


class _Unheard(Call):
    """A call that nobody is told of, and which costs next to nothing: one object for all of them."""

    __slots__ = ()

    def __init__(self) -> None:
        self.id = self.leads = self.failures = 0
        self.stats = None

    def so_far(self, leads: int, failures: int) -> None:
        pass

    def cost(self, stats: BatchStats) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


UNHEARD = _Unheard()
