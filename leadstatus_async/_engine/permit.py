"""Who may send next: turn, slot, pause gate and token, in one place.

Calls stand in one queue and take turns, however many chunks each has left, so that a single lead
never waits behind a million. What is sent is decided when the permit is granted, not when it was
asked for. Waiting work has no task: there are at most `concurrency` worker tasks, each of which
sends one request after another while there is something to send, and at most one of them stands at
the limiter, which keeps sessions that share a limiter first come, first served.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Protocol, cast

from leadstatus_async.errors import LeadStatusError, LimiterError, RateLimitError, own_copy
from leadstatus_async.limiter import seconds_until

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Coroutine

    from leadstatus_async._engine.job import Call
    from leadstatus_async._state.request import Request
    from leadstatus_async.limiter import Limiter


Granted = tuple["Call", "Request"]


class Entry(Protocol):
    """What stands in the queue.

    Attributes:
        context: what its requests run in (e4).
        late: what it sends is put together only when a permit is there and the loop turn has ended.
    """

    @property
    def context(self) -> contextvars.Context: ...
    @property
    def late(self) -> bool: ...

    @property
    def sendable(self) -> bool:
        """Whether it still has something to send."""
        ...

    def take(self) -> Granted | None:
        """Hand out what goes next, decided now; None if it was all taken back."""
        ...

    def turn_away(self, error: LeadStatusError) -> None:
        """Take it that no permit will come for what waits."""
        ...


def limiter_failed(broken: Exception) -> LimiterError:
    """Return what callers are told when a limiter, which may be a lent one, raises what it should not."""
    return LimiterError(f"the limiter failed: {type(broken).__name__}; nothing is sent without it")


class Permits:
    """The queue of entries, the slots, and the worker tasks that fill them.

    Args:
        limiter: pause gate and token bucket.
        concurrency: workers, and so requests in flight, at most.
        max_pause: seconds of pause that are waited for; a longer one turns everybody away.
        send: sends a chunk and tells its call what became of it; must not raise but CancelledError.
        hold: seconds for which an outage holds sending back; 0.0 in good times.
    """

    def __init__(
        self,
        limiter: Limiter,
        concurrency: int,
        max_pause: float,
        send: Callable[[Call, Request], Coroutine[Any, Any, None]],
        hold: Callable[[], float],
    ) -> None:
        self._limiter = limiter
        self._concurrency = concurrency
        self._max_pause = max_pause
        self._send = send
        self._hold = hold
        self._alarm: asyncio.TimerHandle | None = None
        self._queue: dict[Entry, None] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._cut: set[asyncio.Task[None]] = set()
        self._standing: asyncio.Task[None] | None = None
        self._owed = 0

    @property
    def queued(self) -> int:
        """How many entries wait for a permit."""
        return len(self._queue)

    def seconds_until(self, requests: int) -> float:
        """Return the seconds until the last of so many requests could go at the earliest; 0.0 for none.

        The token that is waited for already may be the first of them.
        """
        if requests < 1:
            return 0.0
        try:
            return seconds_until(self._limiter, requests - 1 - (self._standing is not None))
        except Exception as broken:
            raise limiter_failed(broken) from broken

    def stand(self, entry: Entry, *, first: bool = False) -> None:
        """Queue an entry that has something to send; it keeps its turn if it stands already.

        Args:
            entry: what has something to send.
            first: put it before all others, for a probe that must be a certain request.
        """
        if first:
            self._queue = {entry: None, **self._queue}
        self._queue.setdefault(entry)
        self.wake()

    def leave(self, entry: Entry) -> None:
        """Take an entry out of the queue; the place at the limiter goes too if nobody else waits."""
        self._queue.pop(entry, None)
        if self._queue:
            return
        if self._standing is not None:
            self.cut(self._standing)
        if self._alarm is not None:
            self._alarm.cancel()

    def owe(self, tokens: int) -> None:
        """Charge requests that went out without a permit: the next ones wait for these too."""
        self._owed += tokens

    def cut(self, worker: asyncio.Task[None]) -> None:
        """Cancel a worker; `swept` waits for the end of those."""
        worker.cancel()
        self._cut.add(worker)

    async def swept(self) -> None:
        """Wait until every worker that was cut is gone, with its connection."""
        if self._cut:
            await asyncio.wait(self._cut)

    async def aclose(self) -> None:
        """Cut all workers and wait for their end."""
        if self._alarm is not None:
            self._alarm.cancel()
        for worker in self._workers:
            self.cut(worker)
        await self.swept()

    def wake(self) -> None:
        """Let the next in the queue stand for a permit, if there is a slot and no outage holds it back."""
        if not self._queue or self._standing is not None or len(self._workers) >= self._concurrency:
            return
        if not self._held():
            self._standing = self._start(next(iter(self._queue)).context)

    def _start(self, context: contextvars.Context, granted: Granted | None = None) -> asyncio.Task[None]:
        # Not loop.create_task: an eager task factory would run it before it is known to stand.
        worker = asyncio.Task(self._work(context, granted), context=context.copy())
        self._workers.add(worker)
        worker.add_done_callback(self._gone)
        return worker

    def _held(self) -> bool:
        """Whether an outage holds sending back; if until a known time, wake then."""
        seconds = self._hold()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if 0.0 < seconds < math.inf:
            self._alarm = asyncio.get_running_loop().call_later(seconds, self.wake)
        return seconds > 0.0

    def _gone(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        self._cut.discard(worker)
        if self._standing is worker:
            self._standing = None
        self.wake()

    async def _work(self, context: contextvars.Context, granted: Granted | None) -> None:
        me = cast("asyncio.Task[None]", asyncio.current_task())
        while granted is not None or (granted := await self._permit()) is not None:
            if self._standing is me:
                self._standing = None
            call, chunk = granted
            if call.context is not context:
                # From now on the chunk is the other worker's: whoever ends the call must find it there.
                call.granted(chunk, self._start(call.context, granted))
                return
            call.granted(chunk, me)
            self.wake()
            await self._send(*granted)
            if me.cancelling():  # aiohttp makes a cancellation in the turn of its timeout a TimeoutError
                return
            granted = None
            if self._standing is not None or not self._queue or self._held():
                return  # someone else stands for the next permit, or nobody may
            self._standing = me

    async def _permit(self) -> Granted | None:
        """Wait for a token, then take what goes out on it; None when nothing waits any more."""
        try:
            while self._queue:
                await self._limiter.acquire(max_pause=self._max_pause)
                if self._owed:
                    self._owed -= 1
                    continue
                granted = None if self._held() else await self._take()
                if granted is not None:
                    return granted
                self._limiter.refund()
                if self._held():  # the outage began while this one stood
                    return None
        except RateLimitError as pause:
            self.turn_all_away(pause)
        except asyncio.CancelledError:
            if cast("asyncio.Task[None]", asyncio.current_task()).cancelling():
                raise
            self.turn_all_away(LimiterError("the limiter's acquire was cancelled, and not by this session"))
        except Exception as broken:  # noqa: BLE001 - whatever a limiter raises, no caller may hang
            error = limiter_failed(broken)
            error.__cause__ = broken
            self.turn_all_away(error)
        return None

    async def _take(self) -> Granted | None:
        """Take what goes out; what is put together late gets until the end of this loop turn."""
        if self._queue and next(iter(self._queue)).late:
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                self._limiter.refund()
                raise
        return self._next()

    def _next(self) -> Granted | None:
        while self._queue:
            entry = next(iter(self._queue))
            del self._queue[entry]
            granted = entry.take()
            if entry.sendable:
                self._queue[entry] = None
            if granted is not None:
                return granted
        return None

    def turn_all_away(self, error: LeadStatusError) -> None:
        """Tell every entry that no permit will come, each with an error object of its own (e5)."""
        waiting, self._queue = list(self._queue), {}
        for entry in waiting:
            entry.turn_away(own_copy(error))
