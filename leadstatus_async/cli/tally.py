"""What became of rows, counted as they pass: by status, and failures by their reason.

The same for rows that are asked for, rows that are there already, and files that `leadstatus report` reads.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from leadstatus_async.cli.exits import Exit
from leadstatus_async.cli.rows import error_of, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from leadstatus_async.cli.rows import Values
    from leadstatus_async.models import LeadFailure, LeadStatus

_MOST_REASONS = 1000
_PLACE = re.compile(r"(?:line|argument) \d+: ")
_REFUSALS = ("AuthenticationError", "PermissionDeniedError")
_UNREACHABLE = ("APIConnectionError", "APITimeoutError")
_NO_ID = "InvalidLeadIdError"
_AGAIN = "ask again later"
_ADVICE = {
    _NO_ID: "mend these lines of the input",
    "AuthenticationError": "look at the key: whole? live? revoked?",
    "PermissionDeniedError": "the key needs campaigns:read, and access to the account group",
    "NotFoundError": "look at --account and --campaign",
    "BadRequestError": "the API refuses these leads: look at their IDs",
    "RequestTooLargeError": "the API refuses these leads: look at their IDs",
    "UnexpectedStatusError": "look at --base-url, and the plan of the vendor",
    "MissingLeadError": "the API does not know these leads: look at their IDs",
}


class Tally:
    """Counts of rows.

    Attributes:
        rows: how many there were.
        statuses: how many have which status.
        failed: how many have none.
        asked: how many had an ID that could be asked for.
    """

    def __init__(self) -> None:
        self.rows = self.failed = self.asked = 0
        self.statuses: Counter[str] = Counter()
        self._reasons: Counter[tuple[str, str]] = Counter()
        self._kinds: Counter[str] = Counter()

    def add(self, values: Values, failure: LeadFailure | None = None) -> None:
        """Count a row, by what it says and the failure that it is about, if that is at hand."""
        self.rows += 1
        error = error_of(values)
        if error is None:
            self.asked += 1
            self.statuses[values[0] or ""] += 1
            return
        kind = kind_of(values)
        self.failed += 1
        self.asked += kind != _NO_ID
        self._kinds[kind] += 1
        reason = failure.reason if failure is not None else _PLACE.sub("", error, 1)
        if len(self._reasons) >= _MOST_REASONS and (kind, reason) not in self._reasons:
            reason = kind
        self._reasons[kind, reason] += 1

    def add_answers(self, answers: Sequence[LeadStatus]) -> None:
        """Count rows that have a status."""
        self.rows += len(answers)
        self.asked += len(answers)
        self.statuses.update([one.workflow_status for one in answers])

    def reasons(self) -> Iterable[tuple[int, str, str]]:
        """Yield how many failed, why, and what to do, the most frequent first."""
        for (kind, reason), count in self._reasons.most_common():
            yield count, reason, _ADVICE.get(kind, _AGAIN)

    @property
    def exit(self) -> Exit:
        """The exit code for what became of the rows."""
        if not self.asked:
            return Exit.USAGE
        if not self.failed:
            return Exit.ANSWERED
        if any(self._kinds[kind] for kind in _REFUSALS):
            return Exit.KEY_REFUSED
        if not self.statuses.total() and sum(self._kinds[kind] for kind in _UNREACHABLE) == self.failed:
            return Exit.UNREACHABLE
        return Exit.SOME_FAILED
