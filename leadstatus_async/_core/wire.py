"""What an answer says: status, headers and body bytes in, rows or a typed failure out.

All knowledge of the API's envelope lives here, and none of the transport. One malformed row never
loses its neighbours (c1), an unlisted status keeps its text (c2), and only a status that was
really received becomes an `APIStatusError` (a4). What to do about a failure is `retry`'s business.
"""

from __future__ import annotations

import contextlib
import json
import re
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import msgspec

from leadstatus_async._core.headers import rate_hint, retry_after
from leadstatus_async.errors import (
    STATUS_ERRORS,
    APIStatusError,
    LeadStatusError,
    RateLimitError,
    ResponseDecodeError,
    ServerError,
    UnexpectedStatusError,
    is_fatal,
)
from leadstatus_async.models import LeadStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

_SNIPPET = 500
_RETRIED = frozenset({408, 500, 502, 503, 504})
_PAUSING = {429, 503}  # statuses whose `Retry-After` is about the rate
_TOO_LARGE = frozenset({413, 414, 431})
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # the four families of c3
_ADVICE = {
    401: "The API key was refused: check that it is whole, live and not revoked",
    403: "The key needs the permission campaigns:read and access to this account group",
    404: "Check the account group ID and the campaign ID",
}


class Sort(Enum):
    """What kind of failure this is, as far as the answer alone can tell."""

    FINAL = auto()
    """It will stay so: these leads fail."""
    FATAL = auto()
    """Every other request of the call would meet it too."""
    PASSING = auto()
    """It may pass: worth sending again."""
    THROTTLED = auto()
    """429: not before the pause is over."""
    REFUSED = auto()
    """An enveloped 400: an ID in it, or the number of IDs, is not accepted."""
    OVERSIZE = auto()
    """Refused for its size, by the server or by a proxy that does not speak the envelope."""


class Failure(msgspec.Struct, frozen=True):
    """An attempt that brought no rows.

    Attributes:
        error: why, as the user will see it.
        sort: what kind of failure it is.
        retry_after: seconds the server asked to wait; None where it did not.
        early: the connection was lost before any byte of an answer (a stale keep-alive, perhaps).
        stale: it was, and is known to have served another request before.
    """

    error: LeadStatusError
    sort: Sort
    retry_after: float | None = None
    early: bool = False
    stale: bool = False


class BadRow(msgspec.Struct, frozen=True):
    """A row of the answer that is not what the API promises.

    Attributes:
        lead_id: whose row it is.
        error: what is wrong with it.
    """

    lead_id: str
    error: ResponseDecodeError


class Rows(msgspec.Struct, frozen=True):
    """The rows of a good answer, in the server's order.

    Attributes:
        items: one `LeadStatus` or `BadRow` each.
        trace_id: the API's `traceId`, if any.
        clean: no row is a `BadRow`.
        unreadable: rows that do not even say whose they are.
    """

    items: list[LeadStatus | BadRow]
    trace_id: str | None = None
    clean: bool = False
    unreadable: int = 0


class _Data(msgspec.Struct):
    items: list[LeadStatus]


class _Answer(msgspec.Struct):
    data: _Data | None = None
    success: bool = True
    traceId: Any = None  # noqa: N815 - the API's spelling


_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_json = msgspec.json.Decoder().decode


def decipher(
    status: int, headers: Mapping[str, str], body: bytes, *, now: float | None = None
) -> Rows | Failure:
    """Tell what an answer means.

    Args:
        status: of the response received.
        headers: of the response, case-insensitive.
        body: whole and decompressed, possibly empty.
        now: epoch seconds, for dates in an answer that has no `Date` of its own.
    """
    if status != 200:
        return _refusal(status, headers, body, now)
    try:
        answer = _decode_answer(body)
    except _MALFORMED:
        return _salvage(body)
    if answer.success and answer.data is not None:
        return Rows(cast("list[LeadStatus | BadRow]", answer.data.items), _text(answer.traceId), clean=True)
    return _salvage(body)


def _salvage(body: bytes) -> Rows | Failure:
    """Read a 200 that the strict decoder did not accept, row by row."""
    whole, why = _loose(body)
    if why:
        return _undecodable(f"the body is not JSON ({why})", body, None)
    envelope = _object(whole)
    trace_id = _text(envelope.get("traceId"))
    if envelope.get("success", True) is not True:
        return Failure(_status_error(200, envelope, body, None), Sort.FINAL)
    items = _object(envelope.get("data")).get("items")
    if not _is_list(items):
        return _undecodable("the answer has no list data.items", body, trace_id)
    rows = [_row(item, trace_id) for item in items]
    named = [row for row in rows if row is not None]
    return Rows(named, trace_id, unreadable=len(rows) - len(named))


def _loose(body: bytes) -> tuple[Any, str]:
    """Decode any JSON: (value, "") or (None, why not).

    msgspec refuses a BOM (c5), and lone surrogates (c4), which become `?` here: no log, terminal or
    encoder downstream would take them.
    """
    try:
        return _decode_json(body), ""
    except _MALFORMED as strict:
        with contextlib.suppress(ValueError, *_MALFORMED):
            plain = json.dumps(json.loads(body), ensure_ascii=False)
            return _decode_json(plain.encode("utf-8", "replace")), ""
        return None, str(strict)


def _row(item: Any, trace_id: str | None) -> LeadStatus | BadRow | None:
    fields = _object(item)
    lead_id = fields.get("leadId")
    if isinstance(lead_id, int) and not isinstance(lead_id, bool):
        lead_id = str(lead_id)  # IDs are strings by the reference; a number is read as its digits (c5)
    if not isinstance(lead_id, str):
        return None
    try:
        return msgspec.convert({**fields, "leadId": lead_id}, LeadStatus)
    except msgspec.ValidationError as wrong:
        error = ResponseDecodeError(
            f"the row of this lead is malformed: {wrong}",
            status=200,
            trace_id=trace_id,
            snippet=_brief(repr(fields)),
            lead_ids=(lead_id,),
        )
        return BadRow(lead_id, error)


def _undecodable(what: str, body: bytes, trace_id: str | None) -> Failure:
    snippet = _snippet(body)
    shown = "" if snippet[:1] in ("{", "[") else f": {snippet[:100]!r}"  # rows name leads: no text for logs
    message = f"HTTP 200, but {what}; {len(body)} bytes{shown}"
    error = ResponseDecodeError(message, status=200, trace_id=trace_id, snippet=snippet)
    return Failure(error, Sort.PASSING)


def _refusal(status: int, headers: Mapping[str, str], body: bytes, now: float | None) -> Failure:
    whole, _ = _loose(body) if body else (None, "")
    envelope = _object(whole)
    spoken = isinstance(envelope.get("error"), dict)
    pause = retry_after(headers, whole, now=now)
    if status == 429 and not pause:
        hint = rate_hint(headers, status, now=now)
        if hint is not None and hint.remaining == 0 and hint.reset:
            pause = hint.reset  # as GitHub states it: nothing is left until then
    error = _status_error(status, envelope, body, pause)
    # Elsewhere it is no throttling: some send it with every answer (d7).
    return Failure(error, _sort(error, spoken=spoken), pause if status in _PAUSING else None)


def _sort(error: APIStatusError, *, spoken: bool) -> Sort:
    if is_fatal(error):
        return Sort.FATAL
    if isinstance(error, RateLimitError):
        return Sort.THROTTLED
    if error.status in _RETRIED:
        return Sort.PASSING
    if error.status in _TOO_LARGE or (error.status == 400 and not spoken):
        return Sort.OVERSIZE
    return Sort.REFUSED if error.status == 400 else Sort.FINAL


def _status_error(status: int, envelope: dict[str, Any], body: bytes, pause: float | None) -> APIStatusError:
    kind = STATUS_ERRORS.get(status, ServerError if 500 <= status < 600 else UnexpectedStatusError)
    told = _object(envelope.get("error"))
    message = _text(told.get("message")) or _snippet(body)[:200]
    advice = _ADVICE.get(status, "")
    if 300 <= status < 400:
        advice = "The server redirects, which is not followed, so that the key stays here: check base_url"
    return kind(
        status,
        _text(told.get("code")),
        message,
        told.get("details"),
        _text(envelope.get("traceId")),
        pause,
        advice=advice,
    )


def _object(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _text(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


def _snippet(body: bytes) -> str:
    """Return the beginning of a body as one line of text; of an HTML page, its words."""
    text = body[: 8 * _SNIPPET].decode("utf-8-sig", "replace")
    if text.lstrip()[:1] == "<":
        text = re.sub(r"(?is)<(style|script)\b.*?</\1>|<[^>]*>", " ", text)
    return _brief(" ".join(text.split()))


def _brief(text: str) -> str:
    return text[:_SNIPPET]
