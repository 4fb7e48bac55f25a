"""What a call hands back, what it raises for failures, and how it is written out."""

from __future__ import annotations

import copy
import csv
import io
import json
import pickle
import sys
from collections import Counter
from collections.abc import Sequence
from xml.etree import ElementTree as ET

import duckdb
import msgspec
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leadstatus_async.errors import (
    AuthenticationError,
    BadRequestError,
    BatchError,
    DeadlineExceededError,
    InvalidLeadIdError,
    LeadStatusError,
    MissingLeadError,
    NotFoundError,
    PermissionDeniedError,
    ResponseDecodeError,
    ServerError,
    SessionClosedError,
    UnexpectedStatusError,
)
from leadstatus_async.learned import RateLimitState, Suggestion
from leadstatus_async.models import LeadFailure, LeadStatus, WorkflowStatus
from leadstatus_async.policy import RateLimit
from leadstatus_async.results import (
    BatchResult,
    BatchStats,
    Plan,
    Progress,
    SessionStats,
)

PENDING, STOPPED = WorkflowStatus.PENDING, WorkflowStatus.STOPPED
A = LeadStatus("a", PENDING, has_pending_approval=True)
B = LeadStatus("b", STOPPED, "instance", "step, two", 'he said "no"\nthen left', False)
FAILED = LeadFailure("x", MissingLeadError("no row", lead_ids=["x", "y"], trace_id="t9", attempts=2))
FAILED_TOO = LeadFailure("y", FAILED.error)
STATS = BatchStats(requests=3, retries=1, waited=0.5)
MIXED = BatchResult([A, FAILED, B, A, FAILED_TOO, FAILED], STATS, ["t1", "t2"])
CLEAN = BatchResult([A, B, A])
COLUMNS = [
    "lead_id",
    "workflow_status",
    "workflow_instance_id",
    "latest_step",
    "workflow_stop_reason",
    "has_pending_approval",
    "error",
    "error_type",
    "http_status",
    "error_code",
    "trace_id",
    "attempts",
    "retryable",
]
NO_FAILURE = dict.fromkeys(COLUMNS[6:])


def failures(*errors: LeadStatusError) -> BatchResult:
    """Return a result of one answer and a failure for each error, under the IDs f0, f1..."""
    return BatchResult([A, *(LeadFailure(f"f{number}", error) for number, error in enumerate(errors))])


def test_is_a_sequence_of_positions():
    """A result is a sequence in input order, with duplicates at each position."""
    assert isinstance(MIXED, Sequence)
    assert len(MIXED) == 6
    assert list(MIXED) == [A, FAILED, B, A, FAILED_TOO, FAILED]
    assert (MIXED[0], MIXED[-1], MIXED[1:3]) == (A, FAILED, [FAILED, B])
    assert MIXED.index(B) == 2
    assert MIXED.count(A) == 2
    assert A in MIXED
    with pytest.raises(IndexError):
        MIXED[6]


def test_views():
    """The views: answers, failures, distinct failed IDs, outcome by ID, and counts of statuses only."""
    assert MIXED.statuses == [A, B, A]
    assert MIXED.failures == [FAILED, FAILED_TOO, FAILED]
    assert MIXED.failed_ids == ["x", "y"]
    assert MIXED.by_id == {"a": A, "b": B, "x": FAILED, "y": FAILED_TOO}
    of_an_integer = LeadFailure("a", FAILED.error)
    for both in ([A, of_an_integer], [of_an_integer, A]):
        assert BatchResult(both).by_id == {"a": A}
    assert MIXED.counts == Counter({PENDING: 2, STOPPED: 1})
    assert MIXED.trace_ids == ("t1", "t2")
    assert MIXED.stats == STATS


def test_empty():
    """A result of nothing is falsy, has figures, and nothing to raise."""
    empty = BatchResult([])
    assert not empty
    assert empty.stats == BatchStats(0, 0, 0, 0, 0, 0.0, 0.0)
    assert (empty.by_id, empty.counts, empty.to_dicts(), empty.to_jsonl()) == ({}, {}, [], "")
    assert empty.to_csv() == ",".join(COLUMNS) + "\n"
    empty.raise_for_failures()


def test_result_is_its_own():
    """Changing the list that was given changes no result."""
    given_list = [A, B]
    result = BatchResult(given_list)
    given_list.clear()
    assert list(result) == [A, B]


def test_equality():
    """Equal outcomes and figures make equal results; anything else is not one; it has no hash."""
    assert BatchResult([A, B], STATS) == BatchResult([A, B], STATS)
    assert BatchResult([A, B]) != BatchResult([B, A])
    assert BatchResult([A], STATS) != BatchResult([A])
    assert BatchResult([A]) != [A]
    with pytest.raises(TypeError):
        hash(CLEAN)


def test_repr_is_short():
    """The repr tells how many, never which: logs hold no lead IDs."""
    text = repr(MIXED)
    assert text.startswith("<BatchResult of 6: 3 answered, 3 failed, BatchStats(requests=3")
    assert "'a'" not in text


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda result: pickle.loads(pickle.dumps(result))])
def test_survives_copying(way):
    """A result survives worker queues with its figures, trace ids and errors."""
    twin = way(MIXED)
    assert twin.to_dicts() == MIXED.to_dicts()
    assert (twin.stats, twin.trace_ids) == (MIXED.stats, MIXED.trace_ids)
    assert vars(twin[1].error) == vars(FAILED.error)
    assert way(CLEAN) == CLEAN


@pytest.mark.parametrize(
    "figures",
    [STATS, Progress(1, None, 0, 2, 0), Plan(1, 200, 0.0), SessionStats(leads=3), RateLimitState(10.0, 20.0)],
    ids=lambda figures: type(figures).__name__,
)
def test_figures_are_frozen(figures):
    """Snapshots cannot be changed, and pickle."""
    with pytest.raises(AttributeError):
        setattr(figures, type(figures).__struct_fields__[0], 9)
    assert pickle.loads(pickle.dumps(figures)) == figures


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (BatchStats, "requests retries splits rate_limited foreign cached waited elapsed"),
        (Progress, "done total failed requests retries"),
        (Plan, "requests bytes seconds"),
        (SessionStats, "requests retries splits rate_limited leads failures waited in_flight queued"),
        (RateLimitState, "rate configured_rate ceiling paused_for reason suggestion slots first_pause"),
    ],
)
def test_figures_are_designs(kind, fields):
    """The figures have the names that users know them by."""
    assert list(kind.__struct_fields__) == fields.split()


@pytest.mark.parametrize(
    "figures",
    [
        STATS,
        Progress(1, None, 0, 2, 0),
        Plan(1, 200, 0.0),
        SessionStats(leads=3),
        RateLimitState(10.0, 20.0, suggestion=Suggestion(RateLimit(60, per=60))),
        Suggestion(concurrency=4),
    ],
    ids=lambda figures: type(figures).__name__,
)
def test_figures_are_data(figures):
    """`to_dict` has every field, in plain types that any JSON encoder takes."""
    row = figures.to_dict()
    assert list(row) == list(type(figures).__struct_fields__)
    assert msgspec.convert(json.loads(json.dumps(row)), type(figures)) == figures
    assert type(row) is dict


def test_rows_are_flat():
    """One flat row per position: the fields of a status, and the error, null where there is a status."""
    rows = MIXED.to_dicts()
    assert len(rows) == len(MIXED)
    assert all(list(row) == COLUMNS for row in rows)
    assert rows[0] == {**A.to_dict(), **NO_FAILURE}
    assert rows[1] == {**dict.fromkeys(COLUMNS), **FAILED.to_dict()}


def test_jsonl_is_one_line_per_position():
    """Each line is the JSON of one row, whatever characters it holds."""
    odd = BatchResult(
        [B, LeadFailure("line\u2028sep \ud83d 🙂", InvalidLeadIdError([(0, "\ud83d", "is bad")]))]
    )
    text = odd.to_jsonl()
    assert text.endswith("\n")
    assert text.encode()
    assert [json.loads(line) for line in text.rstrip("\n").split("\n")] == odd.to_dicts()


def test_csv_reads_back():
    """CSV has a header, null as an empty field, lower-case booleans, and quotes what needs it."""
    rows = list(csv.DictReader(io.StringIO(MIXED.to_csv(), newline="")))
    assert list(rows[0]) == COLUMNS
    assert rows == [
        {
            name: "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in row.items()
        }
        for row in MIXED.to_dicts()
    ]
    assert rows[1]["retryable"] == "false"
    assert rows[0]["has_pending_approval"] == "true"
    assert rows[2]["has_pending_approval"] == "false"
    assert "\r" not in MIXED.to_csv()


@given(st.lists(st.text(min_size=1), max_size=20))
def test_every_id_can_be_written(texts):
    """Whatever an ID or a step holds, all three ways of writing succeed, with a row per position."""
    outcomes = [
        LeadStatus(text, PENDING, latest_step=text)
        if number % 2
        else LeadFailure(text, InvalidLeadIdError([(number, text, "is bad")]))
        for number, text in enumerate(texts)
    ]
    result = BatchResult(outcomes)
    assert len(msgspec.json.decode(msgspec.json.encode(result.to_dicts()))) == len(texts)
    assert result.to_jsonl().encode().count(b"\n") == len(texts)
    assert len(list(csv.reader(io.StringIO(result.to_csv(), newline="")))) == len(texts) + 1


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2500])
@pytest.mark.parametrize("failed_at", [None, 0, 1500])
def test_text_comes_in_parts(count, failed_at):
    """Of a thousand rows at most, so that a loop can go on between them; together they are the text."""
    outcomes = [LeadStatus(f"x{number}", WorkflowStatus.PENDING) for number in range(count)]
    if failed_at is not None and failed_at < count:
        outcomes[failed_at] = LeadFailure("y", ServerError(500))
    result = BatchResult(outcomes)
    lines, table = list(result.iter_jsonl()), list(result.iter_csv())
    assert "".join(lines) == result.to_jsonl()
    assert "".join(table) == result.to_csv()
    assert [json.loads(line) for line in result.to_jsonl().splitlines()] == result.to_dicts()
    assert len(list(csv.DictReader(io.StringIO(result.to_csv(), newline="")))) == count
    assert max((part.count("\n") for part in lines), default=0) <= 1000
    assert max(part.count("\n") for part in table) <= 1001
    assert len(table) == max(1, -(-count // 1000))


def test_nothing_to_raise():
    """A result without failures raises nothing."""
    CLEAN.raise_for_failures()


FATAL = [AuthenticationError(401), PermissionDeniedError(403), NotFoundError(404), UnexpectedStatusError(302)]
CLOSED, LATE, OTHER = SessionClosedError("closed"), DeadlineExceededError("late"), ServerError(500)


@pytest.mark.parametrize(
    ("errors", "raised"),
    [
        *[([OTHER, LATE, CLOSED, fatal], fatal) for fatal in FATAL],
        *[([fatal, OTHER], fatal) for fatal in FATAL],
        ([OTHER, LATE, CLOSED], CLOSED),
        ([OTHER, LATE], LATE),
        ([LATE], LATE),
    ],
    ids=lambda value: "+".join(type(one).__name__ for one in value) if isinstance(value, list) else "",
)
def test_precedence(errors, raised):
    """A fatal answer comes before a closed session, that before the deadline, and that before all else."""
    result = failures(*errors)
    with pytest.raises(type(raised)) as caught:
        result.raise_for_failures()
    error = caught.value
    assert str(error) == str(raised)
    assert error is not raised
    assert error.result is result
    assert error.lead_ids == (f"f{errors.index(raised)}",)
    assert raised.result is None


def test_fatal_error_concerns_the_leads_never_asked():
    """The fatal error's own `lead_ids` are all the leads it is the outcome of, each once."""
    fatal = AuthenticationError(401, lead_ids=["f1"])
    result = BatchResult([A, *(LeadFailure(lead_id, fatal) for lead_id in ["f2", "f1", "f2"])])
    with pytest.raises(AuthenticationError) as caught:
        result.raise_for_failures()
    assert caught.value.lead_ids == ("f2", "f1")


def test_other_failures_are_grouped():
    """Any other failure is a `BatchError`: one exception per class and message, with its leads."""
    result = failures(
        BadRequestError(400, None, "first"),
        BadRequestError(400, None, "second"),
        BadRequestError(400, None, "first"),
        ServerError(400, None, "first"),
        LeadStatusError("HTTP 400: first"),
    )
    with pytest.raises(BatchError) as caught:
        result.raise_for_failures()
    error = caught.value
    assert error.result is result
    assert [(type(one), str(one), one.lead_ids) for one in error.exceptions] == [
        (BadRequestError, "HTTP 400: first", ("f0", "f2")),
        (BadRequestError, "HTTP 400: second", ("f1",)),
        (ServerError, "HTTP 400: first", ("f3",)),
        (LeadStatusError, "HTTP 400: first", ("f4",)),
    ]
    assert error.message.startswith(
        "5 of 6 leads failed (2 BadRequestError, 1 BadRequestError, 1 ServerError, ...)"
    )
    assert "campaign.retry" in error.message


def test_few_kinds_are_all_told():
    """Up to three kinds of failure are named without an ellipsis."""
    with pytest.raises(
        BatchError, match=r"1 of 2 leads failed \(1 ServerError\); the others are in \.result"
    ):
        failures(OTHER).raise_for_failures()


def test_raised_errors_carry_notes_of_their_own():
    """What is raised names the first leads, attempts and trace id; raising twice adds nothing twice."""
    error = ResponseDecodeError("odd", trace_id="t7", attempts=3, waited=1.25)
    error.add_note("the user's")
    result = BatchResult([LeadFailure(lead_id, error) for lead_id in "pqrst"])
    for _ in range(2):
        with pytest.raises(BatchError) as caught:
            result.raise_for_failures()
        (inner,) = caught.value.exceptions
        assert inner.__notes__ == [
            "the user's",
            "leads: 'p', 'q', 'r' and 2 more; attempts: 3, waited 1.2 s; trace id t7",
        ]
    assert error.__notes__ == ["the user's"]
    with pytest.raises(DeadlineExceededError) as late:
        failures(DeadlineExceededError("late")).raise_for_failures()
    assert late.value.__notes__ == ["leads: 'f0'; attempts: 0, waited 0.0 s"]


def test_cause_reaches_the_caller():
    """The cause of a failure comes along when it is raised."""
    broken = LeadStatusError("broken")
    broken.__cause__ = OSError("redis")
    with pytest.raises(BatchError) as caught:
        failures(broken).raise_for_failures()
    assert caught.value.exceptions[0].__cause__ is broken.__cause__


def test_errors_of_anybodys_are_raised_too():
    """Alone as a group of their own, with ours in a `BatchError`."""
    strange = LeadFailure("s", ValueError("mine"))
    with pytest.raises(ExceptionGroup, match="1 leads failed") as caught:
        BatchResult([A, strange]).raise_for_failures()
    assert caught.value.exceptions == (strange.error,)
    with pytest.raises(BatchError) as caught:
        BatchResult([strange, FAILED]).raise_for_failures()
    assert [str(error) for error in caught.value.exceptions] == ["mine", "no row"]


# Frames

SCHEMA = {
    **dict.fromkeys(COLUMNS, "string"),
    "has_pending_approval": "bool",
    "http_status": "int64",
    "attempts": "int64",
    "retryable": "bool",
}


@pytest.mark.parametrize("result", [MIXED, CLEAN, BatchResult([])], ids=["mixed", "clean", "empty"])
def test_columns_are_the_rows(result):
    """A list for each column, in plain types, whatever came."""
    columns = result.to_columns()
    assert list(columns) == COLUMNS
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    assert rows == result.to_dicts()
    assert {type(text) for text in columns["workflow_status"]} <= {str, type(None)}


@pytest.mark.parametrize("result", [MIXED, CLEAN, BatchResult([])], ids=["mixed", "clean", "empty"])
def test_arrow_has_one_schema(result):
    """The same columns and types on good days and bad, and the rows are those of `to_dicts`."""
    table = result.to_arrow()
    assert {field.name: str(field.type) for field in table.schema} == SCHEMA
    assert table.to_pylist() == result.to_dicts()
    assert pa.table(result) == table


LATE_FAILURE = BatchResult(
    [
        FAILED if number == 150_000 else LeadStatus(f"x{number}", PENDING, latest_step="step")
        for number in range(200_000)
    ]
)


def test_frames_do_not_guess_types_from_the_first_rows():
    """The first failure of 200,000 rows, at row 150,000, is there in polars, pandas, duckdb and Parquet."""
    table = LATE_FAILURE.to_arrow()
    frame = pl.DataFrame(table)
    assert frame.height == 200_000
    assert frame.row(150_000, named=True) == {**dict.fromkeys(COLUMNS), **FAILED.to_dict()}
    if hasattr(pd.DataFrame, "from_arrow"):  # pandas 3
        assert pd.DataFrame.from_arrow(LATE_FAILURE)["error_type"][150_000] == "MissingLeadError"
    asked = "select lead_id, attempts from LATE_FAILURE where retryable = false"
    assert duckdb.sql(asked).fetchall() == [("x", 2)]
    file = io.BytesIO()
    pq.write_table(table, file)
    assert {field.name: str(field.type) for field in pq.read_schema(file)} == SCHEMA


def test_arrow_is_an_extra(monkeypatch):
    """Without pyarrow the error says what to install."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'leadstatus-async\[arrow\]'"):
        CLEAN.to_arrow()


# Notebooks


def test_html_tells_counts_and_reasons():
    """A bar for each status, the failures and their reasons, in which nothing of the server's is markup."""
    many = BatchResult(
        [
            *[LeadStatus(f"x{number}", WorkflowStatus("completed")) for number in range(1500)],
            LeadStatus("<b>", WorkflowStatus("<i>")),
            *[
                LeadFailure(f"{number}", MissingLeadError(f"no row for '{number}' <u>"))
                for number in range(3)
            ],
            LeadFailure("y", InvalidLeadIdError([(7, "a b", "contains whitespace")])),
        ],
        BatchStats(requests=16, retries=2, elapsed=1.25),
    )
    html = many._repr_html_()
    assert html.count("width:100%") == 1
    assert html.count("width:1%") == 2  # a bar is never nothing
    for text in (
        "completed",
        "1,500",
        "&lt;i&gt;",
        "(failed)",
        "1,505 leads, 16 requests, 2 retries",
        "1.2 s",
    ):
        assert text in html
    assert "MissingLeadError: no row for another &lt;u&gt;" in html
    assert "InvalidLeadIdError: the ID contains whitespace" in html
    assert "<i>" not in html
    assert "<u>" not in html
    ET.fromstring(html)


def test_html_is_bounded():
    """However many statuses and reasons a server invents, and however long they are."""
    odd = [LeadStatus(f"x{n}", WorkflowStatus(f"{n}" + "x" * 5000)) for n in range(50)]
    odd += [LeadFailure(f"y{n}", ServerError(500, None, f"{n}" + "y" * 400)) for n in range(50)]
    html = BatchResult(odd)._repr_html_()
    assert len(html) < 20_000
    assert "(other statuses)" in html
    assert "other reasons" in html
    assert html.count(">40</td>") == 2
    assert "(failed)" not in BatchResult([])._repr_html_()
