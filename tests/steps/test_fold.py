"""A list to its distinct IDs, and outcomes back to its positions."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leadstatus_async._steps.fold import BLOCK, Folded, blocks, refusals
from leadstatus_async.errors import InvalidLeadIdError
from leadstatus_async.models import LeadStatus, WorkflowStatus


def folded(lead_ids):
    """Return a list folded, and how often others had their turn meanwhile."""
    one = Folded()
    for block in blocks(lead_ids):
        one.add(block, max_id_bytes=400)
    return one, sum(1 for _ in one.fold())


def answered(lead_ids):
    """Return an answer for each."""
    return [LeadStatus(lead_id, WorkflowStatus.PENDING) for lead_id in lead_ids]


def test_a_plain_list_is_asked_as_it_is():
    """Nothing is copied or counted where no ID occurs twice."""
    one, turns = folded([f"x{number}" for number in range(2 * BLOCK)])
    assert one.asked is one.positions
    assert (one.distinct, one.weights, one.failed, turns) == (None, None, 0, 0)
    outcomes = answered(one.asked)
    assert one.unfold(outcomes) is outcomes


@pytest.mark.parametrize(("size", "turns"), [(10, 0), (BLOCK, 0), (BLOCK + 1, 1), (3 * BLOCK, 2)])
def test_a_long_list_with_duplicates_lets_others_run(size, turns):
    """Between two blocks; each ID is asked once, in the order of its first appearance."""
    lead_ids = [f"x{number % (size - 3)}" for number in range(size)]
    one, had = folded(lead_ids)
    assert had == turns
    assert one.asked == lead_ids[: size - 3]
    assert one.weights == [2, 2, 2] + [1] * (size - 6)
    assert [outcome.lead_id for outcome in one.unfold(answered(one.asked))] == lead_ids


def test_a_list_is_taken_as_it_was():
    """Whatever its owner does with it while it is read."""
    lead_ids = [f"x{number}" for number in range(2 * BLOCK)]
    source = blocks(lead_ids)
    first = next(source)
    lead_ids.clear()
    assert len(first) + sum(map(len, source)) == 2 * BLOCK


def test_refusals_say_where():
    """The position is that in the whole list; what is no str is shown as Python writes it."""
    failures = refusals([(7, 3.5, "is float"), (9, "a,b", "contains a comma")])
    assert [(at, failure.lead_id) for at, failure in failures.items()] == [(7, "3.5"), (9, "a,b")]
    assert all(isinstance(failure.error, InvalidLeadIdError) for failure in failures.values())


@given(st.lists(st.sampled_from(["a", "b", "c", "d", "no,good", "", 7]), max_size=30), st.integers(0, 2**32))
def test_every_position_has_its_own(lead_ids, seed):
    """Failures where it cannot be asked for, the answer of its ID elsewhere; weights add up."""
    dice = random.Random(seed)
    one = Folded()
    rest = list(lead_ids)
    while rest:  # in blocks of any size
        size = dice.randint(1, len(rest))
        one.add(rest[:size], max_id_bytes=400)
        rest = rest[size:]
    for _ in one.fold():
        pass
    good = [lead_id for lead_id in lead_ids if lead_id in ("a", "b", "c", "d")]
    assert one.asked == list(dict.fromkeys(good))
    assert one.failed == len(lead_ids) - len(good)
    assert sum(one.weights or [1] * len(one.asked)) == len(good)
    outcomes = one.unfold(answered(one.asked))
    assert [outcome.lead_id for outcome in outcomes] == [str(lead_id) for lead_id in lead_ids]
    assert [outcome.ok for outcome in outcomes] == [lead_id in good for lead_id in lead_ids]
