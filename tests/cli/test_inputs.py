"""What is read of arguments, files and standard input: one record for each line."""

from __future__ import annotations

import contextlib
import csv
import io
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leadstatus_async.cli.inputs import Reading, Source
from leadstatus_async.errors import ConfigurationError


def read(tmp_path, name, content, *, arguments=(), **reading):
    """Return the source of a file, and its records as (line, ID, what is wrong)."""
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with contextlib.closing(Source(list(arguments), str(file), Reading(**reading))) as source:
        return source, [(record.line, record.lead_id, record.wrong) for record in source]


def whole(file):
    """Return all records of a file."""
    with contextlib.closing(Source([], str(file))) as source:
        return list(source)


HASH = "begins with #: give --comment '#' to leave such lines out"
OPEN = "cannot be read: a quote on this line is not closed, or its cell is longer than 4 MiB"
NO_OBJECT = "cannot be read: the line is no JSON object"


@pytest.mark.parametrize(
    ("name", "content", "records"),
    [
        (
            "ids.txt",
            "\ufeffa\r\n  b\t\n\n#c\rd",
            [(1, "a", None), (2, "b", None), (3, "", None), (4, "#c", HASH), (5, "d", None)],
        ),
        ("ids", "a\n  ", [(1, "a", None), (2, "", None)]),
        (
            "a.csv",
            '\ufeffn,Lead ID\r\n"x, ""y""",a\r\n"two\r\nlines", b \r\nz,c',
            [(2, "a", None), (3, "b", None), (5, "c", None)],
        ),
        (
            "a.csv",
            "lead_id,n\na\n\n,x\n \nb,y,z\n",
            [
                (2, "a", None),
                (3, "", None),
                (4, "", None),
                (5, "", None),
                (6, "b", "stands in a row of 3 cells under a header of 2"),
            ],
        ),
        (
            "a.csv",
            'lead_id,n\na,1\n"b,2\nc,3\n"d",4\n',
            [(2, "a", None), (3, '"b,2', OPEN), (4, "c", None), (5, "d", None)],
        ),
        (
            "a.csv",
            'lead_id,n\na,"1\nb,"2\nc,"3\nd,4\n',
            [
                (2, 'a,"1', OPEN),
                (3, 'b,"2', OPEN),
                (4, 'c,"3', OPEN),
                (5, "d", None),
            ],
        ),
        ("a.csv", 'lead_id,n\n"a,1\nb,"\nc,3\n', [(2, '"a,1', OPEN), (3, 'b,"', OPEN), (4, "c", None)]),
        ("a.csv", f'lead_id,n\na,"{"x" * 2**22}\nb,2\n', [(2, f'a,"{"x" * 2**22}', OPEN), (3, "b", None)]),
        ("a.TSV", "Lead-Ids\tn\na\t1\nb,c\t\n", [(2, "a", None), (3, "b,c", None)]),
        (
            "a.jsonl",
            '\n{"LeadId":"a"}\n[1]\nnot\n{"leadid":7}\n{"LeadId":null}\n{"y":1}\n{"LeadId":1.5}\n{"LeadId":true}\n',
            [
                (1, "", None),
                (2, "a", None),
                (3, "[1]", NO_OBJECT),
                (4, "not", NO_OBJECT),
                (5, "7", None),
                (6, "", None),
                (7, "", "is missing: the object has no 'LeadId'"),
                (8, "1.5", "is float, not text"),
                (9, "true", "is bool, not text"),
            ],
        ),
        (
            "a.ndjson",
            '{"lead_id": 123456789012345678901234567890}\n{"lead_id": " \\ud800 "}\n',
            [
                (1, "123456789012345678901234567890", None),
                (2, "\\ud800", "contains a lone surrogate"),
            ],
        ),
        ("a.jsonl", "[" * 100_000 + "\n", [(1, "[" * 100_000, NO_OBJECT)]),
        (
            "a.jsonl",
            "x\n" * 1001 + '{"lead_id": "a"}\n',
            [*((line, "x", NO_OBJECT) for line in range(1, 1002)), (1002, "a", None)],
        ),
        ("ids.txt", b"a\xff\n", [(1, "a\udcff", None)]),
    ],
)
def test_every_line_has_its_record(tmp_path, name, content, records):
    """With the line on which it begins; nothing ends the reading."""
    assert read(tmp_path, name, content)[1] == records


def test_what_is_asked_to_be_left_out(tmp_path):
    """Blank lines and comments, and they are counted."""
    options = {"skip_blank": True, "comment": "#"}
    source, records = read(tmp_path, "a.csv", "# made by\n\nlead_id,n\n#1,2\n\na,1\n", **options)
    assert (records, source.skipped) == ([(6, "a", None)], 4)
    source, records = read(tmp_path, "a.jsonl", '\n# x\n{"lead_id": "a"}\n', **options)
    assert (records, source.skipped) == ([(3, "a", None)], 2)
    source, records = read(tmp_path, "a.txt", "\n#x\n a\n", **options)
    assert (records, source.skipped) == ([(3, "a", None)], 2)


@pytest.mark.parametrize(
    ("header", "wanted", "column"),
    [
        ("Name,Lead ID,x", None, "Lead ID"),
        ("Name,LEAD_IDS", None, "LEAD_IDS"),
        ("Name,lead id,Lead ID", "Lead ID", "Lead ID"),
        ("Name, contact ,x", "CONTACT", " contact "),
    ],
)
def test_the_column_of_the_ids(tmp_path, header, wanted, column):
    """By its name, exactly or nearly; or the one that is called so."""
    source, _ = read(tmp_path, "a.csv", header + "\n", column=wanted)
    assert (source.column, source.guessed) == (column, wanted is None)


@pytest.mark.parametrize(
    ("name", "content", "reading", "says"),
    [
        ("a.csv", "a,b\n", {}, "has no column of lead IDs; give --column with one of its columns: 'a', 'b'"),
        ("a.csv", "leadid,lead id\n", {}, "2 columns that could hold the lead IDs"),
        ("a.csv", "leadid,leadid\n", {"column": "leadid"}, "2 columns that could hold"),
        ("a.csv", "a,b\n", {"column": "c"}, "has no column 'c'"),
        ("a.jsonl", 'x\n{"a": 1}\n', {}, "keys of the first object: 'a'"),
        ("a.jsonl", "{}\n", {}, "none"),
        ("a.bin", b"abc\0def\n", {}, "is no UTF-8 text"),
        ("a.txt", "a", {"encoding": "klingon"}, "--encoding klingon is not known"),
        ("a.txt", "a", {"form": "xml"}, "--input-format must be auto, text, csv, tsv, jsonl, not xml"),
        ("a.csv", "lead_id\n", {"arguments": ["x"]}, "do not go with a file of CSV"),
        ("a.txt", "a", {"arguments": ["-"]}, "one of them can be read"),
    ],
)
def test_what_cannot_be_read(tmp_path, name, content, reading, says):
    """One sentence, before anything is asked."""
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, name, content, **reading)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("encoding", "text"), [("cp1252", "Zo\xeb"), ("utf-16", "Zo\xeb"), ("UTF_8", "Zo\xeb")]
)
def test_other_encodings(tmp_path, encoding, text):
    """As told."""
    _, records = read(tmp_path, "a.csv", f"n,lead_id\n{text},{text}\n".encode(encoding), encoding=encoding)
    assert records == [(2, text, None)]


def test_how_many_there_are(tmp_path):
    """Counted quickly, where that is possible."""
    for name, content in (("a.csv", "lead_id\na\nb\n"), ("a.txt", "a\nb\n")):
        source, records = read(tmp_path, name, content)
        assert source.count() == len(records) == 2
    source = Source(["a", "b"], None)
    assert (source.count(), source.regular) == (2, True)
    assert [record.place for record in source] == ["argument 1", "argument 2"]


CELLS = st.text(st.sampled_from('ab ,"\n\r\t#\xe9\U0001f600'), max_size=6)


ROWS = st.tuples(st.text(st.sampled_from('ab ,"#\xe9'), max_size=6), CELLS).map(list)


@given(st.lists(ROWS, max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_csv_is_read_as_csv_says(tmp_path_factory, rows, end):
    """Whatever stands in the cells: one record for each row, with its cells."""
    file = tmp_path_factory.mktemp("csv") / "a.csv"
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([["lead_id", "n"], *rows])
    file.write_bytes(text.getvalue().encode())
    records = whole(file)
    assert [record.own for record in records] == rows
    assert [record.lead_id for record in records] == [row[0].strip() for row in rows]
    lines = io.StringIO(text.getvalue(), newline="").readlines()
    for record, row in zip(records, rows, strict=True):
        assert next(csv.reader(lines[record.line - 1 :])) == row


@pytest.mark.parametrize("seed", range(20))
def test_no_line_is_lost_to_a_quote(tmp_path, seed):
    """Some quotes are never closed: still each ID is in a record."""
    random.seed(seed)
    lines = [f"id{number},{random.choice(['x', 'x', chr(34) + 'x'])}" for number in range(40)]
    _, records = read(tmp_path, "a.csv", "lead_id,n\n" + "\n".join(lines) + "\n")
    told = " ".join(f"{record.lead_id} {record.own}" for record in whole(tmp_path / "a.csv"))
    assert all(f"id{number}" in told for number in range(40)), seed
    assert records
