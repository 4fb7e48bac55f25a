"""Requests refused for a reason, on the real engine in virtual time: what is done, and what is told."""

from __future__ import annotations

import asyncio
import logging
import random
from itertools import count

import pytest

from leadstatus_async import RateLimit, Suggestion
from leadstatus_async.testing.quota import FixedWindow, SlidingWindow, TokenBucket
from tests.virtual_session import Wire, virtual_session
from tests.virtual_time import run


@pytest.fixture(autouse=True)
def dice(monkeypatch):
    """Throw the same dice each time: pauses have jitter."""
    monkeypatch.setattr(random, "SystemRandom", lambda: random.Random(1))


LEADS = [f"x{number}" for number in range(4000)]


def job(wire, leads, **options):
    """Ask for leads, one in each request; return the result, the state afterwards, and how long it took."""

    async def main():
        async with virtual_session(wire, chunk_size=1, **options) as session:
            result = await session.campaign("a", "c").get_many(LEADS[:leads])
            return result, session.rate_limit_state

    result, state = run(main)
    assert len(result.statuses) == leads
    return result, state, wire.sent[-1].at


class Busy(Wire):
    """A wire to a server that works on so many requests at once, and refuses others without delay."""

    def __init__(self, most, latency):
        super().__init__(lambda _: self.word, latency=latency, seed=1)
        self.most, self.busy, self.word = most, 0, ""

    async def send(self, target, seconds=None):
        refused = self.busy >= self.most
        self.word, self._latency = ("429", 0.005) if refused else ("ok", 0.1)
        self.busy += not refused
        try:
            return await super().send(target, seconds)
        finally:
            self.busy -= not refused


@pytest.mark.parametrize("most", [1, 4, 8])
def test_too_many_at_once_are_answered_by_fewer_slots(most):
    """Sixteen slots, of which the server takes a few: no more are in flight, and the rate stays."""
    wire = Busy(most, 0.1)
    result, state, seconds = job(wire, 600, rate_limit=RateLimit(100))
    assert state.reason == f"{most} at once"
    assert state.suggestion == Suggestion(concurrency=most)
    assert state.rate == 100
    assert result.stats.rate_limited < 0.06 * 600
    assert seconds < 1.35 * 600 * 0.1 / most


def test_who_states_how_many_at_once_is_refused_nothing():
    """What was suggested holds."""
    result, state, _ = job(Busy(4, 0.1), 600, rate_limit=RateLimit(100), concurrency=4)
    assert result.stats.rate_limited == 0
    assert state.suggestion is None


def test_chance_slows_nothing():
    """5% refused whatever is sent: after a while at the full rate, with pauses of 0.1 s at most."""
    times = []
    for seed in range(2, 8):
        dice, pauses = random.Random(seed), []
        wire = Wire(lambda _, dice=dice: "429" if dice.random() < 0.05 else "ok", latency=0.02, seed=1)

        def told(event, pauses=pauses):
            if type(event).__name__ == "Paused":
                pauses.append(event.seconds)

        result, state, seconds = job(wire, 1000, rate_limit=RateLimit(100), on_event=told)
        assert len(result.statuses) == 1000
        assert state.reason == "by chance"
        assert state.rate == 100
        assert state.suggestion is None
        assert max(pauses[-10:]) <= 0.1
        times.append((seconds - sum(pauses)) / 10)
    assert sum(times) / len(times) < 1.85
    assert min(times) < 1.2


def test_a_limit_is_suggested_logged_and_true(caplog):
    """20 per 2 s, told ten times that: the next session states it, and is refused nothing."""
    limit = FixedWindow(20, 2)
    wire = Wire(lambda sent: "ok" if limit.admit(sent.at).admitted else "429", latency=0.02, seed=1)
    with caplog.at_level(logging.INFO, "leadstatus_async"):
        _, state, _ = job(wire, 1200, rate_limit=RateLimit(100))
    assert state.suggestion is not None
    assert state.suggestion.rate_limit is not None
    assert state.suggestion.rate_limit.rate == pytest.approx(10, rel=0.1)
    told = [line for line in caplog.messages if "next time" in line]
    assert told == [f"requests were refused; state {state.suggestion} next time"]
    again = FixedWindow(20, 2)
    wire = Wire(lambda sent: "ok" if again.admit(sent.at).admitted else "429", latency=0.02, seed=2)
    result, state, seconds = job(wire, 300, rate_limit=state.suggestion.rate_limit)
    assert result.stats.rate_limited == 0
    assert state.suggestion is None
    assert seconds < 1.2 * 30


def test_a_503_that_a_limit_explains_is_learned():
    """A server that says 503 above 40 a second: no lead is lost, and it is slowed for."""
    limit = FixedWindow(40)
    wire = Wire(lambda sent: "ok" if limit.admit(sent.at).admitted else "503", latency=0.02, seed=1)
    _, state, seconds = job(wire, 1200, rate_limit=RateLimit(100))
    assert state.rate < 60
    assert sum(sent.at > 10 for sent in wire.sent) > 0
    assert seconds < 1.5 * 30


def test_a_server_that_is_down_is_not_slowed_for():
    """503 for two seconds in mid-job, three times: that is no limit."""
    wire = Wire(lambda sent: "503" if sent.at % 10 > 8 else "ok", latency=0.02, seed=1)
    _, state, _ = job(wire, 2000, rate_limit=RateLimit(100))
    assert state.rate == 100


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(lambda: FixedWindow(40), id="fixed"),
        pytest.param(lambda: SlidingWindow(40), id="sliding"),
        pytest.param(lambda: TokenBucket(40, 10), id="bucket"),
        pytest.param(lambda: SlidingWindow(80, 2), id="two seconds"),
    ],
)
def test_two_who_share_a_quota_and_nothing_else_share_it_fairly(kind, seed, monkeypatch):
    """Each is refused because of the other, which looks like chance: nobody starves, and few are refused."""
    numbers = count(100 * seed)
    monkeypatch.setattr(random, "SystemRandom", lambda: random.Random(next(numbers)))
    limit, passed, refused = kind(), [0, 0], [0, 0]

    def server(place):
        def decide(sent):
            admitted = limit.admit(sent.at + 4.3 * seed).admitted
            passed[place] += admitted and sent.at < 60  # both are at work until then
            refused[place] += not admitted
            return "ok" if admitted else "429"

        return decide

    async def job(place):
        wire = Wire(server(place), latency=0.02, seed=2 * seed + place)
        async with virtual_session(wire, chunk_size=1, rate_limit=RateLimit(100)) as session:
            await asyncio.sleep(0.7 * place)
            await session.campaign("a", "c").get_many(LEADS[:1600])

    async def main():
        began = asyncio.get_running_loop().time()
        await asyncio.gather(job(0), job(1))
        return asyncio.get_running_loop().time() - began

    assert run(main) <= 1.4 * 80
    assert min(passed) >= 0.25 * sum(passed)
    assert sum(refused) <= 0.06 * 3200
