"""The limiter follows the controller: one more bucket while the rate is below the configured one."""

from __future__ import annotations

import asyncio
import logging

import pytest

from leadstatus_async import RateLimit, Suggestion
from leadstatus_async.limiter import TokenBucketLimiter
from tests.virtual_time import run


async def grants(limiter, count):
    """Return when so many tokens were had."""
    times = []
    for _ in range(count):
        await limiter.acquire()
        times.append(asyncio.get_running_loop().time())
    return times


def test_a_429_slows_those_who_wait_already():
    """Who waits is timed anew: half the rate, and no burst."""

    async def main():
        loop = asyncio.get_running_loop()
        limiter = TokenBucketLimiter(RateLimit(100))
        waiting = asyncio.ensure_future(grants(limiter, 10))
        await asyncio.sleep(0.005)
        limiter.observe(429, loop.time(), {})
        begun = loop.time()
        times = await waiting
        assert limiter.state.rate == 50
        assert limiter.state.ceiling == 100
        assert limiter.state.configured_rate == 100
        assert limiter.state.reason == "HTTP 429 at 100/s"
        assert times[-1] - begun >= 8 / 50

    run(main)


def test_a_pause_reopens_the_learned_bucket_too():
    """After the pause one token goes, then the learned drip; `wait_time` knows."""

    async def main():
        loop = asyncio.get_running_loop()
        limiter = TokenBucketLimiter(RateLimit(100, burst=20))
        limiter.pause(3.0, "HTTP 503, Retry-After 3 s")
        begun = loop.time()
        limiter.observe(429, begun, {})
        assert limiter.state.reason == "HTTP 503, Retry-After 3 s"
        assert abs(limiter.wait_time(ahead=5) - (3.0 + 5 / 50)) < 0.001
        times = await grants(limiter, 6)
        assert abs(times[0] - begun - 3.0) < 0.01
        assert times[-1] - times[0] >= 5 / 50 - 1e-9

    run(main)


def test_what_is_forgotten_is_gone():
    """Back at the configured rate the bucket is as before, bursts included, and each change was logged."""

    async def main():
        loop = asyncio.get_running_loop()
        limiter = TokenBucketLimiter(RateLimit(100, burst=20))
        limiter.observe(429, loop.time(), {})
        await asyncio.sleep(0.5)
        while limiter.state.rate < 100:
            await limiter.acquire()
            limiter.observe(200, loop.time(), {})
        await asyncio.sleep(2)
        times = await grants(limiter, 20)
        assert times[-1] == times[0]
        assert limiter.state.reason == ""

    run(main)


def test_each_change_is_one_line(caplog):
    """A cut is logged once, with the reason; answers that change nothing are not."""

    async def main():
        loop = asyncio.get_running_loop()
        limiter = TokenBucketLimiter(RateLimit(100))
        for _ in range(16):
            limiter.observe(429, loop.time(), {})
        limiter.observe(200, loop.time() - 1, {})

    with caplog.at_level(logging.INFO, "leadstatus_async"):
        run(main)
    assert [record.getMessage() for record in caplog.records] == ["rate is now 50/s: HTTP 429 at 100/s"]


def test_headers_slow_and_let_go():
    """A header on a 200 slows the limiter; when it is gone, so is the slowness."""

    async def main():
        loop = asyncio.get_running_loop()
        limiter = TokenBucketLimiter(RateLimit(10))
        policy = {"RateLimit-Policy": '"default";q=120;w=60'}
        await limiter.acquire(waiting=100)
        limiter.observe(200, loop.time(), policy)
        assert limiter.state.rate == 10, "what waits fits into it"
        await limiter.acquire(waiting=1000)
        limiter.observe(200, loop.time(), policy)
        assert limiter.state.rate == 2
        assert limiter.state.reason == "120 per 60 s (rate-limit headers)"
        assert limiter.state.suggestion == Suggestion(RateLimit(120, per=60))
        times = await grants(limiter, 3)
        assert times[-1] - times[0] >= 1.0 - 1e-9
        limiter.observe(200, loop.time(), {})
        assert limiter.state.rate == 10

    run(main)


@pytest.mark.parametrize("asked", ["acquire", "wait_time", "state", "ring"])
def test_what_headers_said_of_a_window_ends_with_it(asked):
    """Nothing left for 30 s, says the last answer; an hour later nobody is slowed by that."""

    async def main():
        loop = asyncio.get_running_loop()
        limiter = TokenBucketLimiter(RateLimit(10))
        used_up = {"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "30"}
        await limiter.acquire()
        limiter.observe(200, loop.time(), used_up)
        assert limiter.state.rate == 1
        if asked == "ring":  # who waits while the window ends goes on at the full rate
            times = await grants(limiter, 60)
            assert times[-1] - times[-20] < 3
            return
        await asyncio.sleep(3600)
        if asked == "acquire":
            times = await grants(limiter, 20)
            assert times[-1] - times[0] < 3
        elif asked == "wait_time":
            assert limiter.wait_time(ahead=19) < 3
        assert limiter.state.rate == 10

    run(main)


def test_a_rise_serves_who_waits_sooner():
    """Who waits for a slow token is timed anew when the rate rises."""

    async def main():
        loop = asyncio.get_running_loop()
        limiter = TokenBucketLimiter(RateLimit(10))
        limiter.observe(200, loop.time(), {"RateLimit-Policy": '"default";q=60;w=60'})
        begun = loop.time()
        waiting = asyncio.ensure_future(grants(limiter, 2))
        await asyncio.sleep(0.2)
        limiter.observe(200, loop.time(), {})
        assert (await waiting)[-1] - begun < 0.3

    run(main)


def test_without_a_limit_there_is_nothing_to_learn():
    """With None no rate is learned, only pauses hold."""

    async def main():
        limiter = TokenBucketLimiter(None)
        limiter.observe(429, 0.0, {"RateLimit-Policy": '"default";q=1;w=60'})
        assert limiter.state.rate is limiter.state.ceiling is None
        await asyncio.wait_for(grants(limiter, 100), 0.001)

    run(main)


async def test_a_learned_rate_is_forgotten_at_the_configured_one():
    """The bucket that was learned goes when there is nothing left to hold back."""
    loop = asyncio.get_running_loop()
    limiter = TokenBucketLimiter(RateLimit(10))
    await limiter.acquire(waiting=1000)
    limiter.observe(200, loop.time(), {"RateLimit-Policy": '"default";q=120;w=60'})
    assert limiter.wait_time(1) > 0.4
    limiter.observe(200, loop.time(), {})
    assert limiter._learned is None
    assert len(limiter._buckets) == 1
