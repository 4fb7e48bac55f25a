"""Leads of a stream that were read and not yet yielded.

Those that are asked for have positions in a backlog, of their own, since two kinds are not asked: what cannot
be (its failure is known when it is read) or need not be (its status is remembered), and what stands in the
same block already (it has that outcome). Both are kept as exceptions beside whole runs of outcomes, which
pass through untouched.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, cast

from leadstatus_async._steps.fold import refusals
from leadstatus_async._steps.validate import bad_lead_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leadstatus_async._steps.fold import Outcome
    from leadstatus_async.models import LeadStatus


class Window:
    """What lies between a source and its consumer.

    Args:
        ordered: hand outcomes out in the order read; else as they come.
        most: leads that may be read and not yet yielded.
        max_id_bytes: bytes one encoded ID may take.
        recall: returns the status of a lead that need not be asked for, or None; if there is any such.

    Attributes:
        read: leads ever read.
        held: leads read and not yet yielded.
        most: leads that may be.
    """

    def __init__(
        self,
        *,
        ordered: bool,
        most: int,
        max_id_bytes: int,
        recall: Callable[[str], LeadStatus | None] | None = None,
    ) -> None:
        self.read = self.held = 0
        self._ordered = ordered
        self.most = most
        self._max_id_bytes = max_id_bytes
        self._recall = recall
        self._ready: deque[Sequence[Outcome]] = deque()  # in the order in which they are yielded
        self._asked = 0  # leads ever asked for: the next one's position in the backlog
        self._next = 0  # position up to which outcomes are ready, in order
        self._runs: dict[int, Sequence[Outcome]] = {}  # settled before their turn, by position
        # What is yielded without being asked: before which position, and its outcome or whom it repeats.
        self._unasked: deque[tuple[int, Outcome | int]] = deque()
        self._repeated: dict[int, int] = {}  # how often a position is to be repeated yet
        self._kept: dict[int, Outcome] = {}  # what is to be repeated

    @property
    def space(self) -> int:
        """How many leads may be read."""
        return self.most - self.held

    @property
    def ready(self) -> bool:
        """Whether `take` has something."""
        return bool(self._ready)

    def admit(self, block: list[Any]) -> tuple[list[str], list[Outcome]]:
        """Take in a block of the source; return the IDs to ask for, and the outcomes that are known."""
        bad = bad_lead_ids(block, first=self.read, room=self._max_id_bytes)
        asked = block
        known: list[Outcome] = []
        if bad or len(set(block)) < len(block) or self._recall is not None:
            asked, known = self._pick(block, self._known(block, refusals(bad)))
        self.read += len(block)
        self.held += len(block)
        self._asked += len(asked)
        self._advance()
        return cast("list[str]", asked), known

    def settle(self, first: int, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        """Take in the outcomes of neighbours; return them with those of the leads that repeat them."""
        settled = [*outcomes, *self._again(first, outcomes)] if self._repeated else outcomes
        if self._ordered:
            self._runs[first] = outcomes
            self._advance()
        else:
            self._ready.append(settled)
        return settled

    def take(self) -> Sequence[Outcome] | None:
        """Return outcomes whose turn it is; None if there are none yet. `yielded` is told of them after."""
        return self._ready.popleft() if self._ready else None

    def yielded(self, leads: int) -> None:
        """Make space for as many."""
        self.held -= leads

    def _known(self, block: list[Any], refused: dict[int, Outcome]) -> dict[int, Outcome]:
        """Return the outcomes that need no asking, by position."""
        if self._recall is not None:
            for at, lead_id in enumerate(block, self.read):
                status = None if at in refused else self._recall(lead_id)
                if status is not None:
                    refused[at] = status
        return refused

    def _pick(self, block: list[Any], known: dict[int, Outcome]) -> tuple[list[str], list[Outcome]]:
        """Take what is not asked for out of a block."""
        asked: dict[str, int] = {}
        for at, lead_id in enumerate(block, self.read):
            if at in known:
                self._put(self._asked + len(asked), known[at])
            elif lead_id in asked:
                position = asked[lead_id]
                self._repeated[position] = self._repeated.get(position, 0) + 1
                if self._ordered:
                    self._unasked.append((self._asked + len(asked), position))
            else:
                asked[lead_id] = self._asked + len(asked)
        return list(asked), list(known.values())

    def _put(self, before: int, outcome: Outcome) -> None:
        if self._ordered:
            self._unasked.append((before, outcome))
        else:
            self._ready.append([outcome])

    def _again(self, first: int, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Return the outcomes of those leads that repeat these, out of order."""
        times = self._repeated.get if self._ordered else self._repeated.pop
        return [outcome for at, outcome in enumerate(outcomes, first) for _ in range(times(at, 0))]

    def _advance(self) -> None:
        """Move what has its turn to what is ready."""
        self._weave()
        while (run := self._runs.pop(self._next, None)) is not None:
            if not self._unasked:
                self._ready.append(run)
                self._next += len(run)
            else:
                self._weave_in(run)

    def _weave_in(self, run: Sequence[Outcome]) -> None:
        """Let a run through one by one, with what is to be yielded in between."""
        for outcome in run:
            if self._next in self._repeated:
                self._kept[self._next] = outcome
            self._ready.append([outcome])
            self._next += 1
            self._weave()

    def _weave(self) -> None:
        """Move what is yielded without being asked, as far as it has its turn."""
        while self._unasked and self._unasked[0][0] <= self._next:
            _, what = self._unasked.popleft()
            if isinstance(what, int):
                outcome = self._kept[what]
                self._repeated[what] -= 1
                if not self._repeated[what]:
                    del self._repeated[what], self._kept[what]
            else:
                outcome = what
            self._ready.append([outcome])
