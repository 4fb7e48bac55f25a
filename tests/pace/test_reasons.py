"""The controller and its reasons against models of servers: believed, tried, given up, and told."""

from __future__ import annotations

import random

import msgspec
import pytest

from leadstatus_async import RateLimit, Suggestion
from leadstatus_async._state.rate import Controller
from leadstatus_async.testing.quota import FixedWindow, SlidingWindow, TokenBucket
from tests.simulator import AtOnce, Chance, Changing, Client, Gcra, Nginx


def passing(controller, numbers, rate, latency):
    """Let these of a row of requests, so many a second from 0.0 on, pass."""
    for number in numbers:
        controller.observe(number / rate + latency, 200, number / rate)


class Forgetful(Client):
    """A client whose controller goes to bytes and back before each answer."""

    def _receive(self):
        self.controller = msgspec.msgpack.decode(msgspec.msgpack.encode(self.controller), type=Controller)
        return super()._receive()


class Told(Controller, dict=True):
    """A controller that is told by four processes: what passed 50 ms late, together; a refusal at once."""

    def __post_init__(self):
        super().__post_init__()
        self.turn, self.untold, self.told_at = 0, [[], [], [], []], [0.0] * 4

    def observe(self, now, status, *args, **kwargs):
        self.turn = who = (self.turn + 7 * (status == 429) + 1) % 4
        self.untold[who].append((now, status, *args, kwargs))
        for process, late in enumerate(self.untold):
            if now - self.told_at[process] > 0.05 or (process == who and status == 429):
                self.told_at[process], self.untold[process] = now, []
                for *answer, stated in late:
                    super().observe(*answer, **stated)


LIMITS = pytest.mark.parametrize(
    "server",
    [
        pytest.param(lambda: SlidingWindow(20, 2), id="window"),
        pytest.param(lambda: Chance(0.05, random.Random(1)), id="chance"),
        pytest.param(lambda: AtOnce(4), id="at once"),
    ],
)


@LIMITS
def test_it_learns_as_well_from_several_processes(server):
    """Answers that are told late, and not in the order of their times, cost little."""
    plain, told = (
        [Client(server(), RateLimit(60), seed=seed, latency=0.1) for seed in range(3)] for _ in "12"
    )
    for client in told:
        client.controller = Told(60.0)
    before, now = ([client.ask(500) for client in clients] for clients in (plain, told))
    assert sum(outcome.seconds for outcome in now) < 1.1 * sum(outcome.seconds for outcome in before)
    assert sum(outcome.refused for outcome in now) < 1.5 * sum(outcome.refused for outcome in before)


@LIMITS
def test_its_state_is_a_plain_value(server):
    """Whoever takes it over from bytes goes on just so."""
    plain, forgetful = (kind(server(), RateLimit(100), latency=0.1) for kind in (Client, Forgetful))
    assert plain.ask(400) == forgetful.ask(400)
    assert plain.controller == forgetful.controller


def test_a_long_window_is_kept_to_and_suggested():
    """60 a minute, told ten a second: one a second, and in most cases in words."""
    clients = [Client(SlidingWindow(60, 60), RateLimit(10), seed=seed) for seed in range(8)]
    for client in clients:
        client.ask(700)
        assert client.controller.rate == pytest.approx(1, rel=0.25)
    told = [client.controller for client in clients if client.controller.reason == "60 per 60 s"]
    assert len(told) >= 5
    for controller in told:
        assert controller.suggestion == Suggestion(RateLimit(60, per=60))
        assert controller.first_pause == 6


def test_who_states_what_was_suggested_is_refused_nothing():
    """Whatever the kind of limit is."""
    for number, per in ((20, 2), (40, 1), (90, 10), (60, 60)):
        for kind in (FixedWindow, SlidingWindow):
            client = Client(kind(number, per), RateLimit(5 * number / per), seed=number)
            while client.controller.suggestion is None:
                client.ask(50)
            stated = client.controller.suggestion.rate_limit
            again = Client(kind(number, per), stated, seed=number + 1)
            assert again.ask(300).refused == 0, (kind, number, per, stated)
    buckets = [TokenBucket(40, 10), TokenBucket(1, 5), Nginx(50, 5), Gcra(20, 3)]
    for place, limit in enumerate(buckets):
        client = Client(limit, RateLimit(3 * limit.rate), seed=place)
        while client.controller.suggestion is None:
            client.ask(100)
        stated = client.controller.suggestion.rate_limit
        again = Client(type(limit)(limit.rate, limit.burst), stated, seed=place + 1)
        assert again.ask(600).refused == 0, (limit, stated)


def test_a_window_that_has_shrunk_is_found_again():
    """A tenth as much from some time on: not each request is tried at the old rate."""
    client = Client(Changing([(0, SlidingWindow(200, 10)), (100, SlidingWindow(20, 10))]), RateLimit(50))
    client.ask(1300)
    assert client.controller.rate > 10
    refused = client.outcome.refused
    client.ask(900)
    assert client.controller.rate < 4
    assert client.outcome.refused - refused < 60


def test_chance_that_becomes_a_limit_is_disbelieved():
    """5% by chance, then 20 a second: it slows, and what was believed is shown harder the next time."""
    server = Changing([(0, Chance(0.05, random.Random(3))), (30, SlidingWindow(20))])
    client = Client(server, RateLimit(100))
    client.ask(1500)
    assert client.controller.reason == "by chance"
    assert client.controller.first_pause == 0.1
    client.ask(1500)
    assert client.controller.rate < 30


def test_more_than_was_taken_for_chance_ends_the_trial():
    """6% by chance, and then half of all: it is believed no longer, and must be shown by one more refusal."""
    dice, controller, now = random.Random(5), Controller(100.0), 0.0
    while controller.reason != "by chance":
        now += 0.01
        controller.observe(now + 0.005, 429 if dice.random() < 0.06 else 200, now)
    before, refused = controller.doubts.refusals, 0
    while controller.reason == "by chance":
        now += 0.01
        refused += 1
        controller.observe(now + 0.005, 429, now)
        now += 0.01
        controller.observe(now + 0.005, 200, now)
    assert 2 <= refused <= 6
    assert controller.doubts.refusals == before + 1
    assert controller.rate < 100


class Wider(AtOnce):
    """A server that takes more at once from some request on."""

    asked = 0

    def admit(self, now):
        self.asked += 1
        if self.asked == 500:
            self.most = 16
        return super().admit(now)


def test_more_at_once_are_tried_again():
    """Four at once, later sixteen: a session that lives for weeks is not held to four for ever."""
    client = Client(Wider(4), RateLimit(200), latency=0.05)
    client.ask(400)
    assert client.controller.slots in {4, 5}
    client.ask(6000)
    assert client.controller.slots is None or client.controller.slots >= 15


def test_trying_more_at_once_costs_little():
    """Four at once for long: fewer than one in a hundred is refused for trying five, and it stays at four."""
    client = Client(AtOnce(4), RateLimit(200), latency=0.05)
    client.ask(400)
    refused = client.outcome.refused
    client.ask(8000)
    assert client.outcome.refused - refused < 60
    assert client.controller.slots in {4, 5}
    assert client.controller.doubts.at_once == 7


def test_beyond_a_hundred_at_once_there_is_no_limit():
    """Nothing is refused any more: the belief ends."""
    client = Client(AtOnce(4), RateLimit(200), latency=0.05)
    client.ask(400)
    assert client.controller.reason == "4 at once"
    client.server.most = 10**6
    client.ask(15_000)
    assert client.controller.why is None
    assert client.controller.reason == ""


def test_slots_that_do_not_help_are_given_back():
    """Four at once, then 20 a second: fewer slots do not help, going slower does."""

    class Mixed(AtOnce):
        limit = SlidingWindow(20)
        asked = 0

        def admit(self, now):
            self.asked += 1
            return super().admit(now) if self.asked < 500 else self.limit.admit(now)

    client = Client(Mixed(4), RateLimit(100), latency=0.05)
    client.ask(450)
    assert client.controller.slots == 4
    client.ask(1500)
    assert client.controller.rate < 30 or (client.controller.slots or 16) < 4


@pytest.mark.parametrize("kind", [SlidingWindow, FixedWindow])
def test_503_is_learned_only_where_a_limit_explains_it(kind):
    """The same refusals as 503: nothing is cut at first, and the limit is found."""
    controller, limit = Controller(50.0), kind(20, 2)
    now, paused_until, cuts = 1000.0, 0.0, []
    while now < 1060:
        before = controller.rate
        status = 200 if limit.admit(now).admitted else 503
        controller.observe(now + 0.02, status, now, paused_until=paused_until)
        if controller.rate < before:
            cuts.append(status)
        paused_until = now + 0.5 if status == 503 else paused_until
        now += 0.5 if status == 503 else 1 / controller.rate
    assert cuts[0] == 200, "cut when it was explained, not when it came"
    assert controller.rate < 16


def test_503_by_chance_slows_nothing():
    """A server in trouble now and then."""
    dice = random.Random(4)
    controller = Controller(50.0)
    for number in range(4000):
        now = number / 50
        controller.observe(now + 0.02, 503 if dice.random() < 0.03 else 200, now)
    assert controller.rate == 50
    assert controller.suggestion is None


def test_a_429_among_503s_cuts():
    """What is certain is not left to be explained."""
    controller = Controller(50.0)
    passing(controller, range(50), 50, 0.02)
    controller.observe(1.02, 503, 1.0)
    assert controller.rate == 50
    controller.observe(1.04, 429, 1.02)
    assert controller.rate == 25


def test_what_passes_behind_a_refusal_speaks_for_it():
    """Of ten in flight one was refused: the others passed, so the rate is as good as before."""
    controller = Controller(100.0)
    passing(controller, range(30), 100, 0.1)
    controller.observe(0.4, 429, 0.3)
    passing(controller, range(31, 40), 100, 0.1)
    controller.observe(0.8, 200, 0.7)
    assert controller.rate == pytest.approx(97)


def test_what_passes_behind_a_refusal_shows_that_a_second_was_no_limit():
    """0.37 s of 200/s were admitted, one is refused and four behind it pass: it is not 74 a second."""
    controller = Controller(200.0)
    passing(controller, range(74), 200, 0.02)
    controller.observe(0.39, 429, 0.37)
    passing(controller, range(75, 79), 200, 0.02)
    controller.observe(1.42, 200, 1.4, paused_until=1.39)
    assert controller.ceiling == 200
    assert controller.rate == pytest.approx(194)


def test_a_pause_is_no_time_of_work():
    """An episode that was over before its pause: what passes later is not spread over the pause."""
    controller = Controller(100.0)
    passing(controller, range(36), 100, 0.05)
    controller.observe(0.41, 429, 0.36)
    for sent_at in (0.37, 0.38, 0.39, 0.41):
        controller.observe(sent_at + 0.05, 200, sent_at, paused_until=1.41)
    assert controller.rate == pytest.approx(97)
    for number in range(30):
        now = 1.42 + number / 97
        controller.observe(now + 0.05, 200, now, paused_until=1.41)
    controller.observe(1.8, 429, 1.75, paused_until=1.41)
    assert controller.ceiling == pytest.approx(97)
