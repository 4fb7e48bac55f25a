"""The rows of an answer that is not quite what the API promises, one by one.

One damaged row never loses its neighbours (c1, h7), whatever is wrong with it: fields of other types, raw
control characters, bytes that are no UTF-8, NaN, half an emoji. So the rows are cut out of the bytes by
their brackets before anything is decoded, and each is read by itself.

The time this takes is bounded for hostile bodies, too (h3): each byte is looked at once, numbers are
taken as text, and there are limits to the brackets, and to the rows that need a second look.
"""

from __future__ import annotations

import codecs
import json
import re
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import msgspec

from leadstatus_async._steps.redact import MESSAGE
from leadstatus_async.errors import ResponseDecodeError
from leadstatus_async.models import LONGEST_STATUS, LONGEST_TEXT, LeadStatus, WorkflowStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from leadstatus_async._steps.redact import Redactor

MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # the four families of c3
for _name in ("utf-8-sig", "utf-16-be", "utf-16-le", "utf-16", "utf-32-be", "utf-32-le", "utf-32"):
    codecs.lookup(_name)  # reads it from disk now, and not when there may be no file descriptor left
_MOST_BRACKETS = 50_000
_MOST_DAMAGED = 2_000  # rows
_MOST_LOOSE_BYTES = 512 * 2**10  # of damaged rows, or of an answer without its rows
_NEXT_BRACKET = re.compile(rb'(?:[^][{}"]++|"(?:[^"\\]++|\\.)*+")*+([][{}])', re.DOTALL)
_ELEMENT = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[^\s,"]++', re.DOTALL)  # the last may be cut
_MOST_GAPS = 64 * 2**10  # bytes between rows in which others than objects are counted
_MOST_SEARCHED = 512 * 2**10  # characters of an answer's texts that are searched for secrets
_PAIRS = {b"}": b"{", b"]": b"["}
_BLANKS = b" \t\r\n"
_LONGEST_KEY = 1_000  # bytes before a bracket in which its key is looked for, blanks included
_TEXTS = ("workflowInstanceId", "latestStep", "workflowStopReason")
_FIELDS = ("workflowStatus", "hasPendingApproval", *_TEXTS)
_PLAIN_ID = re.compile(rb'[{,]\s*"leadId"\s*:\s*"([!#-\[\]-~]+)"\s*[,}]')
_SURROGATE = re.compile("[\ud800-\udfff]")


class RawRow(msgspec.Struct, rename="camel", gc=False):
    """A row as the server told it: its texts may be of any length, and hold what must not be kept."""

    lead_id: str
    workflow_status: str
    workflow_instance_id: str | None = None
    latest_step: str | None = None
    workflow_stop_reason: str | None = None
    has_pending_approval: bool | None = None


_decode_strictly = msgspec.json.Decoder(RawRow).decode


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
        items: one `LeadStatus`, `RawRow` or `BadRow` each.
        trace_id: the API's `traceId`, if any.
        clean: each is a `LeadStatus`.
        plain: no text in them has anything that must not be kept.
        unreadable: rows that do not even say whose they are.
    """

    items: list[LeadStatus | RawRow | BadRow]
    trace_id: str | None = None
    clean: bool = False
    plain: bool = False
    unreadable: int = 0


MARKER = "the rows"


class Cut(msgspec.Struct, frozen=True):
    """An answer cut into its rows and the rest.

    Attributes:
        rest: the answer with `MARKER` in place of the rows.
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
    gaps: list[bytes] = []
    within = False  # the value of "data"
    first = begun = ended = others = 0
    for bracket, at in islice(_brackets(body), _MOST_BRACKETS):
        depth = len(opened)
        if bracket in _PAIRS:
            if not opened or opened.pop() != _PAIRS[bracket]:
                return None
            if first and depth == 3:
                rest = body[: first + 1] + json.dumps(MARKER).encode() + body[at:]
                return Cut(rest, rows, others + _elements([*gaps, body[ended:at]]))
            if first and depth == 4:
                ended = at + 1
                if bracket == b"}":
                    rows.append(body[begun:ended])
                else:
                    others += 1
            continue
        opened.append(bracket)
        if first and depth == 3:
            gaps.append(body[ended:at])
            begun = at
        elif depth == 1:
            within = bracket == b"{" and _is_value_of(b'"data"', body, at)
        elif depth == 2 and within and bracket == b"[" and _is_value_of(b'"items"', body, at):
            first, ended = at, at + 1
    return None


def read_rows(found: Cut, trace_id: str | None, redactor: Redactor) -> Rows:
    """Read rows one by one. Those that need a second look beyond the bounds are counted as unreadable."""
    items: list[LeadStatus | RawRow | BadRow] = []
    damaged = size = nameless = 0
    for row in found.rows:
        try:
            items.append(_decode_strictly(row))
        except MALFORMED as wrong:
            damaged += 1
            size += len(row)
            item = None
            if damaged <= _MOST_DAMAGED and size <= _MOST_LOOSE_BYTES:
                item = _read_damaged(row, str(wrong)[:MESSAGE], trace_id, redactor)
            if item is None:
                nameless += 1
            else:
                items.append(item)
    return Rows(items, trace_id, unreadable=found.others + nameless)


def presented(rows: Sequence[LeadStatus | RawRow], redactor: Redactor) -> list[LeadStatus]:
    """Return rows as statuses with bounded texts, in which there is no secret and no control character."""
    left = _MOST_SEARCHED
    statuses: list[LeadStatus] = []

    def shown(text: str | None, most: int = LONGEST_TEXT) -> str | None:
        nonlocal left
        if text is None:
            return None
        kept, searched = redactor.field(text, most, left)
        left -= searched
        return kept

    for row in rows:
        texts = filter(
            None, (row.workflow_status, row.workflow_instance_id, row.latest_step, row.workflow_stop_reason)
        )
        if isinstance(row, LeadStatus) and redactor.clear(" ".join(texts)):
            statuses.append(row)
            continue
        told = LeadStatus(
            row.lead_id,
            WorkflowStatus(cast("str", shown(row.workflow_status, LONGEST_STATUS))),
            shown(row.workflow_instance_id),
            shown(row.latest_step),
            shown(row.workflow_stop_reason),
            row.has_pending_approval,
        )
        statuses.append(row if isinstance(row, LeadStatus) and told == row else told)
    return statuses


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
    """Return JSON in UTF-8 without a BOM (c5), whichever of the encodings of RFC 4627 it came in.

    What is damaged stays so, that no ID is mended into another's.
    """
    encoding = json.detect_encoding(body)
    if encoding in ("utf-8", "utf-8-sig"):
        return bytes(body.removeprefix(codecs.BOM_UTF8))
    try:
        return body.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return bytes(body)


def _read_damaged(row: bytes, wrong: str, trace_id: str | None, redactor: Redactor) -> RawRow | BadRow | None:
    """Read a row that the strict decoder refuses; None if it does not say whose it is."""
    fields, valid = _fields(row)
    lead_id = fields.get("leadId") if fields else _id_in_sight(row)
    # IDs are strings by the reference; a whole number is read as its digits (c5).
    if not isinstance(lead_id, str) or isinstance(lead_id, _Fraction):
        return None
    if _SURROGATE.search(lead_id) or (not valid and "\ufffd" in lead_id):
        return None  # mended, it might be another's
    lead_id = str(lead_id)
    if valid:
        try:
            told = {name: fields[name] for name in _FIELDS if name in fields}
            return msgspec.convert({**told, "leadId": lead_id}, RawRow)
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


def _id_in_sight(row: bytes) -> str | None:
    """Return the ID of a row that cannot be read at all, if it stands there once, in plain ASCII."""
    found = _PLAIN_ID.findall(row)
    return found[0].decode() if len(found) == 1 and row.count(b"leadId") == 1 else None


def _fields(row: bytes) -> tuple[dict[str, Any], bool]:
    """Return the fields of a row as `RawRow` takes them, and whether the row is JSON."""
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
            fields[name] = _SURROGATE.sub("?", value)
    return fields, valid


def _brackets(body: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield each bracket outside strings, and where it stands."""
    found = _NEXT_BRACKET.match(body)
    while found is not None:
        yield found[1], found.start(1)
        found = _NEXT_BRACKET.match(body, found.end())


def _is_value_of(key: bytes, body: bytes, at: int) -> bool:
    before = body[max(0, at - _LONGEST_KEY) : at].rstrip(_BLANKS)
    before = before[:-1].rstrip(_BLANKS) if before.endswith(b":") else b""
    return before.endswith(key) and not before.endswith(b"\\" + key)


def _elements(gaps: list[bytes]) -> int:
    """Count what stands between rows and is none, as far as that is looked at."""
    return len(_ELEMENT.findall(b",".join(gaps)[:_MOST_GAPS]))
