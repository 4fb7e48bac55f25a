"""HTTP/1.1 as far as the fake server speaks it: heads to values, replies to bytes. Pure.

Requests have no bodies here: one that has is answered, and its connection is closed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_plus

from leadstatus_async.testing.faults import phrase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leadstatus_async.testing.faults import Reply

_LINE = re.compile(r"([A-Z]+) ([^ ]+) HTTP/1\.([01])")
_ROUTE = re.compile(r"/v1/accounts/([^/]+)/campaigns/([^/]+)/lead-status")
_ORIGIN = re.compile(r"https?://[^/?]*")  # proxies are sent whole URLs


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a request.

    Attributes:
        method: in capitals.
        target: path and query as sent.
        headers: with lower-case names; repeated ones joined by ", ".
        closes: the connection ends after the answer.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    closes: bool


@dataclass(frozen=True, slots=True)
class Question:
    """What a target asks for.

    Attributes:
        account, campaign: IDs from the path; both empty if this is another path.
        lead_ids: as given, empty ones and duplicates included.
    """

    account: str
    campaign: str
    lead_ids: tuple[str, ...]


def read_head(text: str) -> Head | None:
    """Read a request's head, up to its blank line; None if it is none."""
    first, *lines = text.split("\r\n")
    line = _LINE.fullmatch(first)
    if line is None:
        return None
    headers: dict[str, str] = {}
    for name, _, value in (each.partition(":") for each in lines):
        key, said = name.lower(), value.strip()
        headers[key] = f"{headers[key]}, {said}" if key in headers else said
    body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    last = headers.get("connection", "").lower() == "close" or line[3] == "0"
    return Head(line[1], line[2], headers, closes=body or last or line[1] != "GET")


def read_target(target: str, prefix: str) -> Question:
    """Read what a request target asks for, below the path prefix."""
    path, _, query = _ORIGIN.sub("", target, count=1).partition("?")
    route = _ROUTE.fullmatch(path.removeprefix(prefix)) if path.startswith(prefix) else None
    if route is None:
        return Question("", "", ())
    pairs = (pair.partition("=") for pair in query.split("&"))
    given = [unquote_plus(value) for name, _, value in pairs if unquote_plus(name) == "leadIds"]
    return Question(unquote(route[1]), unquote(route[2]), tuple(",".join(given).split(",")) if given else ())


def write_head(reply: Reply, *, closes: bool = False) -> bytes:
    """Return the head of a reply, the blank line included."""
    lines = ["HELLO THERE" if reply.how == "garbage" else f"HTTP/1.1 {reply.status} {phrase(reply.status)}"]
    if not any(name.lower() == "content-type" for name in reply.headers):
        lines.append(f"Content-Type: {reply.content_type}")
    lines += [f"{name}: {value}" for name, value in reply.headers.items()]
    if closes or reply.how == "until-close":
        lines.append("Connection: close")
    if reply.how != "until-close" and reply.status != 204:
        lines.append(f"Content-Length: {len(reply.body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
