"""The caller's list on its way to distinct IDs, and the outcomes on their way back to its positions."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, cast

from leadstatus_async._steps.validate import bad_lead_ids
from leadstatus_async.errors import InvalidLeadIdError
from leadstatus_async.models import LeadFailure, LeadStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from leadstatus_async._steps.validate import BadId

Outcome = LeadStatus | LeadFailure

BLOCK = 5_000  # IDs checked before other tasks get their turn: about a millisecond


class Folded:
    """What the caller asks for: every position, and the distinct IDs that need asking.

    Attributes:
        positions: the ID at each position; the `repr` of what is no str.
        settled: outcomes that are known without asking, by position.
        asked: the distinct IDs to ask for, in order of first appearance.
    """

    def __init__(self) -> None:
        self.positions: list[str] = []
        self.settled: dict[int, Outcome] = {}
        self.asked: dict[str, None] = {}

    def add(self, block: list[object], *, max_id_bytes: int) -> list[BadId]:
        """Take in a block of the caller's list, and return what of it cannot be asked for."""
        bad = bad_lead_ids(block, first=len(self.positions), room=max_id_bytes)
        good = block
        if bad:
            refused = refusals(bad)
            self.settled |= refused
            good = [value for at, value in enumerate(block, len(self.positions)) if at not in refused]
            self.positions += [_shown(value) for value in block]
        else:
            self.positions += cast("list[str]", block)
        self.asked.update(dict.fromkeys(cast("list[str]", good)))
        return bad

    @property
    def uneven(self) -> bool:
        """Whether any ID stands for several positions, or any position needs no asking."""
        return len(self.asked) != len(self.positions)

    @property
    def weights(self) -> list[int] | None:
        """How many positions each ID asked for stands for; None if one each."""
        if not self.uneven:
            return None
        unsettled = (lead_id for at, lead_id in enumerate(self.positions) if at not in self.settled)
        counts = Counter(unsettled)
        return [counts[lead_id] for lead_id in self.asked]

    @property
    def failed(self) -> int:
        """How many positions are failures before anything is asked."""
        return sum(not outcome.ok for outcome in self.settled.values())

    def unfold(self, outcomes: Sequence[Outcome | None]) -> Sequence[Outcome]:
        """Return the outcome of every position, given those of the distinct IDs."""
        found = cast("Sequence[Outcome]", outcomes)
        if not self.uneven:
            return found
        by_id = dict(zip(self.asked, found, strict=True))
        return [
            self.settled[position] if position in self.settled else by_id[lead_id]
            for position, lead_id in enumerate(self.positions)
        ]


def refusals(bad: Iterable[BadId]) -> dict[int, Outcome]:
    """Return the failures of what cannot be asked for, by position."""
    return {
        position: LeadFailure(_shown(value), InvalidLeadIdError([(position, value, reason)]))
        for position, value, reason in bad
    }


def blocks(lead_ids: Iterable[object]) -> Iterator[list[object]]:
    """Read the caller's list block by block.

    Raises:
        TypeError: it is a str, or no iterable.
    """
    check_no_str(lead_ids)
    if isinstance(lead_ids, AsyncIterable):
        raise TypeError("lead_ids is an async iterable; give it to stream(), or collect it into a list first")
    try:
        source = iter(lead_ids)
    except TypeError:
        raise TypeError(f"lead_ids must be an iterable of str, not {type(lead_ids).__name__}") from None
    while block := list(islice(source, BLOCK)):
        yield block


def check_no_str(lead_ids: object) -> None:
    """Refuse a single str, which Python would take for a list of one-letter IDs.

    Raises:
        TypeError: it is one.
    """
    if isinstance(lead_ids, str | bytes):
        raise TypeError("lead_ids is a single str; pass a list of lead IDs, [lead_id] for one")


def _shown(value: object) -> str:
    return value if isinstance(value, str) else repr(value)
