"""The token bucket: the window bound, the order, pauses and changes, on a hand-driven clock."""

from __future__ import annotations

import asyncio
import random
import sys

import pytest
from aiolimiter import AsyncLimiter
from hypothesis import given, settings
from hypothesis import strategies as st

from leadstatus_async import RateLimit, RateLimitError, SessionLoopError
from leadstatus_async.limiter import Bucket, Limiter, TokenBucketLimiter, seconds_until, sizes
from tests.virtual_time import run


def most_in_window(times, per):
    """Return the most events in any window of `per` seconds, half open."""
    most, first = 0, 0
    for last, at in enumerate(times):
        while at - times[first] >= per:
            first += 1
        most = max(most, last - first + 1)
    return most


async def take(limiter, count, times):
    loop = asyncio.get_running_loop()
    for _ in range(count):
        await limiter.acquire()
        times.append(loop.time())


def lateness(seed, most=0.0012):
    dice = random.Random(seed)
    return lambda: dice.random() * most


@pytest.mark.parametrize("rate", [1, 2.5, 10, 100, 1000])
def test_a_rate_is_used_and_never_exceeded(rate):
    """At least 95% of the rate with late timers, and the window bound holds."""
    times = []
    count = int(rate * 20)
    run(lambda: take(TokenBucketLimiter(RateLimit(rate)), count, times), late=lateness(1))
    assert most_in_window(times, 1.0) <= rate
    assert (count - 1) / (times[-1] - times[0]) >= 0.95 * int(rate)


LIMITS = st.builds(
    lambda rate, per, burst: RateLimit(rate, per, None if burst is None else max(1, min(burst, int(rate)))),
    st.floats(1, 300),
    st.floats(0.05, 30),
    st.none() | st.integers(1, 300),
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "take", "idle", "cancel", "refund", "pause", "slower"]),
        st.floats(0, 1),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(limits=st.lists(LIMITS, min_size=1, max_size=3), steps=STEPS, early=st.booleans(), seed=st.integers(0, 99))
def test_no_schedule_breaks_the_window_or_loses_a_waiter(limits, steps, early, seed):
    """Acquiring, idling, cancelling, refunding, pausing and slowing down in any order."""
    granted, order, cancelled = [], [], set()

    async def main():
        loop = asyncio.get_running_loop()
        limiter = TokenBucketLimiter(limits)
        waiters = {}

        async def waiter(number):
            await limiter.acquire()
            granted.append(loop.time())
            order.append(number)

        for number, (step, amount) in enumerate(steps):
            if step == "take":
                waiters[number] = asyncio.ensure_future(waiter(number))
            elif step == "idle":
                await asyncio.sleep(amount * 3)
            elif step == "cancel" and waiters:
                victim = list(waiters)[int(amount * (len(waiters) - 1))]
                waiters[victim].cancel()
                cancelled.add(victim)
            elif step == "refund" and granted and amount > 0.5:
                await limiter.acquire()
                limiter.refund()
            elif step == "pause":
                limiter.pause(amount, "test")
            elif step == "slower":
                capacity, drip = sizes(limits[0])
                limiter._buckets[0].set_rate(1.0, max(drip * amount, capacity / 100))
                limiter.retime()
            await asyncio.sleep(0)
        await asyncio.gather(*waiters.values(), return_exceptions=True)
        assert limiter._waiters == type(limiter._waiters)()
        taken = set(waiters) - cancelled
        assert taken <= set(order)

    dice = random.Random(seed)
    run(main, late=lambda: (dice.random() - (0.5 if early else 0)) * 0.002)
    assert order == sorted(order), "first come, first served"
    for limit in limits:
        assert most_in_window(granted, limit.per) <= limit.max_rate


def test_a_burst_goes_at_once_and_keeps_the_window():
    """RateLimit(60, per=60, burst=60): all at once, and never more than 60 in any minute."""
    times = []
    run(lambda: take(TokenBucketLimiter(RateLimit(60, per=60, burst=60)), 200, times))
    assert times[59] == times[0]
    assert most_in_window(times, 60) <= 60
    assert times[-1] - times[0] < 3 * 62


def test_below_one_per_window_is_one_in_a_longer_one():
    """RateLimit(0.5) is one every two seconds."""
    times = []
    run(lambda: take(TokenBucketLimiter(RateLimit(0.5)), 5, times))
    assert [round(b - a, 2) for a, b in zip(times, times[1:], strict=False)] == [2.02] * 4


def test_a_pause_holds_everybody_and_reopens_through_the_bucket():
    """Nobody passes while it stands; then one token and the drip, not all that has gathered."""
    times = []

    async def main():
        loop = asyncio.get_running_loop()
        limiter = TokenBucketLimiter(RateLimit(100, per=1, burst=50))
        limiter.pause(5.0, "HTTP 429")
        limiter.pause(1.0, "shorter")
        assert limiter.state.paused_for == 5.0
        assert limiter.state.reason == "HTTP 429"
        started = loop.time()
        await take(limiter, 10, times)
        assert limiter.state.paused_for == 0.0
        assert limiter.state.reason == ""
        assert times[0] - started >= 5.0
        assert times[-1] - times[0] >= 9 / 100 - 1e-6

    run(main)


def test_without_a_bucket_only_pauses_hold():
    """None: everybody passes at once, but for a pause."""

    async def main():
        loop = asyncio.get_running_loop()
        limiter = TokenBucketLimiter(None)
        times = []
        await take(limiter, 1000, times)
        assert times[-1] == times[0]
        limiter.pause(2.0, "HTTP 503")
        await take(limiter, 3, times)
        assert loop.time() - times[0] == pytest.approx(2.0, abs=0.01)
        limiter.refund()
        assert limiter.wait_time() == 0.0
        assert limiter.state.rate is None

    run(main)


def test_a_pause_longer_than_allowed_is_raised_to_all():
    """To who waits already, at once, and to who comes later, with the seconds left."""

    async def main():
        limiter = TokenBucketLimiter(RateLimit(1))
        await limiter.acquire()
        impatient = asyncio.ensure_future(limiter.acquire(max_pause=10))
        patient = asyncio.ensure_future(limiter.acquire())
        await asyncio.sleep(0)
        limiter.pause(60.0, "HTTP 429, Retry-After 60 s")
        with pytest.raises(RateLimitError, match="Retry-After 60 s") as caught:
            await impatient
        assert caught.value.retry_after == 60
        with pytest.raises(RateLimitError) as caught:
            await limiter.acquire(max_pause=59)
        await patient

    run(main)


def test_a_waiter_cancelled_in_the_turn_of_its_grant_gives_the_token_back():
    """Granted, but cancelled before it could run: the next in the queue gets it at once (b10)."""

    async def main():
        loop = asyncio.get_running_loop()
        limiter = TokenBucketLimiter(RateLimit(1))
        await limiter.acquire()
        first, second = (asyncio.ensure_future(limiter.acquire()) for _ in range(2))
        await asyncio.sleep(0)
        loop.call_at(limiter._timer.when(), first.cancel)  # right after the grant, in the same turn
        with pytest.raises(asyncio.CancelledError):
            await first
        at = loop.time()
        await second
        assert loop.time() == at

    run(main)


def test_cancelled_waiters_vanish():
    """The head leaving lets the next be timed; one in the middle just goes."""

    async def main():
        limiter = TokenBucketLimiter(RateLimit(1))
        await limiter.acquire()
        waiters = [asyncio.ensure_future(limiter.acquire()) for _ in range(4)]
        await asyncio.sleep(0)
        for leaving in (waiters[0], waiters[2]):
            leaving.cancel()
        await asyncio.sleep(0)
        assert len(limiter._waiters) == 2
        await asyncio.gather(*waiters, return_exceptions=True)

    run(main)


def test_a_rate_can_change_while_callers_wait():
    """What was earned is settled first, and whoever waits is timed anew (b3)."""

    async def main():
        loop = asyncio.get_running_loop()
        limiter = TokenBucketLimiter(RateLimit(1, per=100))
        await limiter.acquire()
        waiting = asyncio.ensure_future(limiter.acquire())
        await asyncio.sleep(10)
        limiter._buckets[0].set_rate(1.0, 1.0)
        limiter.retime()
        started = loop.time()
        await waiting
        assert loop.time() - started == pytest.approx(0.9, abs=0.02)

    run(main)


@pytest.mark.parametrize(
    "limits",
    [RateLimit(10), RateLimit(3, per=2), RateLimit(60, per=60, burst=60), RateLimit(20, per=1, burst=5), None],
    ids=str,
)
@pytest.mark.parametrize("used", [0, 3, 25])
def test_wait_time_foretells_what_acquire_does(limits, used):
    """`ahead` others later, the token comes when it was said to."""

    async def main():
        loop = asyncio.get_running_loop()
        limiter = TokenBucketLimiter(limits)
        await take(limiter, used, [])
        for ahead in (0, 1, 7, 30):
            foretold = limiter.wait_time(ahead)
            started = loop.time()
            await take(limiter, ahead + 1, [])
            assert loop.time() - started == pytest.approx(foretold, abs=0.05 + 0.1 * foretold)

    run(main)


def test_wait_time_counts_pauses_and_who_waits():
    """A pause comes first; those who wait already come before."""

    async def main():
        limiter = TokenBucketLimiter(RateLimit(1))
        limiter.pause(10.0, "test")
        assert limiter.wait_time() == pytest.approx(10.0, abs=0.1)
        waiting = asyncio.ensure_future(limiter.acquire())
        await asyncio.sleep(0)
        assert limiter.wait_time() == pytest.approx(11.0, abs=0.1)
        waiting.cancel()

    run(main)
    assert TokenBucketLimiter(RateLimit(1)).wait_time(2) == pytest.approx(2.02), "outside an event loop, too"


def test_a_second_event_loop_is_refused():
    """One limiter, one loop: said by name, with what to do (b9)."""
    limiter = TokenBucketLimiter(RateLimit(1))
    asyncio.run(limiter.acquire())
    with pytest.raises(SessionLoopError, match="event loop"):
        asyncio.run(limiter.acquire())
    assert limiter.state.paused_for == 0.0
    asyncio.run(limiter.aclose())


def test_it_is_a_limiter_and_says_what_it_is():
    """The protocol is checked at run time by the session."""
    limiter = TokenBucketLimiter([RateLimit(1), RateLimit(2)])
    assert isinstance(limiter, Limiter)
    assert "max_rate=1" in repr(limiter)
    assert limiter.state.configured_rate == 1
    assert seconds_until(limiter, 0) == 0.0


def test_the_pieces_of_aiolimiter_that_we_use_are_there():
    """Two private names are pinned by `aiolimiter<2`; a release without them must fail here."""
    bucket = AsyncLimiter(2, 1)
    assert {"_level", "_rate_per_sec", "_last_check", "max_rate"} <= set(AsyncLimiter.__slots__)
    assert bucket._level == 0
    assert bucket._rate_per_sec == 2
    assert Bucket(RateLimit(10))._bucket.max_rate == pytest.approx(1.05)


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop does not run on Windows")
def test_uvloop_wakes_no_more_than_ten_times_per_token():
    """libuv rounds timers to milliseconds and fires early; we do not spin (b7)."""
    import uvloop

    rings = 0

    async def main():
        nonlocal rings
        limiter = TokenBucketLimiter(RateLimit(200))
        real = limiter._ring

        def ring():
            nonlocal rings
            rings += 1
            real()

        limiter._ring = ring
        await take(limiter, 40, [])

    uvloop.run(main())
    assert rings <= 400
    assert rings >= 38
