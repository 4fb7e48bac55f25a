"""A real server that is down, in plain ways and in odd ones; how long is what `test_outages` is about."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import pytest

from leadstatus_async import (
    APIConnectionError,
    BatchError,
    LeadStatusError,
    LeadStatusSession,
    RateLimit,
    RetryPolicy,
    ServerError,
    events,
)
from leadstatus_async._state import health
from leadstatus_async.testing import Fault
from tests.conftest import KEY, leads

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("nothing_left")

PATIENT = RetryPolicy(base_delay=0.02, max_delay=0.1, max_outage=30)
SLACK = 1.0  # for the machine
QUICK = RetryPolicy(base_delay=0.02, max_delay=0.1, max_outage=30)


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that happens soon."""
    while not true():
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("fault", ["disconnect", "reset"])
async def test_a_server_that_accepts_and_closes_is_down(server, make_session, fault):
    """Every request loses its connection: noticed after as many as a pool may hold, and waited out."""
    session = make_session(chunk_size=1, rate_limit=RateLimit(2000), retry=QUICK)
    campaign = session.campaign("a", "c")
    await campaign.get("warm")
    server.fault(fault, times=None)
    job = asyncio.create_task(campaign.get_many(leads(500)))
    await server.wait_for_requests(30)
    assert server.count <= 60, "one excuse and one retry for each of sixteen, and the probes"
    server.clear_faults()
    assert len((await job).statuses) == 500


async def test_a_server_that_never_answered_and_closes_is_soon_given_up(server, make_session):
    """1,000 chunks: at most 120 requests."""
    server.fault("disconnect", times=None)
    session = make_session(chunk_size=1, retry=QUICK)
    with pytest.raises(BatchError):
        await session.campaign("a", "c").get_many(leads(1000))
    assert server.count <= 120


async def test_a_probe_that_loses_its_connection_is_a_failed_probe(server, make_session):
    """502, then connections that are closed, then health: the session goes on by itself."""
    seen = []
    session = make_session(chunk_size=1, retry=QUICK, on_event=seen.append)
    campaign = session.campaign("a", "c")
    await campaign.get("warm")
    server.fault("502", times=None)
    job = asyncio.create_task(campaign.get_many(leads(100)))
    await until(lambda: any(isinstance(event, events.OutageStarted) for event in seen))
    server.clear_faults()
    server.fault("disconnect", times=3)
    assert len((await job).statuses) == 100
    assert (await campaign.get("x")).ok


@pytest.mark.parametrize("count", [1, 2, 40])
async def test_sixteen_stale_connections_cost_nothing(server, make_session, count):
    """A pool of connections that the server closes on their next use, however few requests meet them."""
    seen = []
    session = make_session(chunk_size=1, on_event=seen.append)
    campaign = session.campaign("a", "c")
    server.fault("stale-keep-alive", times=16)
    server.hold()
    warm = asyncio.create_task(campaign.get_many(leads(16)))
    await server.wait_for_requests(16)
    server.release()
    await warm
    result = await campaign.get_many(leads(count, "x"))
    assert len(result.statuses) == count
    assert not [event for event in seen if isinstance(event, events.OutageStarted)]
    assert {event.attempt for event in seen if isinstance(event, events.AttemptFinished)} == {1}


async def test_without_retries_a_stale_connection_is_an_error_too(server, make_session):
    """max_attempts=1 sends nothing twice, whatever the reason."""
    session = make_session(retry=RetryPolicy(max_attempts=1))
    campaign = session.campaign("a", "c")
    server.fault("stale-keep-alive")
    await campaign.get("warm")
    with pytest.raises(APIConnectionError):
        await campaign.get("x")
    assert server.count == 2


async def test_gets_that_wait_alone_are_told_too(server, make_session, monkeypatch):
    """Nobody but web requests: they wait for no probe, and leave nothing behind."""
    monkeypatch.setattr(health, "WEB_REQUEST", 0.1)
    session = make_session(chunk_size=1, retry=RetryPolicy(base_delay=20))
    await session.campaign("a", "c").get("warm")
    server.fault("500", times=None)
    gets = [session.campaign("a", f"c{number}").get("x") for number in range(5)]
    told = await asyncio.gather(*gets, return_exceptions=True)
    assert {type(error) for error in told} == {ServerError}
    assert server.count == 1 + 5


async def test_a_web_request_that_leaves_is_no_reason_to_probe_sooner(server, make_session):
    """Gets with short deadlines, one after another, while probes hang: probes keep their interval."""
    seen = []
    session = make_session(chunk_size=1, retry=RetryPolicy(base_delay=0.2), on_event=seen.append)
    campaign = session.campaign("a", "c")
    await campaign.get("warm")
    server.fault("500", times=None)
    job = asyncio.create_task(campaign.get_many(leads(50)))
    await until(lambda: any(isinstance(event, events.OutageStarted) for event in seen))
    server.clear_faults()
    server.fault("hang", times=None)
    before = server.count
    for _ in range(20):
        with pytest.raises(LeadStatusError):
            await campaign.get("someone", deadline=0.05)
    assert server.count - before <= 5
    job.cancel()


async def test_errors_that_are_final_do_not_prolong_an_outage(server, make_session):
    """501 for everything: the job ends with `max_outage`, not when each chunk has been a probe."""
    server.fault(Fault(501), times=None)
    session = make_session(chunk_size=1, retry=RetryPolicy(base_delay=0.02, max_outage=0.3))
    with pytest.raises(BatchError):
        await session.campaign("a", "c").get_many(leads(300))
    assert server.count < 100


async def test_what_was_spared_at_the_end_of_an_outage_is_not_sent_again(server, make_session):
    """The probe in flight when patience ends may still succeed, but does not begin a series of its own."""
    session = make_session(chunk_size=1, timeout=0.4, retry=RetryPolicy(base_delay=0.01, max_outage=0.5))
    campaign = session.campaign("a", "c")
    await campaign.get("warm")
    server.fault("hang", times=None)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(BatchError) as caught:
        await campaign.get_many(leads(30))
    assert len(caught.value.result.failures) == 30
    assert loop.time() - begun < 0.4 + 0.5 + 0.4 + SLACK, "timeout, patience, and the last probe's timeout"


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


async def test_closing_while_probes_wait_cancels_their_timer(server, make_session):
    """An outage whose next probe is due later leaves no timer behind."""
    session = make_session(chunk_size=1, retry=RetryPolicy(base_delay=30, max_delay=30))
    campaign = session.campaign("a", "c")
    server.fault("500", times=None)
    job = asyncio.create_task(campaign.get_many([f"x{number}" for number in range(30)], on_error="collect"))
    while session._core.enter().dispatcher._alarm is None:
        await asyncio.sleep(0.001)
    await session.aclose()
    with pytest.raises(Exception, match="closed"):
        await job
    assert session._core.idle


async def test_an_outage_of_disconnects_on_a_lent_session_is_waited_out(server):
    """Probes cost nothing there either, though each disconnect is charged twice."""
    async with aiohttp.ClientSession() as lent:
        session = LeadStatusSession(
            KEY, base_url=server.url, http_session=lent, rate_limit=None, chunk_size=1, concurrency=4,
            retry=RetryPolicy(base_delay=0.01, max_delay=0.05, max_outage=30, max_attempts=12),
        )  # fmt: skip
        campaign = session.campaign("a", "c")
        await campaign.get("warm")
        server.fault("disconnect", times=60)
        assert len(await campaign.get_many([f"x{number}" for number in range(4)])) == 4
        await session.aclose()


async def test_an_outage_nobody_waits_in_has_no_clock(server, make_session):
    """Whoever comes later has the whole of max_outage; aclose tells of its end."""
    seen = []
    policy = RetryPolicy(base_delay=0.01, max_delay=0.02, max_outage=30)
    session = make_session(chunk_size=1, retry=policy, on_event=seen.append)
    campaign = session.campaign("a", "c")
    await campaign.get("warm")
    server.fault("500", times=None)
    call = asyncio.create_task(campaign.get_many([f"x{number}" for number in range(20)]))
    while not any(type(event).__name__ == "OutageStarted" for event in seen):
        await asyncio.sleep(0.001)
    call.cancel()
    await asyncio.wait([call])
    assert session._core.dispatcher._alarm is None
    await session.aclose()
    assert type(seen[-1]).__name__ == "OutageEnded"
