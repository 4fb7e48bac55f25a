"""What one lead's answer is: `LeadStatus`, `LeadFailure`, `WorkflowStatus`.

Data only: no I/O, no clock, no randomness. Field names are those of the API in snake_case
(https://api.sonarly.io, "Get campaign workflow status for a specific set of leads"); the API's
camelCase is what `msgspec.json.encode` writes. Results are kept light for lists of millions:
frozen, untracked by the garbage collector, and with enum members shared between rows.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

import msgspec

LONGEST_TEXT = 2000  # characters of a text that comes with a status; the beginning of a longer one is kept
LONGEST_STATUS = 10_000  # characters of a status
_UNLISTED_KEPT = 256  # texts the server may make us remember; beyond that each row has its own member
_LONGEST_KEPT = 200  # characters of such a text


class WorkflowStatus(StrEnum):
    """Where a lead stands in the workflow of a campaign.

    A value the API adds later is kept as it came, as a member of its own with `is_known` False;
    it compares, hashes, pickles and encodes as its text, of at most 10,000 characters.

        >>> WorkflowStatus("paused").is_known
        False
    """

    PENDING = "pending"
    WAITING = "waiting"
    COMPLETED = "completed"
    STOPPED = "stopped"
    NOT_STARTED = "not_started"
    NOT_IN_CAMPAIGN = "not_in_campaign"
    NOT_ELIGIBLE = "not_eligible"

    @property
    def is_known(self) -> bool:
        """Whether the API's reference lists this value."""
        return self._name_ in WorkflowStatus.__members__

    @property
    def is_settled(self) -> bool:
        """Whether the workflow is over for this lead. An unlisted value never settles."""
        return self in _SETTLED

    def __reduce_ex__(self, _protocol: object) -> tuple[type[WorkflowStatus], tuple[str]]:
        """Pickle and copy by value; by name, as CPython did before 3.11.4, an unlisted one is not found."""
        return WorkflowStatus, (self._value_,)

    @classmethod
    def _missing_(cls, value: object) -> WorkflowStatus | None:
        if not isinstance(value, str) or len(value) > LONGEST_STATUS:
            return None
        member = _unlisted.get(value)
        if member is None:
            member = str.__new__(cls, value)
            member._name_ = "UNLISTED"
            member._value_ = value
            if len(_unlisted) < _UNLISTED_KEPT and len(value) <= _LONGEST_KEPT:
                _unlisted[value] = member
        return member


_SETTLED = frozenset(
    {
        WorkflowStatus.COMPLETED,
        WorkflowStatus.STOPPED,
        WorkflowStatus.NOT_IN_CAMPAIGN,
        WorkflowStatus.NOT_ELIGIBLE,
    }
)
_unlisted: dict[str, WorkflowStatus] = {}


_Text = Annotated[str, msgspec.Meta(max_length=LONGEST_TEXT)]


class LeadStatus(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """The status of one lead in one campaign, as the API told it.

    The optional fields are None when the API sent null or left them out. Of a text longer than 2,000
    characters its beginning is kept; control characters in a text are replaced, and secrets taken out. Of
    an answer with more than half a megabyte of texts that might hide one, the rest is `[redacted]`.

    Attributes:
        ok: True: this outcome is an answer.
    """

    ok: ClassVar[Literal[True]] = True

    lead_id: str
    workflow_status: WorkflowStatus
    workflow_instance_id: _Text | None = None
    latest_step: _Text | None = None
    workflow_stop_reason: _Text | None = None
    has_pending_approval: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain types under snake_case names, for JSON answers of web frameworks."""
        return {
            "lead_id": self.lead_id,
            "workflow_status": self.workflow_status.value,
            "workflow_instance_id": self.workflow_instance_id,
            "latest_step": self.latest_step,
            "workflow_stop_reason": self.workflow_stop_reason,
            "has_pending_approval": self.has_pending_approval,
        }


class LeadFailure(msgspec.Struct, frozen=True):
    """A lead that has no status, and the error that says why.

    Attributes:
        lead_id: the ID as it was asked for; the `repr` of a value that was not a str.
        error: a `LeadStatusError` (see `leadstatus_async.errors`).
        ok: False: this outcome is no answer.
    """

    ok: ClassVar[Literal[False]] = False

    lead_id: str
    error: Exception

    @property
    def reason(self) -> str:
        """What failed, in the same words whatever the lead: `Counter(failure.reason for failure in ...)`."""
        error: Any = self.error
        ours = hasattr(error, "summary_of")  # others mean something else by the name
        return error.reason if ours else f"{type(error).__name__}: {error}"

    def to_dict(self) -> dict[str, Any]:
        r"""Return plain types: one line of a dead-letter file.

        `error` is "ClassName: message", `error_type` the class name; `http_status`, `error_code`, `trace_id`,
        `attempts` and `retryable` are those of the error, None where it has no such thing. A lone surrogate,
        one of the things an ID is refused for, is written out as `\udc80`: JSON encoders and files would not
        take it (c4).
        """
        error = self.error
        kind = type(error).__name__
        return {
            "lead_id": _writable(self.lead_id),
            "error": _writable(f"{kind}: {error}"),
            "error_type": kind,
            "http_status": _fact(error, "status", int),
            "error_code": _fact(error, "code", str),
            "trace_id": _fact(error, "trace_id", str),
            "attempts": _fact(error, "attempts", int),
            "retryable": _fact(error, "retryable", bool),
        }


def _fact(error: Exception, name: str, kind: type[object]) -> object:
    """Return an attribute, if there is one and it is what it should be: errors may be anybody's."""
    value = getattr(error, name, None)
    if not isinstance(value, kind):
        return None
    return _writable(value) if isinstance(value, str) else value


def _writable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
