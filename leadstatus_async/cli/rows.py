"""What a row of output looks like: CSV, TSV and JSON, alone or behind the input's own row.

A row is bytes that end in a newline: its front, which is known before anything is asked, and the columns of a
status. A `Layout` writes rows, and reads them again for `--resume`. Pure: no file is touched here.
"""

from __future__ import annotations

import csv
import json
import re
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec

from leadstatus_async._tables import COLUMNS
from leadstatus_async.cli.inputs import id_of
from leadstatus_async.errors import InvalidLeadIdError
from leadstatus_async.models import LeadFailure, LeadStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from leadstatus_async.cli.inputs import Record

Front = list[str] | str
"""What of a row is known before anything is asked: cells as they are written, or the begin of an object."""

STATUS = COLUMNS[1:]
"""The columns of a status, behind the ID."""

_ERROR, _ERROR_TYPE = STATUS.index("error"), STATUS.index("error_type")
_ANSWER = LeadStatus.__struct_fields__[1:]
_NO_FAILURE = (None,) * (len(STATUS) - len(_ANSWER))
_BOM = "\ufeff"
_FORMULA = re.compile(r"'*(?:[=+\-@\t\r]|[0-9]+(?:[eE][0-9]+)?\Z)")
_FLAGS = {True: "true", False: "false", None: None}
_FLAGGED = STATUS.index("has_pending_approval"), STATUS.index("retryable")
_answer = attrgetter(*_ANSWER)

Values = tuple[Any, ...]
"""What stands in the columns of a status, in their order."""


def values_of(outcome: LeadStatus | LeadFailure) -> Values:
    """Return what stands in the columns of a status."""
    if isinstance(outcome, LeadStatus):
        return (*_answer(outcome), *_NO_FAILURE)
    return tuple(map(outcome.to_dict().get, STATUS))


def refused(place: str, why: str) -> Values:
    """Return what stands in the columns of a row whose ID cannot be asked for."""
    error = InvalidLeadIdError([], f"{place}: the ID {why}")
    return values_of(LeadFailure("", error))


def error_of(values: Values) -> str | None:
    """Return the error of a row; None if it is no failure."""
    found: str | None = values[_ERROR] or None
    return found


def kind_of(values: Values) -> str:
    """Return the class of the error of a row."""
    return values[_ERROR_TYPE] or ""


def worth_asking(values: Values) -> bool:
    """Whether a row has failed, and might not if it is asked for again."""
    return error_of(values) is not None and kind_of(values) != InvalidLeadIdError.__name__


class Row(msgspec.Struct):
    """A row that was written, read again: its front, its campaign where there are several, its status."""

    front: Front
    campaign: str | None
    values: Values


class Layout:
    """How rows are written.

    Args:
        form: "csv", "tsv", "jsonl" or "json".
        several: whether there is a column for the campaign.
        columns: of the input, whose own rows come first; None to write the ID alone.
        column: which of them has the ID.
        safe: put a `'` before cells that a spreadsheet would take for a formula or a number.

    Attributes:
        header: bytes that come before the first row.
    """

    def __init__(
        self,
        form: str,
        *,
        several: bool = False,
        columns: Sequence[str] | None = None,
        column: str = "lead_id",
        safe: bool = False,
    ) -> None:
        self._cellular = form in ("csv", "tsv")
        self._several = several
        self._enriched = columns is not None
        self._columns = ["lead_id"] if columns is None else list(columns)
        self._column = column
        self._safe = safe and self._cellular
        self._delimiter = "\t" if form == "tsv" else ","
        self._lines: list[str] = []
        kept = _Kept(self._lines)
        self._write = csv.writer(kept, delimiter=self._delimiter, lineterminator="\n").writerows
        self._write_quoting = csv.writer(kept, delimiter=self._delimiter).writerows
        self._names = [
            _free(name, self._columns) for name in (["campaign_id"] if several else []) + list(STATUS)
        ]
        self.header = b""
        if self._cellular:
            names = [self._safely(name) for name in (*self._columns, *self._names)]
            self.header = (_BOM.encode() if safe else b"") + self._lines_of([names])

    def front(self, record: Record) -> Front:
        """Return what of a record's row is known before anything is asked."""
        own = record.own if self._enriched else [record.lead_id]
        if isinstance(own, list):
            if len(own) != len(self._columns):
                own = _fitted(own, len(self._columns))
            if self._cellular:
                return [self._safely(cell) for cell in own] if self._safe else own
            own = _json(dict(zip(self._columns, own, strict=True)))
        text = str(own)[:-1].rstrip()
        return text if text == "{" else f"{text},"

    def row(self, front: Front, campaign: str | None, values: Values) -> bytes:
        """Return a row."""
        if isinstance(front, list):
            cells: list[Any] = list(front)
            if self._several:
                cells.append(campaign)
            begin = len(cells)
            cells += values
            for at in _FLAGGED:
                cells[begin + at] = _FLAGS[values[at]]
            if self._safe:
                cells[len(front) :] = [
                    self._safely(one) if isinstance(one, str) else one for one in cells[len(front) :]
                ]
            return self._lines_of([cells])
        if self._several:
            values = (campaign, *values)
        names = self._names
        if self._enriched and any(name in front for name in names):  # in this object, not in the first
            keys = json.loads(front.rstrip(",") + "}")
            names = [_free(name, keys) for name in names]
        return _bytes(front + _json(dict(zip(names, values, strict=True)))[1:]) + b"\n"

    def answers(self, fronts: Iterable[Front], answers: Sequence[LeadStatus]) -> bytes:
        """Return the rows of answers of one campaign: what `row` returns for each, at once."""
        if not self._cellular or self._safe:
            pairs = zip(fronts, answers, strict=True)
            return b"".join([self.row(front, None, values_of(answer)) for front, answer in pairs])
        rows = [
            [*front, *texts, _FLAGS[flag], *_NO_FAILURE]
            for front, (*texts, flag) in zip(fronts, map(_answer, answers), strict=True)
        ]
        return self._lines_of(rows)

    def parse(self, raw: bytes) -> Row | None:
        """Read a row again; None if it is none of this layout."""
        text, width = raw.decode("utf-8", "surrogateescape"), len(self._names)
        front: Front
        values: list[Any]
        if self._cellular:
            try:
                (cells,) = csv.reader([text], delimiter=self._delimiter)
            except (csv.Error, ValueError):
                return None
            front, values = cells[: len(self._columns)], [one or None for one in cells[len(self._columns) :]]
        else:
            try:
                found = list(json.loads(text).items())
            except (ValueError, AttributeError):
                return None
            values = [value for _, value in found[-width:]]
            front = text[: text.rfind(f'"{found[-width][0]}":')] if len(values) == width else ""
        if len(values) != width:
            return None
        campaign = values.pop(0) if self._several else None
        return Row(front, campaign, tuple(map(unsafe, values) if self._safe else values))

    def lead_id(self, front: Front) -> str:
        """Return the ID of the lead that a row is about."""
        if isinstance(front, list):
            cell = front[self._columns.index(self._column)] if self._enriched else front[0]
            return (unsafe(cell) if self._safe else cell).strip()
        return id_of(json.loads(front.rstrip(",") + "}"), self._column)[0]

    def _lines_of(self, rows: list[list[Any]]) -> bytes:
        self._write(rows)
        text = "".join(self._lines)
        self._lines.clear()
        if "\r" in text:  # which is quoted only where it would end a line
            self._write_quoting(rows)
            text = "".join([f"{line[:-2]}\n" for line in self._lines])
            self._lines.clear()
        return _bytes(text)

    def _safely(self, text: str) -> str:
        return f"'{text}" if self._safe and _FORMULA.match(text) else text


def whole_rows(lines: Iterable[bytes], *, cellular: bool) -> Iterable[bytes]:
    """Yield the rows of lines that end in newlines; what is torn at the end is left out.

    A cell that holds line ends stands in quotes, and a quote in it is written twice: a row is whole where
    the number of its quotes is even.
    """
    row = b""
    for line in lines:
        row = row + line if row else line
        if row.endswith(b"\n") and not (cellular and row.count(b'"') % 2):
            yield row
            row = b""


def unsafe(cell: Any) -> Any:
    """Take off what `--spreadsheet-safe` puts before a cell."""
    return cell[1:] if cell and cell[0] == "'" and _FORMULA.match(cell) else cell


class _Kept:
    """What a csv writer takes for a file."""

    def __init__(self, lines: list[str]) -> None:
        self.write = lines.append


def _free(name: str, taken: Iterable[str]) -> str:
    """Return a name for a column that is not there yet."""
    while name in taken:
        name = f"leadstatus_{name}"
    return name


def _fitted(cells: list[str], width: int) -> list[str]:
    """Return a row of so many cells: a short one is padded, and what is too long is one cell at the end."""
    if len(cells) > width:
        return [*cells[: width - 1], ",".join(cells[width - 1 :])]
    return cells + [""] * (width - len(cells))


def _json(value: dict[str, Any]) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:  # bytes that are no UTF-8, kept as lone surrogates
        return json.dumps(value, separators=(",", ":"))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
