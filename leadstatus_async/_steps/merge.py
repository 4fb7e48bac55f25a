"""Which row answers which lead: by ID, never by position (e9).

Rows may come in any order; the first row of an ID counts; rows nobody asked for are counted and
dropped; a lead without a row is a failure of its own.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, cast

import msgspec

from leadstatus_async._steps.redact import NAME, Redactor
from leadstatus_async._steps.rows import BadRow, RawRow, presented
from leadstatus_async.errors import MissingLeadError
from leadstatus_async.models import LeadFailure, LeadStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from leadstatus_async._steps.rows import Rows
    from leadstatus_async.errors import ResponseError

_PLAIN = Redactor()


class Merged(msgspec.Struct, frozen=True):
    """One outcome for each lead asked, in the order asked.

    Attributes:
        outcomes: as many as leads were asked.
        failed: how many of them are failures.
        foreign: rows for leads that were not asked for.
        respelled: leads whose row has their ID in another spelling, so that it is not theirs for certain.
    """

    outcomes: list[LeadStatus | LeadFailure]
    failed: int = 0
    foreign: int = 0
    respelled: int = 0


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
    told_as = _respelled(missing, found, known)
    absent = _missing(missing, answer)
    good = [row for row in map(found.get, asked) if isinstance(row, LeadStatus | RawRow)]
    told = {status.lead_id: status for status in presented(good, redactor)}
    outcomes: list[LeadStatus | LeadFailure] = []
    for lead_id in asked:
        if lead_id in told:
            outcomes.append(told[lead_id])
            continue
        row = found.get(lead_id)
        error: ResponseError = row.error if isinstance(row, BadRow) else absent
        if lead_id in told_as:
            error = _named(lead_id, told_as[lead_id], answer, redactor)
        error.attempts, error.waited = attempts, waited
        outcomes.append(LeadFailure(lead_id, error))
    foreign = sum(item.lead_id not in known for item in items)
    return Merged(outcomes, len(asked) - len(told), foreign, len(told_as))


def _respelled(missing: Sequence[str], found: Mapping[str, object], known: set[str]) -> dict[str, str]:
    """Return which of the missing leads came back in another case, Unicode form, or without leading zeros."""
    strangers = {_folded(lead_id): lead_id for lead_id in found if lead_id not in known} if missing else {}
    pairs = ((lead_id, strangers.get(_folded(lead_id))) for lead_id in missing) if strangers else ()
    return {lead_id: stranger for lead_id, stranger in pairs if stranger is not None}


def _folded(lead_id: str) -> str:
    return unicodedata.normalize("NFKC", lead_id).casefold().lstrip("0")


def _named(lead_id: str, stranger: str, answer: Rows, redactor: Redactor) -> MissingLeadError:
    if lead_id.casefold() == stranger.casefold():
        how = "in another case"
    elif lead_id.lstrip("0") == stranger.lstrip("0"):
        how = "with other leading zeros"
    else:
        how = "in another Unicode form or spelling"
    shown = redactor.line(stranger, NAME)
    message = f"the answer has no row for this lead, but one for {shown!r}, which is its ID {how}"
    return MissingLeadError(message, status=200, trace_id=answer.trace_id, lead_ids=[lead_id])


def _missing(lead_ids: Sequence[str], answer: Rows) -> MissingLeadError:
    message = "the answer has no row for this lead, which the API promises never to do"
    if answer.unreadable:
        message += f" ({answer.unreadable} of its rows do not say whose they are)"
    return MissingLeadError(message, status=200, trace_id=answer.trace_id, lead_ids=lead_ids)
