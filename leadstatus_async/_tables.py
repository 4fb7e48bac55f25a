"""How outcomes are laid out: one flat row for each position, in dicts, JSON lines, CSV, columns and Arrow.

The same columns on good days and bad: the fields of a `LeadStatus`, and those of a `LeadFailure`, which are
None for an answer. Data only: no I/O, no clock, no randomness.
"""

from __future__ import annotations

import csv
import importlib
from itertools import starmap
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec

from leadstatus_async.models import LeadFailure, LeadStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Outcomes = Sequence[LeadStatus | LeadFailure]

_CRLF = "\r\n"
_PART = 1000  # rows: a few milliseconds' work
_BATCH = 50_000  # rows of an Arrow batch, whose texts must stay below 2 GiB
_FLAGS = {True: "true", False: "false", None: None}


class _Row(msgspec.Struct, gc=False):
    """A flat row; its fields are the `COLUMNS`."""

    lead_id: str
    workflow_status: str | None = None
    workflow_instance_id: str | None = None
    latest_step: str | None = None
    workflow_stop_reason: str | None = None
    has_pending_approval: bool | None = None
    error: str | None = None
    error_type: str | None = None
    http_status: int | None = None
    error_code: str | None = None
    trace_id: str | None = None
    attempts: int | None = None
    retryable: bool | None = None


COLUMNS = _Row.__struct_fields__
"""The columns of a flat row."""

_NOT_TEXT = {"has_pending_approval": "bool", "retryable": "bool", "http_status": "int64", "attempts": "int64"}
_NO_FAILURE = dict.fromkeys(COLUMNS[len(LeadStatus.__struct_fields__) :])
_EMPTY = tuple(_NO_FAILURE.values())
_fields = attrgetter(*LeadStatus.__struct_fields__)


def rows(outcomes: Outcomes) -> list[dict[str, Any]]:
    """Return one dict per outcome."""
    return [
        {**outcome.to_dict(), **_NO_FAILURE} if outcome.ok else dict.fromkeys(COLUMNS) | outcome.to_dict()
        for outcome in outcomes
    ]


def json_lines(outcomes: Outcomes) -> Iterator[str]:
    """Yield JSON lines, in parts."""
    encoder = msgspec.json.Encoder()
    for first in range(0, len(outcomes), _PART):
        yield encoder.encode_lines(_rows(outcomes[first : first + _PART])).decode()


def csv_lines(outcomes: Outcomes) -> Iterator[str]:
    """Yield a header and lines of CSV, in parts."""
    lines = _Lines()
    write = csv.writer(lines).writerows  # with "\n" to end its lines it would not quote a "\r"
    write([COLUMNS])
    for first in range(0, max(1, len(outcomes)), _PART):
        write(map(_cells, outcomes[first : first + _PART]))
        yield "".join([f"{line[: -len(_CRLF)]}\n" for line in lines])
        lines.clear()


def columns(outcomes: Outcomes) -> dict[str, list[Any]]:
    """Return a list for each column."""
    laid_out = _rows(outcomes)
    found = {name: list(map(attrgetter(name), laid_out)) for name in COLUMNS}
    found["workflow_status"] = [text if text is None else str(text) for text in found["workflow_status"]]
    return found


def arrow(outcomes: Outcomes) -> Any:
    """Return a `pyarrow.Table`.

    Raises:
        ImportError: pyarrow is not there.
    """
    try:
        pa: Any = importlib.import_module("pyarrow")
    except ImportError as missing:
        message = "to_arrow needs pyarrow: pip install 'leadstatus-async[arrow]'"
        raise ImportError(message, name="pyarrow") from missing
    schema = pa.schema([(name, pa.type_for_alias(_NOT_TEXT.get(name, "string"))) for name in COLUMNS])
    batches = [
        pa.RecordBatch.from_pydict(columns(outcomes[first : first + _BATCH]), schema=schema)
        for first in range(0, len(outcomes), _BATCH)
    ]
    return pa.Table.from_batches(batches, schema=schema)


class _Lines(list[str]):
    """What a csv writer takes for a file."""

    write = list[str].append


def _rows(outcomes: Outcomes) -> list[_Row]:
    if set(map(type, outcomes)) == {LeadStatus}:  # as a rule, and three times as fast
        return list(starmap(_Row, map(_fields, outcomes)))
    return [_Row(*_fields(one)) if isinstance(one, LeadStatus) else _Row(**one.to_dict()) for one in outcomes]


def _cells(outcome: LeadStatus | LeadFailure) -> tuple[object, ...]:
    if isinstance(outcome, LeadStatus):
        *texts, flag = _fields(outcome)
        return (*texts, _FLAGS[flag], *_EMPTY)
    *cells, retryable = msgspec.structs.astuple(_Row(**outcome.to_dict()))
    return (*cells, _FLAGS[retryable])
