"""Outages, budgets, poison, quotas and events, with a real server that goes down and comes back."""

from __future__ import annotations

import asyncio
import gc
import os
import random
from collections import Counter

import pytest

from leadstatus_async import (
    APIConnectionError,
    BatchError,
    DeadlineExceededError,
    LeadStatusError,
    LeadStatusSession,
    RateLimit,
    RetryPolicy,
    ServerError,
    events,
)
from leadstatus_async.testing import FakeLeadStatusServer

pytestmark = pytest.mark.usefixtures("nothing_left")

PATIENT = RetryPolicy(base_delay=0.02, max_delay=0.1, max_outage=30)


def leads(count, prefix="lead"):
    return [f"{prefix}{number}" for number in range(count)]


async def test_a_server_that_restarts_in_mid_job_costs_no_lead(server, make_session):
    """Connections refused for a while: sending stops, probes go out, the job goes on (default rule)."""
    seen = []
    session = make_session(chunk_size=10, rate_limit=RateLimit(500), retry=PATIENT, on_event=seen.append)
    job = asyncio.create_task(session.campaign("a", "c").get_many(leads(3000)))
    await server.wait_for_requests(50)
    await server.stop_listening()
    while not any(isinstance(event, events.OutageStarted) for event in seen):
        await asyncio.sleep(0.005)
    attempts = session.stats.requests
    await asyncio.sleep(0.5)
    assert session.stats.requests - attempts <= 10, "few requests while it is down"
    await server.start_listening()
    result = await job
    assert [status.lead_id for status in result] == leads(3000)
    (ended,) = [event for event in seen if isinstance(event, events.OutageEnded)]
    assert ended.answered
    assert ended.seconds > 0.4


async def test_a_server_that_never_answered_ends_soon(server, make_session):
    """1,000 chunks: at most 120 requests, and the end comes when one request has spent its attempts."""
    await server.stop_listening()
    seen = []
    session = make_session(chunk_size=1, retry=PATIENT, on_event=seen.append)
    with pytest.raises(BatchError) as caught:
        await session.campaign("a", "c").get_many(leads(1000))
    assert isinstance(caught.value.exceptions[0], APIConnectionError)
    assert len(caught.value.result.failures) == 1000
    assert session.stats.requests <= 120
    (ended,) = [event for event in seen if isinstance(event, events.OutageEnded)]
    assert not ended.answered
    await server.start_listening()
    assert (await session.campaign("a", "c").get("x")).ok, "later calls start afresh"


async def test_an_outage_is_given_up_after_max_outage(server, make_session):
    """What waits then fails with the last error, and what was finished stays."""
    session = make_session(chunk_size=1, retry=RetryPolicy(base_delay=0.01, max_delay=0.05, max_outage=0.3))
    campaign = session.campaign("a", "c")
    await campaign.get("warm")
    server.fault("500", times=None)
    with pytest.raises(BatchError) as caught:
        await campaign.get_many(leads(100))
    assert {type(error) for error in caught.value.exceptions} == {ServerError}
    assert server.count < 60


async def test_a_server_error_that_is_final_fails_its_leads_in_an_outage_too(server, make_session):
    """501 counts towards the outage, but is not waited out."""
    from leadstatus_async.testing import Fault

    server.fault(Fault(501), times=None)
    session = make_session(chunk_size=1, concurrency=2, retry=PATIENT)
    with pytest.raises(BatchError):
        await session.campaign("a", "c").get_many(leads(12))
    assert server.count == 12


async def test_what_is_in_flight_spends_its_attempts(server, make_session):
    """A request that fails for the last time while the outage begins fails its leads."""
    session = make_session(
        chunk_size=1, concurrency=8, retry=RetryPolicy(max_attempts=2, base_delay=0.01, max_delay=0.01)
    )
    await session.campaign("a", "c").get("warm")
    server.fault("500", times=None, when=lambda request: server.count < 60)
    result = await session.campaign("a", "c").get_many(leads(40), on_error="collect")
    assert [outcome.lead_id for outcome in result] == leads(40)
    assert all(isinstance(failure.error, ServerError) for failure in result.failures)


async def test_a_half_broken_server_is_no_outage(server, make_session):
    """Every second answer a 502: everything is answered in the end."""
    session = make_session(
        chunk_size=1, retry=RetryPolicy(base_delay=0.001, max_delay=0.01, max_attempts=30, budget=1000)
    )
    turn = iter(range(10**6))
    server.fault("502", times=None, when=lambda request: next(turn) % 2 == 0)
    result = await session.campaign("a", "c").get_many(leads(200))
    assert len(result.statuses) == 200


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


async def test_events_tell_what_happened(server, make_session):
    """AttemptFinished counts exactly what the server saw; the others say what was decided."""
    seen = []
    session = make_session(on_event=seen.append)
    campaign = session.campaign("acc", "camp")
    server.script("429-retry-after-ms", "500", "400", "414")
    await campaign.get_many(leads(250))
    await campaign.get("single")
    assert len([status async for status in campaign.stream(leads(250))]) == 250
    kinds = Counter(type(event).__name__ for event in seen)
    assert kinds["AttemptFinished"] == server.count
    assert kinds["RetryScheduled"] == 2
    assert kinds["ChunkSplit"] == 2
    assert kinds["Paused"] == 1
    assert kinds["BatchFinished"] == 3
    attempt = next(
        event for event in seen if isinstance(event, events.AttemptFinished) and event.status == 429
    )
    assert (attempt.account, attempt.campaign, attempt.error) == ("acc", "camp", "RateLimitError")
    assert attempt.trace_id


async def test_a_cut_request_is_told_too(server, make_session):
    """A request whose caller left ends in an event of its own."""
    seen = []
    server.fault("hang", times=None)
    session = make_session(on_event=seen.append)
    with pytest.raises(DeadlineExceededError):
        await session.campaign("a", "c").get("x", deadline=0.05)
    assert [event.error for event in seen if isinstance(event, events.AttemptFinished)] == ["CancelledError"]


async def test_an_observer_that_raises_breaks_nothing(server, make_session, caplog):
    """It is logged once, and the call goes on."""

    def broken(_):
        raise ValueError("mine")

    session = make_session(on_event=broken)
    assert (await session.campaign("a", "c").get("x")).ok
    assert sum("on_event callback raised" in record.message for record in caplog.records) == 1


async def test_log_lines_hold_no_lead_ids(server, make_session, caplog):
    """One line per decision, at INFO, without whom it is about (g13)."""
    caplog.set_level("INFO", "leadstatus_async")
    server.script("500", "429-retry-after-ms")
    await make_session().campaign("a", "c").get_many(["person-4711"])
    assert len([record for record in caplog.records if "attempt" in record.message]) == 2
    assert "4711" not in caplog.text


async def test_days_of_use_leave_nothing_behind():
    """Thousands of calls with faults and cancellations end with as many tasks and objects as before.

    LEADSTATUS_SOAK=30000 makes it as long as one likes.
    """
    seed = 20260101
    print(f"seed {seed}")
    dice = random.Random(seed)
    faults = {"500": 41, "reset": 53, "missing-row": 61, "429-retry-after-ms": 997, "cut-body": 71}
    async with FakeLeadStatusServer(faults_every=faults, keep_requests=False) as server:
        session = LeadStatusSession(
            "sk_test",
            base_url=server.url,
            rate_limit=RateLimit(2000),
            retry=RetryPolicy(base_delay=0.001, budget=10_000),
        )

        async def one(number):
            campaign = session.campaign("a", f"c{number % 50}")
            kind = dice.random()
            if kind < 0.7:
                call = asyncio.create_task(campaign.get(f"x{number % 300}"))
            elif kind < 0.9:
                call = asyncio.create_task(campaign.get_many(leads(number % 40), on_error="collect"))
            else:
                call = asyncio.create_task(first(campaign.stream(leads(300))))
            if dice.random() < 0.2:
                await asyncio.sleep(dice.random() / 100)
                call.cancel()
            await asyncio.wait([call])
            if not call.cancelled():
                call.exception()

        async def first(stream):
            async for outcome in stream:
                return outcome
            return None

        async def rounds(count):
            for start in range(0, count, 100):
                await asyncio.gather(*(one(start + number) for number in range(100)))
            while session.stats.in_flight or session.stats.queued:
                await asyncio.sleep(0.01)
            gc.collect()
            own = [
                thing for thing in gc.get_objects() if str(type(thing).__module__).startswith("leadstatus")
            ]
            return Counter(type(thing).__name__ for thing in own), len(asyncio.all_tasks())

        await rounds(400)
        before = await rounds(400)
        open_before = server.connections
        after = await rounds(int(os.environ.get("LEADSTATUS_SOAK", "3000")))
        for name in (
            "Job",
            "Backlog",
            "Request",
            "Window",
            "Reading",
            "Gets",
            "_Batch",
            "_Waiter",
            "StatusStream",
        ):
            assert after[0][name] <= before[0][name] + 2, name
        assert after[1] <= before[1] + 16, "the server's connections aside"
        assert server.connections <= max(16, open_before)
        assert session._core.idle
        await session.aclose()
