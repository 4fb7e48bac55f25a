"""What a session remembers: the statuses it learned last, for calls that accept an answer of some age."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from leadstatus_async.models import LeadStatus

if TYPE_CHECKING:
    from collections.abc import Iterable

    from leadstatus_async.models import LeadFailure


class Cache:
    """Statuses by campaign and lead; those that were not used for longest go first.

    Args:
        size: how many are kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        # When it was learned, when its request had been sent, and what it is.
        self._kept: OrderedDict[tuple[str, str], tuple[float, float, LeadStatus]] = OrderedDict()

    def learn(
        self, campaign: str, outcomes: Iterable[LeadStatus | LeadFailure], sent_at: float, now: float
    ) -> None:
        """Remember the statuses among these outcomes of a campaign, learned now; never a failure.

        An answer that was long on its way replaces none to a request that was sent later.
        """
        kept = self._kept
        for outcome in outcomes:
            if isinstance(outcome, LeadStatus):
                key = (campaign, outcome.lead_id)
                before = kept.get(key)
                if before is None or before[1] <= sent_at:
                    kept[key] = (now, sent_at, outcome)
                    kept.move_to_end(key)
        while len(kept) > self._size:
            kept.popitem(last=False)

    def find(self, campaign: str, lead_id: str, since: float) -> LeadStatus | None:
        """Return the status of a lead, if it was learned since then."""
        key = (campaign, lead_id)
        found = self._kept.get(key)
        if found is None or found[0] < since:
            return None
        self._kept.move_to_end(key)
        return found[2]

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
