"""Which leads of one call are unsent, on their way, refused or answered.

The ledger holds the call's distinct lead IDs and an outcome for each, and hands out chunks, which
are always ranges of positions. It decides what a refusal teaches: a smaller `max_url_bytes`, a
smaller `chunk_size`, or which single lead is at fault. It neither waits nor sends nor counts time.

The rules (DESIGN, "Chunks"): fresh ranges go before retries; halves of a refused chunk before both;
one refused chunk is bisected at a time, the others wait whole, and while any waits nothing fresh is
handed out, so that a server with a lower limit costs one lesson and not one per chunk.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

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


class Chunk:
    """One request: a range of the ledger, and what has happened to it.

    Attributes:
        start, stop: positions in the ledger.
        target: the request target last sent.
        attempts: how often it has been sent.
        disconnects: how often the connection was lost before any byte of an answer.
        failed_at: when this, or what it is half of, first failed, in loop time; infinity until then.
        failed: it waits for a retry, because the last attempt failed (a 429 is no failure).
        last: it is not sent again, since what else waited has been given up.
        origin: what it was before it was cut; None for itself, which would be a cycle.
        outdone: the largest request accepted since this one, or what it is half of, was refused.
        ready_at: since when it has been waiting to be sent.
        waited: seconds it has waited in all.
    """

    __slots__ = (
        "attempts",
        "bisection",
        "disconnects",
        "failed",
        "failed_at",
        "last",
        "origin",
        "outdone",
        "ready_at",
        "start",
        "stop",
        "target",
        "waited",
    )

    def __init__(self, start: int, stop: int, ready_at: float, bisection: _Bisection | None = None) -> None:
        self.start = start
        self.stop = stop
        self.target = ""
        self.failed_at = math.inf
        self.attempts = 0
        self.disconnects = 0
        self.failed = self.last = False
        self.origin: Chunk | None = None
        self.outdone = 0
        self.ready_at = ready_at
        self.waited = 0.0
        self.bisection = bisection

    def __len__(self) -> int:
        return self.stop - self.start


class _Bisection:
    """A refused chunk and what became of its two halves."""

    __slots__ = ("accepted", "larger", "open", "refused")

    def __init__(self, refused: Chunk, larger: int) -> None:
        self.refused = refused
        self.larger = larger
        self.open = 2
        self.accepted = 0

    @property
    def count_refused(self) -> bool:
        """Whether it was the number of IDs: both halves were accepted, and nothing larger meanwhile."""
        return self.accepted == 2 and self.refused.outdone <= self.larger


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
        self._halves: deque[Chunk] = deque()
        self._again: deque[Chunk] = deque()
        self._refused: deque[Chunk] = deque()
        self._bisection: _Bisection | None = None
        self._rows_seen = False
        self._refused_alone = 0
        self._url_bytes_before = limits.max_url_bytes

    @property
    def sendable(self) -> bool:
        """Whether `take` is likely to have a chunk."""
        return bool(self._halves or self._again or (self._fresh and not self._refused))

    def take(self) -> Chunk | None:
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

    def retry(self, chunk: Chunk, *, first: bool = False) -> None:
        """Take back a chunk that shall be sent again, `first` before all others."""
        if first:
            self._halves.appendleft(chunk)
            return
        (self._again if chunk.bisection is None else self._halves).append(chunk)

    def answered(self, chunk: Chunk, merged: Merged) -> None:
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

    def fail(self, chunk: Chunk, error: LeadStatusError) -> None:
        """Enter `error` as the outcome of the whole chunk."""
        error.lead_ids = tuple(self.lead_ids[chunk.start : chunk.stop])
        error.attempts, error.waited = chunk.attempts, chunk.waited
        self._enter(range(chunk.start, chunk.stop), error)
        self._close_half(chunk, accepted=False)

    def fail_rest(self, error: LeadStatusError, spare: Iterable[Chunk] = ()) -> None:
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

    def rejected(self, chunk: Chunk, failure: Failure) -> None:
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
            if chunk.bisection is not None:
                chunk.outdone = chunk.bisection.refused.outdone
            if failure.sort is not Sort.REFUSED:
                chunk.outdone = len(chunk)  # a 500 says nothing about the number of IDs
            # Depth first: the smaller the piece, the sooner a lower limit is known.
            self._refused.appendleft(chunk)
            self._close_half(chunk, accepted=False)
            self._bisect_next()
        if not self._rows_seen and self.splits + self._refused_alone >= REFUSALS_WITHOUT_A_ROW:
            self.hopeless = own_copy(failure.error)
            self._limits.max_url_bytes = self._url_bytes_before  # size was not the matter after all

    def _plan_fresh(self) -> Chunk:
        start, stop = self._fresh.popleft()
        end, target = fit(self.lead_ids, start, stop, self._endpoint, self._limits)
        if end < stop:
            self._fresh.appendleft((end, stop))
        chunk = Chunk(start, end, self._since)
        chunk.target = target
        return chunk

    def _still_fits(self, chunk: Chunk) -> bool:
        if not chunk.target:
            chunk.target = self._endpoint.target(self.lead_ids[chunk.start : chunk.stop])
        if self._limits.allow(len(chunk), len(chunk.target)):
            return True
        self._replan(chunk)
        return False

    def _replan(self, chunk: Chunk) -> None:
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

    def _weight(self, positions: Sequence[int]) -> int:
        if self._weights is None:
            return len(positions)
        return sum(self._weights[position] for position in positions)

    def _bisect_next(self) -> None:
        while self._refused and self._bisection is None:
            chunk = self._refused.popleft()
            if self._still_fits(chunk):
                self._bisect(chunk)

    def _bisect(self, chunk: Chunk) -> None:
        self.splits += 1
        middle = chunk.start + (len(chunk) + 1) // 2
        self._bisection = _Bisection(chunk, larger=middle - chunk.start)
        for start, stop in ((chunk.start, middle), (middle, chunk.stop)):
            half = Chunk(start, stop, chunk.ready_at, self._bisection)
            half.failed_at, half.origin = chunk.failed_at, chunk.origin or chunk
            half.waited = chunk.waited
            self._halves.append(half)

    def _close_half(self, chunk: Chunk, *, accepted: bool) -> None:
        bisection, chunk.bisection = chunk.bisection, None
        if bisection is None or bisection is not self._bisection:
            return
        bisection.open -= 1
        bisection.accepted += accepted
        if bisection.open:
            return
        if bisection.count_refused:
            self._limits.chunk_size = min(self._limits.chunk_size, bisection.larger)
        self._bisection = None
        self._bisect_next()
