"""The leads of one job that have no outcome yet: unsent, on their way, in back-off or refused.

Leads have positions, counted from 0 in the order they were added, and travel in requests, each of which is
a run of neighbours. What is not sent yet is planned into requests one at a time, by the limits that hold at
that moment. The rules of order, each with its reason:

- Fresh leads go before requests that failed: who fails by itself must not keep others waiting.
- Halves of a refused request go before both: the sooner they are back, the sooner its lesson is known.
- One refused request is bisected at a time, the others wait as they are, and while any waits nothing fresh
  goes: a server with a lower limit then costs one lesson, and not one per request.
- A request that no longer fits the limits is planned anew: what it would have taught has been learned.

It neither waits nor sends nor tells time, and holds no outcomes.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from leadstatus_async._state.bisection import Bisection
from leadstatus_async._state.request import Request
from leadstatus_async._steps.chunk import fit
from leadstatus_async._steps.decipher import Sort
from leadstatus_async.errors import own_copy

if TYPE_CHECKING:
    from leadstatus_async._steps.chunk import Endpoint, Limits
    from leadstatus_async._steps.decipher import Failure
    from leadstatus_async.errors import LeadStatusError

REFUSALS_WITHOUT_A_ROW = 20  # after so many, it is the request itself that the server does not accept

Leads = tuple[int, list[str]]  # neighbours: the position of the first, and their IDs


class _Run:
    """Neighbours that no request has been planned for yet, from `at` on."""

    __slots__ = ("at", "ids", "since", "start")

    def __init__(self, start: int, ids: list[str], since: float) -> None:
        self.start = start
        self.ids = ids
        self.since = since
        self.at = 0

    def __len__(self) -> int:
        return len(self.ids) - self.at


class Backlog:
    """Distinct, valid lead IDs on their way to an outcome.

    Args:
        where: the endpoint of their campaign.
        limits: the session's, to plan by and to lower.
        growing: more leads may be added; set it to False when that is over.

    Attributes:
        limits: what one request may hold.
        size: leads ever added.
        open: how many of them have no outcome yet.
        filling: more leads come at once, so that a partly filled request waits for them.
        in_flight: requests that were taken and are not back.
        backing_off: requests that are back, and may not go again yet.
        splits: how many refused requests were cut.
        cuts: how many leads each of them had, and the status that refused it, since somebody took this.
        hopeless: the refusal that shows that the server does not accept these requests at all, if any.
    """

    def __init__(self, where: Endpoint, limits: Limits, *, growing: bool = False) -> None:
        self.size = self.open = self.splits = 0
        self.cuts: list[tuple[int, int]] = []
        self.growing = growing
        self.filling = False
        self.in_flight: dict[Request, None] = {}
        self.backing_off: dict[Request, None] = {}
        self.hopeless: LeadStatusError | None = None
        self._where = where
        self.limits = limits
        self._runs: deque[_Run] = deque()
        self._fresh = 0  # leads in the runs
        self._halves: deque[Request] = deque()
        self._again: deque[Request] = deque()
        self._refused: deque[Request] = deque()
        self._bisection: Bisection | None = None
        self._rows_seen = False
        self._refused_alone = 0
        self._url_bytes_before = limits.max_url_bytes

    @property
    def done(self) -> bool:
        """Whether every lead has its outcome, and no more will come."""
        return not self.open and not self.growing

    @property
    def sendable(self) -> bool:
        """Whether `take` is likely to have a request."""
        return bool(self._halves or self._again or self._fresh_may_go)

    @property
    def requests(self) -> int:
        """About how many requests could go now."""
        return len(self._halves) + len(self._again) - -self._fresh // self.limits.chunk_size

    def add(self, ids: list[str], now: float) -> int:
        """Append leads that wait from now on; return the position of the first."""
        start = self.size
        if ids:
            self._runs.append(_Run(start, ids, now))
            self._fresh += len(ids)
            self.size += len(ids)
            self.open += len(ids)
        return start

    def take(self) -> Request | None:
        """Hand out the next request, planned now; None if nothing may go."""
        while True:
            if self._halves:
                request = self._halves.popleft()
            elif self._fresh_may_go:
                request = self._plan()
            elif self._again:
                request = self._again.popleft()
            else:
                return None
            if self._still_fits(request):
                self.in_flight[request] = None
                return request

    # What becomes of a request that was taken

    def returned(self, request: Request) -> bool:
        """Note that a request is back; False if nobody waits for it any more."""
        return self.in_flight.pop(request, 0) is None

    def answered(self, request: Request, *, rows: bool) -> None:
        """Note that all leads of a request have their outcomes from an answer; whether any is a row."""
        self.open -= len(request)
        self._rows_seen = self._rows_seen or rows
        self.limits.accepted = max(self.limits.accepted, len(request.target))
        if self._bisection is not None:
            for refused in (*self._refused, self._bisection.refused):
                refused.outdone = max(refused.outdone, len(request))
            self._close_half(request, accepted=True)

    def failed(self, request: Request) -> None:
        """Note that all leads of a request have failed."""
        self.open -= len(request)
        self._close_half(request, accepted=False)

    def again(self, request: Request, *, first: bool = False) -> None:
        """Take back a request that shall be sent again, `first` before all others."""
        self.backing_off.pop(request, None)
        if first:
            self._halves.appendleft(request)
        elif self._bisection is not None and request in self._bisection.halves:
            self._halves.append(request)
        else:
            self._again.append(request)

    def back_off(self, request: Request) -> None:
        """Keep a request that shall be sent again later, until `again` is told of it."""
        self.backing_off[request] = None

    def refused(self, request: Request, failure: Failure) -> bool:
        """Cut a request that was refused for what it holds, and learn from it; sets `hopeless` in the end.

        Returns:
            Whether its one lead is what was refused: it fails with that error.
        """
        alone = False
        request.refused_with = getattr(failure.error, "status", 0)
        if not self.limits.allow(len(request), len(request.target)):
            self._replan(request)  # stale: the lesson has been learned since it was sent
        elif len(request) == 1:
            alone = True
            self._refused_alone += 1
            self.failed(request)
        elif failure.sort is Sort.OVERSIZE:
            self._count(request)
            self.limits.max_url_bytes = len(request.target) // 2
            self._replan(request)
        else:
            if self._bisection is not None and request in self._bisection.halves:
                request.outdone = self._bisection.refused.outdone
            if failure.sort is not Sort.REFUSED:
                request.outdone = len(request)  # a 500 says nothing about the number of IDs
            # Depth first: the smaller the piece, the sooner a lower limit is known.
            self._refused.appendleft(request)
            self._close_half(request, accepted=False)
            self._bisect_next()
        if not self._rows_seen and self.splits + self._refused_alone >= REFUSALS_WITHOUT_A_ROW:
            self.hopeless = own_copy(failure.error)
            self.limits.max_url_bytes = self._url_bytes_before  # size was not the matter after all
        return alone

    # Giving up

    def drain(self, *, in_flight: bool) -> list[Leads]:
        """Hand out what has no outcome, in order; nothing of it will be sent.

        Args:
            in_flight: also what is on its way, which stays listed there until it is cut off; else that is
                spared.
        """
        rest = [(run.start + run.at, run.ids[run.at :]) for run in self._runs]
        waiting = [*self._halves, *self._again, *self._refused, *self.backing_off]
        if in_flight:
            waiting += self.in_flight
        rest += [(request.start, request.ids) for request in waiting]
        for place in (self._runs, self._halves, self._again, self._refused, self.backing_off):
            place.clear()
        self._bisection = None  # what is spared is no longer half of anything
        self._fresh = 0
        self.open -= sum(len(ids) for _, ids in rest)
        return sorted(rest)

    @property
    def requests_left(self) -> int:
        """How many requests the fresh leads need, if each holds as many as the next one does."""
        if not self._fresh:
            return 0
        ids = self._ahead()
        end, _ = fit(ids, 0, len(ids), self._where, self.limits)
        return -(-self._fresh // end)

    def drain_beyond(self, requests: int) -> list[Leads]:
        """Hand out the fresh leads that the next so many requests do not reach."""
        kept: deque[_Run] = deque()
        beyond: list[Leads] = []
        for run in self._runs:
            end = run.at
            while end < len(run.ids) and requests > 0:
                end, _ = fit(run.ids, end, len(run.ids), self._where, self.limits)
                requests -= 1
            if end < len(run.ids):
                beyond.append((run.start + end, run.ids[end:]))
                run.ids = run.ids[:end]
            if len(run):
                kept.append(run)
        self._runs = kept
        self._fresh = sum(map(len, kept))
        self.open -= sum(len(ids) for _, ids in beyond)
        return beyond

    # Planning

    @property
    def _fresh_may_go(self) -> bool:
        """Whether fresh leads may go: a full request, or fewer where waiting for more helps nobody."""
        if not self._fresh or self._refused:
            return False
        if not self.filling or self._fresh >= self.limits.chunk_size:
            return True
        return not (self.in_flight or self.backing_off or self._again)

    def _ahead(self) -> list[str]:
        """Return the next fresh neighbours, as many as one request may hold."""
        most, runs = self.limits.chunk_size, iter(self._runs)
        first = next(runs)
        ids, stop = first.ids[first.at : first.at + most], first.start + len(first.ids)
        while len(ids) < most and (run := next(runs, None)) is not None and run.start + run.at == stop:
            ids += run.ids[run.at : run.at + most - len(ids)]
            stop = run.start + len(run.ids)
        return ids

    def _plan(self) -> Request:
        first, ids = self._runs[0], self._ahead()
        end, target = fit(ids, 0, len(ids), self._where, self.limits)
        request = Request(first.start + first.at, ids[:end], first.since, target)
        self._fresh -= end
        while end:
            run = self._runs[0]
            used = min(end, len(run))
            run.at += used
            end -= used
            if not len(run):
                self._runs.popleft()
        return request

    def _still_fits(self, request: Request) -> bool:
        if not request.target:
            request.target = self._where.target(request.ids)
        if self.limits.allow(len(request), len(request.target)):
            return True
        self._replan(request)
        return False

    def _replan(self, request: Request) -> None:
        self._runs.appendleft(_Run(request.start, request.ids, request.ready_at))
        self._fresh += len(request)
        self._close_half(request, accepted=False)

    # Bisection

    def _bisect_next(self) -> None:
        while self._refused and self._bisection is None:
            request = self._refused.popleft()
            if self._still_fits(request):
                self._bisect(request)

    def _bisect(self, request: Request) -> None:
        self._count(request)
        middle = (len(request) + 1) // 2
        self._bisection = Bisection(request, larger=middle)
        for at, ids in ((0, request.ids[:middle]), (middle, request.ids[middle:])):
            half = Request(request.start + at, ids, request.ready_at)
            half.failed_at, half.origin = request.failed_at, request.origin or request
            half.waited = request.waited
            self._bisection.halves.add(half)
            self._halves.append(half)

    def _count(self, request: Request) -> None:
        self.splits += 1
        self.cuts.append((len(request), request.refused_with))

    def _close_half(self, request: Request, *, accepted: bool) -> None:
        bisection = self._bisection
        if bisection is None or request not in bisection.halves:
            return
        bisection.halves.discard(request)
        bisection.accepted += accepted
        if bisection.halves:
            return
        if bisection.count_refused:
            self.limits.chunk_size = min(self.limits.chunk_size, bisection.larger)
        self._bisection = None
        self._bisect_next()
