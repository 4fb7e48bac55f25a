"""What cannot be had in time is said at once, and what can be had is."""

from __future__ import annotations

import asyncio

import pytest

from leadstatus_async import (
    DeadlineExceededError,
    LeadStatusError,
    RateLimit,
    RateLimitError,
)
from leadstatus_async.testing import Fault
from tests.conftest import leads

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_a_deadline_that_is_too_short_is_said_at_once(server, make_session):
    """What no permit can come for fails before any I/O; what can be asked is asked (b11)."""
    session = make_session(rate_limit=RateLimit(10, per=1.0), chunk_size=1)
    campaign = session.campaign("a", "c")
    loop = asyncio.get_running_loop()
    started = loop.time()
    with pytest.raises(DeadlineExceededError) as caught:
        await campaign.get_many(leads(100), deadline=0.5)
    assert loop.time() - started < 0.48, "the end came before the deadline"
    answered = len(caught.value.result.statuses)
    assert 3 <= answered <= 6
    assert caught.value.needed == pytest.approx(10, rel=0.05)
    with pytest.raises(DeadlineExceededError) as caught:
        await make_session(rate_limit=session.limiter).campaign("a", "c").get("x", deadline=0.001)
    assert caught.value.needed > 0.001


async def test_a_pause_beyond_the_deadline_ends_what_waits(server, make_session):
    """A Retry-After that outlasts the deadline is not waited for by anybody."""
    from leadstatus_async.testing import Fault

    server.fault(Fault(429, headers={"Retry-After": "30"}))
    session = make_session(concurrency=1)
    loop = asyncio.get_running_loop()
    started = loop.time()
    with pytest.raises(LeadStatusError) as caught:
        await session.campaign("a", "c").get_many(leads(300), deadline=5)
    assert loop.time() - started < 2
    assert len(caught.value.result.failures) == 300


async def test_a_hopeless_deadline_fails_at_once_behind_others(server, make_session):
    """Somebody stands at the limiter already, or a pause comes while one waits: no need to sit it out."""
    from leadstatus_async import DeadlineExceededError as Late

    session = make_session(rate_limit=RateLimit(5), chunk_size=1)
    campaign = session.campaign("a", "c")
    loop = asyncio.get_running_loop()
    session.limiter.pause(10, "test")
    standing = asyncio.create_task(campaign.get_many(["p"]))
    await asyncio.sleep(0.01)
    started = loop.time()
    for call in (
        campaign.get("x", deadline=2),
        campaign.get_many(["x"], deadline=2),
        anext(campaign.stream(["x"], deadline=2)),
    ):
        with pytest.raises(Late) as caught:
            await call
        assert caught.value.needed > 9
    assert loop.time() - started < 1
    standing.cancel()
    other = make_session(rate_limit=RateLimit(1), concurrency=1).campaign("a", "c")
    server.script(None, Fault(429, headers={"Retry-After": "30"}))
    await other.get("warm")
    asked = asyncio.create_task(other.get("throttled"))
    waiting = asyncio.create_task(other.get_many(["y"], deadline=5))
    await server.wait_for_requests(2)
    late = asyncio.create_task(other.get("z", deadline=5))
    with pytest.raises(Late):
        await waiting
    with pytest.raises(Late):
        await late
    assert loop.time() - started < 4
    asked.cancel()


async def test_gets_that_wait_when_the_pause_comes_are_told_at_once(server, make_session):
    """The pending set is trimmed like any call."""
    session = make_session(concurrency=1)
    campaign = session.campaign("a", "c")
    server.hold()
    server.script(Fault(429, headers={"Retry-After": "30"}))
    first = asyncio.create_task(campaign.get("first"))
    await server.wait_for_requests(1)
    waiting = asyncio.create_task(campaign.get("second", deadline=10))
    patient = asyncio.create_task(campaign.get("third"))
    while not session._core.pending:
        await asyncio.sleep(0)
    server.release()
    with pytest.raises(DeadlineExceededError, match="too short") as caught:
        await waiting
    assert caught.value.needed > 20
    for task in (first, patient):
        task.cancel()


async def test_the_deadline_of_a_call_that_was_split(server, make_session):
    """Leads that were planned anew count for admission like all others."""
    server.max_url_bytes = 400
    session = make_session(rate_limit=RateLimit(20, per=1.0), concurrency=2)
    result = await session.campaign("a", "c").get_many(
        [f"{number:024x}" for number in range(60)], deadline=2.0, on_error="collect"
    )
    assert len(result) == 60
    assert result.statuses


async def test_a_pause_beyond_its_deadline_ends_a_get_and_a_stream_at_once(server, make_session):
    """Retry-After 30 s, deadline 3 s: the 429 is raised with its value, not three seconds later."""
    server.fault(Fault(429, headers={"Retry-After": "30"}), times=None)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(RateLimitError) as caught:
        await make_session().campaign("a", "c").get("x", deadline=3)
    assert caught.value.retry_after == 30
    with pytest.raises(RateLimitError):
        async for _ in make_session().campaign("a", "c").stream(["x"], deadline=3):
            pass
    assert loop.time() - begun < 2


async def test_who_slows_down_says_at_once_what_cannot_be_asked(server, make_session):
    """A header says that 3 of 49 remain for a minute: what cannot be had before the deadline fails then."""
    headers = {"X-RateLimit-Limit": "3600", "X-RateLimit-Remaining": "3", "X-RateLimit-Reset": "61"}
    server.fault(Fault(headers=headers), times=None)
    session = make_session(chunk_size=1, rate_limit=RateLimit(50), concurrency=1)
    seen = []
    with pytest.raises(DeadlineExceededError) as caught:
        await session.campaign("a", "c").get_many(
            [f"x{number}" for number in range(50)], deadline=2, progress=seen.append
        )
    known = next(progress for progress in seen if progress.failed)
    assert known.requests <= 2, "with the first answer, not at the deadline"
    assert known.failed >= 45
    assert caught.value.result.failures[-1].error.needed > 40
