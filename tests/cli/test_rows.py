"""Rows as they are written, and read again."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leadstatus_async._tables import COLUMNS
from leadstatus_async.cli.inputs import Record
from leadstatus_async.cli.rows import Layout, refused, unsafe, values_of, whole_rows, worth_asking
from leadstatus_async.errors import AuthenticationError, MissingLeadError
from leadstatus_async.models import LeadFailure, LeadStatus, WorkflowStatus

ANSWER = LeadStatus("x", WorkflowStatus.PENDING, "i1", "email_1", None, has_pending_approval=True)
FAILURE = LeadFailure("x", AuthenticationError(401, "bad_key", 'no, "such"\nkey', trace_id="t"))
TEXT = st.text(st.sampled_from("a1=+-@',\"\t\r\n \xe9\udcff"), max_size=5)


def cells_of(raw, delimiter=","):
    return next(
        csv.reader(io.StringIO(raw.decode("utf-8", "surrogateescape"), newline=""), delimiter=delimiter)
    )


def test_plain_csv():
    """The ID and the columns of the library's flat row."""
    layout = Layout("csv")
    assert layout.header.decode() == ",".join(COLUMNS) + "\n"
    record = Record(2, "x")
    assert layout.row(layout.front(record), None, values_of(ANSWER)) == b"x,pending,i1,email_1,,true,,,,,,,\n"
    failed = cells_of(layout.row(layout.front(record), None, values_of(FAILURE)))
    assert failed[6:] == [
        f"AuthenticationError: {FAILURE.error}",
        "AuthenticationError",
        "401",
        "bad_key",
        "t",
        "0",
        "false",
    ]


def test_many_answers_are_written_as_one_is():
    """A bare CR is quoted, too."""
    answers = [ANSWER, LeadStatus("y", WorkflowStatus("odd\r")), ANSWER]
    for layout in (Layout("csv"), Layout("tsv"), Layout("jsonl"), Layout("csv", safe=True)):
        fronts = [layout.front(Record(1, answer.lead_id)) for answer in answers]
        one_by_one = [
            layout.row(front, None, values_of(one)) for front, one in zip(fronts, answers, strict=True)
        ]
        assert layout.answers(fronts, answers) == b"".join(one_by_one)
    assert b'"odd\r"' in Layout("csv").answers([["y"]], answers[1:2])


def test_columns_that_are_there_already_keep_their_names():
    """Ours get a prefix, as often as it takes."""
    layout = Layout("csv", columns=["lead_id", "error", "leadstatus_error"], several=True)
    names = cells_of(layout.header)
    assert names[:5] == ["lead_id", "error", "leadstatus_error", "campaign_id", "workflow_status"]
    assert "leadstatus_leadstatus_error" in names
    layout = Layout("jsonl", columns=["lead_id"])
    front = layout.front(Record(1, "x", None, '{"lead_id": "x", "error": 1}'))
    row = json.loads(layout.row(front, None, values_of(ANSWER)))
    assert (row["error"], row["leadstatus_error"], row["workflow_status"]) == (1, None, "pending")


def test_rows_of_objects_keep_their_text():
    """To the byte: numbers, spaces and escapes."""
    layout = Layout("jsonl", columns=["lead_id"])
    for text in ('{"lead_id":"x" , "n": 1.50e3, "t": "\\u00e9"}', "{ }", '{"a":[{}]}'):
        front = layout.front(Record(1, "x", None, text))
        row = layout.row(front, None, values_of(ANSWER)).decode()
        assert row.startswith(text[:-1].rstrip())
        assert list(json.loads(row))[-12:] == list(COLUMNS[1:])
        assert layout.parse(row.encode()).front == front


def test_rows_of_cells_as_objects():
    """The header names the keys."""
    layout = Layout("jsonl", columns=["Lead", "b"], column="Lead")
    front = layout.front(Record(2, "x", None, ["x"]))
    row = json.loads(layout.row(front, None, values_of(ANSWER)))
    assert list(row)[:3] == ["Lead", "b", "workflow_status"]
    assert (row["Lead"], row["b"], layout.lead_id(front)) == ("x", "", "x")


def test_short_and_long_rows_have_the_width_of_the_header():
    """Nothing of a long one is lost."""
    layout = Layout("csv", columns=["lead_id", "b"])
    assert layout.front(Record(2, "x", None, ["x"])) == ["x", ""]
    assert layout.front(Record(2, "x", None, ["x", "1", "2"])) == ["x", "1,2"]


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"), ("+x", "'+x"), ("-5", "'-5"), ("@x", "'@x"), ("\tx", "'\tx"), ("\rx", "'\rx"),
        ("507191", "'507191"), ("5071e7", "'5071e7"), ("5071E7", "'5071E7"), ("'=x", "''=x"), ("'12", "''12"),
        ("507f1f", "507f1f"), ("x=1", "x=1"), ("1.5", "1.5"), ("'x", "'x"), ("", ""), ("5e", "5e"),
    ],
)  # fmt: skip
def test_cells_are_safe_for_spreadsheets(cell, written):
    """What would be a formula or a number is text; and it can be taken off again."""
    layout = Layout("csv", safe=True)
    assert layout.header.startswith("\ufefflead_id,".encode())
    front = layout.front(Record(1, cell))
    assert front == [written]
    assert unsafe(written) == cell
    assert layout.lead_id(front) == cell.strip()
    odd = LeadStatus("x", WorkflowStatus(cell or "x"), None, cell)
    assert cells_of(layout.row(front, None, values_of(odd)))[3] == written


@given(
    own=st.lists(TEXT, min_size=2, max_size=2),
    form=st.sampled_from(["csv", "tsv", "jsonl"]),
    safe=st.booleans(),
    several=st.booleans(),
    enriched=st.booleans(),
    failed=st.booleans(),
)
def test_a_row_is_read_as_it_was_written(own, form, safe, several, enriched, failed):
    """Whatever stands in its cells: front, campaign, ID, and whether it is worth asking again."""
    layout = Layout(form, several=several, columns=["k", "lead_id"] if enriched else None, safe=safe)
    record = Record(2, own[1].strip(), None, own)
    front, outcome = layout.front(record), FAILURE if failed else ANSWER
    raw = layout.row(front, "c1" if several else None, values_of(outcome))
    (whole,) = whole_rows(io.BytesIO(raw), cellular=form != "jsonl")
    row = layout.parse(whole)
    assert row.front == front
    assert row.campaign == ("c1" if several else None)
    assert layout.lead_id(row.front) == record.lead_id
    assert worth_asking(row.values) is failed
    assert layout.row(row.front, row.campaign, values_of(outcome)) == raw


@given(
    rows=st.lists(st.lists(TEXT, min_size=2, max_size=2), max_size=4),
    cut=st.integers(0, 200),
    form=st.sampled_from(["csv", "jsonl"]),
)
def test_a_torn_tail_is_cut_off(rows, cut, form):
    """Wherever it is torn, inside a quoted cell too: what is left are whole rows, all of them."""
    layout = Layout(form, columns=["k", "lead_id"])
    written = [layout.row(layout.front(Record(1, "", None, row)), None, values_of(ANSWER)) for row in rows]
    text = b"".join(written)[:cut]
    whole = list(whole_rows(io.BytesIO(text), cellular=form == "csv"))
    assert whole == written[: len(whole)]
    assert sum(map(len, written[: len(whole) + 1])) > len(text) or len(whole) == len(written)


@pytest.mark.parametrize("raw", [b"a,b\n", b"a\rb\n", b"\n", b"[1]\n", b"nothing\n", b"{}\n", b'{"a": 1}\n'])
def test_what_is_no_row_of_the_layout(raw):
    """Another program's."""
    assert Layout("csv").parse(raw) is None
    assert Layout("jsonl").parse(raw) is None


def test_a_row_that_cannot_be_asked_for():
    """Is not asked again, and says its line."""
    values = refused("line 7", "is empty")
    assert values[COLUMNS.index("error") - 1] == "InvalidLeadIdError: line 7: the ID is empty"
    assert not worth_asking(values)
    assert worth_asking(values_of(LeadFailure("x", MissingLeadError(""))))
