"""Single gets that travel together: one pending set per campaign, one future per waiter.

There is no timer: on an idle session a get goes out at once, gets issued together travel together,
and a busy or throttled session fills its batches by itself. A waiter that is cancelled harms no other; the
last one leaving cancels the request; an ID that is on its way already is asked anew for who comes later;
errors are built per waiter and never kept.
"""

from __future__ import annotations

import contextvars
import math
from itertools import islice
from typing import TYPE_CHECKING, cast

from leadstatus_async._engine.job import Job
from leadstatus_async._state.deadline import Deadline
from leadstatus_async._state.patience import Patience
from leadstatus_async.errors import DeadlineExceededError, for_caller
from leadstatus_async.models import LeadFailure, LeadStatus
from leadstatus_async.results import BatchStats

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from leadstatus_async._calls.options import CallOptions
    from leadstatus_async._engine.call import Call
    from leadstatus_async._engine.core import Core
    from leadstatus_async._engine.job import SecondsUntil
    from leadstatus_async._state.request import Request
    from leadstatus_async._steps.chunk import Endpoint
    from leadstatus_async.errors import LeadStatusError

    Waiting = dict[str, dict["_Waiter", None]]


_LEAST = Patience(0.0, 0)  # of nobody: that of who travels together is the greatest among them


class _Waiter:
    """One `get` that waits."""

    __slots__ = ("alarm", "batch", "began", "call_id", "deadline", "future", "lead_id", "patience")

    def __init__(
        self,
        lead_id: str,
        future: asyncio.Future[LeadStatus],
        patience: Patience,
        call_id: int,
        began: float,
    ) -> None:
        self.lead_id = lead_id
        self.began = began
        self.future = future
        self.patience = patience
        self.call_id = call_id
        self.deadline: Deadline | None = None
        self.alarm: asyncio.TimerHandle | None = None
        self.batch: _Batch | None = None  # what it travels in; None while it is pending

    def account(self, call: Call, now: float) -> None:
        """Tell its call what became of it, and what the requests cost that it shared."""
        ended = self.future.done() and not self.future.cancelled()
        call.leads, call.failures = int(ended), int(ended and self.future.exception() is not None)
        elapsed = now - self.began
        shared = None if self.batch is None else self.batch.job.tally
        call.cost(BatchStats(elapsed=elapsed) if shared is None else shared.stats(elapsed))

    def settle(self, outcome: LeadStatus | LeadFailure) -> None:
        if not isinstance(outcome, LeadStatus):
            self.fail(for_caller([outcome], None))
        elif not self.future.done():
            self.future.set_result(outcome)
            if self.alarm is not None:
                self.alarm.cancel()

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            if self.alarm is not None:
                self.alarm.cancel()

    def too_late(self, error: DeadlineExceededError) -> None:
        error.lead_ids = (self.lead_id,)
        error.attempts = self.batch.job.tally.requests if self.batch is not None else 0
        self.settle(LeadFailure(self.lead_id, error))


class _Batch:
    """Gets that travel together, and their job."""

    def __init__(self, gets: Gets, now: float, since: float) -> None:
        self.waiting: Waiting = {}
        self.job = Job(
            gets.where,
            gets.core.limits,
            _LEAST,
            self._deliver,
            (gets.core.total,),
            self._calls,
            now=since,
            until=self._until,
            context=gets.context,
            impatient=True,
        )
        self.job.done.add_done_callback(self._over)
        self.sent_at = now
        self._served: dict[str, list[int]] = {}  # calls by lead, where observers want to know
        self._gets = gets
        if gets.core.cache is not None:
            gets.core.on_their_way.setdefault(gets.where.prefix, {})[self] = None

    def admit(self, lead_id: str, waiters: dict[_Waiter, None]) -> None:
        self.waiting[lead_id] = waiters
        for waiter in waiters:
            self._serve(waiter)

    def _serve(self, waiter: _Waiter) -> None:
        waiter.batch = self
        if waiter.patience is not self.job.patience:  # as a rule it is, once the first one is in
            self.job.patience = self.job.patience.with_that_of(waiter.patience)
        if waiter.call_id:
            self._served.setdefault(waiter.lead_id, []).append(waiter.call_id)

    def take_along(self, waiter: _Waiter, since: float) -> bool:
        """Take a waiter along whose lead is on its way, if that was sent since then and may take as long."""
        waiters = self.waiting.get(waiter.lead_id)
        if waiters is None or self.sent_at < since or self.job.patience.timeout < waiter.patience.timeout:
            return False
        waiters[waiter] = None
        self._serve(waiter)
        return True

    def _calls(self, ids: Sequence[str]) -> tuple[int, ...]:
        return tuple(call_id for lead_id in ids for call_id in self._served.get(lead_id, ()))

    def _deliver(self, _first: int, outcomes: Sequence[LeadStatus | LeadFailure]) -> None:
        for outcome in outcomes:
            for waiter in self.waiting.pop(outcome.lead_id, ()):
                waiter.settle(outcome)
        if not self.waiting and self.job.backlog.open:  # who waited for the rest has left
            self._gets.core.dispatcher.drop(self.job)

    def _until(self) -> float | None:
        deadlines = [waiter.deadline for waiters in self.waiting.values() for waiter in waiters]
        latest = max((math.inf if one is None else one.at for one in deadlines), default=0.0)
        return None if latest == math.inf else latest

    def _over(self, done: asyncio.Future[None]) -> None:
        self._arrive()
        bug = None if done.cancelled() else done.exception()
        if bug is not None:
            for waiters in self.waiting.values():
                for waiter in waiters:
                    waiter.fail(bug)

    def _arrive(self) -> None:
        """Be no longer on the way."""
        where, on_their_way = self._gets.where.prefix, self._gets.core.on_their_way
        batches = on_their_way.get(where, {})
        batches.pop(self, None)
        if not batches:
            on_their_way.pop(where, None)


class Gets:
    """The gets of one campaign that no permit has come for yet: a `Source` that makes jobs."""

    gathers = impatient = True

    def __init__(self, core: Core, where: Endpoint) -> None:
        self.core = core
        self.where = where
        self.context = contextvars.Context()  # not that of whoever asks first
        self.waiting: Waiting = {}
        self._since = 0.0  # somebody waits

    def join(self, lead_id: str, options: CallOptions, call_id: int) -> _Waiter:
        """Begin to wait for the status of one lead: await its `future`, and if that raises, `leave`.

        Args:
            lead_id: of the lead.
            options: of the call.
            call_id: its number.

        Raises:
            DeadlineExceededError: no permit can come in time.
            LimiterError: the limiter cannot tell.
        """
        core = self.core
        waiter = _Waiter(lead_id, core.loop.create_future(), options.patience, call_id, core.loop.time())
        on_its_way = options.max_age is not None and self._ride_along(waiter, waiter.began - options.max_age)
        seconds = options.deadline
        if seconds is not None:
            now = waiter.began
            deadline = Deadline(seconds, now + seconds)
            error = None if on_its_way else deadline.too_short(now, core.dispatcher.seconds_until(1))
            if error is not None:
                error.lead_ids = (lead_id,)
                raise error
            waiter.deadline = deadline
            waiter.alarm = core.loop.call_at(deadline.at, self._ring, waiter, deadline)
        if on_its_way:
            return waiter
        first = not self.waiting
        if first:
            self._since = waiter.began
        self.waiting.setdefault(lead_id, {})[waiter] = None
        if first:  # else they are pending, and stand in the queue
            core.pending[self.where.prefix] = self
            core.dispatcher.offer(self)
        return waiter

    def _ride_along(self, waiter: _Waiter, since: float) -> bool:
        """Wait for what is on its way and was sent since then, if the lead is asked for there."""
        batches = cast("dict[_Batch, None]", self.core.on_their_way.get(self.where.prefix, {}))
        return any(batch.take_along(waiter, since) for batch in batches)

    def _ring(self, waiter: _Waiter, deadline: Deadline) -> None:
        never_asked = waiter.batch is None
        waiter.too_late(deadline.passed(self.core.dispatcher.needed(1) if never_asked else None))

    async def leave(self, waiter: _Waiter) -> None:
        """Wait no longer; when the last one of its batch leaves, the request has ended with this."""
        self.let_go(waiter)
        if self.core.dispatcher.cutting:
            await self.core.dispatcher.joined(self if waiter.batch is None else waiter.batch.job)

    def let_go(self, waiter: _Waiter) -> None:
        """Let go of a waiter; with the last one of a batch its request is cancelled."""
        if waiter.alarm is not None:
            waiter.alarm.cancel()
        if waiter.future.done() and not waiter.future.cancelled():
            waiter.future.exception()  # cancelled while it came: nobody else will look at it
        batch = waiter.batch
        waiting = self.waiting if batch is None else batch.waiting
        waiters = waiting.get(waiter.lead_id, {})
        if waiter in waiters:
            del waiters[waiter]
            if not waiters:
                del waiting[waiter.lead_id]
        if waiting:
            return
        if batch is None:
            self._forget()
            self.core.dispatcher.withdraw(self)
        else:
            self.core.dispatcher.drop(batch.job)

    def _forget(self) -> None:
        """Be no longer the pending set of the campaign, once nobody waits here."""
        if not self.waiting and self.core.pending.get(self.where.prefix) is self:
            del self.core.pending[self.where.prefix]

    # What the queue asks

    @property
    def sendable(self) -> bool:
        """Whether anybody waits."""
        return bool(self.waiting)

    @property
    def requests(self) -> int:
        """About how many requests they need."""
        return -(-len(self.waiting) // self.core.limits.chunk_size)

    def take(self, now: float) -> tuple[Job, Request] | None:
        """Make a job of as many as one request may hold, and hand that out."""
        asked = list(islice(self.waiting, self.core.limits.chunk_size))
        batch = _Batch(self, now, self._since)
        backlog = batch.job.backlog
        backlog.add(asked, self._since)
        self._since = now
        granted = batch.job.take(now)
        backlog.drain(in_flight=False)  # what the request does not hold waits on
        for request in backlog.in_flight:
            for lead_id in request.ids:
                batch.admit(lead_id, self.waiting.pop(lead_id))
        self._forget()
        return granted

    def give_up(self, error: LeadStatusError) -> None:
        """Fail everybody who waits here."""
        waiting, self.waiting = self.waiting, {}
        self._forget()
        for lead_id, waiters in waiting.items():
            for waiter in waiters:
                waiter.settle(LeadFailure(lead_id, error))

    def trim(self, now: float, seconds_until: SecondsUntil) -> None:
        """Fail at once who can have no permit in time any more."""
        needed = seconds_until(1)
        for waiter in [waiter for waiters in self.waiting.values() for waiter in waiters]:
            error = waiter.deadline.too_short(now, needed) if waiter.deadline else None
            if error is not None:
                waiter.too_late(error)


def pending_gets(core: Core, where: Endpoint) -> Gets:
    """Return the pending set of a campaign: the session's, however many `Campaign` objects there are."""
    gets = core.pending.get(where.prefix)
    return gets if isinstance(gets, Gets) else Gets(core, where)
