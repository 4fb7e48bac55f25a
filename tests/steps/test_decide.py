"""Whether and when a failed request goes out again: the table, the delays, the budget, the run of 429s."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leadstatus_async._state.throttle import RetryBudget
from leadstatus_async._steps.decide import (
    Again,
    Fail,
    Split,
    Stop,
    Throttled,
    decide,
    delay_of,
    stated_pause,
)
from leadstatus_async._steps.decipher import Failure, Sort
from leadstatus_async.errors import APIConnectionError, BadRequestError, RateLimitError, ServerError
from leadstatus_async.policy import RetryPolicy

POLICY = RetryPolicy()
ONCE = RetryPolicy(max_attempts=1)
ERRORS = {Sort.THROTTLED: RateLimitError(429), Sort.REFUSED: BadRequestError(400)}

dice_ = st.floats(0, 1, exclude_max=True)
attempts_ = st.integers(1, 10_000)
policies = st.builds(
    lambda base, more, stated: RetryPolicy(base_delay=base, max_delay=base + more, max_retry_after=stated),
    st.floats(0, 1e6),
    st.floats(0, 1e6),
    st.floats(0, 1e6),
)


def failure(sort=Sort.PASSING, stated=None, *, early=False, status=503):
    """Return a failure as an attempt may end in one."""
    return Failure(ERRORS.get(sort, ServerError(status)), sort, stated, early)


def verdict(failed, policy=POLICY, **facts):
    """Decide with the facts given, and unremarkable ones for the rest."""
    usual = {"attempts": 1, "stale": False, "budget": RetryBudget(100), "remaining": None, "dice": 0.5}
    known = {**usual, **facts}
    known.setdefault("max_attempts", policy.max_attempts)
    return decide(failed, policy, afford=known.pop("budget").spend, **known)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (verdict(failure(Sort.FATAL)), Stop()),
        (verdict(failure(Sort.FINAL)), Fail()),
        (verdict(failure(Sort.REFUSED)), Split()),
        (verdict(failure(Sort.OVERSIZE)), Split()),
        (verdict(failure(Sort.REFUSED), attempts=99, budget=RetryBudget(0), remaining=0.0), Split()),
        (verdict(failure(Sort.REFUSED), ONCE), Split()),
        (verdict(failure()), Again(0.25)),
        (verdict(failure(), attempts=2), Again(0.5)),
        (verdict(failure(), attempts=4), Again(2.0)),
        (verdict(failure(), attempts=5), Fail()),
        (verdict(failure(), attempts=6), Fail()),
        (verdict(failure(), ONCE), Fail()),
        (verdict(failure(), budget=RetryBudget(0)), Fail()),
        (verdict(failure(), budget=RetryBudget(0.9)), Fail()),
        (verdict(failure(), dice=0.0), Again(0.0)),
        (verdict(failure(stated=7.0), dice=0.0), Again(7.0)),
        (verdict(failure(stated=7.0)), Again(7.35)),
        (verdict(failure(stated=0.0), dice=0.0), Again(0.5)),
        (verdict(failure(stated=120.0)), Again(120.0)),
        (verdict(failure(stated=120.1)), Fail()),
        (verdict(failure(early=True), stale=True), Again(0.0)),
        (verdict(failure(early=True), stale=False), Again(0.25)),
        (verdict(failure(early=False), stale=True), Again(0.25)),
        (verdict(failure(early=True), stale=True, attempts=5), Fail()),
        (verdict(failure(early=True), stale=True, budget=RetryBudget(0)), Fail()),
        (verdict(failure(), remaining=0.3), Again(0.25)),
        (verdict(failure(), remaining=0.25), Fail()),
        (verdict(failure(stated=7.0), remaining=7.0), Fail()),
        (verdict(failure(early=True), stale=True, remaining=0.001), Again(0.0)),
        (verdict(failure(early=True), stale=True, remaining=0.0), Fail()),
        (verdict(failure(Sort.THROTTLED)), Throttled()),
        (verdict(failure(Sort.THROTTLED), attempts=99, budget=RetryBudget(0)), Throttled()),
        (verdict(failure(Sort.THROTTLED), ONCE), Fail()),
        (verdict(failure(Sort.THROTTLED, 120.0), dice=0.0), Throttled()),
        (verdict(failure(Sort.THROTTLED, 121.0)), Fail()),
        (verdict(failure(Sort.THROTTLED, 7.0), remaining=7.0), Fail()),
        (verdict(failure(Sort.THROTTLED, 7.0), remaining=8.0), Throttled()),
        (verdict(failure(Sort.THROTTLED), remaining=0.001), Throttled()),
        (verdict(failure(Sort.THROTTLED, 0.0), remaining=0.001), Throttled()),
    ],
)
def test_decide(case, expected):
    """The table: what is final, cut, stopped, throttled or sent again, and after which delay."""
    if isinstance(expected, Again):
        assert isinstance(case, Again)
        assert case.delay == pytest.approx(expected.delay)
    else:
        assert case == expected


@pytest.mark.parametrize(
    ("failed", "facts", "cost"),
    [
        (failure(), {}, 1),
        (failure(early=True), {"stale": True}, 1),
        (failure(), {"attempts": 5}, 0),
        (failure(), {"remaining": 0.0}, 0),
        (failure(stated=500.0), {}, 0),
        (failure(Sort.THROTTLED), {}, 0),
        (failure(Sort.REFUSED), {}, 0),
        (failure(Sort.OVERSIZE), {}, 0),
        (failure(Sort.FINAL), {}, 0),
        (failure(Sort.FATAL), {}, 0),
        (failure(status=500), {"attempts": 5, "divisible": True}, 1),
    ],
)
def test_only_retries_cost_budget(failed, facts, cost):
    """A retry costs 1; a 429, a split and whatever is not sent again cost nothing."""
    budget = RetryBudget(10)
    verdict(failed, budget=budget, **facts)
    left = 0
    while budget.spend():
        left += 1
    assert left == 10 - cost


@pytest.mark.parametrize(
    ("status", "facts", "expected"),
    [
        (500, {"attempts": 5, "divisible": True}, Split()),
        (500, {"attempts": 5, "divisible": False}, Fail()),
        (500, {"attempts": 5, "divisible": True, "budget": RetryBudget(0)}, Fail()),
        (500, {"attempts": 4, "divisible": True}, Again(2.0)),
        (500, {"attempts": 1, "divisible": True, "policy": RetryPolicy(max_attempts=1)}, Fail()),
        (502, {"attempts": 5, "divisible": True}, Fail()),
        (503, {"attempts": 5, "divisible": True}, Fail()),
        (504, {"attempts": 5, "divisible": True}, Fail()),
    ],
)
def test_lasting_500_is_bisected(status, facts, expected):
    """A 500 (not 502, 503, 504) that outlasts the attempts while others succeed is cut, within the budget."""
    assert verdict(failure(status=status), **facts) == expected


def test_lost_connection_is_not_bisected():
    """An error without a status says nothing about the leads."""
    lost = Failure(APIConnectionError("reset"), Sort.PASSING)
    assert verdict(lost, attempts=5, divisible=True) == Fail()


@given(policies, attempts_, dice_)
@example(RetryPolicy(), 10_000, 0.999)
def test_own_delay_stays_in_its_bounds(policy, attempts, dice):
    """Our own back-off is full jitter below an exponential bound, itself capped."""
    delay = delay_of(failure(), policy, attempts, dice)
    assert 0 <= delay <= policy.max_delay
    assert delay <= policy.base_delay * 2 ** min(attempts - 1, 900)
    assert delay_of(failure(), policy, attempts, 0.0) == 0.0


@given(policies, attempts_, dice_, st.floats(0, 1e6))
def test_stated_delay_stays_in_its_bounds(policy, attempts, dice, stated):
    """A stated delay is never early, at least `base_delay`, jitters only upward, and not past the cap."""
    delay = delay_of(failure(stated=stated), policy, attempts, dice)
    floor = max(stated, policy.base_delay)
    assert delay == stated_pause(stated, policy, dice)
    assert floor <= delay <= min(floor * 1.1, floor + 1.0) * (1 + 1e-12)
    assert delay <= max(floor, policy.max_retry_after)


@given(
    policies,
    attempts_,
    dice_,
    st.none() | st.floats(0, 1e6),
    st.none() | st.floats(0, 1e6),
    st.booleans(),
    st.booleans(),
)
def test_a_retry_is_within_every_bound(policy, attempts, dice, stated, remaining, early, stale):
    """Whatever is sent again is sent before the deadline, below the cap, and not too often."""
    failed = failure(stated=stated, early=early)
    facts = {"attempts": attempts, "dice": dice, "remaining": remaining, "stale": stale}
    chosen = verdict(failed, policy, **facts)
    if not isinstance(chosen, Again):
        assert chosen == Fail()
        return
    assert attempts < policy.max_attempts
    assert remaining is None or chosen.delay < remaining
    assert stated is None or stated <= policy.max_retry_after
    assert stated is None or (early and stale) or chosen.delay >= stated
