"""The outage rule, as a table of what is told to it and what it then allows."""

from __future__ import annotations

import math
import sys

import pytest

from leadstatus_async import (
    APIConnectionError,
    APITimeoutError,
    BadRequestError,
    RateLimitError,
    ResponseDecodeError,
    RetryPolicy,
    ServerError,
)
from leadstatus_async._state.outage import Outage, counts
from leadstatus_async._steps.decipher import Failure, Sort

POLICY = RetryPolicy(base_delay=0.5)


def run(script, policy=POLICY):
    """Feed (what, request, at) to a fresh rule: F failed, A answered, S sent, U untold, B again."""
    rule = Outage(policy)
    for what, name, at in script:
        request = sys.intern(name)  # requests are told apart by identity
        if what == "F":
            rule.failed(at, request, sys.intern(name.split("/")[0]))
        elif what == "A":
            rule.answered(at, request, at)
        elif what == "S":
            rule.sent(at, request)
        elif what == "B":
            rule.again(at, request)
        else:
            rule.untold(at, request)
    return rule


FIVE = [("F", f"r{number}", 1.0) for number in range(5)]


@pytest.mark.parametrize(
    ("script", "now", "wait"),
    [
        ([], 0.0, 0.0),
        (FIVE[:4], 1.0, 0.0),
        (FIVE, 1.0, 0.5),
        (FIVE, 1.5, 0.0),
        ([("F", "same", 1.0)] * 9, 1.0, 0.0),
        ([("F", "same", 1.0)] * 4 + [("F", "other", 1.0)], 1.0, 0.5),
        ([("F", "same", 1.0)] * 4 + [("F", "same/half", 1.0)], 1.0, 0.0),
        ([*FIVE[:4], ("A", "x", 1.0), FIVE[4]], 1.0, 0.0),
        ([("A", "x", 0.9), *FIVE], 1.0, 0.4),
        ([("A", "x", -9.0), *FIVE], 1.0, 0.0),
        ([*FIVE, ("A", "late", 1.2)], 1.2, 0.0),
        ([*FIVE, ("S", "p1", 1.5)], 1.5, math.inf),
        ([*FIVE, ("S", "p1", 1.5), ("F", "p1", 1.6)], 1.6, 0.9),
        ([*FIVE, ("S", "p1", 1.5), ("F", "p1", 9.9)], 9.9, 0.0),
        ([*FIVE, ("S", "p1", 1.5), ("F", "in-flight", 1.6)], 1.6, math.inf),
        ([*FIVE, ("S", "p1", 1.5), ("U", "p1", 1.6)], 1.6, 0.9),
        ([*FIVE, ("S", "p1", 1.5), ("B", "p1", 1.6)], 1.6, 0.0),
        ([*FIVE, ("S", "p1", 1.5), ("B", "other", 1.6)], 1.6, math.inf),
        ([*FIVE, ("S", "p1", 1.5), ("U", "other", 1.6)], 1.6, math.inf),
        ([*FIVE, ("S", "p1", 1.5), ("A", "p1", 1.6)], 1.6, 0.0),
        ([*FIVE, ("A", "late", 1.2), ("S", "t", 1.2)], 1.2, math.inf),
        ([*FIVE, ("A", "late", 1.2), ("S", "t", 1.2), ("F", "t", 1.3)], 1.3, 0.4),
        ([*FIVE, ("A", "late", 1.2), ("S", "t", 1.2), ("A", "t", 1.3), ("S", "x", 1.3)], 1.3, 0.0),
        ([*FIVE, ("S", "p1", 1.5), ("A", "late", 1.6)], 1.6, math.inf),
        ([*FIVE, ("S", "p1", 1.5), ("A", "late", 1.6), ("F", "p1", 1.7)], 1.7, 0.8),
        ([*FIVE, ("S", "p1", 1.5), ("F", "p1", 1.6), ("A", "late", 1.7)], 1.7, 0.0),
    ],
    ids=[
        "nothing", "four", "five", "five-and-base-delay", "one-request-only", "two-requests", "halves-of-one",
        "run-broken",
        "probe-counts-from-last-answer", "long-after-last-answer", "answered-in-flight", "probe-under-way",
        "probe-failed", "slow-probe-failed", "older-failure", "probe-throttled-or-cut",
        "probe-met-a-stale-connection", "somebody-else-did", "somebody-else-cut", "probe-answered",
        "one-tries", "one-tried-in-vain", "one-tried-well", "answered-late-while-one-probes",
        "and-that-fails", "answered-late-between-probes",
    ],
)  # fmt: skip
def test_when_the_next_request_may_go(script, now, wait):
    """0.0 is now, infinity is while a probe is on its way."""
    assert run(script).wait(now) == pytest.approx(wait)


def test_probes_come_at_a_growing_interval_that_stays_below_five_seconds():
    """0.5, 1, 2, 4, 4.5, 4.5 seconds: a server that is back is noticed within five."""
    rule, now, gaps = run(FIVE), 1.0, []
    for number in range(7):
        wait = rule.wait(now)
        gaps.append(wait)
        now += wait
        probe = f"p{number}"
        assert rule.sent(now, probe) is (number == 0), "only the first probe makes it an outage"
        assert rule.failed(now, probe, probe)
    assert gaps == pytest.approx([0.5, 1, 2, 4, 4.5, 4.5, 4.5])


def test_who_only_tries_makes_it_no_outage():
    """The first probe does; a request that goes because one of before was answered is none."""
    rule = run([*FIVE, ("A", "late", 1.2)])
    assert not rule.sent(1.2, "t")
    assert rule.failed(1.3, "t", "t")
    assert not rule.announced
    assert rule.sent(1.7, "p")


def mixed(rule, share, *, late=0.0):
    """Tell it of 400 answers, of ten so many failed, each sent `late` seconds before it came."""
    failures = 0
    for number in range(400):
        failures += share
        if failures >= 10:
            failures -= 10
            rule.failed(number, f"r{number}", f"r{number}")
        else:
            rule.answered(number, "a", number - late)
    rule.answered(400.0, "a", 400.0 - late)


def enough(rule):
    """Return how many failures in a row it takes for an outage now."""
    for run in range(1, 100):
        rule.failed(401.0, f"x{run}", f"x{run}")
        if rule.stopped_at is not None:
            return run
    return None


@pytest.mark.parametrize("late", [0.5, 30.0])
@pytest.mark.parametrize(("share", "run"), [(0, 5), (1, 5), (3, 10), (5, 17), (7, 33), (8, 40)])
def test_where_failing_is_usual_a_run_must_be_longer(share, run, late):
    """Of ten answers so many fail, well mixed: five in a row may be chance, so many more are not."""
    rule = Outage(POLICY)
    mixed(rule, share, late=late)
    assert abs(enough(rule) - run) <= run // 4


def test_who_only_finishes_what_was_begun_teaches_nothing():
    """A server that shuts down answers what it had taken, while all that is new fails: no chance in that."""
    rule = Outage(POLICY)
    mixed(rule, 8, late=500.0)
    assert enough(rule) == 5


def test_late_answers_with_no_failure_among_them_teach():
    """What was usual is over, even if those answered were sent before the last that failed."""
    rule = Outage(POLICY)
    mixed(rule, 5, late=0.5)
    for _ in range(200):
        rule.answered(400.0, "a", 300.0)
    assert enough(rule) == 5


def test_an_outage_is_not_what_is_usual():
    """What failed in an outage does not make the next one harder to see."""
    rule = run([*FIVE * 10, ("A", "x", 9.0), *FIVE])
    assert rule.stopped_at is not None


def test_a_shorter_max_delay_caps_the_interval():
    """Probes are no rarer than retries would be."""
    rule = run([*FIVE, ("S", "p", 2.0), ("F", "p", 2.0)], RetryPolicy(base_delay=0.1, max_delay=0.15))
    assert rule.wait(2.0) == pytest.approx(0.15)


@pytest.mark.parametrize("policy", [RetryPolicy(max_outage=0), RetryPolicy(max_attempts=1)])
def test_the_rule_can_be_turned_off(policy):
    """max_outage=0 or max_attempts=1: nothing is ever held back."""
    assert run(FIVE * 10, policy).wait(1.0) == 0.0


def test_giving_up_starts_afresh():
    """After reset the count begins at nothing, and the past is kept only as "it did answer once"."""
    rule = run([("A", "x", 0.0), *FIVE])
    rule.reset()
    assert rule.wait(1.0) == 0.0
    assert rule.ever_answered
    assert not rule.announced


@pytest.mark.parametrize(
    ("error", "sort", "counted"),
    [
        (ServerError(500), Sort.PASSING, True),
        (ServerError(501), Sort.FINAL, True),
        (APIConnectionError("refused"), Sort.PASSING, True),
        (APITimeoutError("no answer"), Sort.PASSING, True),
        (APIConnectionError("certificate"), Sort.FATAL, False),
        (RateLimitError(429), Sort.THROTTLED, False),
        (BadRequestError(400), Sort.REFUSED, False),
        (ResponseDecodeError("html"), Sort.PASSING, False),
    ],
)
def test_what_counts(error, sort, counted):
    """5xx, connections and timeouts; not a 429, a certificate or any other answer."""
    assert counts(Failure(error, sort)) is counted
