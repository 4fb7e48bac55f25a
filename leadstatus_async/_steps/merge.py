"""Which row answers which lead: by ID, never by position (e9).

Rows may come in any order; the first row of an ID counts; rows nobody asked for are counted and
dropped; a lead without a row is a failure of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec

from leadstatus_async._steps.redact import Redactor
from leadstatus_async._steps.rows import BadRow, RawRow, presented
from leadstatus_async.errors import MissingLeadError
from leadstatus_async.models import LeadFailure, LeadStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leadstatus_async._steps.rows import Rows

_PLAIN = Redactor()


class Merged(msgspec.Struct, frozen=True):
    """One outcome for each lead asked, in the order asked.

    Attributes:
        outcomes: as many as leads were asked.
        failed: how many of them are failures.
        foreign: rows for leads that were not asked for.
    """

    outcomes: list[LeadStatus | LeadFailure]
    failed: int = 0
    foreign: int = 0


def merge(
    asked: Sequence[str],
    answer: Rows,
    redactor: Redactor = _PLAIN,
    *,
    attempts: int = 1,
    waited: float = 0.0,
) -> Merged:
    """Place the rows of `answer` under the IDs `asked`, which are distinct.

    Args:
        asked: the lead IDs of the request.
        answer: its deciphered rows.
        redactor: takes out of their texts what must not be kept.
        attempts: how often the request was sent, for the failures.
        waited: seconds it waited in all, for the failures.
    """
    items = answer.items
    if answer.clean and [item.lead_id for item in items] == asked:
        statuses = cast("list[LeadStatus]", items)
        whole = statuses if answer.plain else presented(statuses, redactor)
        return Merged(cast("list[LeadStatus | LeadFailure]", whole))
    found: dict[str, LeadStatus | RawRow | BadRow] = {}
    for item in items:
        found.setdefault(item.lead_id, item)
    known = set(asked)
    missing = [lead_id for lead_id in asked if lead_id not in found]
    absent = _missing(missing, answer, attempts=attempts, waited=waited)
    good = [row for row in map(found.get, asked) if isinstance(row, LeadStatus | RawRow)]
    told = {status.lead_id: status for status in presented(good, redactor)}
    outcomes: list[LeadStatus | LeadFailure] = []
    for lead_id in asked:
        if lead_id in told:
            outcomes.append(told[lead_id])
            continue
        row = found.get(lead_id)
        error = row.error if isinstance(row, BadRow) else absent
        error.attempts, error.waited = attempts, waited
        outcomes.append(LeadFailure(lead_id, error))
    return Merged(outcomes, len(asked) - len(told), sum(item.lead_id not in known for item in items))


def _missing(lead_ids: Sequence[str], answer: Rows, *, attempts: int, waited: float) -> MissingLeadError:
    message = "the answer has no row for this lead, which the API promises never to do"
    if answer.unreadable:
        message += f" ({answer.unreadable} of its rows do not say whose they are)"
    return MissingLeadError(
        message, status=200, trace_id=answer.trace_id, lead_ids=lead_ids, attempts=attempts, waited=waited
    )
