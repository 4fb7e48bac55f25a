"""What a server can do wrong, by name: each fault makes a reply out of a request.

Pure functions from what was asked to a `Reply`, which also says how its bytes go onto the wire
(`how`): whole, cut, dripping, not at all. The server only writes. To add a fault, add a row to
`FAULTS` and a line to the table of `tests/test_testing_functional.py`.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import cache, partial
from typing import Any, Literal

How = Literal["whole", "cut", "until-close", "reset", "disconnect", "drip", "hang", "garbage", "stale"]
Row = dict[str, Any]

_NOW = datetime(2026, 1, 1, tzinfo=UTC)  # what this server believes the time is, when it says so


@dataclass(frozen=True)
class Fault:
    """A reply, canned or made; as a script entry it answers whatever is asked.

    Attributes:
        status: HTTP status.
        body: as sent, after any content encoding.
        headers: besides Content-Type and Content-Length.
        how: what becomes of the bytes: "whole"; "cut" in mid-body; "until-close" without a length;
            "reset" or "disconnect" without an answer; "drip" byte by byte; "hang" for ever;
            "garbage" for a status line; "stale": answered, but the next request on the connection is
            not.
        content_type: of the body.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    how: How = "whole"
    content_type: str = "application/json"


Reply = Fault


@dataclass(frozen=True)
class Asked:
    """What a fault may know of the request.

    Attributes:
        rows: the right rows, in the order asked.
        trace_id: of this answer.
        authorization: the header as it came.
    """

    rows: list[Row]
    trace_id: str
    authorization: str = ""


def envelope(asked: Asked, rows: list[Row] | None = None, **changes: Any) -> bytes:
    """Encode a 200 answer."""
    whole = {
        "success": True,
        "data": {"items": asked.rows if rows is None else rows},
        "error": None,
        "traceId": asked.trace_id,
    }
    return json.dumps(whole | changes).encode()


def refusal(
    status: int, asked: Asked, *, headers: dict[str, str] | None = None, details: Any = "string", **extra: Any
) -> Reply:
    """Make an enveloped error as `openapi.yaml` shows it; `extra` goes into `error`."""
    code, message = _WORDS.get(status, ("ERROR", "the request failed"))
    error = {"code": code, "message": message, "details": details, **extra}
    body = {"success": False, "data": None, "error": error, "traceId": asked.trace_id}
    return Reply(status, json.dumps(body).encode(), headers or {})


def page(status: int, words: str, **kwargs: Any) -> Reply:
    """Make the HTML page of a proxy."""
    body = f"<html><head><title>{words}</title></head><body><h1>{status} {words}</h1><hr>proxy</body></html>"
    return Reply(status, body.encode(), content_type="text/html", **kwargs)


_WORDS = {
    400: ("VALIDATION_ERROR", "leadIds is invalid"),
    401: ("UNAUTHORIZED", "invalid API key"),
    403: ("FORBIDDEN", "missing permission campaigns:read"),
    404: ("NOT_FOUND", "campaign not found"),
    408: ("REQUEST_TIMEOUT", "the request took too long"),
    413: ("PAYLOAD_TOO_LARGE", "too large"),
    429: ("RATE_LIMITED", "rate limit exceeded"),
    500: ("INTERNAL", "internal server error"),
    502: ("UPSTREAM", "upstream service error"),
    503: ("UNAVAILABLE", "service unavailable"),
    504: ("TIMEOUT", "upstream timed out"),
}


def _status(status: int, asked: Asked, **headers: str) -> Reply:
    return refusal(status, asked, headers={name.replace("_", "-"): value for name, value in headers.items()})


def _page(status: int, words: str, asked: Asked) -> Reply:
    del asked
    return page(status, words)


def _bare(how: How, asked: Asked) -> Reply:
    return Reply(body=envelope(asked), how=how)


def http_date(seconds: float) -> str:
    """Return an HTTP date so many seconds from what this server believes is now."""
    return format_datetime(_NOW + timedelta(seconds=seconds), usegmt=True)


def _dated(asked: Asked, seconds: float, skew: float = 0.0) -> Reply:
    headers = {"Retry-After": http_date(skew + seconds), "Date": http_date(skew)}
    return refusal(429, asked, headers=headers)


def _rows(change: Callable[[list[Row]], list[Row]], asked: Asked) -> Reply:
    return Reply(body=envelope(asked, change([dict(row) for row in asked.rows])))


def _first(asked_rows: list[Row], **changes: Any) -> list[Row]:
    return [asked_rows[0] | changes, *asked_rows[1:]]


def _without(rows: list[Row], *names: str) -> list[Row]:
    return [{name: value for name, value in row.items() if name not in names} for row in rows]


_OPTIONAL = ("workflowInstanceId", "latestStep", "workflowStopReason", "hasPendingApproval")


def _numbered(rows: list[Row]) -> list[Row]:
    return [row | {"leadId": int(row["leadId"])} if row["leadId"].isdigit() else row for row in rows]


def _top_level_retry_after(asked: Asked) -> Reply:
    body = {"success": False, "data": None, "error": None, "retry_after": 1, "traceId": asked.trace_id}
    return Reply(429, json.dumps(body).encode())


def _nested(asked: Asked) -> Reply:
    deep = b"[" * 100_000 + b"]" * 100_000
    return Reply(body=envelope(asked).removesuffix(b"}") + b', "meta": ' + deep + b"}")


def _echo(asked: Asked) -> Reply:
    return Reply(
        502,
        f"<html>upstream saw Authorization: {asked.authorization}</html>".encode(),
        content_type="text/html",
    )


@cache
def _bomb() -> bytes:
    made = zlib.compressobj(9, wbits=31)
    block = b" " * 1_000_000
    return b"".join([*(made.compress(block) for _ in range(200)), made.flush()])


FAULTS: dict[str, Callable[[Asked], Reply]] = {
    "429": partial(_status, 429),
    "429-retry-after": lambda asked: _status(429, asked, Retry_After="1"),
    "429-retry-after-decimal": lambda asked: _status(429, asked, Retry_After="0.75"),
    "429-retry-after-date": lambda asked: _dated(asked, 1),
    "429-retry-after-date-skewed": lambda asked: _dated(asked, 1, skew=3600),
    "429-retry-after-ms": lambda asked: _status(429, asked, Retry_After_Ms="750"),
    "429-json-retry-after": lambda asked: refusal(429, asked, retry_after=1),
    "429-json-retry-after-top": _top_level_retry_after,
    "429-retry-after-zero": lambda asked: _status(429, asked, Retry_After="0"),
    "429-retry-after-past": lambda asked: _dated(asked, -60),
    "429-retry-after-huge": lambda asked: _status(429, asked, Retry_After="3600"),
    "429-retry-after-garbage": lambda asked: _status(429, asked, Retry_After="soon"),
    "400": partial(_status, 400),
    "400-html": partial(_page, 400, "Bad Request"),
    "401": partial(_status, 401),
    "403": partial(_status, 403),
    "404": partial(_status, 404),
    "408": partial(_status, 408),
    "413": partial(_page, 413, "Payload Too Large"),
    "414": partial(_page, 414, "Request-URI Too Large"),
    "431": partial(_page, 431, "Request Header Fields Too Large"),
    "500": partial(_status, 500),
    "502": partial(_status, 502),
    "502-html": partial(_page, 502, "Bad Gateway"),
    "503": partial(_status, 503),
    "503-retry-after": lambda asked: _status(503, asked, Retry_After="1"),
    "504": partial(_page, 504, "Gateway Time-out"),
    "redirect": lambda _: Reply(302, headers={"Location": "/elsewhere"}),
    "204": lambda _: Reply(204),
    "success-false": lambda asked: Reply(body=refusal(400, asked).body),
    "data-null": lambda asked: Reply(body=envelope(asked, data=None)),
    "items-missing": lambda asked: Reply(body=envelope(asked, data={})),
    "html-200": partial(_page, 200, "Welcome"),
    "empty-body": lambda _: Reply(),
    "truncated-json": lambda asked: Reply(body=envelope(asked)[:-40], how="until-close"),
    "cut-body": partial(_bare, "cut"),
    "reset": partial(_bare, "reset"),
    "disconnect": partial(_bare, "disconnect"),
    "slow-drip": partial(_bare, "drip"),
    "hang": partial(_bare, "hang"),
    "stale-keep-alive": partial(_bare, "stale"),
    "garbage-status-line": partial(_bare, "garbage"),
    "missing-row": partial(_rows, lambda rows: rows[1:]),
    "foreign-row": partial(_rows, lambda rows: [*rows, rows[0] | {"leadId": "nobody-asked"}]),
    "duplicate-row": partial(_rows, lambda rows: [*rows, rows[0] | {"workflowStatus": "other"}]),
    "shuffled-rows": partial(_rows, lambda rows: rows[::-1]),
    "bad-row": partial(_rows, lambda rows: _first(rows, workflowStatus=17)),
    "bad-row-no-id": partial(_rows, lambda rows: _first(rows, leadId=None)),
    "row-int-id": partial(_rows, _numbered),
    "unknown-status": partial(_rows, lambda rows: _first(rows, workflowStatus="paused_by_vendor")),
    "null-optionals": partial(_rows, lambda rows: [row | dict.fromkeys(_OPTIONAL) for row in rows]),
    "absent-optionals": partial(_rows, lambda rows: _without(rows, *_OPTIONAL)),
    "extra-fields": partial(_rows, lambda rows: [row | {"score": 1, "tags": ["x"]} for row in rows]),
    "bom": lambda asked: Reply(body=b"\xef\xbb\xbf" + envelope(asked)),
    "lone-surrogate": partial(_rows, lambda rows: _first(rows, latestStep="call \ud83d")),
    "gzip": lambda asked: Reply(body=gzip.compress(envelope(asked)), headers={"Content-Encoding": "gzip"}),
    "gzip-bomb": lambda _: Reply(body=_bomb(), headers={"Content-Encoding": "gzip"}),
    "huge-body": lambda asked: Reply(body=envelope(asked) + b" " * 9_000_000, how="until-close"),
    "echo-key": _echo,
    "deep-nesting": _nested,
    "set-cookie": lambda asked: Reply(body=envelope(asked), headers={"Set-Cookie": "lb=1; Path=/"}),
}


def fault(name: str | Fault) -> Callable[[Asked], Reply]:
    """Return the fault of that name; a `Fault` is returned as it is, whatever is asked.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if isinstance(name, Fault):
        return lambda _: name
    if name not in FAULTS:
        raise ValueError(f"no fault is called {name!r}; there are {', '.join(FAULTS)}")
    return FAULTS[name]
