"""What an answer says: status, headers and body bytes in, rows or a typed failure out.

All knowledge of the API's envelope lives here, and none of the transport. One malformed row never
loses its neighbours (c1), an unlisted status keeps its text (c2), and only a status that was
really received becomes an `APIStatusError` (a4). What to do about a failure is `retry`'s business.
"""

from __future__ import annotations

import contextlib
import re
from enum import Enum, auto
from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec

from leadstatus_async._steps.headers import DECODED, content_encoding, rate_hints, retry_after, tightest
from leadstatus_async._steps.redact import MESSAGE, NAME, Redactor
from leadstatus_async._steps.rows import (
    MALFORMED,
    MARKER,
    BadRow,
    RawRow,
    Rows,
    cut,
    in_utf8,
    read_loosely,
    read_rows,
)
from leadstatus_async.errors import (
    REDIRECTS,
    STATUS_ERRORS,
    APIStatusError,
    LeadStatusError,
    RateLimitError,
    ResponseDecodeError,
    ServerError,
    UnexpectedStatusError,
    is_fatal,
    stops_the_call,
)
from leadstatus_async.models import LeadStatus  # noqa: TC001 - msgspec resolves it

if TYPE_CHECKING:
    from collections.abc import Mapping

_WINDOW = 8 * MESSAGE  # bytes of a page whose words are looked at
_PLAUSIBLE = 2**20, 50_000  # bytes, beyond which an answer is not decoded if it has more objects than this
_USUAL = 256 * 2**10  # bytes: larger ones are decoded without making anything of rows that nobody asked for
_UNABLE = frozenset({501, 505})  # 5xx that will be the same again; proxies have many more that may pass
_PAUSING = {429, 503}  # statuses whose `Retry-After` is about the rate
_TOO_LARGE = frozenset({413, 414, 431})
_ADVICE = {
    401: "The API key was refused: check that it is whole, live and not revoked",
    403: "The key needs the permission campaigns:read and access to this account group",
    404: "Check the account group ID and the campaign ID",
    407: "{} wants a login: give it in proxy=",
}
_REDIRECTED = "The server redirects, which is not followed, so that the key stays here: check base_url"
_VERSION_TWICE = "base_url ends in /v1, which is added to it anyway: leave that out"
_NOT_THE_API = (
    "That is not how the API says it, but a page of {}: check base_url, and what is on the way to it"
)
_ANY_PROXY = "some proxy, or of another server"


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


class Asked(msgspec.Struct, frozen=True):
    """What a request was, as far as it helps to tell why it was refused.

    Attributes:
        target: path and query.
        served: whether the API has answered before. A page that refuses is then a passing trouble of
            something in front of it; else it may be all that there is at this base URL.
        proxy: what it went through in plain http, and which so may answer itself; "" if nothing.
        accepted: bytes of the largest target that was answered: a refusal of less is not for its size.
    """

    target: str = ""
    served: bool = False
    proxy: str = ""
    accepted: int = 0


class Failure(msgspec.Struct, frozen=True):
    """An attempt that brought no rows.

    Attributes:
        error: why, as the user will see it.
        sort: what kind of failure it is.
        retry_after: seconds the server asked to wait; None where it did not.
        early: the connection was lost before any byte of an answer (a stale keep-alive, perhaps).
        stale: it was, and is known to have served another request before.
        disbelieved: an answer came that cannot be this request's, as far as it can be read at all.
        hidden: requests that aiohttp sent besides, by itself (a3).
        page: it is not the API's, which has answered before: something in front of it is in trouble.
    """

    error: LeadStatusError
    sort: Sort
    retry_after: float | None = None
    early: bool = False
    stale: bool = False
    disbelieved: bool = False
    hidden: int = 0
    page: bool = False


class _Data(msgspec.Struct):
    items: list[LeadStatus]


class _Answer(msgspec.Struct):
    data: _Data | None = None
    success: bool = True
    traceId: Annotated[str, msgspec.Meta(max_length=NAME)] | None = None  # noqa: N815 - the API's spelling


class _RawData(msgspec.Struct):
    items: list[RawRow]


class _RawAnswer(_Answer):
    data: _RawData | None = None  # type: ignore[assignment]


_decode_raw_answer = msgspec.json.Decoder(_RawAnswer).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_PLAIN = Redactor()
_NOTHING_KNOWN = Asked()


def decipher(
    status: int,
    headers: Mapping[str, str],
    body: bytes | bytearray,
    *,
    now: float | None = None,
    redactor: Redactor = _PLAIN,
    asked: Asked = _NOTHING_KNOWN,
) -> Rows | Failure:
    """Tell what an answer means.

    Args:
        status: of the response received.
        headers: of the response, case-insensitive.
        body: decompressed, possibly empty; of an answer that is no 200, its beginning is enough.
        now: epoch seconds, for dates in an answer that has no `Date` of its own.
        redactor: takes out what must not be kept, of failures here, of rows when they meet their leads.
        asked: what was asked for.
    """
    if status != 200:
        return _refusal(status, headers, body, now, redactor, asked)
    size, objects = _PLAUSIBLE
    if len(body) > size and body.count(b"{") > objects:
        return _undecodable(f"it has more than {objects} objects", body, None, redactor)
    usual = len(body) <= _USUAL
    try:
        answer = (_decode_answer if usual else _decode_raw_answer)(body)
    except MALFORMED:
        try:  # it may be but a text that is longer than a status keeps
            answer, usual = _decode_raw_answer(body), False
        except MALFORMED as wrong:
            told = _strange_encoding(headers, redactor) or str(wrong)[:MESSAGE]
            return _salvage(body, told, redactor, served=asked.served)
    if not answer.success or answer.data is None:
        return _salvage(body, "", redactor, served=asked.served)
    plain = usual and redactor.clears(body)
    trace_id = answer.traceId if plain else _text(answer.traceId, NAME, redactor)
    items = cast("list[LeadStatus | RawRow | BadRow]", answer.data.items)
    return Rows(items, trace_id, clean=usual, plain=plain)


def _salvage(body: bytes | bytearray, wrong: str, redactor: Redactor, *, served: bool) -> Rows | Failure:
    """Read a 200 that the strict decoder did not accept, row by row."""
    text = in_utf8(body)
    found = cut(text)
    try:
        whole = read_loosely(text if found is None else found.rest)
    except ValueError as loose:
        return _undecodable(f"the body is not JSON ({wrong or loose})", body, None, redactor)
    envelope = _object(whole)
    trace_id = _text(envelope.get("traceId"), NAME, redactor)
    if envelope.get("success", True) is not True:
        page = served and not isinstance(envelope.get("error"), dict)
        error = _status_error(200, envelope, text, None, redactor)
        return Failure(error, Sort.PASSING if page else Sort.FINAL, page=page)
    if found is not None and _object(envelope.get("data")).get("items") == [MARKER]:
        return read_rows(found, trace_id, redactor)
    return _undecodable("the answer has no list data.items", body, trace_id, redactor)


def _strange_encoding(headers: Mapping[str, str], redactor: Redactor) -> str:
    """Name the encoding of a body that came in one that was not asked for, and so is still in it."""
    encoding = content_encoding(headers)
    if encoding in ("", *DECODED):
        return ""
    return f"its Content-Encoding is {redactor.line(encoding, NAME)}, which was not asked for"


def _undecodable(what: str, body: bytes | bytearray, trace_id: str | None, redactor: Redactor) -> Failure:
    snippet = _snippet(body, redactor)
    shown = "" if snippet[:1] in ("{", "[") else f": {snippet[:100]!r}"  # rows name leads: no text for logs
    message = redactor.line(f"HTTP 200, but {what}; {len(body)} bytes{shown}", MESSAGE)
    error = ResponseDecodeError(message, status=200, trace_id=trace_id, snippet=snippet)
    return Failure(error, Sort.PASSING, disbelieved=True)


def not_believed(rows: Rows) -> Failure:
    """Return what becomes of an answer none of whose rows was asked for: it is another request's."""
    what = f"none of the {len(rows.items)} leads in the answer was asked for: it is another request's"
    error = ResponseDecodeError(f"HTTP 200, but {what}", status=200, trace_id=rows.trace_id)
    return Failure(error, Sort.PASSING, disbelieved=True)


def _refusal(
    status: int,
    headers: Mapping[str, str],
    body: bytes | bytearray,
    now: float | None,
    redactor: Redactor,
    asked: Asked,
) -> Failure:
    text = in_utf8(body)
    whole: Any = None
    with contextlib.suppress(ValueError):
        whole = read_loosely(text)
    envelope = _object(whole)
    pause = retry_after(headers, whole, now=now)
    if status == 429 and not pause:
        hint = tightest(rate_hints(headers, status, now=now))
        if hint is not None and hint.remaining == 0 and hint.reset:
            pause = hint.reset  # as GitHub states it: nothing is left until then
    spoken = isinstance(envelope.get("error"), dict)
    ours = spoken and envelope.get("success") is False
    page = asked.served and not ours and _may_pass(status, asked)
    advice, fatal = _ADVICE.get(status, ""), stops_the_call(status)
    if status in REDIRECTS:
        advice = _REDIRECTED
    elif status == 407:
        advice = advice.format(asked.proxy or "a proxy on the way")
    elif fatal and not ours:
        # What a proxy says of keys, permissions and IDs, it says of its own.
        advice, fatal = _NOT_THE_API.format(asked.proxy or _ANY_PROXY), not page
    elif status == 404 and "/v1/v1/" in asked.target:
        advice = _VERSION_TWICE
    error = _status_error(status, envelope, text, pause, redactor, advice=advice, fatal=fatal)
    sort = Sort.PASSING if page else _sort(error, spoken=spoken)
    # Elsewhere it is no throttling: some send it with every answer (d7).
    return Failure(error, sort, pause if status in _PAUSING else None, page=page)


def _may_pass(status: int, asked: Asked) -> bool:
    """Whether an answer that is not the API's may pass, with what it is an answer of."""
    if status == 400:  # some proxies have no other word for a URL that is too long for them
        return len(asked.target) <= asked.accepted
    return status < 500 and status not in (*REDIRECTS, *_TOO_LARGE, 407, 429)


def _sort(error: APIStatusError, *, spoken: bool) -> Sort:
    if is_fatal(error):
        return Sort.FATAL
    if isinstance(error, RateLimitError):
        return Sort.THROTTLED
    server_error = 500 <= error.status < 600 and error.status not in _UNABLE
    if server_error or error.status == 408:
        return Sort.PASSING
    if error.status in _TOO_LARGE or (error.status == 400 and not spoken):
        return Sort.OVERSIZE
    return Sort.REFUSED if error.status == 400 else Sort.FINAL


def _status_error(
    status: int,
    envelope: dict[str, Any],
    body: bytes,
    pause: float | None,
    redactor: Redactor,
    *,
    advice: str = "",
    fatal: bool = False,
) -> APIStatusError:
    kind = STATUS_ERRORS.get(status, ServerError if 500 <= status < 600 else UnexpectedStatusError)
    told = _object(envelope.get("error"))
    return kind(
        status,
        _text(told.get("code"), NAME, redactor),
        _text(told.get("message"), MESSAGE, redactor) or _snippet(body, redactor)[:200],
        redactor.details(told.get("details")),
        _text(envelope.get("traceId"), NAME, redactor),
        pause,
        advice=advice,
        fatal=fatal,
    )


def _object(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _text(value: Any, most: int, redactor: Redactor) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return redactor.line(str(value), most)


def _snippet(body: bytes | bytearray, redactor: Redactor) -> str:
    """Return the beginning of a body as one line of text; of an HTML page, its words."""
    text = body[:_WINDOW].decode("utf-8-sig", "replace")
    if text.lstrip()[:1] == "<":
        text = redactor.without_secrets(text)  # one that has a tag in it would not be found afterwards
        text = re.sub(r"(?is)<(style|script)\b.*?</\1>|<[^>]*>", " ", text)
    return redactor.line(" ".join(text.split()), MESSAGE, torn=len(body) > _WINDOW)
