"""The controller: when it cuts and by how much, how it comes back, and what it never does."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leadstatus_async._state.rate import Controller
from leadstatus_async._steps.headers import RateHint


def work(controller, seconds, start, *, every=None, latency=0.01):
    """Let the controller see successes at its own rate, and return the time after them."""
    now = start
    while now < start + seconds:
        controller.observe(now + latency, 200, now)
        now += every or 1 / controller.rate
    return now


def throttle(controller, now, *, count=1, latency=0.01):
    """Let it see 429s of requests sent together."""
    for _ in range(count):
        controller.observe(now + latency, 429, now)


def episode(controller, now, pause, *, count=1):
    """Let it see 429s, and after a pause an answer."""
    throttle(controller, now, count=count)
    controller.observe(now + pause + 0.01, 200, now + pause)


def probes(controller, limit, seconds):
    """Let it work against a plain limit of its rate, which costs 0.4 s, and return when it cut."""
    now, cuts = 0.0, []
    while now < seconds:
        if controller.rate > limit:
            throttle(controller, now)
            cuts.append(now)
            now += 0.4
        controller.observe(now + 0.01, 200, now)
        now += 1 / controller.rate
    return cuts


def climb(controller, now, rate):
    """Let it work until it goes at more than that, and return the time then."""
    while controller.rate <= rate:
        controller.observe(now + 0.01, 200, now)
        now += 1 / controller.rate
    return now


def test_who_is_never_throttled_goes_at_the_configured_rate():
    """Without a 429 nothing changes: no ceiling, no reason."""
    controller = Controller(100)
    work(controller, 60, 0.0)
    assert (controller.rate, controller.ceiling, controller.reason) == (100, None, "")


def test_a_429_halves_the_rate_at_once():
    """The first 429 cuts, and says why."""
    controller = Controller(100)
    now = work(controller, 5, 0.0)
    throttle(controller, now)
    assert controller.rate == 50
    assert controller.ceiling == 100
    assert controller.reason == "HTTP 429 at 100/s"


def test_an_episode_is_cut_for_once():
    """Sixteen refused together, and those refused while nothing has passed, are one cut."""
    controller = Controller(100)
    now = work(controller, 5, 0.0)
    throttle(controller, now, count=16)
    for later in (0.5, 1.5, 3.5, 30.0):
        throttle(controller, now + later)
    assert controller.rate == 50


def test_a_success_sent_before_the_cut_does_not_end_the_episode():
    """What was in flight tells nothing about the new rate."""
    controller = Controller(100)
    now = work(controller, 5, 0.0)
    throttle(controller, now)
    controller.observe(now + 0.5, 200, now + 0.005)
    throttle(controller, now + 1)
    assert controller.rate == 50
    controller.observe(now + 2, 200, now + 1.9)
    assert controller.rate > 50, "this one was sent after the cut"


def test_a_429_of_a_rate_given_up_does_not_cut_again():
    """A request sent before the episode's end went at a rate that is no longer in force."""
    controller = Controller(100)
    now = work(controller, 5, 0.0)
    throttle(controller, now)
    controller.observe(now + 1.1, 200, now + 1)
    rate = controller.rate
    controller.observe(now + 1.2, 429, now + 1.05)
    assert controller.rate == rate
    controller.observe(now + 1.3, 429, now + 1.2)
    assert controller.rate < rate


@pytest.mark.parametrize(
    ("admitted", "pause", "rate", "ceiling"),
    [
        pytest.param(40, 0.4, 38.8, 40, id="the second before shows the limit"),
        pytest.param(20, 0.1, 21 / 0.3, 100, id="a bucket's burst, maybe: what passed on average"),
        pytest.param(20, 0.6, 50, 100, id="never below a half"),
        pytest.param(95, 0.25, 96 / 1.2, 95, id="nearly all passed, but for less than a second"),
    ],
)
def test_an_episode_ends_at_what_was_admitted(admitted, pause, rate, ceiling):
    """What the last second admitted is believed if clearly less than what was sent, but not far less."""
    controller = Controller(100)
    for number in range(admitted):
        controller.observe(number / 100 + 0.01, 200, number / 100)
    episode(controller, admitted / 100, pause)
    assert controller.rate == pytest.approx(rate)
    assert controller.ceiling == ceiling


def test_between_one_second_and_two_neither_is_certain():
    """What passed on average, pause included, or just below the rate that failed: half-way."""
    controller = Controller(50)
    now = work(controller, 1.5, 0.0)
    episode(controller, now, 1)
    assert controller.ceiling == pytest.approx(50, abs=1)
    assert controller.rate == pytest.approx((75 / 2.5 + 0.97 * 50) / 2, rel=0.03)


def test_a_probe_that_climbed_ends_just_below_what_passed():
    """What grew until it failed goes on at 97% of what passed in the last second, pause or not."""
    controller = Controller(200)
    probes(controller, 40, 20)
    now = climb(controller, 20.0, 70)
    failed = controller.rate
    episode(controller, now, 1)
    passed = failed / 0.2 * (1 - math.exp(-0.2))  # it grows by 20% a second
    assert controller.rate == pytest.approx(0.97 * passed, rel=0.05)
    assert controller.rate < 0.92 * failed


def test_a_rate_that_was_borne_for_seconds_is_not_given_up():
    """A rate that held, and then failed once: just below it, after a short pause or none."""
    controller = Controller(50)
    now = work(controller, 5, 0.0)
    episode(controller, now, 2.8)
    assert controller.rate == pytest.approx(0.97 * 50)


def test_where_a_refusal_is_dear_it_goes_on_warily():
    """A 429 that kept everybody waiting for seconds is not to be met again: it goes on further below."""
    controller = Controller(50)
    now = work(controller, 5, 0.0)
    episode(controller, now, 3.5)
    assert controller.rate == pytest.approx(0.9 * 50)
    work(controller, 30, now + 3.5)
    assert controller.rate == pytest.approx(0.9 * 50)


def test_where_a_refusal_is_dear_what_was_shown_is_trusted():
    """Clearly less admitted than was sent is the limit: to be approached from below all the same."""
    controller = Controller(100)
    now = work(controller, 0.4, 0.0)
    episode(controller, now, 5)
    assert controller.rate == pytest.approx(0.9 * 40, rel=0.03)
    work(controller, 30, now + 5)
    assert controller.rate == pytest.approx(0.97 * 40, rel=0.03)


def test_where_nothing_was_admitted_a_dear_refusal_does_not_stop_it():
    """The very first request may be refused because of others: a tenth of the rate, not nothing."""
    controller = Controller(100)
    episode(controller, 0.0, 6.0, count=16)
    assert controller.rate == pytest.approx(10)


def test_a_client_that_was_slow_is_not_cut_to_its_own_pace():
    """What passed is a lower bound only: never below a half of what failed."""
    controller = Controller(10)
    now = work(controller, 6, 0.0, every=1.0)
    episode(controller, now, 1)
    assert controller.rate == 5


def test_far_servers_are_asked_one_at_a_time_until_one_answers():
    """In an episode no more than one request per round trip goes out, which may all be refused."""
    controller = Controller(100)
    controller.observe(0.2, 429, 0.0)
    assert controller.rate == 5
    controller.observe(0.9, 200, 0.7)
    assert controller.rate == 50


def test_a_server_that_refuses_the_first_request_ever_is_no_riddle():
    """Nothing was admitted: half the configured rate."""
    controller = Controller(100)
    throttle(controller, 0.0)
    controller.observe(1.0, 200, 0.9)
    assert controller.rate == 50


def test_what_was_used_limits_what_failed():
    """Told 1000/s but sending 20/s: the rate that failed is near 20, not near 1000."""
    controller = Controller(1000)
    now = work(controller, 5, 0.0, every=0.05)
    throttle(controller, now)
    assert controller.ceiling == pytest.approx(40, rel=0.02)


def test_it_settles_below_the_ceiling():
    """A few seconds of work lead to 97% of the rate that failed, and no further."""
    controller = Controller(100)
    now = work(controller, 1.5, 0.0)
    episode(controller, now, 0.5)
    work(controller, 2.4, now + 0.52)
    assert 85 < controller.rate <= 97


def test_it_probes_later_and_comes_back():
    """The ceiling is not for ever: without another 429 the configured rate is reached, and all forgotten."""
    controller = Controller(100)
    episode(controller, 0.0, 0.5)
    work(controller, 20, 0.52)
    assert (controller.rate, controller.ceiling, controller.reason) == (100, None, "")


def test_a_ceiling_that_is_confirmed_is_probed_less_and_less():
    """Gaps between the cuts grow to a minute."""
    cuts = probes(Controller(50), 40, 1200)
    gaps = [later - earlier for earlier, later in pairwise(cuts)]
    assert gaps[-1] > 55
    assert 15 < len(cuts) < 40


def test_a_limit_that_rose_a_little_is_noticed():
    """A probe that passes for a whole second beyond the ceiling has disproved it, even if it fails then."""
    controller = Controller(100)
    probes(controller, 40, 30)
    assert controller.ceiling == pytest.approx(40, rel=0.06)
    probes(controller, 60, 120)
    assert controller.ceiling == pytest.approx(57, rel=0.06)


@pytest.mark.parametrize(("rate", "ceiling"), [(45, 40), (58, 52)])
def test_a_bucket_hides_a_ceiling_that_is_too_low_for_a_second(rate, ceiling):
    """What fails soon confirms the ceiling; not what fails when a quarter more than that has passed."""
    controller = Controller(200)
    probes(controller, 40, 20)
    now = climb(controller, 20.0, rate)
    episode(controller, now, 0.3)
    assert controller.ceiling == pytest.approx(ceiling, rel=0.05)


@pytest.mark.parametrize(("lockout", "least"), [(1.0, 10), (5.0, 1200), (30.0, 3600)])
def test_what_costs_much_is_risked_rarely(lockout, least):
    """A pause of a second is risked every ten seconds, of 5 s every twenty minutes, of 30 s every hour."""
    controller = Controller(100)
    episode(controller, 0.0, lockout)
    work(controller, least - 1, lockout + 0.02, every=0.1)
    assert controller.rate <= 97


def test_asking_now_and_then_makes_a_lock_out_no_cheaper():
    """It costs all the time in which nothing passed, not only that after the last 429."""
    controller = Controller(100)
    for now in (0.0, 1.0, 3.0, 5.5):
        throttle(controller, now)
    controller.observe(6.01, 200, 6.0)
    assert controller.rate == pytest.approx(10)
    work(controller, 1200, 6.02, every=0.1)
    assert controller.rate <= 97


@pytest.mark.parametrize(("refused", "least", "most"), [(1, 3, 8), (12, 12, 16)])
def test_where_many_are_refused_with_a_probe_it_is_rarer(refused, least, most):
    """That is where many are on their way: they are to be 2% of all requests at most."""
    controller = Controller(100)
    probes(controller, 40, 3)
    now = climb(controller, 3.0, 40)
    episode(controller, now, 0.1, count=refused)
    assert least < climb(controller, now + 0.12, controller.ceiling) - now < most


def test_idling_is_not_working():
    """Hours without requests neither raise the rate nor count as proof."""
    controller = Controller(100)
    episode(controller, 0.0, 0.5)
    controller.observe(7200.01, 200, 7200.0)
    assert controller.rate < 60


def test_idling_after_a_429_is_no_lock_out():
    """Nobody asked for an hour after a pause of a second: the ceiling is probed as if after that second."""
    controller = Controller(100)
    throttle(controller, 0.0)
    controller.observe(3600.01, 200, 3600.0, paused_until=1.0)
    work(controller, 600, 3600.02)
    assert controller.rate == 100


def test_server_errors_say_nothing():
    """A 503 or 500 neither ends an episode nor counts as admitted."""
    controller = Controller(100)
    throttle(controller, 0.0)
    for status in (503, 500):
        controller.observe(1.0, status, 0.9)
        assert controller.rate == 50
    throttle(controller, 2.0)
    assert controller.rate == 50


@pytest.mark.parametrize(
    ("hint", "rate"),
    [
        pytest.param(RateHint(limit=60, window=60), 1.0, id="policy only"),
        pytest.param(RateHint(limit=60, remaining=50, reset=6), 10, id="remaining until the reset"),
        pytest.param(RateHint(limit=600, remaining=100, reset=21), 5, id="slower"),
        pytest.param(RateHint(limit=600, remaining=0, reset=3600), 1, id="never a stop"),
        pytest.param(RateHint(limit=5, remaining=3, reset=1), 10, id="the last second, rounded up"),
        pytest.param(
            RateHint(limit=5, window=1, remaining=3, reset=1), 5, id="the last second, window known"
        ),
        pytest.param(RateHint(limit=5000, remaining=5000, reset=60), 10, id="never faster than configured"),
        pytest.param(RateHint(), 10, id="nothing said"),
    ],
)
def test_headers_slow_from_the_first_answer_on(hint, rate):
    """A plausible header on a 200 slows down, but never stops and never speeds up."""
    controller = Controller(10)
    controller.observe(0.1, 200, 0.0, hint)
    assert controller.rate == rate
    assert controller.ceiling is None
    stated = f"{hint.limit} per {hint.window} s (rate-limit headers)" if hint.window else "rate-limit headers"
    assert controller.reason == (stated if rate < 10 else "")


def test_a_hint_is_forgotten_when_its_window_is_over():
    """What was left in a window says nothing about the next one, an hour later."""
    controller = Controller(10)
    controller.observe(0.1, 200, 0.0, RateHint(limit=60, remaining=0, reset=30))
    assert controller.rate == 1
    assert not controller.expire(30.0)
    assert controller.rate == 1
    assert controller.expire(30.1)
    assert (controller.rate, controller.reason) == (10, "")
    assert not controller.expire(31.0)


def test_headers_that_wobble_change_nothing():
    """Each answer counts anew what remains; only a change worth it is followed."""
    controller = Controller(20)
    seen = set()
    for left in range(60, 20, -1):
        now = (60 - left) / 6
        controller.observe(now, 200, now - 0.01, RateHint(limit=60, remaining=left, reset=11 - now))
        seen.add(controller.rate)
    assert len(seen) <= 3


def test_a_hint_holds_until_an_answer_says_otherwise():
    """Headers that are gone no longer slow."""
    controller = Controller(10)
    controller.observe(0.1, 200, 0.0, RateHint(limit=60, window=60))
    controller.observe(1.1, 200, 1.0)
    assert (controller.rate, controller.reason) == (10, "")


def test_a_hint_may_be_slower_than_one_a_second_only_if_configured_so():
    """A client told 0.2/s is not sped up to the floor of the hints."""
    controller = Controller(0.2)
    controller.observe(0.1, 200, 0.0, RateHint(limit=1, window=3600))
    assert controller.rate == 0.2


def test_steps_are_worth_telling():
    """Coming back from a cut takes tens of changes of the rate, not one per answer."""
    controller = Controller(100)
    episode(controller, 0.0, 0.5)
    seen, now = {controller.rate}, 0.52
    while controller.rate < 100:
        controller.observe(now + 0.01, 200, now)
        seen.add(controller.rate)
        now += 1 / controller.rate
    assert len(seen) < 25


@given(
    configured=st.floats(0.001, 5000),
    steps=st.lists(
        st.tuples(
            st.sampled_from([200, 200, 200, 404, 429, 503]),
            st.floats(0, 100),
            st.floats(0, 40),
            st.none()
            | st.builds(
                RateHint,
                limit=st.none() | st.floats(0.1, 1e6),
                window=st.none() | st.floats(0.1, 86400),
                remaining=st.none() | st.floats(0, 1e6),
                reset=st.none() | st.floats(0, 86400),
            ),
        ),
        max_size=80,
    ),
)
@example(  # one a minute, which is kept to: a little less than a cut would go down to
    1.0,
    [
        (200, 0.0, 0.0, None),
        (429, 22.0, 0.0, None),
        (429, 69.0, 0.0, None),
        (200, 0.0, 1.0, None),
        (200, 1.0, 0.0, None),
        (429, 20.0, 0.0, None),
        (429, 40.0, 0.0, None),
        (200, 0.0, 1.0, None),
    ],
)
def test_whatever_is_observed(configured, steps):
    """The rate stays above nought and within the configured one, and a 429 never raises it."""
    controller = Controller(configured)
    now, least = 0.0, min(configured, 1 / 60)
    for status, gap, latency, hint in steps:
        before = controller.rate
        now += gap
        controller.observe(now, status, now - latency, hint)
        if controller.kept_to is not None:  # a limit that is known, however slow it is
            least = min(least, 0.98 * controller.kept_to.rate)
        assert least <= controller.rate <= configured
        assert math.isfinite(controller.rate)
        assert (controller.rate < configured) == bool(controller.reason)
        assert controller.ceiling is None or controller.ceiling > 0
        if status == 429 and hint is None and before == configured:
            assert controller.rate <= before


@given(
    answers=st.lists(
        st.tuples(st.sampled_from([200, 429]), st.floats(0.001, 1), st.floats(0, 1)), max_size=200
    )
)
def test_equal_observations_lead_to_equal_rates(answers):
    """It is a function of what it observes."""
    one, other = Controller(50), Controller(50)
    now = 0.0
    for status, gap, latency in answers:
        now += gap
        for controller in (one, other):
            controller.observe(now, status, now - latency)
        assert (one.rate, one.ceiling, one.reason) == (other.rate, other.ceiling, other.reason)


@given(refusals=st.lists(st.floats(0.001, 30), min_size=1, max_size=50))
def test_a_run_of_429s_cuts_once(refusals):
    """However long nothing but 429s comes, it is one cut."""
    controller = Controller(100)
    now = work(controller, 2, 0.0)
    throttle(controller, now)
    rate = controller.rate
    for gap in refusals:
        now += gap
        throttle(controller, now)
        assert controller.rate == rate
