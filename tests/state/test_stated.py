"""What headers state of long windows: what fits is not slowed, the rest is spread, nothing is overrun."""

from __future__ import annotations

import heapq
import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leadstatus_async import RateLimit
from leadstatus_async._state.stated import Stated, told_by_headers
from leadstatus_async._steps.headers import RateHint
from leadstatus_async.testing.quota import FixedWindow, SlidingWindow, TokenBucket


def hint(remaining, reset, *, limit=5000, window=None):
    """Return what headers say."""
    return RateHint(limit=limit, window=window, remaining=remaining, reset=reset)


def falling(stated, remainings, *, reset=60, window=None):
    """Let one request a second go and be answered, with less and less that remains until the reset."""
    for number, remaining in enumerate(remainings):
        stated.granted(number)
        stated.observe(number + 0.1, number, 200, [hint(remaining, reset - number, window=window)])


def told(decision, rounded=math.ceil):
    """Return what the headers of a decision say, in whole seconds and without the window."""
    return hint(float(decision.remaining), float(rounded(decision.reset)), limit=float(decision.limit))


class Client:
    """A client of `told` requests a second and sixteen at once, whose requests overtake one another."""

    def __init__(self, limit, rate, *, seed, latency=0.05, rounded=math.ceil):
        self.limit, self.rate, self.latency, self.rounded = limit, rate, latency, rounded
        self.dice = random.Random(seed)
        self.stated, self.now = Stated(), 1000.0 + 100 * self.dice.random()
        self.refused = self.passed = 0
        self.sent = []
        self.claims = []  # when it was, and how many had been sent; how many more, and when these could go

    def ask(self, requests):
        """Send until so many have passed."""
        waiting, events, in_flight, due = requests, [], 0, self.now
        goal = self.passed + requests
        while self.passed < goal:
            self.stated.demand = waiting
            if waiting:
                ahead = self.dice.randrange(waiting)
                claim = self.now + self.stated.least(self.now, ahead)
                self.claims.append((len(self.sent) + ahead, claim))
            wait = math.inf
            if waiting and in_flight < 16:
                wait = max(due - self.now, self.stated.wait(self.now))
            if events and events[0][0] <= self.now + wait:
                self.now, _, kind, *about = heapq.heappop(events)
                if kind == "arrives":
                    (sent_at,) = about
                    decision = self.limit.admit(self.now)
                    back = self.now + self.latency * self.dice.random()
                    heapq.heappush(events, (back, self.dice.random(), "answers", sent_at, decision))
                else:
                    sent_at, decision = about
                    in_flight -= 1
                    self.passed += decision.admitted
                    self.refused += not decision.admitted
                    waiting += not decision.admitted
                    said = told(decision, self.rounded)
                    status = 200 if decision.admitted else 429
                    self.stated.observe(self.now, sent_at, status, [said])
            elif wait > 0.0:
                self.now += wait + 1e-6
            else:
                self.stated.granted(self.now)
                self.sent.append(self.now)
                due = self.now + 1 / self.rate
                waiting -= 1
                in_flight += 1
                arrives = self.now + self.latency * self.dice.random()
                heapq.heappush(events, (arrives, self.dice.random(), "arrives", self.now))


def server(dice, kind, *, fits=None):
    """Draw a server of a long window that is used in part, at some moment of that."""
    number, per = dice.choice([(20, 10), (60, 60), (90, 15), (300, 60), (500, 600)])
    if kind == "bucket":
        return TokenBucket(number / per, number), number, per
    return (FixedWindow if kind == "fixed" else SlidingWindow)(number, per), number, per


@pytest.mark.parametrize("kind", ["fixed", "sliding", "bucket"])
@pytest.mark.parametrize("seed", range(8))
def test_a_truthful_remaining_is_never_overrun(kind, seed):
    """More than remains, with answers that overtake one another: nothing is refused, and little is wasted."""
    dice = random.Random(f"{kind} {seed}")
    limit, number, per = server(dice, kind)
    client = Client(
        limit, dice.uniform(2, 8) * number / per, seed=seed, latency=dice.choice([0.01, 0.1, 0.4])
    )
    client.ask(1)
    began = client.now
    client.ask(4 * number)
    assert client.refused == 0
    assert client.now - began <= 4.6 * per


@pytest.mark.parametrize("seed", range(8))
def test_resets_that_are_rounded_down_cost_one_refusal(seed):
    """A second before the end the reset is 0: whoever believes that is refused once, and learns."""
    dice = random.Random(seed)
    limit, number, per = server(dice, "fixed")
    client = Client(limit, 4 * number / per, seed=seed, rounded=math.floor)
    client.ask(5 * number)
    assert client.refused <= 1


@pytest.mark.parametrize("kind", ["fixed", "sliding", "bucket"])
@pytest.mark.parametrize("seed", range(4))
def test_when_who_is_ahead_could_go_is_a_lower_bound(kind, seed):
    """Whatever was said of the one behind so many others, it went no sooner."""
    dice = random.Random(f"{kind} {seed}")
    limit, number, per = server(dice, kind)
    client = Client(limit, 4 * number / per, seed=seed)
    client.ask(2 * number + 50)
    early = [claim - client.sent[place] for place, claim in client.claims if place < len(client.sent)]
    assert max(early) < 1.5, "resets are rounded to a second, and what slides may come back a little sooner"


def test_what_fits_is_not_slowed():
    """4900 remain of an hour, and 400 are to be sent."""
    stated = Stated(demand=400)
    stated.granted(0.0)
    assert stated.observe(0.1, 0.0, 200, [hint(4900, 3000)]) is None
    assert stated.wait(0.1) == 0.0
    assert stated.rate == math.inf
    assert stated.policy is None
    assert stated.least(0.1, 399) == 0.0


def test_what_does_not_fit_is_spread():
    """100 remain for 600 s, and 400 are to be sent: one every six seconds, and the rest after that."""
    stated = Stated(demand=400)
    falling(stated, [101, 100], reset=600, window=3600)
    assert stated.rate == pytest.approx(1 / 6, rel=0.02)
    assert stated.wait(1.1) == pytest.approx(6, abs=0.2)
    assert stated.policy == RateLimit(5000, per=3600)
    assert told_by_headers(None) == "rate-limit headers"
    assert told_by_headers(stated.policy) == "5000 per 3600 s (rate-limit headers)"
    assert stated.least(1.1, 99) == 0.0
    assert stated.least(1.1, 100) == pytest.approx(599, abs=0.2)
    assert stated.least(1.1, 5100) == pytest.approx(4199, abs=0.2)
    assert not stated.expire(1.1)
    stated.demand = 100
    assert stated.expire(1.1)
    assert not stated.expire(1.1)
    assert stated.rate == math.inf, "they fit now"
    assert stated.wait(1.1) == 0.0


def test_when_nothing_is_left_nobody_goes_until_the_reset():
    """And then one asks what there is."""
    stated = Stated(demand=5)
    falling(stated, [1, 0])
    assert stated.wait(2.0) == pytest.approx(58.0, abs=0.2)
    assert stated.wait(60.5) == 0.0
    stated.granted(60.5)
    assert 0 < stated.wait(60.5) < 30, "until it is back, or lost"
    stated.observe(60.6, 60.5, 200, [hint(59, 60)])
    assert stated.wait(60.6) == 0.0


def test_one_that_is_lost_is_not_waited_for():
    """The request that asks what there is never comes back: after a while another one does."""
    stated = Stated(demand=5)
    falling(stated, [1, 0])
    stated.granted(61.0)
    assert stated.wait(61.0 + stated.wait(61.0)) == 0.0


def test_what_may_not_have_been_counted_is_taken_off():
    """Three remain and two are in flight: one more may go."""
    stated = Stated(demand=9)
    for at in (0.0, 0.1, 0.2, 0.3):
        stated.granted(at)
    stated.observe(0.4, 0.0, 200, [hint(4, 60)])
    stated.observe(0.5, 0.1, 200, [hint(3, 60)])
    stated.demand = 1
    assert stated.wait(0.5) == 0.0
    stated.granted(0.5)
    stated.demand = 1
    assert stated.wait(0.5) > 0.0
    stated.refunded()
    stated.demand = 1
    assert stated.wait(0.5) == 0.0


def test_tokens_that_lapsed_slow_nobody_for_long():
    """A request whose token was taken anew leaves one that no answer comes for; what fits goes at once."""
    stated = Stated(demand=21)
    for number in range(4):
        stated.granted(0.1 * number)
    for number, remaining in enumerate([21, 20]):
        stated.observe(1.0 + 0.1 * number, 0.1 * number, 200, [hint(remaining, 3600)])
    stated.demand = 20
    assert stated.wait(1.2) == 0.0
    stated.demand = 21
    now = 1.2
    while stated.in_flight:
        assert 0 < stated.wait(now) < 10, "then it is known that they lapsed"
        now += stated.wait(now) + 1e-6
        stated.wait(now)
    assert now < 5
    assert stated.wait(now) > 100


def test_a_refund_of_nothing_is_nothing():
    """A limiter that is asked to is not to fail for it."""
    stated = Stated()
    stated.refunded()
    assert stated.in_flight == []


def test_an_answer_that_was_overtaken_says_nothing_new():
    """Of two in flight together the one that was counted last counts; one of another window does not."""
    stated = Stated(demand=100)
    for at in (0.0, 0.1, 0.2):
        stated.granted(at)
    stated.observe(0.5, 0.2, 200, [hint(10, 60)])
    stated.observe(0.6, 0.0, 200, [hint(12, 60)])
    assert [limit.remaining for limit in stated.limits] == [10]
    stated.observe(0.7, 0.1, 200, [hint(1, 30)])
    assert [limit.remaining for limit in stated.limits] == [10]
    assert stated.limits[0].until == 60.5


@pytest.mark.parametrize("remaining", [0, 5])
def test_headers_that_are_not_true_slow_but_never_stop(remaining):
    """The same in each answer, with an hour to go: one a second, as long as it never falls."""
    stated, now = Stated(demand=400), 0.0
    for _ in range(50):
        now += stated.wait(now)
        stated.granted(now)
        stated.observe(now + 0.1, now, 200, [hint(remaining, 3600)])
        now += 0.1
        assert stated.least(now, 10) <= 10
    assert 45 < now < 55
    assert stated.rate == 1.0


def test_who_says_nothing_any_more_slows_nobody():
    """An answer without headers ends it; an error page does not, and may have been counted."""
    stated = Stated(demand=100)
    falling(stated, [11, 10])
    stated.observe(3.0, 2.9, 502, [])
    assert [limit.remaining for limit in stated.limits] == [9]
    stated.observe(3.0, 2.9, 429, [])
    assert [limit.remaining for limit in stated.limits] == [8]
    assert stated.wait(3.0) > 0.0
    stated.observe(4.0, 3.9, 200, [])
    assert (stated.limits, stated.wait(4.0), stated.rate) == ([], 0.0, math.inf)


def test_a_second_or_two_are_left_to_the_controller():
    """A short window, or none, or nothing about what remains: the tightest of these is handed on."""
    short, policy, loose = (
        hint(3, 1, limit=5, window=1),
        hint(None, None, limit=60, window=60),
        hint(9, 1, limit=10),
    )
    stated = Stated(demand=100)
    assert stated.observe(0.1, 0.0, 200, [short, policy, loose]) == policy
    assert stated.limits == []
    assert stated.observe(0.2, 0.1, 200, [short, hint(50, 30)]) == short
    assert len(stated.limits) == 1
    assert stated.observe(29.2, 29.1, 200, [hint(20, 1)]) is None, "the last second of a long one"
    assert stated.limits[0].remaining == 20
    assert stated.rate < math.inf, "what is left of it is spread over that second"


def test_a_window_without_a_reset_may_begin_now():
    """What remains of a minute, and no word of when that is over: a minute at most."""
    stated = Stated(demand=100)
    stated.observe(0.1, 0.0, 200, [hint(10, None, window=60)])
    assert stated.limits[0].until == 60.1


def test_each_of_several_limits_holds():
    """50 a minute and 1000 a day, of which 20 are left: the day counts for a job of 30, if that is less."""
    stated = Stated(demand=30)
    for number in range(2):
        stated.granted(number)
        minute, day = hint(48 - number, 50 - number, limit=50), hint(20 - number, 40_000 - number, limit=1000)
        stated.observe(number + 0.1, number, 200, [minute, day])
    assert stated.rate == pytest.approx(19.5 / 40_000, rel=0.01)
    stated.demand = 19
    assert stated.wait(1.1) == 0.0


def test_small_changes_are_not_worth_telling():
    """What remains and the time to the reset change with each answer; the rate that is told does not."""
    stated, rates = Stated(demand=1000), set()
    for number in range(60):
        stated.granted(number)
        stated.observe(number + 0.1, number, 200, [hint(60 - number, 60 - number)])
        rates.add(stated.rate)
    assert len(rates) == 1, "nor does it in the last seconds, when rounding makes it jump"


def test_resets_in_whole_seconds_are_read_as_soon_as_all_of_them_allow():
    """59.2 s are told as 60, and 58.9 as 59: the window is over at the earlier of both."""
    stated = Stated(demand=100)
    for at, remaining, reset in ((0.8, 50, 60), (1.1, 49, 59), (1.9, 48, 59)):
        stated.granted(at)
        stated.observe(at, at, 200, [hint(remaining, reset)])
    assert stated.limits[0].until == pytest.approx(60.1)


def test_what_went_waits_no_more():
    """Twelve wait where ten remain; when two have gone and were counted before, ten do, and they fit."""
    stated = Stated(demand=11)
    falling(stated, [12, 11])
    assert stated.demand == 9
    stated.refunded()
    assert stated.demand == 9, "nothing was in flight"
    stated.granted(2.0)
    stated.refunded()
    assert stated.demand == 9


def test_who_is_never_told_of_answers_keeps_little():
    """A limiter that is used for something else, which tells it of no answer."""
    stated = Stated()
    for number in range(10_000):
        stated.granted(0.5 * number)
    assert len(stated.in_flight) <= 64


AMOUNTS = st.none() | st.floats(0, 1e9)
HINTS = st.builds(
    RateHint,
    limit=st.none() | st.floats(0, 1e300, exclude_min=True),
    window=st.none() | st.floats(0, 86400, exclude_min=True),
    remaining=AMOUNTS,
    reset=st.none() | st.floats(0, 86400),
)


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["grant", "refund", 200, 200, 429, 503]),
            st.floats(0, 100),
            st.floats(0, 40),
            st.lists(HINTS, max_size=3),
            st.integers(0, 10**9),
        ),
        max_size=60,
    )
)
def test_whatever_is_stated(steps):
    """Waits are finite, one may always go in the end, and its state goes to bytes and back."""
    stated, now = Stated(), 1000.0
    for what, gap, latency, hints, demand in steps:
        now += gap
        stated.demand = demand
        if what == "grant":
            stated.granted(now)
        elif what == "refund":
            stated.refunded()
        else:
            stated.observe(now, now - latency, what, hints)
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(stated), type=Stated) == stated
        assert stated.rate > 0
        assert 0 <= stated.wait(now) < math.inf
        assert 0 <= stated.least(now, 10**6) < math.inf
    for _ in range(200):
        now += stated.wait(now) + 1e-6
        if stated.wait(now) == 0:
            break
    assert stated.wait(now) == 0
