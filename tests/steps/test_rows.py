"""Rows that are read one by one: what is damaged loses no neighbour, and costs bounded time (c1, h3, h7)."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from benchmarks.hostile import bodies
from leadstatus_async._steps import rows as module
from leadstatus_async._steps.decipher import Failure, Sort, decipher
from leadstatus_async._steps.redact import Redactor
from leadstatus_async._steps.rows import BadRow, Rows, cut, presented
from leadstatus_async.models import LeadStatus, WorkflowStatus

NO_HEADERS = CIMultiDict[str]()
PENDING = WorkflowStatus.PENDING
END = b'], "next": {"a": [1, {}]}}, "error": null, "traceId": "t"}'


def body(*rows: bytes, start: bytes = b'{"success": true, "data": {"items": [', end: bytes = END) -> bytes:
    """Return an answer with the rows given, as they stand."""
    return start + b", ".join(rows) + end


def row(lead_id: str, more: bytes = b"") -> bytes:
    """Return a row, with more fields as they stand."""
    return b'{"leadId": "%s", "workflowStatus": "pending"%s}' % (lead_id.encode(), more)


def shown(answer: Rows) -> Rows:
    """Return rows as they are shown when they meet their leads."""
    items = [one if isinstance(one, BadRow) else presented([one], Redactor())[0] for one in answer.items]
    return msgspec.structs.replace(answer, items=items)


def read(content: bytes) -> Rows:
    """Decipher a 200 that must bring rows."""
    answer = decipher(200, NO_HEADERS, content)
    assert isinstance(answer, Rows)
    return shown(answer)


DAMAGES = {
    "line break": b', "latestStep": "two\nlines"',
    "tab": b', "latestStep": "a\tb"',
    "control character": b', "latestStep": "a\x01b"',
    "NUL": b', "latestStep": "a\0b"',
    "Latin-1": b', "latestStep": "caf\xe9"',
    "torn UTF-8": b', "latestStep": "\xf0\x9f\x99"',
    "surrogate in UTF-8": b', "latestStep": "\xed\xa0\xbd"',
    "NaN": b', "score": NaN',
    "Infinity": b', "score": [1, -Infinity]',
    "escape of nothing": b', "latestStep": "\\x41"',
    "leading zero": b', "score": 007',
    "trailing comma": b", ",
    "no comma": b' "latestStep": "x"',
    "single quotes": b", 'a': 'b'",
    "nested": b', "meta": {"a": [{"b": "\n"}, "}"]}',
    "deeply nested": b', "meta": ' + b"[" * 20_000 + b"]" * 20_000,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_damaged_row_costs_its_lead_only(damage, place):
    """Its neighbours are read; it becomes its lead's error, or, if its ID cannot be read, nobody's row."""
    good = [row("a"), row("b", b', "meta": {"x": ["]", "}"]}')]
    answer = read(body(*good[:place], row("bad", DAMAGES[damage]), *good[place:]))
    found = {one.lead_id: one for one in answer.items}
    assert found.pop("a") == LeadStatus("a", PENDING)
    assert found.pop("b") == LeadStatus("b", PENDING)
    assert answer.trace_id == "t"
    assert (len(found), answer.unreadable) in ((1, 0), (0, 1))
    for bad in found.values():
        assert isinstance(bad, BadRow)
        assert bad.lead_id == "bad"
        assert "malformed" in str(bad.error)


@pytest.mark.parametrize(
    "damage", ["line break", "tab", "control character", "Latin-1", "torn UTF-8", "NaN", "Infinity"]
)
def test_whose_a_damaged_row_is_can_be_told(damage):
    """What is wrong elsewhere in a row does not hide its ID."""
    (bad,) = read(body(row("bad", DAMAGES[damage]))).items
    assert isinstance(bad, BadRow)
    assert bad.lead_id == "bad"


@pytest.mark.parametrize(
    "lead_id",
    [b"a\\ud83d", b"\\udc00", b"a\xe9", b"a\xed\xa0\xbd"],
    ids=["half", "other half", "Latin-1", "UTF-8"],
)
def test_a_damaged_id_answers_nobody(lead_id):
    """Mended, it would be another's: `a?`."""
    answer = read(body(b'{"leadId": "%s", "workflowStatus": "pending"}' % lead_id, row("a?")))
    assert answer.items == [LeadStatus("a?", PENDING)]
    assert answer.unreadable == 1


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + body(b'{"leadId": "a\xe9", "workflowStatus": "pending"}'),
        body(b'{"leadId": "a?", "workflowStatus": "pending"}')
        .decode()
        .replace("a?", "a\ud83d")
        .encode("utf-16", "surrogatepass"),
    ],
    ids=["BOM", "UTF-16"],
)
def test_no_encoding_mends_an_id(content):
    """Nor does reading another encoding make of a damaged ID one that was asked for."""
    answer = read(content)
    assert answer.items == []
    assert answer.unreadable == 1


def test_half_an_emoji_in_a_key_is_nobodys_matter():
    """A field that nobody knows may have any name."""
    answer = read(body(row("a"), row("b", b', "\\ud83d": 1')))
    assert answer.items == [LeadStatus("a", PENDING), LeadStatus("b", PENDING)]


@pytest.mark.parametrize("key", [b'"da ta": {"items": [', b'"data": {"it ems": ['])
def test_a_key_with_a_blank_in_it_is_another(key):
    """Rows are taken from `data.items` alone."""
    content = b'{"success": true, ' + key + row("a", b", NaN") + b']}, "data": {"items": []}}'
    assert isinstance(decipher(200, NO_HEADERS, content), Failure)


def test_half_an_emoji_is_text_all_the_same():
    """A lone surrogate is JSON: the row is read, and what nobody could encode is replaced (c4)."""
    answer = read(
        body(row("a", b', "latestStep": "call \\ud83d"'), row("b", b', "latestStep": "\\ud83d\\ude42"'))
    )
    assert [one.latest_step for one in answer.items] == ["call ?", "\U0001f642"]


def test_a_long_text_is_cut():
    """2,000 characters of it are kept, and the row is good."""
    (status,) = read(body(row("a", b', "latestStep": "%s"' % (b"x" * 5000)))).items
    assert status == LeadStatus("a", PENDING, None, "x" * 2000)


@pytest.mark.parametrize(
    "content",
    [
        body(row("a", b"\n, NaN")).replace(b'"items"', b'"item"'),
        body(row("a", b"NaN"), start=b'{"success": true, "data": {"x": {"items": [', end=b"]}}}"),
        body(row("a", b"NaN"), start=b'{"data": 5, "meta": {"items": [', end=b"]}}"),
        body(row("a", b"NaN"), start=b'{"data": {"x\\"items": [', end=b"]}}"),
        body(row("a", b"NaN"), start=b'[{"data": {"items": [', end=b"]}}]"),
        body(row("a", b"NaN"), start=b'{"data": [{"items": [', end=b"]}]}"),
        body(row("a", b"NaN"), end=b'], "items": [{}]}}'),
        body(row("a", b"NaN"), end=b'], "items": []}}'),
        body(row("a", b"NaN"), end=b"]}"),
        body(row("a", b"NaN"), end=b"]}}}"),
        body(row("a", b"NaN"), end=b"}]}}"),
        body(row("a", b"NaN"), end=b""),
        body(row("a", b'NaN, "'), end=END),
        body(row("a", b'NaN, "\\"'), end=END),
        b'"' + body(row("a", b"NaN")),
        b"]" + body(row("a", b"NaN")),
        body(row("a", b"NaN"), end=b'], "meta": oops}}'),
    ],
    ids=lambda content: ascii(content)[-40:],
)
def test_where_the_rows_are_no_telling(content):
    """No `data.items` that can be cut out, or a rest that is no JSON: not believed, and asked again."""
    answer = decipher(200, NO_HEADERS, content)
    assert isinstance(answer, Failure)
    assert answer.sort is Sort.PASSING
    assert answer.disbelieved


@pytest.mark.parametrize(
    "key", [b'"data"  :\n {"items"\t: [', b'"data":{"items":[', b'"x": {"items": []}, "data": {"items": [']
)
def test_rows_are_found_however_they_are_spaced(key):
    """Blanks between keys and values, and other lists of that name."""
    answer = read(body(row("a"), b"NaN", start=b'{"success": true, ' + key))
    assert answer.items == [LeadStatus("a", PENDING)]


def test_what_is_no_row_is_counted():
    """Between rows, before and after them: numbers, texts with commas, lists."""
    content = body(b"5", b'"a, b"', row("a", b""), b"null", b'["x", {}]', row("b"), b"NaN")
    answer = read(content)
    assert [one.lead_id for one in answer.items] == ["a", "b"]
    assert answer.unreadable == 5


def test_brackets_are_bounded(monkeypatch):
    """An answer with more of them than any answer has is not taken apart to the end."""
    monkeypatch.setattr(module, "_MOST_BRACKETS", 10)
    assert cut(body(*[row("a")] * 3, end=b"]}}")) is not None
    assert cut(body(*[row("a")] * 4, end=b"]}}")) is None


def test_damaged_rows_are_bounded(monkeypatch):
    """By number, and by bytes: beyond that they are nobody's, and the good ones are read all the same."""
    bad = [row(f"bad{number}", b', "x": "%s", "y": NaN' % (b"x" * 300)) for number in range(4)]
    content = body(*bad[:3], row("b"), bad[3], row("d"))
    for name, bound in (("_MOST_DAMAGED", 2), ("_MOST_LOOSE_BYTES", 2 * len(bad[0]))):
        monkeypatch.setattr(module, name, bound)
        answer = read(content)
        assert [one.lead_id for one in answer.items] == ["bad0", "bad1", "b", "d"]
        assert answer.unreadable == 2
        monkeypatch.undo()


def test_one_huge_damaged_row_costs_its_lead_only():
    """However large: its neighbours are read."""
    huge = row("big", b', "x": NaN, "y": "%s"' % (b"y" * 600_000))
    answer = read(body(row("a"), huge, row("b")))
    assert [one.lead_id for one in answer.items] == ["a", "b"]
    assert answer.unreadable == 1


def test_long_texts_are_no_damage():
    """An answer whose every text is long is read, cut at 2,000 characters."""
    rows = [row(f"l{number}", b', "latestStep": "%s"' % (b"x" * 5500)) for number in range(100)]
    answer = read(body(*rows))
    assert [one.latest_step for one in answer.items] == ["x" * 2000] * 100
    assert not answer.unreadable


@pytest.mark.parametrize("size", [1000, 20_000])
@pytest.mark.parametrize("name", bodies(1000))
def test_hostile_bodies_make_rows_or_a_failure(name, size):
    """Whatever is nasty about a body, it raises nothing and answers for nobody it does not name."""
    content = bodies(size)[name]
    for status in (200, 500):
        answer = decipher(status, NO_HEADERS, content)
        if isinstance(answer, Rows):
            assert all(one.lead_id.encode() in content for one in answer.items)
        else:
            assert len(str(answer.error)) < 1000


def test_more_objects_than_any_answer_has_are_not_decoded():
    """Beyond a mebibyte they are counted first."""
    tiny = b'{"leadId":"x","workflowStatus":"pending"}'
    answer = decipher(200, NO_HEADERS, body(*[tiny] * 50_001))
    assert isinstance(answer, Failure)
    assert "more than 50000 objects" in str(answer.error)
    assert len(read(body(*[tiny] * 49_990)).items) == 49_990


pieces = st.sampled_from(
    [
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b"\\",
        b",",
        b":",
        b'"leadId"',
        b'"data"',
        b'"items"',
        b'"a"',
        b"NaN",
        b"\n",
        b"\xe9",
        b"1",
    ]
)


@given(junk=st.lists(pieces, max_size=12).map(b"".join), place=st.integers(0, 2))
def test_junk_between_rows_invents_nothing(junk, place):
    """Any junk in the list: the rows that are read are rows that stand there."""
    rows = [row("a"), row("b")]
    rows.insert(place, junk)
    answer = decipher(200, NO_HEADERS, body(*rows))
    if isinstance(answer, Rows):
        for one in shown(answer).items:
            assert isinstance(one, BadRow) or one in (LeadStatus("a", PENDING), LeadStatus("b", PENDING))


def test_an_envelope_larger_than_any_is_not_read():
    """What is left of a damaged answer without its rows is read up to a bound."""
    large = body(row("a", b", NaN"), end=b'], "x": "%s"}}' % (b"x" * 600_000))
    answer = decipher(200, NO_HEADERS, large)
    assert isinstance(answer, Failure)
    assert "JSON" in str(answer.error)
    assert isinstance(decipher(500, NO_HEADERS, b"[" * 600_000), Failure)


@pytest.mark.parametrize(
    "end", [b'\\"' * 33_000 + b'"', b'\\"' * 30_000 + b'\\\n"'], ids=["beyond the bound", "line break"]
)
def test_a_text_of_escapes_between_rows_is_one_thing(end):
    """Looked at once, not at each of its characters anew: once it took seconds."""
    answer = read(body(b'"' + end, row("a")))
    assert [one.lead_id for one in answer.items] == ["a"]
    assert answer.unreadable in (1, 2), "what is cut is counted as far as it was looked at"
