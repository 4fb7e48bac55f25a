"""What bounds retrying over a whole session: the retry budget, and the run of nothing but 429s."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leadstatus_async._state.throttle import RetryBudget, ThrottleRun, unstated_pause
from leadstatus_async.policy import RetryPolicy

POLICY = RetryPolicy()

dice_ = st.floats(0, 1, exclude_max=True)
attempts_ = st.integers(1, 10_000)
policies = st.builds(
    lambda base, more, stated: RetryPolicy(base_delay=base, max_delay=base + more, max_retry_after=stated),
    st.floats(0, 1e6),
    st.floats(0, 1e6),
    st.floats(0, 1e6),
)


@given(policies, attempts_, dice_)
def test_unstated_pause_stays_in_its_bounds(policy, count, dice):
    """A pause that nobody stated grows with the count, is capped, and never shorter than half of that."""
    pause = unstated_pause(count, -math.inf, policy, dice)
    longest = max(policy.max_delay, min(3.2 * policy.max_delay, policy.max_retry_after))
    bound = min(longest, 0.5 * policy.base_delay * 1.7 ** min(count - 1, 60))
    assert bound / 2 <= pause <= bound
    assert unstated_pause(count, 0.0, policy, 0.0) <= unstated_pause(count + 1, 0.0, policy, 0.0)


def test_an_unstated_pause_ends_where_patience_does():
    """No pause reaches beyond `max_outage`, but none is shorter than `base_delay` for that."""
    policy = RetryPolicy(base_delay=0.5, max_delay=20, max_outage=60)
    pauses = [unstated_pause(8, over, policy, 1.0) for over in (0.0, 50.0, 59.9, 70.0)]
    assert pauses == [0.25 * 1.7**7, 10.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("over", "count", "pause"), [(26, 3, 0.25 * 1.7**2), (26, 6, 33), (0, 10, 33), (28, 1, 32), (400, 10, 64)]
)
def test_half_the_patience_is_spent_in_one_pause(over, count, pause):
    """What would end in its second half sits out a lock-out that asking prolongs; a minute at most."""
    policy = RetryPolicy(base_delay=0.5, max_delay=20, max_outage=600 if over == 400 else 60)
    assert unstated_pause(count, over, policy, 1.0) == pytest.approx(pause)


@given(st.floats(0, 20), st.lists(st.booleans(), max_size=300))
def test_budget_law(size, history):
    """Retries never exceed the size plus a tenth of the successes, and are had as long as they do not."""
    budget, retries, successes = RetryBudget(size), 0, 0
    for success in history:
        if success:
            budget.earn()
            successes += 1
        else:
            retries += budget.spend()
        assert retries <= size + successes / 10 + 1e-9
    if not any(history):
        assert retries == min(len(history), int(size))


@pytest.mark.parametrize("size", [1, 3, 100])
def test_ten_successes_buy_a_retry(size):
    """A success refills exactly a tenth: the tenth buys a retry, the ninth does not; never above the size."""
    budget = RetryBudget(size)
    while budget.spend():
        pass
    for _ in range(3):
        for _ in range(9):
            budget.earn()
            assert not budget.spend()
        budget.earn()
        assert budget.spend()
    for _ in range(1000):
        budget.earn()
    assert [budget.spend() for _ in range(size + 1)] == [True] * size + [False]


def test_run_of_429s_is_timed_from_its_first():
    """Without stated pauses, the run's age is the time since its first 429; the caller compares it."""
    run = ThrottleRun()
    assert [run.note(now, now - 0.1, None) for now in (100.0, 101.0, 103.5, 160.5)] == [0.0, 1.0, 3.5, 60.5]


def test_a_long_run_of_429s_is_remembered_for_a_while():
    """Who had to ask six times begins as if at the fifth the next time; a short run is forgotten."""
    run, counts, now = ThrottleRun(), [], 0.0
    for asked in (6, 1, 1, 1, 2, 1):
        for _ in range(asked):
            now += 1
            run.note(now, now - 0.1, None)
        counts.append(run.count)
        run.end()
        run.end()
    assert counts == [6, 5, 4, 3, 3, 2]


def lock_out(run, asked, *, start):
    """Let it be refused at those seconds and then pass, and return the pauses it made."""
    pauses = []
    for ago in (0.0, *asked):
        over = run.note(start + ago, start + ago - 0.02, None)
        pauses.append(run.pause(over, POLICY, 0.5))
    run.passed(start + (asked or (0.0,))[-1] + pauses[-1])
    return pauses


def test_a_lock_out_is_expected_to_last_as_long_again():
    """If asking prolongs it, it was over within the last pause; if not, at last half-way through that."""
    run = ThrottleRun()
    *_, last = lock_out(run, [0.3, 0.8, 1.6, 3.0, 6.0], start=0.0)
    for number in range(1, 4):
        assert lock_out(run, [], start=100.0 * number) == [pytest.approx(last)]
    first, second = lock_out(run, [last], start=400.0)
    assert (first, first + second) == (pytest.approx(last), pytest.approx(6.0 + last / 2))


def test_the_length_of_a_lock_out_is_forgotten():
    """Where nothing is found out by asking any more, pauses become short again."""
    run = ThrottleRun()
    lock_out(run, [0.3, 0.8, 1.6, 3.0, 6.0], start=0.0)
    pauses = [lock_out(run, [], start=100.0 * number)[0] for number in range(1, 7)]
    assert pauses[0] > 1.0
    assert pauses[-1] < 0.3


def test_a_lock_out_that_has_become_longer_is_learned_anew():
    """Refused after what was expected, the pauses go on growing, and as much is expected then."""
    run = ThrottleRun()
    *_, last = lock_out(run, [0.3, 0.8, 1.6, 3.0], start=0.0)
    *_, longer = lock_out(run, [last, 4.0, 8.0], start=100.0)
    assert longer > last
    assert lock_out(run, [longer], start=200.0) == [
        pytest.approx(longer),
        pytest.approx(8.0 + longer / 2 - longer),
    ]


@pytest.mark.parametrize("asked", [[], [0.3], [0.3, 0.8, 1.6]], ids=["at once", "window", "two seconds"])
def test_what_may_be_a_window_is_not_expected_again(asked):
    """A window of a second or two ends when it ends: the next pause is short."""
    run = ThrottleRun()
    lock_out(run, asked, start=0.0)
    assert max(lock_out(run, [0.5], start=100.0)) < 1.0


def test_an_answer_to_what_was_sent_before_the_pause_tells_no_length():
    """It ends the run, but the lock-out may go on."""
    run = ThrottleRun()
    for now in (0.0, 1.0, 5.0):
        run.pause(run.note(now, now - 0.02, None), POLICY, 0.5)
    run.passed(4.9)
    assert max(lock_out(run, [0.5], start=100.0)) < 1.0


def test_a_run_that_was_given_up_tells_no_length():
    """Whoever asks again an hour later does not know when it passed."""
    run = ThrottleRun()
    for now in (0.0, 1.0, 5.0):
        run.pause(run.note(now, now - 0.02, None), POLICY, 0.5)
    run.end()
    run.passed(3600.0)
    assert max(lock_out(run, [0.5], start=4000.0)) < 1.0


def test_a_length_that_the_server_stated_need_not_be_learned():
    """It will state the next one, too, even if it began to do so late."""
    run = ThrottleRun()
    run.pause(run.note(0.0, -0.02, None), POLICY, 0.5)
    for now in (5.0, 15.0, 25.0):
        run.note(now, now - 0.02, 10.0)
    run.passed(35.0)
    assert max(lock_out(run, [0.5], start=100.0)) < 1.0


def test_a_burst_of_429s_is_one_moment():
    """Those sent before the pause tell nothing new, even where no time at all is put up with."""
    run = ThrottleRun()
    assert [run.note(now, 99.9, None) for now in (100.0, 100.01, 100.02)] == [0.0] * 3
    assert run.note(100.5, 100.4, None) == pytest.approx(0.5)


@pytest.mark.parametrize("stated", [None, 0.0])
def test_zero_states_no_pause(stated):
    """A `Retry-After` of 0, in the past or unreadable excuses no time."""
    run = ThrottleRun()
    run.note(0.0, 0.0, stated)
    assert run.note(61.0, 60.0, stated) == 61.0


def test_stated_pauses_are_excused():
    """Time that the server itself stated does not count, however long the run gets."""
    run = ThrottleRun()
    for number in range(50):
        now = 31.0 * number
        assert run.note(now, now, 30.0) == number


@pytest.mark.parametrize(
    ("stated", "max_outage", "kept"),
    [(1.0, 60, 60), (30.0, 60, 10), (6.0, 60, 10), (5.9, 60, 11), (1.0, 0, 10)],
)
def test_pauses_that_were_kept_in_vain(stated, max_outage, kept):
    """Ten of them are enough, if they have lasted as long as is put up with."""
    run, hopeless = ThrottleRun(), []
    for number in range(kept + 1):
        now = number * stated
        hopeless.append(run.hopeless(run.note(now, now, stated), max_outage))
    assert hopeless == [False] * kept + [True]


def test_a_429_among_others_keeps_no_pause():
    """Sixteen that were refused together state one pause."""
    run = ThrottleRun()
    for now in (0.0, 10.0):
        for _ in range(16):
            assert not run.hopeless(run.note(now, now - 0.1, 10.0), 0.5)


def test_what_was_in_flight_at_the_giving_up():
    """Belongs to the run that was given up; what was sent later begins a new one."""
    run = ThrottleRun()
    assert not run.gave_up_on(0.0)
    run.note(0.0, 0.0, None)
    run.give_up(61.0)
    assert run.gave_up_on(60.9)
    assert not run.gave_up_on(61.0)
    assert run.note(62.0, 61.5, None) == 0.0


def test_overlapping_pauses_are_excused_once():
    """Sixteen 429s that state the same pause excuse it once, a longer one by what it is longer."""
    run = ThrottleRun()
    for _ in range(16):
        run.note(0.0, -1.0, 10.0)
    assert run.note(30.0, 29.0, None) == 20.0
    run = ThrottleRun()
    run.note(0.0, -1.0, 10.0)
    run.note(5.0, -1.0, 10.0)
    run.note(6.0, -1.0, 1.0)
    assert run.note(30.0, 29.0, None) == 15.0


def test_run_ends():
    """Any other answer ends the run: the next one starts afresh, its own pauses excused."""
    run = ThrottleRun()
    run.note(0.0, 0.0, 100.0)
    assert run.count == 1
    run.end()
    assert run.count == 0
    assert run.note(50.0, 49.0, 30.0) == 0.0
    assert run.note(90.0, 89.0, None) == 10.0


def test_pauses_are_counted_once_each():
    """Only a 429 of a request sent after the present pause began counts as another pause."""
    run = ThrottleRun()
    counts = []
    for now, sent_at in [
        (10.0, 9.0),
        (10.1, 9.5),
        (10.2, 9.9),
        (12.0, 11.5),
        (12.1, 11.6),
        (12.2, 11.9),
        (20.0, 12.0),
    ]:
        run.note(now, sent_at, None)
        counts.append(run.count)
    assert counts == [1, 1, 1, 2, 2, 2, 3]


@given(st.lists(st.tuples(st.floats(0.01, 50), st.none() | st.floats(0, 100)), max_size=40))
def test_run_is_never_older_than_its_time(steps):
    """The age beyond excuse never exceeds the time that passed, and never less what was stated in all."""
    run, now, start, stated_in_all = ThrottleRun(), 0.0, None, 0.0
    for step, stated in steps:
        now += step
        start = now if start is None else start
        over = run.note(now, now, stated)
        assert now - start - stated_in_all - 1e-6 <= over <= now - start + 1e-6
        stated_in_all += stated or 0.0
