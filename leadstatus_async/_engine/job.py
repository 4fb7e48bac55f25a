"""One call under way: its ledger, its deadline, its figures, and the future its caller awaits.

It says when it has something to send and takes what is told of its chunks; it sends nothing itself
and decides nothing that `_core` can decide. Its end is always `end`: timers cancelled, requests in
flight cut, place in the queue given up.
"""

from __future__ import annotations

import asyncio
import contextvars
from bisect import bisect_right
from typing import TYPE_CHECKING

from leadstatus_async._state.backlog import Ledger
from leadstatus_async._state.tally import Tally
from leadstatus_async._steps.decipher import Sort
from leadstatus_async.errors import APIConnectionError, DeadlineExceededError, SessionClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from leadstatus_async._engine.batch import Lobby
    from leadstatus_async._engine.observer import Reporter
    from leadstatus_async._engine.permit import Permits
    from leadstatus_async._state.request import Request
    from leadstatus_async._steps.chunk import Endpoint, Limits
    from leadstatus_async._steps.decipher import Failure
    from leadstatus_async._steps.merge import Merged
    from leadstatus_async.errors import LeadStatusError
    from leadstatus_async.results import BatchStats


class Call:
    """A list of distinct lead IDs on its way to one outcome each.

    Args:
        permits: where it stands in the queue.
        lead_ids: distinct and valid.
        endpoint: of the campaign.
        limits: the session's.
        totals: running figures to count along, such as the session's.
        started: loop time from which the deadline counts.
        deadline: seconds for everything, or None.
        weights: how many of the caller's positions each ID stands for; None if one each.
        reporter: told after every change, if any.
        context: what its requests run in; None copies the caller's, so that traces have their parent.
        impatient: give up when a probe of an outage fails: somebody's web request is waiting.
    """

    def __init__(
        self,
        permits: Permits,
        lead_ids: Sequence[str],
        endpoint: Endpoint,
        limits: Limits,
        totals: Iterable[Tally],
        *,
        started: float,
        deadline: float | None = None,
        weights: Sequence[int] | None = None,
        reporter: Reporter | None = None,
        context: contextvars.Context | None = None,
        impatient: bool = False,
    ) -> None:
        self.context = contextvars.copy_context() if context is None else context
        self.endpoint = endpoint
        self.impatient = impatient
        self.loop = asyncio.get_running_loop()
        self.started = started
        self.ledger = Ledger(lead_ids, endpoint, limits, self.started, weights)
        self._deadline = None if deadline is None else self.started + deadline
        self.tally = Tally()
        self.tallies = (self.tally, *totals)
        self.trace_ids: list[str] = []
        self.done: asyncio.Future[None] = self.loop.create_future()
        self._permits = permits
        self._patience = deadline
        self._reporter = reporter
        self._last_permit = self.started
        self._in_flight: dict[Request, asyncio.Task[None]] = {}
        self._retries: dict[Request, asyncio.TimerHandle] = {}
        self.ended: Callable[[Call], None] | None = None
        self._closed = False
        self._alarm: asyncio.TimerHandle | None = None

    late = False  # what it sends is known before a permit is there
    part = False  # it is a call of its own, not part of a stream
    answers_before: int | None = None  # how many answers the session had had when it began to send

    @property
    def whole(self) -> Call | Lobby:
        """What the user called: this, or the stream that it is part of."""
        return self

    @property
    def deadline(self) -> float | None:
        """Loop time at which everything must be done; None without end."""
        return self._deadline

    async def run(self) -> None:
        """Send everything and wait for every outcome; on cancellation, leave nothing behind."""
        if self.deadline is not None:
            self._alarm = self.loop.call_at(self.deadline, self._too_late)
        try:
            self.trim()
            self.advance()
            await self.done
        finally:
            self.end()
            await self._permits.swept()

    # What the queue asks

    @property
    def sendable(self) -> bool:
        """Whether a chunk may go."""
        return self.ledger.sendable and not self.done.done()

    @property
    def closed(self) -> bool:
        """Whether the session was closed under this call."""
        return self._closed

    def take(self) -> tuple[Call, Request] | None:
        """Hand out the next chunk."""
        chunk = None if self.done.done() else self.ledger.take()
        return None if chunk is None else (self, chunk)

    def turn_away(self, error: LeadStatusError) -> None:
        """Take it that no permit will come: `error` for what waits; what is in flight has one last chance."""
        for chunk in self._in_flight:
            chunk.last = True
        self._end_waiting(error, spare=self._in_flight)
        self.advance()

    def stop(self, error: LeadStatusError) -> None:
        """End the call: `error` for every lead that has no outcome."""
        self._closed = isinstance(error, SessionClosedError)
        self._end_waiting(error, spare=())
        self.end()

    # What is told of its chunks

    def granted(self, chunk: Request, worker: asyncio.Task[None]) -> None:
        """Note who is about to send a chunk that was taken; ending the call cuts that worker."""
        self._in_flight[chunk] = worker

    def departs(self, chunk: Request) -> float:
        """Note that a chunk goes out now, and return when."""
        now = self.loop.time()
        stood = now - max(chunk.ready_at, self._last_permit)
        self._last_permit = now
        for tally in self.tallies:
            tally.requests += 1
            tally.waited += stood
            tally.retries += chunk.retried
        return now

    def waits_for(self, chunk: Request) -> bool:
        """Whether a request is on its way for this call."""
        return chunk in self._in_flight

    def count_failure(self, failure: Failure, charge: int) -> None:
        """Carry what a failed request cost besides into the figures."""
        for tally in self.tallies:
            tally.rate_limited += failure.sort is Sort.THROTTLED
            tally.requests += charge

    def returned(self, chunk: Request) -> bool:
        """Note that a chunk is back; False if the call is over and its answer matters no more."""
        return self._in_flight.pop(chunk, None) is not None

    def answered(self, chunk: Request, merged: Merged, trace_id: str | None) -> None:
        """Enter the rows of a chunk."""
        for tally in self.tallies:
            tally.foreign += merged.foreign
        self.ledger.answered(chunk, merged)
        if trace_id is not None:
            self.trace_ids.append(trace_id)
        self.count()

    def failed(self, chunk: Request, error: LeadStatusError) -> None:
        """Enter the failure of a chunk."""
        self.ledger.fail(chunk, error)
        self.count()

    def rejected(self, chunk: Request, failure: Failure) -> None:
        """Cut a chunk that was refused as it is, or end the call if nothing of it is ever accepted."""
        self.ledger.rejected(chunk, failure)
        self.count()
        if self.ledger.hopeless is not None:
            self.stop(self.ledger.hopeless)

    def later(self, chunk: Request, delay: float) -> None:
        """Send a chunk again, `delay` seconds from now."""
        if delay > 0:
            self._retries[chunk] = self.loop.call_later(delay, self._due, chunk)
        else:
            self.ledger.retry(chunk)

    def trim(self) -> None:
        """Fail at once what no permit can come for before the deadline; the rest is asked (b11)."""
        if self.deadline is None or self.done.done():
            return
        remaining = self.deadline - self.loop.time()
        needed = self._permits.seconds_until(self.ledger.requests_left)
        if needed <= remaining:
            return
        at_most = bisect_right(
            range(self.ledger.requests_left),
            remaining,
            key=lambda sent: self._permits.seconds_until(sent + 1),
        )
        self.ledger.fail_beyond(
            at_most,
            DeadlineExceededError(
                f"deadline={self._patience:g} s is too short: at the present rate the last request could go "
                f"{needed:.1f} s from now",
                needed=needed,
                attempts=self.tally.requests,
                waited=self.tally.waited,
            ),
        )
        self.count()
        self.advance()

    def throttled(self, chunk: Request) -> None:
        """Send a chunk again when the pause is over."""
        self.ledger.retry(chunk)

    def held(self, chunk: Request, *, first: bool) -> None:
        """Send a chunk again when the outage is over, or as its next probe."""
        self.ledger.retry(chunk, first=first)
        self._permits.stand(self, first=first)

    def lost(self, chunk: Request) -> None:
        """Enter that the task of a chunk was cancelled by somebody who had no business with it."""
        self.failed(chunk, APIConnectionError("the task of this request was cancelled from outside"))
        self.advance()

    def crash(self, bug: Exception) -> None:
        """Hand the caller an exception of our own making, rather than let it wait for ever."""
        if not self.done.done():
            self.done.set_exception(bug)

    def advance(self) -> None:
        """Go on: stand in the queue again, or finish."""
        if self.done.done():
            return
        if self.ledger.open == 0:
            self.end()
        elif self.ledger.sendable:
            self._permits.stand(self)

    def stats(self) -> BatchStats:
        """Return the figures of the call so far."""
        return self.tally.stats(self.loop.time() - self.started)

    def _due(self, chunk: Request) -> None:
        del self._retries[chunk]
        self.ledger.retry(chunk)
        self.advance()

    def _too_late(self) -> None:
        self.stop(
            DeadlineExceededError(
                f"deadline of {self._patience:g} s passed with {self.ledger.open} of "
                f"{len(self.ledger.lead_ids)} leads unanswered"
            )
        )

    def _end_waiting(self, error: LeadStatusError, spare: Iterable[Request]) -> None:
        if not self.done.done():
            error.attempts, error.waited = self.tally.requests, self.tally.waited
            self._cancel_retries()
            self.ledger.fail_rest(error, spare)
            self.count()

    def _cancel_retries(self) -> None:
        for timer in self._retries.values():
            timer.cancel()
        self._retries.clear()

    def end(self) -> None:
        """Be over, whatever is still open: no timer, no request and no place in the queue is left."""
        self._cancel_retries()
        if self._alarm is not None:
            self._alarm.cancel()
        for worker in self._in_flight.values():
            self._permits.cut(worker)
        self._in_flight.clear()
        self._permits.leave(self)
        if not self.done.done():
            self.done.set_result(None)
        ended, self.ended = self.ended, None
        if ended is not None:
            ended(self)

    def count(self) -> None:
        """Carry what was settled into the figures, and report it."""
        splits = self.ledger.splits - self.tally.splits
        failures = self.ledger.failed - self.tally.failures
        leads = (
            len(self.ledger.lead_ids) - self.ledger.open - self.tally.leads - self.tally.failures - failures
        )
        for tally in self.tallies:
            tally.leads += leads
            tally.failures += failures
            tally.splits += splits
        if self._reporter is not None and (leads or failures):
            self._reporter.report(self.ledger.positions_done, self.ledger.positions_failed, self.tally)
