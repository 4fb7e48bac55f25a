"""The rows of an answer that is not quite what the API promises, one by one.

One damaged row never loses its neighbours (c1, h7), whatever is wrong with it: fields of other types, raw
control characters, bytes that are no UTF-8, NaN, half an emoji. So the rows are cut out of the bytes by
their brackets before anything is decoded, and each is read by itself.

The time this takes is bounded for hostile bodies, too (h3): each byte is looked at once, numbers are
taken as text, and there are limits to the brackets, and to the rows that need a second look.
"""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import msgspec

from leadstatus_async._steps.redact import MESSAGE
from leadstatus_async.errors import ResponseDecodeError
from leadstatus_async.models import LONGEST_TEXT, LeadStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from leadstatus_async._steps.redact import Redactor

MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # the four families of c3
_MOST_BRACKETS = 50_000
_MOST_DAMAGED = 5_000  # rows
_MOST_LOOSE_BYTES = 512 * 2**10  # of damaged rows, or of an answer without its rows
_NEXT_BRACKET = re.compile(rb'(?:[^][{}"]++|"(?:[^"\\]++|\\.)*+")*+([][{}])', re.DOTALL)
_ELEMENT = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[^\s,"]++')
_LONGEST_GAP = 1_000  # bytes between two rows in which others than objects are counted
_PAIRS = {b"}": b"{", b"]": b"["}
_BLANKS = b" \t\r\n"
_TEXTS = ("workflowInstanceId", "latestStep", "workflowStopReason")
_FIELDS = ("workflowStatus", "hasPendingApproval", *_TEXTS)
_SURROGATE = re.compile("[\ud800-\udfff]")

_decode_strictly = msgspec.json.Decoder(LeadStatus).decode


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
        plain: no text in them has anything that must not be kept.
        unreadable: rows that do not even say whose they are.
    """

    items: list[LeadStatus | BadRow]
    trace_id: str | None = None
    clean: bool = False
    plain: bool = False
    unreadable: int = 0


class Cut(msgspec.Struct, frozen=True):
    """An answer cut into its rows and the rest.

    Attributes:
        rest: the answer with an empty list in place of `data.items`.
        rows: the objects of that list, as they stand.
        others: how many things in the list are no objects.
    """

    rest: bytes
    rows: list[bytes]
    others: int = 0


class _Number(str):
    """A number, as it stands."""

    __slots__ = ()


class _Fraction(_Number):
    __slots__ = ()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


_decode_json = json.JSONDecoder(parse_int=_Number, parse_float=_Fraction, parse_constant=_refuse).decode
_decode_loosely = json.JSONDecoder(parse_int=_Number, parse_float=_Fraction, strict=False).decode


def cut(body: bytes) -> Cut | None:
    """Cut the rows out of an answer; None if it has no `data.items`, or more brackets than answers have."""
    opened: list[bytes] = []
    rows: list[bytes] = []
    within = False  # the value of "data"
    first = begun = ended = others = 0
    for bracket, at in islice(_brackets(body), _MOST_BRACKETS):
        depth = len(opened)
        if bracket in _PAIRS:
            if not opened or opened.pop() != _PAIRS[bracket]:
                return None
            if first and depth == 3:
                others += _elements(body, ended, at)
                return Cut(body[: first + 1] + body[at:], rows, others)
            if first and depth == 4:
                ended = at + 1
                if bracket == b"}":
                    rows.append(body[begun:ended])
                else:
                    others += 1
            continue
        opened.append(bracket)
        if first and depth == 3:
            others += _elements(body, ended, at)
            begun = at
        elif depth == 1:
            within = bracket == b"{" and _is_value_of(b'"data":', body, at)
        elif depth == 2 and within and bracket == b"[" and _is_value_of(b'"items":', body, at):
            first, ended = at, at + 1
    return None


def read_rows(found: Cut, trace_id: str | None, redactor: Redactor) -> Rows | None:
    """Read rows one by one; None if more of them are damaged than of any answer that is worth it."""
    items: list[LeadStatus | BadRow] = []
    damaged = size = nameless = 0
    for row in found.rows:
        try:
            items.append(_decode_strictly(row))
        except MALFORMED as wrong:
            damaged += 1
            size += len(row)
            if damaged > _MOST_DAMAGED or size > _MOST_LOOSE_BYTES:
                return None
            item = _read_damaged(row, str(wrong), trace_id, redactor)
            if item is None:
                nameless += 1
            else:
                items.append(item)
    return Rows(items, trace_id, unreadable=found.others + nameless)


def read_loosely(body: bytes) -> Any:
    """Decode what may be JSON, or nearly.

    Raises:
        ValueError: it is none, or too large to be an envelope without rows.
    """
    if len(body) > _MOST_LOOSE_BYTES:
        raise ValueError("larger than any envelope")
    try:
        return json.loads(body.decode("utf-8", "replace"), strict=False)
    except RecursionError:
        raise ValueError("nested too deep") from None


def in_utf8(body: bytes | bytearray) -> bytes:
    """Return JSON in UTF-8 without a BOM (c5), whichever of the encodings of RFC 4627 it came in."""
    encoding = json.detect_encoding(body)
    if encoding == "utf-8":
        return bytes(body)
    return body.decode(encoding, "replace").encode("utf-8", "replace")


def _read_damaged(
    row: bytes, wrong: str, trace_id: str | None, redactor: Redactor
) -> LeadStatus | BadRow | None:
    """Read a row that the strict decoder refuses; None if it does not say whose it is."""
    fields, valid = _fields(row)
    lead_id = fields.get("leadId")
    # IDs are strings by the reference; a whole number is read as its digits (c5).
    if not isinstance(lead_id, str) or isinstance(lead_id, _Fraction):
        return None
    if _SURROGATE.search(lead_id) or (not valid and "\ufffd" in lead_id):
        return None  # mended, it might be another's
    lead_id = str(lead_id)
    if valid:
        try:
            return msgspec.convert({**fields, "leadId": lead_id}, LeadStatus)
        except msgspec.ValidationError as loose:
            wrong = str(loose)
    error = ResponseDecodeError(
        redactor.line(f"the row of this lead is malformed: {wrong}", MESSAGE),
        status=200,
        trace_id=trace_id,
        snippet=redactor.line(row.decode("utf-8", "replace"), MESSAGE),
        lead_ids=(lead_id,),
    )
    return BadRow(lead_id, error)


def _fields(row: bytes) -> tuple[dict[str, Any], bool]:
    """Return the fields of a row as `LeadStatus` takes them, and whether the row is JSON."""
    try:
        fields, valid = cast("dict[str, Any]", _decode_json(row.decode())), True
    except (ValueError, RecursionError):
        try:
            fields, valid = cast("dict[str, Any]", _decode_loosely(row.decode("utf-8", "replace"))), False
        except (ValueError, RecursionError):
            return {}, False
    for name in _FIELDS:
        value = fields.get(name)
        if isinstance(value, _Number) and name not in _TEXTS:
            fields[name] = 0  # no number is right there, whichever it is
        elif isinstance(value, str):
            fields[name] = _SURROGATE.sub("?", value)[:LONGEST_TEXT]
    return fields, valid


def _brackets(body: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield each bracket outside strings, and where it stands."""
    found = _NEXT_BRACKET.match(body)
    while found is not None:
        yield found[1], found.start(1)
        found = _NEXT_BRACKET.match(body, found.end())


def _is_value_of(key: bytes, body: bytes, at: int) -> bool:
    before = body[max(0, at - 100) : at].translate(None, _BLANKS)
    return before.endswith(key) and not before.endswith(b"\\" + key)


def _elements(body: bytes, start: int, end: int) -> int:
    """Count what stands between two rows and is none."""
    return len(_ELEMENT.findall(body[start : min(end, start + _LONGEST_GAP)]))
