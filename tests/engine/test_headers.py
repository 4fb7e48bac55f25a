"""Headers about a long window, on the real engine in virtual time: what fits, what is spread, what fails."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from leadstatus_async import DeadlineExceededError, RateLimit, Suggestion
from leadstatus_async.events import RateChanged
from leadstatus_async.limiter import TokenBucketLimiter
from leadstatus_async.testing.quota import FixedWindow, SlidingWindow, TokenBucket, headers_of
from tests.virtual_session import Wire, virtual_session
from tests.virtual_time import run

LEADS = [f"x{number}" for number in range(4000)]


class Stating:
    """A server that counts, and states in headers what remains.

    Attributes:
        refused: requests.
        asked: when requests were sent.
    """

    def __init__(self, limit, *, used=0, began=0.0):
        self.limit, self.began, self.refused, self.asked = limit, began, 0, []
        for _ in range(used):
            assert limit.admit(began).admitted

    def __call__(self, sent):
        """Decide about a request, and tell what remains."""
        self.asked.append(sent.at)
        decision = self.limit.admit(self.began + sent.at)
        self.refused += not decision.admitted
        headers = headers_of(self.limit, decision, datetime.now(UTC))
        return ("ok" if decision.admitted else "429"), headers


def job(server, leads, **options):
    """Ask for leads, one in each request; return the outcome, the state afterwards, and how long it took."""

    async def main():
        deadline = options.pop("deadline", None)
        async with virtual_session(Wire(server), chunk_size=1, **options) as session:
            began = asyncio.get_running_loop().time()
            try:
                outcome = await session.campaign("a", "c").get_many(LEADS[:leads], deadline=deadline)
            except DeadlineExceededError as error:
                outcome = error
            seconds = asyncio.get_running_loop().time() - began
            await asyncio.sleep(0)
            assert session._core.idle
            return outcome, session.rate_limit_state, seconds

    return run(main)


@pytest.mark.parametrize("headers", ["ietf", "x-ratelimit"])
@pytest.mark.parametrize("per", [3600, 86_400])
def test_a_job_that_fits_is_not_slowed(headers, per):
    """4900 remain of an hour or a day, and 400 are to be sent at 10/s: that takes 40 s."""
    server = Stating(FixedWindow(5000, per, headers=headers), used=100)
    result, state, seconds = job(server, 400, rate_limit=RateLimit(10))
    assert len(result.statuses) == 400
    assert seconds <= 1.02 * 40
    assert (state.rate, state.reason, state.suggestion) == (10, "", None)


def test_a_job_that_just_fits_is_not_slowed():
    """As many remain as there are to send."""
    server = Stating(FixedWindow(500, 3600, headers="x-ratelimit"), used=100)
    result, _, seconds = job(server, 400, rate_limit=RateLimit(10))
    assert len(result.statuses) == 400
    assert seconds <= 1.02 * 40
    assert server.refused == 0


@pytest.mark.parametrize("headers", ["ietf", "x-ratelimit"])
def test_a_job_that_does_not_fit_is_spread(headers):
    """100 remain for the last 600 s of an hour, and 400 are to be sent: not one is refused, none is late."""
    server = Stating(FixedWindow(5000, 3600, headers=headers), used=4900, began=3000)
    result, state, seconds = job(server, 400, rate_limit=RateLimit(10))
    assert len(result.statuses) == 400
    assert server.refused == 0
    assert seconds <= 1.01 * (600 + 30)
    assert 45 <= sum(at < 300 for at in server.asked) <= 55, "half of them in the first half"
    assert state.rate == 10, "the next window has room for all"


@pytest.mark.parametrize("concurrency", [1, 16])
@pytest.mark.parametrize(
    "limit",
    [
        pytest.param(lambda: FixedWindow(60, 60, headers="ietf"), id="fixed"),
        pytest.param(lambda: SlidingWindow(60, 60, headers="ietf"), id="sliding"),
        pytest.param(lambda: TokenBucket(1, 60, headers="ietf"), id="bucket"),
    ],
)
def test_many_windows_are_kept_to(limit, concurrency):
    """Ten a second where 60 a minute are allowed, for ten minutes: told at once, and refused nothing."""
    server = Stating(limit())
    result, state, seconds = job(server, 600, rate_limit=RateLimit(10), concurrency=concurrency)
    assert len(result.statuses) == 600
    assert server.refused == 0
    assert seconds <= 1.2 * 540
    assert state.ceiling is None


def test_a_policy_is_told_and_suggested():
    """The window that headers name, as soon as it slows."""
    states = []

    async def main():
        server = Stating(FixedWindow(60, 60, headers="ietf"))
        wire = Wire(server, latency=0.05)
        async with virtual_session(
            wire, chunk_size=1, rate_limit=RateLimit(10), on_event=states.append
        ) as session:
            task = asyncio.create_task(session.campaign("a", "c").get_many(LEADS[:200]))
            await asyncio.sleep(5)
            state = session.rate_limit_state
            task.cancel()
            return state

    state = run(main)
    assert state.reason == "60 per 60 s (rate-limit headers)"
    assert state.suggestion == Suggestion(RateLimit(60, per=60))
    assert 0.7 < state.rate < 1.3
    assert [event.rate < 1.3 for event in states if isinstance(event, RateChanged)][-1]


def test_what_does_not_fit_before_a_deadline_fails_at_once():
    """100 remain for ten minutes: of 400 with a minute's time, the other 300 are told now."""
    server = Stating(FixedWindow(5000, 3600, headers="x-ratelimit"), used=4900, began=3000)
    error, _, seconds = job(server, 400, rate_limit=RateLimit(10), deadline=60)
    assert isinstance(error, DeadlineExceededError)
    assert 85 <= len(error.result.statuses) <= 100
    assert seconds <= 12, "at once, and not at the deadline"
    assert server.refused == 0
    assert error.needed > 300


def test_a_get_behind_a_job_that_was_cancelled_is_not_kept_waiting():
    """A job that is spread over ten minutes is given up; one that fits goes at once then."""

    async def main():
        server = Stating(FixedWindow(5000, 3600, headers="x-ratelimit"), used=4950, began=3000)
        loop = asyncio.get_running_loop()
        async with virtual_session(Wire(server), chunk_size=1, rate_limit=RateLimit(10)) as session:
            campaign = session.campaign("a", "c")
            task = asyncio.create_task(campaign.get_many(LEADS[:400]))
            await asyncio.sleep(20)
            asked = loop.time()
            single = asyncio.create_task(campaign.get("someone"))
            await asyncio.sleep(0)
            task.cancel()
            await single
            return loop.time() - asked

    assert run(main) < 1


def test_two_sessions_that_share_a_limiter_share_what_remains():
    """Each has 30 to send, and 50 remain: together that does not fit, so that it is spread."""

    async def main():
        server = Stating(FixedWindow(100, 600, headers="x-ratelimit"), used=50, began=500)
        limiter = TokenBucketLimiter(RateLimit(10))
        wire = Wire(server)
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with (
            virtual_session(wire, chunk_size=1, rate_limit=limiter) as one,
            virtual_session(wire, chunk_size=1, rate_limit=limiter) as two,
        ):
            results = await asyncio.gather(
                *(session.campaign("a", "c").get_many(LEADS[:30]) for session in (one, two))
            )
        assert all(len(result.statuses) == 30 for result in results)
        return server.refused, loop.time() - began

    refused, seconds = run(main)
    assert refused == 0
    assert 100 <= seconds <= 110
