"""Which row answers which lead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leadstatus_async._steps.decipher import BadRow, Rows
from leadstatus_async._steps.merge import merge
from leadstatus_async.errors import MissingLeadError, ResponseDecodeError
from leadstatus_async.models import LeadFailure, LeadStatus, WorkflowStatus

PENDING, STOPPED = WorkflowStatus.PENDING, WorkflowStatus.STOPPED
names = st.sampled_from([f"lead{number}" for number in range(12)])


def good(lead_id, status=PENDING):
    """Return a good row."""
    return LeadStatus(lead_id, status)


def bad(lead_id):
    """Return a malformed row."""
    return BadRow(lead_id, ResponseDecodeError("malformed", lead_ids=[lead_id]))


def shape(merged):
    """Return what a merge made of each lead, in a form that compares."""
    return [one if one.ok else (one.lead_id, type(one.error), str(one.error)) for one in merged.outcomes]


def test_rows_in_order_are_taken_as_they_are():
    """The usual answer is handed on without a copy."""
    rows = Rows([good("a"), good("b")], clean=True, plain=True)
    merged = merge(["a", "b"], rows)
    assert merged.outcomes is rows.items
    assert (merged.failed, merged.foreign) == (0, 0)


@pytest.mark.parametrize("clean", [True, False])
def test_rows_are_placed_by_id(clean):
    """Rows in any order, with duplicates and foreign ones, answer the leads whose IDs they carry."""
    rows = [good("c"), good("x"), good("a", STOPPED), good("a", PENDING), good("b"), good("x"), good("c")]
    merged = merge(["a", "b", "c"], Rows(rows, clean=clean))
    assert merged.outcomes == [good("a", STOPPED), good("b"), good("c")]
    assert (merged.failed, merged.foreign) == (0, 2)


def test_missing_lead():
    """A lead without a row is a failure that says so, with status, trace id and figures."""
    rows = Rows([good("b")], "t1", clean=True)
    merged = merge(["a", "b", "c"], rows, attempts=3, waited=1.5)
    assert [one.ok for one in merged.outcomes] == [False, True, False]
    assert merged.failed == 2
    error = merged.outcomes[0].error
    assert type(error) is MissingLeadError
    assert str(error) == "the answer has no row for this lead, which the API promises never to do"
    assert (error.status, error.trace_id, error.attempts, error.waited) == (200, "t1", 3, 1.5)
    assert error.lead_ids == ("a", "c")
    assert merged.outcomes[2] == LeadFailure("c", error)


def test_unreadable_rows_are_told():
    """Where rows do not say whose they are, the missing leads' error counts them."""
    merged = merge(["a"], Rows([], unreadable=2))
    assert str(merged.outcomes[0].error).endswith("(2 of its rows do not say whose they are)")


def test_malformed_row_loses_no_neighbour():
    """A malformed row is its own lead's failure, with the figures; the others are answered (c1)."""
    row = bad("b")
    merged = merge(["a", "b", "c"], Rows([good("a"), row, good("c")]), attempts=2, waited=0.5)
    assert merged.outcomes == [good("a"), LeadFailure("b", row.error), good("c")]
    assert (row.error.attempts, row.error.waited, row.error.lead_ids) == (2, 0.5, ("b",))
    assert merged.failed == 1


@pytest.mark.parametrize(("rows", "ok"), [([bad("a"), good("a")], False), ([good("a"), bad("a")], True)])
def test_first_row_counts(rows, ok):
    """The first row of an ID counts, malformed or not."""
    merged = merge(["a"], Rows(rows))
    assert [one.ok for one in merged.outcomes] == [ok]
    assert merged.failed == (not ok)


def test_clean_rows_for_fewer_leads():
    """A clean answer that is not exactly what was asked is placed row by row."""
    assert merge(["a"], Rows([good("a"), good("b")], clean=True)).foreign == 1
    assert merge(["a", "b"], Rows([good("a")], clean=True)).failed == 1
    assert merge(["a"], Rows([], clean=True)).failed == 1


@given(
    st.lists(names, unique=True),
    st.lists(names, unique=True),
    st.sets(names),
    st.randoms(use_true_random=False),
)
def test_order_of_arrival_does_not_matter(asked, answered, malformed, dice):
    """Every lead asked gets exactly one outcome, in the order asked, whatever the order of the rows."""
    rows = [bad(one) if one in malformed else good(one) for one in answered]
    shuffled = dice.sample(rows, len(rows))
    merged, again = merge(asked, Rows(rows)), merge(asked, Rows(shuffled))
    assert shape(merged) == shape(again)
    assert [one.lead_id for one in merged.outcomes] == asked
    assert [one.ok for one in merged.outcomes] == [one in answered and one not in malformed for one in asked]
    assert merged.failed == again.failed == sum(not one.ok for one in merged.outcomes)
    assert merged.foreign == again.foreign == len(set(answered) - set(asked))


@pytest.mark.parametrize(
    ("asked", "came", "how"),
    [
        ("Lead-1", "LEAD-1", "in another case"),
        ("0012", "12", "with other leading zeros"),
        ("12", "0012", "with other leading zeros"),
        ("caf\u00e9", "cafe\u0301", "in another Unicode form or spelling"),
        ("00AB", "ab", "in another Unicode form or spelling"),
    ],
)
@pytest.mark.parametrize("others", [[], ["x"]])
def test_a_row_with_the_id_in_another_spelling_is_named(asked, came, how, others):
    """It answers nobody, since it might be another lead's."""
    rows = Rows([good(one) for one in (came, *others)], clean=True)
    merged = merge([asked, *others], rows)
    error = merged.outcomes[0].error
    assert type(error) is MissingLeadError
    assert str(error) == f"the answer has no row for this lead, but one for {came!r}, which is its ID {how}"
    assert error.lead_ids == (asked,)
    assert (merged.failed, merged.foreign, merged.respelled) == (1, 1, 1)
    assert [one.ok for one in merged.outcomes[1:]] == [True] * len(others)


def test_a_row_of_a_lead_that_was_asked_for_is_nobodys_else():
    """Though it is the same but for its case."""
    merged = merge(["a", "A"], Rows([good("A")], clean=True))
    assert "which the API promises" in str(merged.outcomes[0].error)
    assert (merged.foreign, merged.respelled) == (0, 0)
