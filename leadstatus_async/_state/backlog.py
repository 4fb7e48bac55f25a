"""Which leads of one call are unsent, on their way, refused or answered.

The ledger holds the call's distinct lead IDs and an outcome for each, and hands out chunks, which
are always ranges of positions. It decides what a refusal teaches: a smaller `max_url_bytes`, a
smaller `chunk_size`, or which single lead is at fault. It neither waits nor sends nor counts time.

The rules (DESIGN, "Chunks"): fresh ranges go before retries; halves of a refused chunk before both;
one refused chunk is bisected at a time, the others wait whole, and while any waits nothing fresh is
handed out, so that a server with a lower limit costs one lesson and not one per chunk.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from leadstatus_async._state.bisection import Bisection
from leadstatus_async._state.request import Request
from leadstatus_async._steps.chunk import fit
from leadstatus_async._steps.decipher import Sort
from leadstatus_async.errors import own_copy
from leadstatus_async.models import LeadFailure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from leadstatus_async._steps.chunk import Endpoint, Limits
    from leadstatus_async._steps.decipher import Failure
    from leadstatus_async._steps.merge import Merged
    from leadstatus_async.errors import LeadStatusError
    from leadstatus_async.models import LeadStatus

REFUSALS_WITHOUT_A_ROW = 20  # after so many, it is the request itself that the server does not accept


class Ledger:
    """The distinct lead IDs of one call, and where each of them stands.

    Args:
        lead_ids: distinct and valid.
        endpoint: of the campaign.
        limits: the session's, to plan by and to lower.
        now: when the call began.
        weights: how many of the caller's positions each ID stands for; None if one each.

    Attributes:
        lead_ids: the IDs, by position.
        outcomes: as many; None while open.
        open: how many have no outcome yet.
        failed: how many outcomes are failures.
        positions_done, positions_failed: the same as the caller counts, duplicates included.
        splits: how many refused chunks were cut.
        hopeless: the refusal that shows that the server does not accept these requests at all, if any.
    """

    def __init__(
        self,
        lead_ids: Sequence[str],
        endpoint: Endpoint,
        limits: Limits,
        now: float,
        weights: Sequence[int] | None = None,
    ) -> None:
        self.lead_ids = lead_ids
        self.outcomes: list[LeadStatus | LeadFailure | None] = [None] * len(lead_ids)
        self.open = len(lead_ids)
        self.failed = 0
        self.positions_done = self.positions_failed = 0
        self.splits = 0
        self.hopeless: LeadStatusError | None = None
        self._weights = weights
        self._endpoint = endpoint
        self._limits = limits
        self._since = now
        self._fresh: deque[tuple[int, int]] = deque([(0, len(lead_ids))] if lead_ids else [])
        self._halves: deque[Request] = deque()
        self._again: deque[Request] = deque()
        self._refused: deque[Request] = deque()
        self._bisection: Bisection | None = None
        self._rows_seen = False
        self._refused_alone = 0
        self._url_bytes_before = limits.max_url_bytes

    @property
    def sendable(self) -> bool:
        """Whether `take` is likely to have a chunk."""
        return bool(self._halves or self._again or (self._fresh and not self._refused))

    def take(self) -> Request | None:
        """Hand out the next chunk, planned now, with its `target`; None if nothing may go."""
        while self._halves:
            chunk = self._halves.popleft()
            if self._still_fits(chunk):
                return chunk
        while self._again and (self._refused or not self._fresh):
            chunk = self._again.popleft()
            if self._still_fits(chunk):
                return chunk
        return self._plan_fresh() if self._fresh and not self._refused else None

    def retry(self, chunk: Request, *, first: bool = False) -> None:
        """Take back a chunk that shall be sent again, `first` before all others."""
        if first:
            self._halves.appendleft(chunk)
            return
        (self._halves if self._is_half(chunk) else self._again).append(chunk)

    def answered(self, chunk: Request, merged: Merged) -> None:
        """Enter the outcomes of a chunk that was answered with rows."""
        self.outcomes[chunk.start : chunk.stop] = merged.outcomes
        self.open -= len(chunk)
        self.failed += merged.failed
        self.positions_done += self._weight(range(chunk.start, chunk.stop))
        if merged.failed:
            numbered = enumerate(merged.outcomes, chunk.start)
            self.positions_failed += self._weight(
                [position for position, outcome in numbered if not outcome.ok]
            )
        if merged.failed < len(chunk):
            self._rows_seen = True
        for refused in (*self._refused, *([self._bisection.refused] if self._bisection else ())):
            refused.outdone = max(refused.outdone, len(chunk))
        self._close_half(chunk, accepted=True)

    def fail(self, chunk: Request, error: LeadStatusError) -> None:
        """Enter `error` as the outcome of the whole chunk."""
        error.lead_ids = tuple(self.lead_ids[chunk.start : chunk.stop])
        error.attempts, error.waited = chunk.attempts, chunk.waited
        self._enter(range(chunk.start, chunk.stop), error)
        self._close_half(chunk, accepted=False)

    def fail_rest(self, error: LeadStatusError, spare: Iterable[Request] = ()) -> None:
        """Enter `error` as the outcome of every lead that has none, but of those in the chunks to `spare`."""
        for waiting in (self._fresh, self._halves, self._again, self._refused):
            waiting.clear()
        self._bisection = None  # what is spared is no longer half of anything
        rest, position = list[int](), 0
        for start, stop in (*sorted((chunk.start, chunk.stop) for chunk in spare), (len(self.outcomes),) * 2):
            rest += [open_ for open_ in range(position, start) if self.outcomes[open_] is None]
            position = stop
        error.lead_ids = tuple(self.lead_ids[position] for position in rest)
        self._enter(rest, error)

    @property
    def requests_left(self) -> int:
        """How many requests the fresh leads need, if each holds as many as the next one does."""
        left = sum(stop - start for start, stop in self._fresh)
        if not left:
            return 0
        start, stop = self._fresh[0]
        end, _ = fit(self.lead_ids, start, stop, self._endpoint, self._limits)
        return -(-left // (end - start))

    def fail_beyond(self, requests: int, error: LeadStatusError) -> None:
        """Enter `error` for the fresh leads that the next so many requests do not reach."""
        kept: deque[tuple[int, int]] = deque()
        late: list[str] = []
        for start, stop in self._fresh:
            end = start
            while end < stop and requests > 0:
                end, _ = fit(self.lead_ids, end, stop, self._endpoint, self._limits)
                requests -= 1
            if end > start:
                kept.append((start, end))
            if end < stop:
                late += self.lead_ids[end:stop]
                self._enter(range(end, stop), error)
        error.lead_ids = tuple(late)
        self._fresh = kept

    def rejected(self, chunk: Request, failure: Failure) -> None:
        """Cut a chunk that was refused for what it holds, and learn from it; sets `hopeless` in the end."""
        if not self._limits.allow(len(chunk), len(chunk.target)):
            self._replan(chunk)  # stale: the lesson has been learned since it was sent
        elif len(chunk) == 1:
            self._refused_alone += 1
            self.fail(chunk, failure.error)
        elif failure.sort is Sort.OVERSIZE:
            self.splits += 1
            self._limits.max_url_bytes = len(chunk.target) // 2
            self._replan(chunk)
        else:
            if self._bisection is not None and self._is_half(chunk):
                chunk.outdone = self._bisection.refused.outdone
            if failure.sort is not Sort.REFUSED:
                chunk.outdone = len(chunk)  # a 500 says nothing about the number of IDs
            # Depth first: the smaller the piece, the sooner a lower limit is known.
            self._refused.appendleft(chunk)
            self._close_half(chunk, accepted=False)
            self._bisect_next()
        if not self._rows_seen and self.splits + self._refused_alone >= REFUSALS_WITHOUT_A_ROW:
            self.hopeless = own_copy(failure.error)
            self._limits.max_url_bytes = self._url_bytes_before  # size was not the matter after all

    def _plan_fresh(self) -> Request:
        start, stop = self._fresh.popleft()
        end, target = fit(self.lead_ids, start, stop, self._endpoint, self._limits)
        if end < stop:
            self._fresh.appendleft((end, stop))
        chunk = Request(start, end, self._since)
        chunk.target = target
        return chunk

    def _still_fits(self, chunk: Request) -> bool:
        if not chunk.target:
            chunk.target = self._endpoint.target(self.lead_ids[chunk.start : chunk.stop])
        if self._limits.allow(len(chunk), len(chunk.target)):
            return True
        self._replan(chunk)
        return False

    def _replan(self, chunk: Request) -> None:
        self._fresh.appendleft((chunk.start, chunk.stop))
        self._close_half(chunk, accepted=False)

    def _enter(self, positions: Sequence[int], error: LeadStatusError) -> None:
        for position in positions:
            self.outcomes[position] = LeadFailure(self.lead_ids[position], error)
        weight = self._weight(positions)
        self.open -= len(positions)
        self.failed += len(positions)
        self.positions_done += weight
        self.positions_failed += weight

    def _is_half(self, chunk: Request) -> bool:
        return self._bisection is not None and chunk in self._bisection.halves

    def _weight(self, positions: Sequence[int]) -> int:
        if self._weights is None:
            return len(positions)
        return sum(self._weights[position] for position in positions)

    def _bisect_next(self) -> None:
        while self._refused and self._bisection is None:
            chunk = self._refused.popleft()
            if self._still_fits(chunk):
                self._bisect(chunk)

    def _bisect(self, chunk: Request) -> None:
        self.splits += 1
        middle = chunk.start + (len(chunk) + 1) // 2
        self._bisection = Bisection(chunk, larger=middle - chunk.start)
        for start, stop in ((chunk.start, middle), (middle, chunk.stop)):
            half = Request(start, stop, chunk.ready_at)
            self._bisection.halves.add(half)
            half.failed_at, half.origin = chunk.failed_at, chunk.origin or chunk
            half.waited = chunk.waited
            self._halves.append(half)

    def _close_half(self, chunk: Request, *, accepted: bool) -> None:
        bisection = self._bisection
        if bisection is None or chunk not in bisection.halves:
            return
        bisection.halves.discard(chunk)
        bisection.accepted += accepted
        if bisection.halves:
            return
        if bisection.count_refused:
            self._limits.chunk_size = min(self._limits.chunk_size, bisection.larger)
        self._bisection = None
        self._bisect_next()
