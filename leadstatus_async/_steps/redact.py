r"""What is kept of a server's text: bounded, on one line, and without secrets.

Servers and proxies send back what they were sent: debugging pages, trace ids, "invalid key sk_live_...".
So whatever is kept of an answer is searched for the key and the proxy's credentials after it was
decoded (h4), since `\/`, `\u005f` or UTF-16 hide them from a search in the bytes: as they are, with any
character percent-encoded, JSON-escaped or an HTML entity, in base64 and in hex. Control characters, with
which text forges log lines and moves cursors (h12), are taken out.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from html import escape
from typing import TYPE_CHECKING, Any, NoReturn, cast

import msgspec

from leadstatus_async.models import LeadFailure, LeadStatus, WorkflowStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MESSAGE = 500  # characters that are kept of a message, or of a body as text
DETAILS = 2000  # of details, as JSON
NAME = 200  # of a code or a trace id
_REDACTED = "[redacted]"
_SHORTEST = 8  # characters of a secret: shorter ones would be found in innocent words, and are no real keys
_LEAST = 3  # characters of a proxy's password that is looked for in errors, as a word of its own
_WINDOW = 8  # times what is kept: what is searched, since taking secrets out makes text shorter
_SPACES = dict.fromkeys([*range(0x09, 0x0E), *range(0x1C, 0x20), 0x85, 0x2028, 0x2029], " ")
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_REMOVED: dict[int, str | None] = {**dict.fromkeys(_CONTROLS), **_SPACES}
_MARKED: dict[int, str] = {**dict.fromkeys(_CONTROLS, "\ufffd"), **_SPACES}
_TEXTS = ("workflow_instance_id", "latest_step", "workflow_stop_reason")
_API_WORDS = (
    '{"success":true,"data":{"items":[{"leadId":"0123456789abcdef","workflowStatus":"completed","latestStep":null,'
    '"workflowInstanceId":"","workflowStopReason":"stopped","hasPendingApproval":false}]},"error":null,"traceId":""}'
)
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"')


class Redactor:
    """Takes secrets and control characters out of text.

    Args:
        secrets: what must not show: the key, a proxy's credentials.
        passwords: what must not show in errors even if it is short; in a row it may be a word of the user's.
    """

    __slots__ = ("_edge", "_marks", "_marks_in_bytes", "_secret", "_word")

    def __init__(self, secrets: Iterable[str] = (), passwords: Iterable[str] = ()) -> None:
        long = [secret for secret in secrets if len(secret) >= _SHORTEST]
        words = [re.escape(word) for word in passwords if _LEAST <= len(word) < _SHORTEST]
        self._secret = re.compile("|".join(map(_spellings, long)) or "(?!)", re.IGNORECASE)
        self._word = re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)" if words else "(?!)")
        self._edge = max(map(len, long), default=0) * len("&#x0000;")
        # Without these, and outside ASCII nothing, a text has no secret in it and no escape that hides one.
        self._marks = ["\\", "%", "&", *(form for secret in long for form in (secret, *_encoded(secret)))]
        self._marks_in_bytes = [(_rarest(mark), mark.encode()) for mark in ("\x7f", *self._marks)]

    def __repr__(self) -> str:
        return "<Redactor>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("what knows a secret cannot be pickled or copied")

    def line(self, text: str, most: int, *, torn: bool = False) -> str:
        """Return text of an error, on one line: at most so many characters, nothing secret among them.

        Args:
            text: as it came.
            most: characters to keep.
            torn: it is the beginning of a longer one, and so may end in the beginning of a secret.
        """
        window = text[: _WINDOW * most]
        window = window if window.isascii() else window.encode("utf-8", "replace").decode()  # c4
        if not window.isprintable():
            window = window.translate(_REMOVED)
        window = self._word.sub(_REDACTED, self._secret.sub(_REDACTED, window))
        if torn or len(text) > _WINDOW * most:
            window = window[: max(0, len(window) - self._edge)]
        return window[:most]

    def details(self, value: Any) -> Any:
        """Return any JSON with its texts so; of one longer than 2,000 characters, the beginning as text."""
        if isinstance(value, str):
            return self.line(value, DETAILS)
        try:
            text = json.dumps(value, ensure_ascii=False)
        except RecursionError:
            return None
        text = _STRING.sub(self._quoted, text)
        return json.loads(text) if len(text) <= DETAILS else self.line(text, DETAILS)

    def clears(self, body: bytes | bytearray) -> bool:
        """Whether the texts of a JSON body surely need none of this, at the cost of a glance."""
        if not body.isascii():
            return False
        for rare, mark in self._marks_in_bytes:  # noqa: SIM110 - half the time of any(), on each answer
            if rare in body and mark in body:
                return False
        return True

    def outcomes(self, outcomes: Sequence[LeadStatus | LeadFailure]) -> list[LeadStatus | LeadFailure]:
        """Return outcomes with nothing secret and no control character in the texts of their statuses."""
        if self._clear(" ".join(map(_words, outcomes))):
            return list(outcomes)
        return [
            outcome if self._clear(_words(outcome)) else self._status(cast("LeadStatus", outcome))
            for outcome in outcomes
        ]

    def _clear(self, text: str) -> bool:
        return text.isprintable() and not any(mark in text for mark in self._marks)

    def _status(self, status: LeadStatus) -> LeadStatus:
        told = status.workflow_status
        texts = {name: getattr(status, name) for name in _TEXTS}
        shown = msgspec.structs.replace(
            status,
            workflow_status=told if told.is_known else WorkflowStatus(self._field(told)),
            **{name: self._field(text) for name, text in texts.items() if text},
        )
        return status if shown == status else shown

    def _field(self, text: str) -> str:
        r"""Return a text of a row; a control character leaves a mark there: `pend\0ing` is not `pending`."""
        return self._secret.sub(_REDACTED, text.translate(_MARKED))

    def _quoted(self, string: re.Match[str]) -> str:
        return json.dumps(self.line(json.loads(string[0]), DETAILS), ensure_ascii=False)


def _rarest(mark: str) -> bytes:
    """Return a character without which a text is not there; looking for one is ten times as fast."""
    return next((one for one in mark if one not in _API_WORDS), mark[0]).encode()


def _words(outcome: LeadStatus | LeadFailure) -> str:
    if isinstance(outcome, LeadFailure):
        return ""
    instance, step, reason = outcome.workflow_instance_id, outcome.latest_step, outcome.workflow_stop_reason
    return f"{outcome.workflow_status} {instance or ''} {step or ''} {reason or ''}"


def _spellings(secret: str) -> str:
    """Return an expression for a secret, whatever has been done to its characters."""
    return "|".join(["".join(map(_spelled, secret)), *map(re.escape, _encoded(secret))])


def _spelled(character: str) -> str:
    code = ord(character)
    percent = "".join(f"%{byte:02x}" for byte in character.encode())
    entity = re.escape(escape(character))
    return rf"(?:\\?{entity}|\\?{re.escape(character)}|{percent}|\\u{code:04x}|&\#0*{code};|&\#x0*{code:x};)"


def _encoded(secret: str) -> list[str]:
    """Return a secret in hex, and in base64, at each of the three places where it may begin in a text."""
    raw = secret.encode()
    forms = [raw.hex(), raw.hex().upper()]
    for before, skipped in ((0, 0), (1, 2), (2, 3)):
        end = (before + len(raw)) * 8 // 6  # what stands there no neighbour has a part in
        form = b64encode(bytes(before) + raw).decode()[skipped:end]
        forms += {form, form.replace("+", "-").replace("/", "_")}
    return forms
