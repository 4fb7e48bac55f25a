"""A real server that is down in odd ways; how long is what `test_outages` is about, in virtual time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from leadstatus_async import (
    APIConnectionError,
    BatchError,
    LeadStatusError,
    RateLimit,
    RetryPolicy,
    ServerError,
    events,
)
from leadstatus_async._state import health
from leadstatus_async.testing import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("nothing_left")

SLACK = 1.0  # for the machine
QUICK = RetryPolicy(base_delay=0.02, max_delay=0.1, max_outage=30)


def leads(count: int, prefix: str = "lead") -> list[str]:
    """Return so many lead IDs."""
    return [f"{prefix}{number}" for number in range(count)]


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


async def test_a_burst_of_429s_is_put_up_with_even_without_patience(server, make_session):
    """max_outage=0: what was refused together is asked once more; only a second refusal is the end."""
    server.fault("429", times=16)
    server.hold()
    session = make_session(chunk_size=1, retry=RetryPolicy(base_delay=0.01, max_outage=0))
    job = asyncio.create_task(session.campaign("a", "c").get_many(leads(50)))
    await server.wait_for_requests(16)
    server.release()
    assert len((await job).statuses) == 50
