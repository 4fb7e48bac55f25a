"""Why requests were refused: which limit is believed, and when none is."""

from __future__ import annotations

import random

import pytest

from leadstatus_async._state.explain import Doubts, Explanation, explain
from leadstatus_async._state.record import Record
from leadstatus_async.testing.quota import FixedWindow, SlidingWindow, TokenBucket


def ask(admits, seconds, rates, *, pause=0.3, latency=0.01, start=1000.0):
    """Send at these rates in turn, each until it is refused, with pauses until something passes."""
    record, now, rates = Record(), start, iter(rates)
    rate = next(rates)
    paused = 0
    while now < start + seconds:
        if admits(now):
            record.passed(now + latency, now, rate)
            now += 1 / rate
            paused = 0
        else:
            record.refused(now + latency, now, rate)
            now += pause * 1.5**paused
            rate = rate if paused else next(rates, rate)
            paused += 1
    return record, now


def server(limit):
    """Return what decides for a limit."""
    return lambda now: limit.admit(now).admitted


@pytest.mark.parametrize(
    ("limit", "seconds", "rates"),
    [
        pytest.param(FixedWindow(20, 2), 10, [50, 30, 20], id="fixed window"),
        pytest.param(SlidingWindow(20, 2), 10, [50, 30, 20], id="sliding window"),
        pytest.param(SlidingWindow(60, 60), 300, [10, 8, 6, 5], id="a minute"),
        pytest.param(SlidingWindow(40, 7.5), 40, [20, 15, 12, 11, 10], id="an odd length"),
    ],
)
def test_a_window_is_found(limit, seconds, rates):
    """From what passed and what did not, and nothing else."""
    record, now = ask(server(limit), seconds, rates)
    why = explain(record, now, Doubts())
    assert why is not None
    assert (why.kind, why.number) == ("window", limit.max_rate)
    assert why.per == pytest.approx(limit.per, rel=0.05)
    assert str(why) == f"{limit.max_rate} per {why.per:.3g} s"


def test_a_bucket_is_as_fast_as_it_leaks():
    """The rate is found within a few percent."""
    record, now = ask(server(TokenBucket(10, 5)), 8, [30, 20, 15, 12])
    why = explain(record, now, Doubts())
    assert why is not None
    assert why.rate == pytest.approx(10, rel=0.08)
    assert str(why) == f"{why.rate:.3g} per second"


def test_one_refusal_tells_nothing():
    """Nor do two of one run."""
    record, now = ask(server(FixedWindow(20, 2)), 1.5, [50])
    assert explain(record, now, Doubts()) is None


def test_what_was_too_fast_is_not_tried_again():
    """An explanation whose rate was kept to and refused is none."""
    record, now = ask(server(SlidingWindow(20, 2)), 10, [50, 30, 20])
    why = explain(record, now, Doubts(too_fast=10.0))
    assert why is None or why.rate < 9.8


def test_a_lock_out_is_no_window():
    """Nothing passes for 30 s after a refusal: that may be a window of 30 s, or not."""
    record, now = Record(), 0.0
    for _ in range(3):
        for _ in range(40):
            record.passed(now + 0.01, now, 100.0)
            now += 0.01
        record.refused(now + 0.01, now, 100.0)
        now += 30
        record.passed(now + 0.01, now, 100.0)
        now += 0.01
    why = explain(record, now, Doubts())
    assert why is None or not why.slow


@pytest.mark.parametrize("seed", range(5))
def test_chance_is_told_by_its_having_no_reason(seed):
    """5% refused whatever is sent, at a rate that falls: after some refusals it is chance."""
    dice = random.Random(seed)
    record, now = ask(lambda _: dice.random() > 0.05, 60, [100, 80, 60, 50, 40], pause=0.2)
    why = explain(record, now, Doubts())
    assert why is not None
    assert str(why) == "by chance"
    assert why.rate == float("inf")
    assert explain(record, now, Doubts(tried_at=now)) is None


def test_many_refusals_are_no_chance():
    """Half of all: that is something else."""
    dice = random.Random(1)
    record, now = ask(lambda _: dice.random() > 0.5, 60, [20], pause=0.2)
    why = explain(record, now, Doubts())
    assert why is None or why.kind != "chance"


@pytest.mark.parametrize("most", [1, 4])
def test_too_many_at_once(most):
    """So many are worked on for 0.1 s each; others are refused at once, at any rate."""
    record, now = Record(), 0.0
    for _ in range(8):
        answers = [(now + 0.001 * place + 0.1, now + 0.001 * place) for place in range(most)]
        record.refused(now + 0.02, now + 0.01, 50.0)
        for came_at, sent_at in answers:
            record.passed(came_at, sent_at, 50.0)
        for _ in range(5):
            now += 0.3
            record.passed(now + 0.1, now, 3.0)
        now += 0.3
    why = explain(record, now, Doubts())
    assert why == Explanation("at once", most)
    assert str(why) == f"{most} at once"
    assert not why.is_rate


def test_a_limit_that_has_dropped_is_told():
    """What was refused last passed easily before: the explanation is outdated."""
    limits = iter([SlidingWindow(40, 2), SlidingWindow(10, 2)])
    before, after = next(limits), next(limits)
    record, now = ask(
        lambda now: (before if now < 1020 else after).admit(now).admitted, 30, [60, 50, 40, 30, 25, 19]
    )
    why = explain(record, now, Doubts())
    assert why is None or why.outdated


def test_what_was_forgotten_of_flights_explains_nothing():
    """Refusals whose flights are forgotten: nothing can be said about how many were in flight."""
    record, now = ask(server(SlidingWindow(20, 2)), 10, [50, 30, 20])
    record.flights, record.numbers = [], {}
    why = explain(record, now, Doubts())
    assert why is not None
    assert why.kind == "window"
