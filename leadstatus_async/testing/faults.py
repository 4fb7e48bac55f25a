"""What a server can do wrong, by name: each fault makes a reply out of what was asked.

Pure functions from `Asked` to a `Fault`, the reply, which also says what becomes of its bytes on the
wire (`how`): whole, cut, dripping, none at all. Nothing here writes, waits or looks at a clock. To add
a fault, add a row to `FAULTS` and a line to the table of `tests/test_testing_functional.py`.
"""

from __future__ import annotations

import gzip
import json
import re
import struct
import zlib
from dataclasses import dataclass, field
from functools import cache, partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, get_args

from leadstatus_async.testing.quota import http_date

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

How = Literal["whole", "cut", "until-close", "reset", "disconnect", "drip", "hang", "garbage", "stale"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """A reply; given to `script` or `fault`, a canned one that answers whatever is asked.

    Attributes:
        status: HTTP status.
        body: as sent, after any content encoding.
        headers: besides Content-Length; a Content-Type here wins over `content_type`.
        how: what becomes of the bytes: "whole"; "cut" in mid-body; "until-close" without a length;
            "reset" or "disconnect" without an answer; "drip" byte by byte; "hang" for ever;
            "garbage" in place of the status line; "stale": answered, but the next request on the
            connection is not.
        content_type: of the body.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    how: How = "whole"
    content_type: str = "application/json"

    def __post_init__(self) -> None:
        if self.how not in get_args(How):
            raise ValueError(f"how must be one of {', '.join(get_args(How))}, not {self.how!r}")


Reply = Fault


@dataclass(frozen=True)
class Asked:
    """What a fault may know of the request.

    Attributes:
        rows: the right rows, in the order asked.
        trace_id: of this answer.
        authorization: the header as it came.
        now: the time in UTC, for dates.
    """

    rows: list[Row]
    trace_id: str
    authorization: str
    now: datetime


def envelope(asked: Asked, rows: list[Row] | None = None, **changes: Any) -> bytes:
    """Encode a 200 answer, with other rows or other members if given."""
    whole = {
        "success": True,
        "data": {"items": asked.rows if rows is None else rows},
        "error": None,
        "traceId": asked.trace_id,
    }
    return json.dumps(whole | changes).encode()


def refusal(status: int, trace_id: str, *, headers: Mapping[str, str] | None = None, **extra: Any) -> Reply:
    """Make an enveloped error as `openapi.yaml` shows it; `extra` goes into `error`."""
    code, message = _WORDS[status]
    error = {"code": code, "message": message, "details": "string", **extra}
    body = {"success": False, "data": None, "error": error, "traceId": trace_id}
    return Reply(status, json.dumps(body).encode(), headers or {})


def phrase(status: int) -> str:
    """Return the words that go with a status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def page(status: int) -> Reply:
    """Make the HTML page of a proxy."""
    words = f"{status} {phrase(status)}"
    body = f"<html><head><title>{words}</title></head><body><h1>{words}</h1><hr>proxy</body></html>"
    return Reply(status, body.encode(), content_type="text/html")


_WORDS = {
    400: ("VALIDATION_ERROR", "leadIds is invalid"),
    401: ("UNAUTHORIZED", "invalid API key"),
    403: ("FORBIDDEN", "missing permission campaigns:read"),
    404: ("NOT_FOUND", "campaign not found"),
    405: ("METHOD_NOT_ALLOWED", "only GET"),
    408: ("REQUEST_TIMEOUT", "the request took too long"),
    429: ("RATE_LIMITED", "rate limit exceeded"),
    500: ("INTERNAL", "internal server error"),
    502: ("UPSTREAM", "upstream service error"),
    503: ("UNAVAILABLE", "service unavailable"),
}


def _refuse(status: int, asked: Asked, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return refusal(status, asked.trace_id, headers=named)


def _page(status: int, _: Asked) -> Reply:
    return page(status)


def _how(how: How, asked: Asked) -> Reply:
    return Reply(body=envelope(asked), how=how)


def _dated(seconds: float, skew: float, asked: Asked) -> Reply:
    """Name a date so many seconds ahead, by a clock that is `skew` seconds fast."""
    return _refuse(
        429, asked, Retry_After=http_date(asked.now, skew + seconds), Date=http_date(asked.now, skew)
    )


def _top_level_retry_after(asked: Asked) -> Reply:
    body = {"success": False, "data": None, "error": None, "retry_after": 1, "traceId": asked.trace_id}
    return Reply(429, json.dumps(body).encode())


def _rows(change: Callable[[list[Row]], list[Row]], asked: Asked) -> Reply:
    return Reply(body=envelope(asked, change(asked.rows)))


def _first(rows: list[Row], **changes: Any) -> list[Row]:
    return [row | changes for row in rows[:1]] + rows[1:]


def _foreign(rows: list[Row]) -> list[Row]:
    return rows + [row | {"leadId": "nobody-asked"} for row in rows[:1]]


def _twice(rows: list[Row]) -> list[Row]:
    other = {"pending": "waiting"}
    return rows + [row | {"workflowStatus": other.get(row["workflowStatus"], "pending")} for row in rows[:1]]


_NUMERAL = re.compile(r"0|[1-9][0-9]{0,99}")  # no other digits are the same text as a JSON number


def _numbered(rows: list[Row]) -> list[Row]:
    return [
        row | {"leadId": int(row["leadId"])} if _NUMERAL.fullmatch(row["leadId"]) else row for row in rows
    ]


_OPTIONAL = ("workflowInstanceId", "latestStep", "workflowStopReason", "hasPendingApproval")


def _bare(rows: list[Row]) -> list[Row]:
    return [{name: value for name, value in row.items() if name not in _OPTIONAL} for row in rows]


def _truncated(asked: Asked) -> Reply:
    body = envelope(asked)
    return Reply(body=body[: len(body) // 2], how="until-close")


def _nested(asked: Asked) -> Reply:
    deep = b"[" * 100_000 + b"]" * 100_000
    return Reply(body=envelope(asked).removesuffix(b"}") + b', "meta": ' + deep + b"}")


def _echo(asked: Asked) -> Reply:
    body = f"<html><body>upstream request had Authorization: {asked.authorization}</body></html>"
    return Reply(502, body.encode(), content_type="text/html")


def _gzip(body: bytes) -> Reply:
    return Reply(body=body, headers={"Content-Encoding": "gzip"})


@cache
def _bomb() -> bytes:
    """Return 200 MB of spaces in about 200 kB: one deflated block, again and again.

    Deflating all of it would stop the event loop for a second; after a full flush a block stands for
    itself, and only the checksum needs the whole.
    """
    block, times = b" " * 1_000_000, 200
    deflate = zlib.compressobj(9, wbits=-15)
    packed = deflate.compress(block) + deflate.flush(zlib.Z_FULL_FLUSH)
    checksum = 0
    for _ in range(times):
        checksum = zlib.crc32(block, checksum)
    header, last_block = b"\x1f\x8b\x08\0\0\0\0\0\x02\xff", b"\x03\0"
    return header + packed * times + last_block + struct.pack("<II", checksum, len(block) * times)


FAULTS: Mapping[str, Callable[[Asked], Reply]] = {
    "429": partial(_refuse, 429),
    "429-retry-after": partial(_refuse, 429, Retry_After="1"),
    "429-retry-after-decimal": partial(_refuse, 429, Retry_After="0.75"),
    "429-retry-after-date": partial(_dated, 1, 0),
    "429-retry-after-date-skewed": partial(_dated, 1, 3600),
    "429-retry-after-ms": partial(_refuse, 429, Retry_After_Ms="750"),
    "429-json-retry-after": lambda asked: refusal(429, asked.trace_id, retry_after=1),
    "429-json-retry-after-top": _top_level_retry_after,
    "429-retry-after-zero": partial(_refuse, 429, Retry_After="0"),
    "429-retry-after-past": partial(_dated, -60, 0),
    "429-retry-after-huge": partial(_refuse, 429, Retry_After="3600"),
    "429-retry-after-garbage": partial(_refuse, 429, Retry_After="soon"),
    "400": partial(_refuse, 400),
    "400-html": partial(_page, 400),
    "401": partial(_refuse, 401),
    "403": partial(_refuse, 403),
    "404": partial(_refuse, 404),
    "408": partial(_refuse, 408),
    "413": partial(_page, 413),
    "414": partial(_page, 414),
    "431": partial(_page, 431),
    "500": partial(_refuse, 500),
    "502": partial(_refuse, 502),
    "502-html": partial(_page, 502),
    "503": partial(_refuse, 503),
    "503-retry-after": partial(_refuse, 503, Retry_After="1"),
    "504": partial(_page, 504),
    "redirect": lambda _: Reply(302, headers={"Location": "/elsewhere"}),
    "204": lambda _: Reply(204),
    "success-false": lambda asked: Reply(body=refusal(400, asked.trace_id).body),
    "data-null": lambda asked: Reply(body=envelope(asked, data=None)),
    "items-missing": lambda asked: Reply(body=envelope(asked, data={})),
    "html-200": partial(_page, 200),
    "empty-body": lambda _: Reply(),
    "truncated-json": _truncated,
    "cut-body": partial(_how, "cut"),
    "reset": partial(_how, "reset"),
    "disconnect": partial(_how, "disconnect"),
    "slow-drip": partial(_how, "drip"),
    "hang": partial(_how, "hang"),
    "stale-keep-alive": partial(_how, "stale"),
    "garbage-status-line": partial(_how, "garbage"),
    "missing-row": partial(_rows, lambda rows: rows[1:]),
    "foreign-row": partial(_rows, _foreign),
    "duplicate-row": partial(_rows, _twice),
    "shuffled-rows": partial(_rows, lambda rows: rows[::-1]),
    "bad-row": partial(_rows, partial(_first, workflowStatus=17)),
    "bad-row-no-id": partial(_rows, partial(_first, leadId=None)),
    "row-int-id": partial(_rows, _numbered),
    "unknown-status": partial(_rows, partial(_first, workflowStatus="paused_by_vendor")),
    "null-optionals": partial(_rows, lambda rows: [row | dict.fromkeys(_OPTIONAL) for row in rows]),
    "absent-optionals": partial(_rows, _bare),
    "extra-fields": partial(_rows, lambda rows: [row | {"score": 1, "tags": ["x"]} for row in rows]),
    "bom": lambda asked: Reply(body=b"\xef\xbb\xbf" + envelope(asked)),
    "lone-surrogate": partial(_rows, partial(_first, latestStep="call \ud83d")),
    "gzip": lambda asked: _gzip(gzip.compress(envelope(asked))),
    "gzip-bomb": lambda _: _gzip(_bomb()),
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


def name_of(name: str | Fault) -> str:
    """Return what a log calls a fault."""
    return f"Fault({name.status})" if isinstance(name, Fault) else name
