"""The caller's leads: how they are read, and folded to distinct IDs, with the way back to their positions."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from leadstatus_async._steps.validate import bad_lead_ids
from leadstatus_async.errors import InvalidLeadIdError
from leadstatus_async.models import LeadFailure, LeadStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from leadstatus_async._steps.validate import BadId

Outcome = LeadStatus | LeadFailure

NOTHING = object()  # what a source has at its end

BLOCK = 5_000  # IDs checked before other tasks get their turn: about a millisecond


class Folded:
    """What the caller asks for: every position, and the distinct IDs that need asking.

    Attributes:
        positions: the ID at each position; the `repr` of what is no str.
        settled: outcomes that are known without asking, by position.
        distinct: the IDs to ask for, in order of first appearance; None if those are all positions.
        recalled: how many positions were settled from memory.
    """

    def __init__(self) -> None:
        self.positions: list[str] = []
        self.settled: dict[int, Outcome] = {}
        self.distinct: dict[str, None] | None = None
        self.recalled = 0
        self._seen: set[str] = set()

    def add(self, block: list[object], *, max_id_bytes: int) -> list[BadId]:
        """Take in a block of the caller's list, and return what of it cannot be asked for."""
        bad = bad_lead_ids(block, first=len(self.positions), room=max_id_bytes)
        if bad:
            self.settled |= refusals(bad)
            self.positions += [_shown(value) for value in block]
        else:
            self.positions += cast("list[str]", block)
            self._seen.update(cast("list[str]", block))
        return bad

    def recall(self, known: Callable[[str], LeadStatus | None]) -> Iterator[None]:
        """Settle what is known without asking; yields where others may have their turn."""
        for first in range(0, len(self.positions), BLOCK):
            if first:
                yield
            for at, lead_id in enumerate(self.positions[first : first + BLOCK], first):
                status = None if at in self.settled else known(lead_id)
                if status is not None:
                    self.settled[at] = status
                    self.recalled += 1

    def fold(self) -> Iterator[None]:
        """Find the distinct IDs, once all is added; yields where others may have their turn."""
        even = len(self._seen) == len(self.positions) and not self.settled
        self._seen = set()
        if even:
            return
        self.distinct = {}
        for first in range(0, len(self.positions), BLOCK):
            if first:
                yield
            block = self.positions[first : first + BLOCK]
            asked = (lead_id for at, lead_id in enumerate(block, first) if at not in self.settled)
            self.distinct.update(dict.fromkeys(asked))

    @property
    def asked(self) -> list[str]:
        """The distinct IDs to ask for, in order of first appearance."""
        return self.positions if self.distinct is None else list(self.distinct)

    @property
    def weights(self) -> list[int] | None:
        """How many positions each ID asked for stands for; None if one each."""
        if self.distinct is None:
            return None
        unsettled = (lead_id for at, lead_id in enumerate(self.positions) if at not in self.settled)
        counts = Counter(unsettled)
        return [counts[lead_id] for lead_id in self.distinct]

    @property
    def failed(self) -> int:
        """How many positions are failures before anything is asked."""
        return sum(not outcome.ok for outcome in self.settled.values())

    @property
    def unanswered(self) -> int:
        """How many positions have no answer yet."""
        return len(self.positions) - len(self.settled) + self.failed

    def unfold(self, outcomes: Sequence[Outcome | None]) -> Sequence[Outcome]:
        """Return the outcome of every position, given those of the distinct IDs."""
        found = cast("Sequence[Outcome]", outcomes)
        if self.distinct is None:
            return found
        by_id = dict(zip(self.distinct, found, strict=True))
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
    """Read the caller's list block by block; a list or tuple as it is now, whatever becomes of it.

    Raises:
        TypeError: it is a str, or no iterable.
    """
    check_ids(lead_ids)
    if isinstance(lead_ids, AsyncIterable):
        raise TypeError("lead_ids is an async iterable; give it to stream(), or collect it into a list first")
    try:
        source = iter(lead_ids[:] if isinstance(lead_ids, list | tuple) else lead_ids)
    except TypeError:
        raise TypeError(f"lead_ids must be an iterable of str, not {type(lead_ids).__name__}") from None
    while block := list(islice(source, BLOCK)):
        yield block


def iterable_of(source: Any) -> Iterable[Any]:
    """Return an iterator as what can be iterated, though it may lack `__iter__`."""
    return source if hasattr(source, "__iter__") else iter(source.__next__, NOTHING)


def iterator_of(source: Any) -> Iterator[Any] | AsyncIterator[Any]:
    """Return what a source is read by.

    Raises:
        TypeError: it is neither iterable nor async iterable.
    """
    if hasattr(source, "__aiter__"):
        return aiter(cast("AsyncIterable[Any]", source))
    bare = not hasattr(source, "__iter__") and (hasattr(source, "__anext__") or hasattr(source, "__next__"))
    try:
        return cast("Iterator[Any] | AsyncIterator[Any]", source) if bare else iter(source)
    except TypeError:
        message = f"lead_ids must be an iterable or async iterable, not {type(source).__name__}"
        raise TypeError(message) from None


def check_ids(lead_ids: object) -> None:
    """Refuse what is no list of IDs though it can be iterated: a single str (letters), a table (columns).

    Raises:
        TypeError: it is one.
    """
    if isinstance(lead_ids, str | bytes):
        raise TypeError("lead_ids is a single str; pass a list of lead IDs, [lead_id] for one")
    if hasattr(lead_ids, "columns") and not isinstance(lead_ids, Mapping):
        kind = type(lead_ids).__name__
        raise TypeError(
            f'lead_ids is a {kind}; pass the column with the IDs, as in table["lead_id"].astype(str)'
        )


def _shown(value: object) -> str:
    try:
        return value if isinstance(value, str) else repr(value)
    except Exception:  # noqa: BLE001 - of somebody's own class
        return f"<{type(value).__name__}>"
