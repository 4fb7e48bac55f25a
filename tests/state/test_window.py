"""What lies between a source and its consumer: nothing lost, nothing twice, nothing out of turn."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leadstatus_async._state.window import Window
from leadstatus_async.errors import InvalidLeadIdError
from leadstatus_async.models import LeadFailure, LeadStatus, WorkflowStatus


def status(lead_id):
    """Return an answer."""
    return LeadStatus(lead_id, WorkflowStatus.PENDING)


def window(*, ordered=True, most=100):
    """Return a window that holds any ID of up to 30 bytes."""
    return Window(ordered=ordered, most=most, max_id_bytes=400)


def drain(window):
    """Return the lead IDs that are ready, in their order."""
    got = []
    while (outcomes := window.take()) is not None:
        got += [outcome.lead_id for outcome in outcomes]
        window.yielded(len(outcomes))
    return got


def test_runs_pass_through_as_they_are():
    """Not one by one: a run of outcomes is handed out as the very list it came as."""
    between = window()
    between.admit(["a", "b"])
    run = [status("a"), status("b")]
    assert between.settle(0, run) is run
    assert between.take() is run
    assert between.take() is None


@pytest.mark.parametrize(
    ("ordered", "first"), [(True, []), (False, ["c", "d"])], ids=["ordered", "as they come"]
)
def test_order(ordered, first):
    """In the order read, a run waits for those before it; else it does not."""
    between = window(ordered=ordered)
    assert between.admit(["a", "b"]) == (["a", "b"], [])
    assert between.admit(["c", "d"]) == (["c", "d"], [])
    between.settle(2, [status("c"), status("d")])
    assert drain(between) == first
    between.settle(0, [status("a"), status("b")])
    assert first + drain(between) == (["a", "b", "c", "d"] if ordered else ["c", "d", "a", "b"])


def test_space():
    """What was read takes space until it was yielded."""
    between = window(most=5)
    between.admit(["a", "b", "b"])
    assert (between.space, between.read, between.held) == (2, 3, 3)
    between.settle(0, [status("a"), status("b")])
    drain(between)
    assert (between.space, between.read, between.held) == (5, 3, 0)


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as they come"])
def test_what_cannot_be_asked_for_is_known_at_once(ordered):
    """Its failure says at which position of the whole stream it stood; it waits for its turn only."""
    between = window(ordered=ordered)
    between.admit(["a"])
    asked, failures = between.admit(["b,c", 7, "d"])
    assert asked == ["d"]
    assert [failure.error.bad[0][:2] for failure in failures] == [(1, "b,c"), (2, 7)]
    assert all(isinstance(failure.error, InvalidLeadIdError) for failure in failures)
    assert drain(between) == ([] if ordered else ["b,c", "7"])
    between.settle(0, [status("a"), status("d")])
    assert drain(between) == (["a", "b,c", "7", "d"] if ordered else ["a", "d"])


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as they come"])
def test_repeated_in_a_block(ordered):
    """Asked once, answered at each position; all of them are told of when it is settled."""
    between = window(ordered=ordered)
    assert between.admit(["a", "b", "a", "a", "c", "b"]) == (["a", "b", "c"], [])
    settled = between.settle(0, [status("a"), status("b")])
    assert sorted(outcome.lead_id for outcome in settled) == ["a", "a", "a", "b", "b"]
    between.settle(2, [status("c")])
    got = drain(between)
    assert got == ["a", "b", "a", "a", "c", "b"] if ordered else sorted(got) == ["a", "a", "a", "b", "b", "c"]
    assert (between._repeated, between._kept, between.held) == ({}, {}, 0), "nothing is kept"


ids = st.sampled_from(["a", "b", "c", "d", "e", "f", "bad id", "", 7, None, ["list"]])


@given(st.lists(st.lists(ids, max_size=8), max_size=8), st.booleans(), st.integers(0, 2**32))
def test_any_source_in_any_order_of_answers(blocks, ordered, seed):
    """Each position of each block comes out once, in order if ordered; what is told adds up."""
    dice = random.Random(seed)
    between, out, got, told, at = window(ordered=ordered, most=10**6), [], [], 0, 0

    def answer():
        nonlocal told
        first, asked = out.pop(dice.randrange(len(out)))
        outcomes = [status(lead_id) if dice.random() < 0.8 else failed(lead_id) for lead_id in asked]
        told += len(between.settle(first, outcomes))

    for block in blocks:
        asked, failures = between.admit(block)
        told += len(failures)
        while asked:  # in requests of any size
            size = dice.randint(1, len(asked))
            out.append((at, asked[:size]))
            at, asked = at + size, asked[size:]
        if out and dice.random() < 0.5:
            answer()
            got += drain(between)
    while out:
        answer()
    got += drain(between)
    wanted = [value if isinstance(value, str) else repr(value) for block in blocks for value in block]
    assert got == wanted if ordered else sorted(got) == sorted(wanted)
    assert told == len(wanted) == between.read
    assert between.held == 0


def failed(lead_id):
    """Return a failure."""
    return LeadFailure(lead_id, ValueError("no"))
