"""A stream under way: what was read, what is sent, what is ready, in bounded memory.

The consumer pulls. What is read ahead of it is bounded by `max_buffered`, so a slow consumer stops
the reading and with it the requests.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from leadstatus_async._engine.batch import Batch, Lobby
from leadstatus_async._state.tally import Tally
from leadstatus_async._steps.validate import bad_lead_ids
from leadstatus_async.errors import DeadlineExceededError, InvalidLeadIdError, LeadStatusError, own_copy
from leadstatus_async.models import LeadFailure

if TYPE_CHECKING:
    from collections.abc import Callable

    from leadstatus_async._engine.batch import Place
    from leadstatus_async._engine.core import Engine
    from leadstatus_async._engine.observer import Reporter
    from leadstatus_async._steps.chunk import Endpoint
    from leadstatus_async.models import LeadStatus
    from leadstatus_async.results import BatchStats


_END = object()


class _Slot:
    """The place of one lead in the stream."""

    __slots__ = ("flow", "lead_id", "outcome")

    def __init__(self, flow: Flow, lead_id: str) -> None:
        self.flow = flow
        self.lead_id = lead_id
        self.outcome: LeadStatus | LeadFailure | None = None

    def settle(self, outcome: LeadStatus | LeadFailure) -> None:
        self.outcome = outcome
        self.flow.settled(self, ok=outcome.ok)

    def crash(self, bug: Exception) -> None:
        self.flow.crashed(bug)


class Flow(Lobby):
    """A stream under way: what was read, what is sent, what is ready.

    Args:
        enter: checks that the session may be used here and now.
        engine, endpoint: as of any call.
        source: checked to be iterable.
        room: bytes one encoded ID may take.
        ordered: yield in input order, else as they come.
        max_buffered: leads that may be read and not yet yielded.
        deadline: seconds for everything, from the first `next`.
        reporter: told of progress, if any.
    """

    def __init__(
        self,
        enter: Callable[[], Engine],
        engine: Engine,
        endpoint: Endpoint,
        source: Iterable[str] | AsyncIterable[str],
        *,
        room: int,
        ordered: bool,
        max_buffered: int,
        deadline: float | None,
        reporter: Reporter | None,
    ) -> None:
        super().__init__(engine, endpoint, contextvars.copy_context())
        self.late = isinstance(source, AsyncIterable)
        self.left: LeadStatusError | None = None
        self._enter = enter
        self._source = aiter(source) if isinstance(source, AsyncIterable) else iter(source)
        self._room = room
        self._ordered = ordered
        self._max_buffered = max_buffered
        self._patience = deadline
        self._reporter = reporter
        self._tally = Tally()
        self._started = 0.0
        self.done: asyncio.Future[None] = engine.loop.create_future()
        self._slots: deque[_Slot] = deque()  # to be yielded: in input order, or as they came
        self._read = self._held = 0  # leads ever read; leads read and not yet yielded
        self._failed = self._settled = 0
        self._batches: set[Batch] = set()
        self._exhausted = self._closed = self._stopped = self._crashed = False
        self._ending: Exception | None = None  # raised when what was read has been yielded
        self._news: asyncio.Future[None] | None = None
        self._room_made: asyncio.Future[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None

    # The consumer's side

    async def next(self) -> LeadStatus | LeadFailure | None:
        """Return the next outcome; None at the end.

        Raises:
            LeadStatusError: the stream ended before its source did.
        """
        if self.left is not None:
            raise self.left
        if self not in self.engine.flows and not self._closed:
            self._begin()
        while True:
            if isinstance(self._source, Iterator):
                self._fill(self._source)
            if self._slots and self._slots[0].outcome is not None:
                self._held -= 1
                _wake(self._room_made)
                return self._slots.popleft().outcome
            if self._closed or self._crashed or (self._exhausted and not self._held):
                break
            self._news = self.engine.loop.create_future()
            await self._news
        ending, self._ending = self._ending, None
        if ending is not None:
            raise ending
        return None

    @property
    def _halted(self) -> bool:
        return self._closed or self._stopped

    @property
    def awaited(self) -> bool:
        """Whether a task waits for the next outcome."""
        return self._news is not None and not self._news.done()

    def _begin(self) -> None:
        self._enter()
        self._started = self.engine.loop.time()
        self.engine.flows.add(self)
        needed = 0.0 if self._patience is None else self.engine.permits.seconds_until(1)
        if self._patience is not None and needed > self._patience:
            raise DeadlineExceededError(
                f"deadline={self._patience:g} s is too short: the next may go {needed:.1f} s from now",
                needed=needed,
            )
        if self._patience is not None:
            self._alarm = self.engine.loop.call_later(self._patience, self._too_late)
        if not isinstance(self._source, Iterator):
            self._reader = self.engine.loop.create_task(self._read_on(self._source))

    async def aclose(self) -> None:
        """End at once: nothing in flight, no reader, an async source closed."""
        source = self._source
        self.abandon()
        if self._reader is not None:
            await asyncio.wait({self._reader})
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()
        await self.engine.permits.swept()

    def abandon(self) -> None:
        """Let go of everything that needs no waiting for."""
        if self._closed or self.engine.loop.is_closed():
            return
        self._closed = True
        if self in self.engine.flows:
            self.engine.flows.discard(self)
            self.engine.observer.batch_finished(self.endpoint, self._read, self._failed, self._stats())
        _wake(self.done)
        self.waiting.clear()
        self.engine.permits.leave(self)
        for batch in list(self._batches):
            batch.end()
        if self._alarm is not None:
            self._alarm.cancel()
        if self._reader is not None:
            self._reader.cancel()
        self._source = iter(())
        self._slots.clear()
        _wake(self._news)

    # The source's side

    def _fill(self, source: Iterator[str]) -> None:
        """Read a plain source in blocks of a chunk, as far as there is room."""
        block = min(self.engine.limits.chunk_size, self._max_buffered)
        while not self._exhausted and self._max_buffered - self._held >= block:
            try:
                lead_ids = list(islice(source, block))
            except Exception as error:  # noqa: BLE001 - the source's own, handed on in its place
                self._source_ended(error)
                return
            self._take_in(lead_ids)
            if len(lead_ids) < block:
                self._source_ended(None)

    def _at_end(self) -> bool:
        """Whether a plain source has no more, which a full buffer does not tell; what it has is let go."""
        try:
            return isinstance(self._source, Iterator) and next(self._source, _END) is _END
        except Exception:  # noqa: BLE001 - the stream is ending with an error as it is
            return False

    async def _read_on(self, source: AsyncIterator[str]) -> None:
        """Read an async source for as long as there is room."""
        try:
            async for lead_id in source:
                # Tests run what follows; no line is traced there once the source has caught a cancellation.
                if self._halted:  # pragma: no cover
                    break
                self._take_in([lead_id])
                while self._held >= self._max_buffered and not self._halted:
                    self._room_made = self.engine.loop.create_future()
                    await self._room_made
        except Exception as error:  # noqa: BLE001 - the source's own, handed on in its place
            self._source_ended(error)
        except asyncio.CancelledError:
            if self._closed:
                raise
            self._source_ended(LeadStatusError("the source was cancelled, and not by its stream"))
        else:
            self._source_ended(None)

    def _take_in(self, lead_ids: Sequence[Any]) -> None:
        wrong = {index: reason for index, _, reason in bad_lead_ids(lead_ids, room=self._room)}
        for index, lead_id in enumerate(lead_ids):
            slot = _Slot(self, lead_id if isinstance(lead_id, str) else repr(lead_id))
            if self._ordered:
                self._slots.append(slot)
            if index in wrong:
                bad = InvalidLeadIdError([(self._read + index, lead_id, wrong[index])])
                slot.settle(LeadFailure(slot.lead_id, bad))
            else:
                self.waiting.setdefault(lead_id, []).append(slot)
        self._read += len(lead_ids)
        self._held += len(lead_ids)
        if wrong:
            self.delivered()
        self._stand()

    def _source_ended(self, error: Exception | None) -> None:
        if not self._exhausted:
            self._exhausted = True
            self._ending = error
            if self._reporter is not None and error is None:
                self._reporter.positions = self._read
        self._stand()
        _wake(self._news)

    # The queue's side

    @property
    def sendable(self) -> bool:
        """Whether a request should go: a full one, or what there is where waiting for more helps nobody."""
        if len(self.waiting) >= self.engine.limits.chunk_size:
            return True
        full = self._held + self.engine.limits.chunk_size > self._max_buffered
        return bool(self.waiting) and (self.late or self._exhausted or full or not self._batches)

    def seal(self, sealed: dict[str, list[Place]]) -> Batch:
        """Make a batch of what was taken."""
        batch = Batch(self, sealed, (self._tally, self.engine.total), part=True)
        self._batches.add(batch)
        batch.done.add_done_callback(lambda _: self._over(batch))
        return batch

    def _over(self, batch: Batch) -> None:
        self._batches.discard(batch)
        self._stand()  # with nothing in flight, what waits goes even if it does not fill a request

    def deadline(self, waiting: dict[str, list[Place]]) -> float | None:  # noqa: ARG002 - all have the same
        """Return the stream's deadline, in loop time; None without one."""
        return None if self._patience is None else self._started + self._patience

    def turn_away(self, error: LeadStatusError) -> None:
        """Fail what is not on its way."""
        waiting, self.waiting = self.waiting, {}
        error.lead_ids = tuple(waiting)
        for lead_id, places in waiting.items():
            for place in places:
                place.settle(LeadFailure(lead_id, error))
        self.delivered()

    def stopped(self, error: LeadStatusError) -> None:
        """End the whole stream: `error` for all that was read, and at its end if the source had more."""
        if self._closed:
            return
        self._source_ended(None if self._at_end() else error)
        self._stopped = True
        if self._reader is not None:
            self._reader.cancel()
        for batch in list(self._batches):
            self._batches.discard(batch)
            batch.stop(own_copy(error))
        self.turn_away(own_copy(error))

    def settled(self, slot: _Slot, *, ok: bool) -> None:
        """Take note that a lead has its outcome."""
        self._settled += 1
        self._failed += not ok
        if not self._ordered:
            self._slots.append(slot)
        _wake(self._news)  # whoever settled it (h5)

    def crashed(self, bug: Exception) -> None:
        """Hand the consumer a bug of ours."""
        self._exhausted = self._stopped = self._crashed = True
        self._ending = bug
        _wake(self._news)

    def delivered(self) -> None:
        """Tell the consumer, and its progress callback, of what has been settled."""
        if self._reporter is not None:
            self._reporter.report(self._settled, self._failed, self._tally)
        self._stand()
        _wake(self._news)

    def _stand(self) -> None:
        if self.sendable and not self._closed:
            self.engine.permits.stand(self)

    def _stats(self) -> BatchStats:
        return self._tally.stats(self.engine.loop.time() - self._started)

    def _too_late(self) -> None:
        waiting = self._read - self._settled
        self.stopped(
            DeadlineExceededError(
                f"deadline of {self._patience:g} s passed with {waiting} of {self._read} leads unanswered"
            )
        )


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
