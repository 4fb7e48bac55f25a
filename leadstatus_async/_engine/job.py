"""What stands in the queue for a permit: a `Source`, of which a `Job` is the usual kind.

A job knows nobody. It hands out requests when it is asked, is told what became of each, and hands every run
of outcomes on, by `deliver`, as soon as it is known. Queue, timers and tasks are the dispatcher's.
"""

from __future__ import annotations

import asyncio
import contextvars
from bisect import bisect_right
from typing import TYPE_CHECKING, Protocol

from leadstatus_async._state.backlog import Backlog
from leadstatus_async._state.tally import Tally
from leadstatus_async._steps.decipher import Sort
from leadstatus_async.models import LeadFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from leadstatus_async._engine.observer import CallsOf
    from leadstatus_async._state.deadline import Deadline
    from leadstatus_async._state.patience import Patience
    from leadstatus_async._state.request import Request
    from leadstatus_async._steps.chunk import Endpoint, Limits
    from leadstatus_async._steps.decipher import Failure
    from leadstatus_async._steps.merge import Merged
    from leadstatus_async.errors import LeadStatusError
    from leadstatus_async.models import LeadStatus

    Deliver = Callable[[int, Sequence[LeadStatus | LeadFailure]], None]
    SecondsUntil = Callable[[int], float]


class Source(Protocol):
    """What stands in the queue for a permit.

    Attributes:
        context: what its requests run in.
        gathers: what it sends is put together when a permit is there and the loop's turn has ended.
        impatient: it fails with the first failed probe: a web request waits behind it, or nothing of it is
            to be sent again.
    """

    @property
    def context(self) -> contextvars.Context: ...
    @property
    def gathers(self) -> bool: ...
    @property
    def impatient(self) -> bool: ...

    @property
    def sendable(self) -> bool:
        """Whether it has something to send."""
        ...

    @property
    def requests(self) -> int:
        """About how many requests it could send now."""
        ...

    def take(self, now: float) -> tuple[Job, Request] | None:
        """Hand out what goes next, decided now; None if nothing may."""
        ...

    def give_up(self, error: LeadStatusError) -> None:
        """Fail what waits; what is in flight has one last chance."""
        ...

    def trim(self, now: float, seconds_until: SecondsUntil) -> None:
        """Fail what can have no permit before its deadline; `seconds_until(n)` is the n-th request's wait."""
        ...


def _to_nobody(_first: int, _outcomes: Sequence[LeadStatus | LeadFailure]) -> None:
    """Deliver outcomes of a job that was dropped."""


class Job:
    """Leads on their way to one outcome each.

    Args:
        where: the endpoint of their campaign.
        limits: the session's.
        patience: what each of its requests may take.
        deliver: takes the position of the first, and the outcomes of a run of neighbours.
        totals: figures to count along, such as the session's.
        calls: returns the numbers of the calls that these leads are asked for.
        now: when it begins, in loop time.
        deadline: for everything, or None.
        until: the loop time until which anybody waits, None without end; by default that of the deadline.
        context: what its requests run in; None copies the caller's, so that traces have their parent.
        growing: more leads will be added to the backlog.
        gathers, impatient: as of a `Source`.

    Attributes:
        backlog: the leads without an outcome.
        tally: the job's own figures.
        trace_ids: of its answers, if anybody wants them.
        done: is set when every lead has its outcome, or raises a bug of ours.
        error: what ended the job before its time, if anything did.
        answers_before: how many answers the session had had when it began to send.
    """

    def __init__(
        self,
        where: Endpoint,
        limits: Limits,
        patience: Patience,
        deliver: Deliver,
        totals: Iterable[Tally],
        calls: CallsOf,
        *,
        now: float,
        deadline: Deadline | None = None,
        until: Callable[[], float | None] | None = None,
        context: contextvars.Context | None = None,
        growing: bool = False,
        gathers: bool = False,
        impatient: bool = False,
    ) -> None:
        self.context = contextvars.copy_context() if context is None else context
        self.where = where
        self.patience = patience
        self.calls = calls
        self.deadline = deadline
        self.gathers = gathers
        self.impatient = impatient or patience.max_attempts == 1
        self.backlog = Backlog(where, limits, growing=growing)
        self.tally = Tally()
        self.trace_ids: list[str] | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.error: LeadStatusError | None = None
        self.answers_before: int | None = None
        self.started = self._last_permit = now
        self._deliver = deliver
        self._until = until
        self._tallies = (self.tally, *totals)

    # What the queue asks

    @property
    def sendable(self) -> bool:
        """Whether a request may go."""
        return self.backlog.sendable and not self.done.done()

    @property
    def requests(self) -> int:
        """About how many requests could go now."""
        return self.backlog.requests

    def take(self, now: float) -> tuple[Job, Request] | None:  # noqa: ARG002 - the gets need it
        """Hand out the next request."""
        request = None if self.done.done() else self.backlog.take()
        return None if request is None else (self, request)

    def give_up(self, error: LeadStatusError) -> None:
        """Fail what waits with `error`; what is in flight has one last chance."""
        for request in self.backlog.in_flight:
            request.final_attempt = True
        self._fail_open(error, in_flight=False)

    def trim(self, now: float, seconds_until: SecondsUntil) -> None:
        """Fail what no permit can come for before the deadline; the rest is asked.

        A job that grows is left alone: what can be had of it in time is not known yet.
        """
        if self.deadline is None or self.done.done() or self.backlog.growing:
            return
        left = self.backlog.requests_left
        error = self.deadline.too_short(now, seconds_until(left))
        if error is None:
            return
        remaining = self.deadline.at - now
        in_time = bisect_right(range(left), remaining, key=lambda sent: seconds_until(sent + 1))
        self._fail_all(error, self.backlog.drain_beyond(in_time))

    @property
    def until(self) -> float | None:
        """Loop time until which anybody waits for it; None if somebody does without end."""
        if self._until is not None:
            return self._until()
        return None if self.deadline is None else self.deadline.at

    # What is told of its requests

    def departs(self, request: Request, now: float) -> None:
        """Count a request that goes out now."""
        stood = now - max(request.ready_at, self._last_permit)
        self._last_permit = now
        for tally in self._tallies:
            tally.requests += 1
            tally.waited += stood
            tally.retries += request.retried

    def count(self, failure: Failure | None) -> None:
        """Count a failure, whether or not anybody still waits for it."""
        if failure is not None and failure.sort is Sort.THROTTLED:
            for tally in self._tallies:
                tally.rate_limited += 1

    def count_hidden(self, requests: int) -> None:
        """Count requests that aiohttp sent besides."""
        if requests:
            for tally in self._tallies:
                tally.requests += requests

    def release(self) -> None:
        """Refer to nobody any more, so that what it was for is let go of without waiting for a collector."""
        self._deliver, self._until = _to_nobody, None

    def answered(self, request: Request, merged: Merged, trace_id: str | None) -> None:
        """Take the outcomes of a request that was answered."""
        for tally in self._tallies:
            tally.leads += len(request) - merged.failed
            tally.failures += merged.failed
            tally.foreign += merged.foreign
        if trace_id is not None and self.trace_ids is not None:
            self.trace_ids.append(trace_id)
        self.backlog.answered(request, rows=merged.failed < len(request))
        self._count_splits()
        self._deliver(request.start, merged.outcomes)
        self.settle()

    def failed(self, request: Request, error: LeadStatusError) -> None:
        """Fail all leads of a request that is back."""
        self.backlog.failed(request)
        self._count_splits()
        self._fail(request, error)

    def refused(self, request: Request, failure: Failure) -> None:
        """Cut a request that was refused as it is; `backlog.hopeless` says when nothing is ever accepted."""
        if self.backlog.refused(request, failure):
            self._fail(request, failure.error)
        self._count_splits()

    def stop(self, error: LeadStatusError) -> None:
        """End the job: `error` for every lead that has no outcome, and no more may be added."""
        if not self.done.done():
            self.error = error
            self.backlog.growing = False
            self._fail_open(error, in_flight=True)
            self.settle()

    def crash(self, bug: Exception) -> None:
        """Hand the caller an exception of our own making, rather than let it wait for ever."""
        if not self.done.done():
            self.done.set_exception(bug)

    def settle(self) -> None:
        """Be done, if every lead has its outcome and no more will come."""
        if self.backlog.done and not self.done.done():
            self.done.set_result(None)

    def _count_splits(self) -> None:
        """Count what the backlog has cut; the end of a request may have cut another one."""
        splits = self.backlog.splits - self.tally.splits
        if splits:
            for tally in self._tallies:
                tally.splits += splits

    def _fail(self, request: Request, error: LeadStatusError) -> None:
        error.attempts, error.waited = request.attempts, request.waited
        self._enter(error, [(request.start, request.ids)])

    def _fail_open(self, error: LeadStatusError, *, in_flight: bool) -> None:
        if not self.done.done():
            self._fail_all(error, self.backlog.drain(in_flight=in_flight))

    def _fail_all(self, error: LeadStatusError, leads: Sequence[tuple[int, list[str]]]) -> None:
        error.attempts, error.waited = self.tally.requests, self.tally.waited
        self._enter(error, leads)

    def _enter(self, error: LeadStatusError, leads: Sequence[tuple[int, list[str]]]) -> None:
        """Hand on `error` as the outcome of leads that are no longer in the backlog."""
        error.lead_ids = tuple(lead_id for _, ids in leads for lead_id in ids)
        for tally in self._tallies:
            tally.failures += len(error.lead_ids)
        for start, ids in leads:
            self._deliver(start, [LeadFailure(lead_id, error) for lead_id in ids])
        self.settle()
