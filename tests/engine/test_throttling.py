"""429s in virtual time: one pauses all, nothing is lost or hurried, and endless ones have an end."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest

from leadstatus_async import BatchError, RateLimit, RateLimitError, RetryPolicy, ServerError
from leadstatus_async.events import Paused
from leadstatus_async.testing import FixedWindow, SlidingWindow, TokenBucket
from tests.conftest import leads
from tests.virtual_session import START, Wire, virtual_session
from tests.virtual_time import lateness, run

SEEDS = range(4)


class Limited:
    """A server with a rate limit, that says 429 to what is too much.

    Attributes:
        refused: how many requests that was.
    """

    def __init__(self, limit, stated=None):
        self._limit, self._stated = limit, stated
        self.refused = 0

    def __call__(self, sent):
        if self._limit.admit(sent.at).admitted:
            return "ok"
        self.refused += 1
        return "429" if self._stated is None else f"429 Retry-After {self._stated}"


@pytest.mark.parametrize("concurrency", [1, 2, 4, 16, 64])
@pytest.mark.parametrize("kind", ["429", "429 Retry-After 0"])
@pytest.mark.parametrize("limit", [RateLimit(10), RateLimit(500), None], ids=["10/s", "500/s", "no limit"])
def test_endless_429s_without_a_pause_are_given_up(concurrency, kind, limit):
    """After max_outage seconds, whatever the concurrency; a later call gets as long, and rows in the end."""

    async def main():
        wire = Wire(lambda sent: kind if sent.at < 300 else "ok")
        loop = asyncio.get_running_loop()
        options = {"chunk_size": 1, "concurrency": concurrency, "rate_limit": limit}
        async with virtual_session(wire, **options) as session:
            campaign = session.campaign("a", "c")
            for _ in range(2):
                began, sent = loop.time(), len(wire.sent)
                with pytest.raises(BatchError) as caught:
                    await campaign.get_many(leads(200))
                assert {type(error) for error in caught.value.exceptions} == {RateLimitError}
                assert len(caught.value.result.failures) == 200
                assert 60 <= loop.time() - began <= 66
                # Without a bucket, the gate reopens for all slots at once.
                assert len(wire.sent) - sent <= (20 + 2 * concurrency if limit else 12 * concurrency)
            await asyncio.sleep(START + 300 - loop.time())
            assert len(await campaign.get_many(leads(50))) == 50

    run(main)


@pytest.mark.parametrize("concurrency", [1, 4, 16])
def test_endless_429s_that_state_their_pauses(concurrency):
    """Every pause is kept; it is given up after ten of them, or max_outage seconds if that is later."""

    async def main():
        loop = asyncio.get_running_loop()
        for stated, least, most in ((1, 60, 75), (30, 300, 340)):
            wire = Wire(lambda sent, stated=stated: f"429 Retry-After {stated}")
            async with virtual_session(wire, chunk_size=1, concurrency=concurrency) as session:
                began = loop.time()
                with pytest.raises(BatchError):
                    await session.campaign("a", "c").get_many(leads(200))
                assert least <= loop.time() - began <= most
                # One request at a time asks, once the pause is over and the first have all been refused.
                assert len(wire.sent) <= concurrency + 2.5 * (most / stated)

    run(main)


@pytest.mark.parametrize("stated", [0.3, 2, 30])
@pytest.mark.parametrize("calls", [1, 3])
def test_one_429_pauses_everybody(stated, calls):
    """Nothing goes out before the pause is over, from whatever call; it is told of once; all is answered."""

    async def main():
        seen = []
        wire = Wire(lambda sent: f"429 Retry-After {stated}" if sent.number == 20 else "ok")
        options = {"chunk_size": 1, "rate_limit": RateLimit(50), "on_event": seen.append}
        async with virtual_session(wire, **options) as session:
            campaigns = [session.campaign("a", f"c{number}") for number in range(calls)]
            results = await asyncio.gather(*(campaign.get_many(leads(60)) for campaign in campaigns))
        assert all(len(result.statuses) == 60 for result in results)
        told = wire.sent[20].at + 0.1  # at the latest
        pause = max(stated, 0.5)  # at least base_delay
        assert not [sent for sent in wire.sent if told < sent.at < wire.sent[20].at + pause]
        assert sum(result.stats.rate_limited for result in results) == 1
        assert len([event for event in seen if isinstance(event, Paused)]) == 1

    run(main)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("allowed", [10, 40, 80])
@pytest.mark.parametrize("stated", [None, 1])
def test_a_limit_that_was_guessed_wrong_costs_no_lead(seed, allowed, stated):
    """Told 100/s where less is allowed: few are refused, and the rest goes at what is allowed."""

    async def main():
        server = Limited(SlidingWindow(allowed), stated)
        wire = Wire(server, latency=0.02, seed=seed)
        loop = asyncio.get_running_loop()
        async with virtual_session(wire, chunk_size=1, rate_limit=RateLimit(100)) as session:
            result = await session.campaign("a", "c").get_many(leads(20 * allowed))
        assert len(result.statuses) == 20 * allowed
        assert result.stats.rate_limited == server.refused <= 0.08 * len(wire.sent) + 5
        assert loop.time() - START <= 20 * 1.5

    run(main, lateness(seed))


def test_a_pause_that_is_too_long_fails_what_waits():
    """An hour is not slept through: who waits learns of it at once, and who comes later, too."""

    async def main():
        wire = Wire(lambda sent: "429 Retry-After 3600" if sent.number == 10 else "ok")
        loop = asyncio.get_running_loop()
        async with virtual_session(wire, chunk_size=1, concurrency=2) as session:
            campaign = session.campaign("a", "c")
            result = await campaign.get_many(leads(100), on_error="collect")
            assert {type(failure.error) for failure in result.failures} == {RateLimitError}
            assert len(result.statuses) in (10, 11)
            assert loop.time() - START < 2
            await asyncio.sleep(1000)
            with pytest.raises(RateLimitError) as caught:
                await campaign.get("x")
            assert 2500 < caught.value.retry_after < 2601
            sent = len(wire.sent)
            await asyncio.sleep(2700)
            assert (await campaign.get("x")).ok
            assert len(wire.sent) == sent + 1

    run(main)


def test_gets_are_told_while_the_server_states_a_long_pause():
    """A 503 that states ten seconds: no probe may go before, but no web request waits for that."""

    async def main():
        wire = Wire(lambda sent: "503 Retry-After 10" if 5 <= sent.at < 15 else "ok")
        loop = asyncio.get_running_loop()
        async with virtual_session(wire, chunk_size=1, rate_limit=RateLimit(100)) as session:
            campaign = session.campaign("a", "c")
            await campaign.get("warm")
            await asyncio.sleep(4.5)
            job = asyncio.create_task(campaign.get_many(leads(200)))
            await asyncio.sleep(1)
            asked, sent = loop.time(), len(wire.sent)
            with pytest.raises(ServerError):
                await campaign.get("someone")
            assert loop.time() - asked <= 5
            assert len(wire.sent) == sent
            assert len((await job).statuses) == 200

    run(main)


@pytest.mark.parametrize("rate", [1, 10, 100, 1000])
@pytest.mark.parametrize("burst", [False, True], ids=["even", "bursts"])
@pytest.mark.parametrize("kind", ["sliding", "fixed", "bucket"])
def test_a_right_limit_is_never_refused(rate, burst, kind):
    """Whatever kind of server counts, at most so many go in any window, and at least 95% of them do."""
    together = max(1, rate // 2) if burst else None
    lasting = min(20, 3000 // rate)
    for seed in SEEDS:

        async def main(seed=seed):
            # Timers that are late and answers that are slow move requests together by a millisecond or two.
            windows = {"sliding": SlidingWindow(rate, per=0.99), "fixed": FixedWindow(rate, per=0.99)}
            server = Limited(
                windows.get(kind) or TokenBucket(1.01 * rate, burst=(together or 1) + rate // 50 + 1)
            )
            wire = Wire(server, latency=0.01, seed=seed)
            loop = asyncio.get_running_loop()
            options = {"rate_limit": RateLimit(rate, burst=together), "chunk_size": 1, "concurrency": 64}
            async with virtual_session(wire, **options) as session:
                await session.campaign("a", "c").get_many(leads(lasting * rate))
            assert server.refused == 0
            assert loop.time() - START <= lasting / 0.95

        run(main, lateness(seed))


def test_several_limits_hold_together():
    """A list of limits holds them all: the first for a tenth of a second, the second for half of one."""

    async def main():
        wire = Wire(lambda sent: "ok")
        limits = [RateLimit(100, per=0.1), RateLimit(20, per=0.5, burst=20)]
        async with virtual_session(wire, rate_limit=limits, chunk_size=1) as session:
            await session.campaign("a", "c").get_many(leads(200))
        for per, most in ((0.1, 100), (0.5, 20)):
            window = deque()
            for sent in wire.sent:
                window.append(sent.at)
                while window[0] <= sent.at - per:
                    window.popleft()
                assert len(window) <= most
        assert wire.sent[-1].at <= 5.0

    run(main, lateness(1))


def test_what_went_out_without_a_token_is_waited_for():
    """On a lent session a lost connection may have been two requests: the next ones wait for both."""

    async def main():
        wire = Wire(lambda sent: "reset twice" if sent.number < 5 else "ok")
        policy = RetryPolicy(max_attempts=12, max_outage=0)
        options = {"rate_limit": RateLimit(1), "chunk_size": 1, "retry": policy}
        async with virtual_session(wire, **options) as session:
            result = await session.campaign("a", "c").get_many(leads(20))
        assert len(result.statuses) == 20
        assert len(wire.sent) == 25
        assert result.stats.requests == 30
        assert 28 <= wire.sent[-1].at <= 30.5, "one a second, those unseen included"

    run(main)


def test_max_attempts_of_one_sends_nothing_twice():
    """Not after a 429 either."""

    async def main():
        wire = Wire(lambda sent: "429" if sent.number == 0 else "ok")
        async with virtual_session(wire, retry=RetryPolicy(max_attempts=1)) as session:
            with pytest.raises(BatchError):
                await session.campaign("a", "c").get_many(["x"])
        assert len(wire.sent) == 1

    run(main)
