"""A server that is down: for eight seconds in mid-job with the default policy, and in odder ways.

The cases of eight seconds run at once, each with a server and a session of its own, so that the test
takes little longer than those.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from leadstatus_async import (
    APIConnectionError,
    APITimeoutError,
    BatchError,
    LeadStatusError,
    LeadStatusSession,
    RateLimit,
    RetryPolicy,
    ServerError,
    events,
)
from leadstatus_async._state import health
from leadstatus_async.testing import FakeLeadStatusServer, Fault
from tests.conftest import KEY

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("nothing_left")

DOWN = 8.0
NOTICED = 5.0  # seconds within which the job goes on, and within which a get is told
SLACK = 1.0  # for the machine
QUICK = RetryPolicy(base_delay=0.02, max_delay=0.1, max_outage=30)


def leads(count: int, prefix: str = "lead") -> list[str]:
    """Return so many lead IDs."""
    return [f"{prefix}{number}" for number in range(count)]


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that happens soon."""
    while not true():
        await asyncio.sleep(0.005)


@dataclass(frozen=True)
class Case:
    """How the server is down, and what job meets that.

    Attributes:
        fault: by name; "" for one that refuses connections.
        error: what a get is told.
        chunks: of the job.
        concurrency: of the session.
        timeout: of each request, in seconds.
    """

    fault: str
    error: type[LeadStatusError]
    chunks: int
    concurrency: int = 16
    timeout: float = 30.0


CASES = [
    Case("", APIConnectionError, 100),
    Case("", APIConnectionError, 2),
    Case("", APIConnectionError, 40, concurrency=1),
    Case("503", ServerError, 100),
    Case("503", ServerError, 2, concurrency=1),
    Case("502-html", ServerError, 40, concurrency=2),
    Case("reset", APIConnectionError, 100),
    Case("hang", APITimeoutError, 40, timeout=0.5),
]


async def go_down(server: FakeLeadStatusServer, case: Case) -> None:
    """Let the server fail from now on."""
    if case.fault:
        server.fault(case.fault, times=None)
    else:
        await server.stop_listening()


async def come_back(server: FakeLeadStatusServer, case: Case) -> None:
    """Let the server answer again."""
    server.clear_faults()
    if not case.fault:
        await server.start_listening()


async def told(session: LeadStatusSession, case: Case) -> None:
    """Ask for one lead while the server is down: the error comes within seconds."""
    loop = asyncio.get_running_loop()
    asked = loop.time()
    with pytest.raises(case.error):
        await session.campaign("a", "web").get("someone")
    assert loop.time() - asked <= NOTICED + SLACK


async def live_through(case: Case) -> None:
    """Run a job across the downtime and check all that is promised about it."""
    loop = asyncio.get_running_loop()
    seen: list[events.Event] = []
    async with (
        FakeLeadStatusServer() as server,
        LeadStatusSession(
            KEY,
            base_url=server.url,
            rate_limit=RateLimit(50),
            chunk_size=1,
            concurrency=case.concurrency,
            timeout=case.timeout,
            on_event=seen.append,
        ) as session,
    ):
        await session.campaign("a", "c").get("warm")
        job = asyncio.create_task(session.campaign("a", "c").get_many(leads(case.chunks)))
        await server.wait_for_requests(1 + case.chunks // 4)
        await go_down(server, case)
        went_down = loop.time()
        await until(lambda: any(isinstance(event, events.OutageStarted) for event in seen))
        sent = session.stats.requests
        await told(session, case)
        await asyncio.sleep(max(0.0, went_down + DOWN - loop.time()))
        assert session.stats.requests - sent <= 16, "few requests while it is down"
        await come_back(server, case)
        came_back = loop.time()
        result = await job
        assert [status.lead_id for status in result.statuses] == leads(case.chunks)
        assert loop.time() - came_back <= NOTICED + SLACK + case.chunks / 50
        ends = [event for event in seen if isinstance(event, events.OutageEnded)]
        assert [end.answered for end in ends] == [True]


async def test_eight_seconds_of_downtime_cost_no_lead():
    """The job goes on within 5 s of the server's return, and a get meanwhile is told within 5 s."""
    async with asyncio.TaskGroup() as cases:
        for case in CASES:
            cases.create_task(live_through(case), name=str(case))


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


async def test_gets_are_told_while_the_server_states_a_long_pause(server, make_session):
    """A 503 that states a pause of ten seconds: no probe may go before, but no web request waits for it."""
    session = make_session(chunk_size=1)
    campaign = session.campaign("a", "c")
    await campaign.get("warm")
    server.fault(Fault(503, headers={"Retry-After": "10"}), times=None)
    server.hold()
    job = asyncio.create_task(campaign.get_many(leads(16)))
    await server.wait_for_requests(17)
    server.release()
    await until(lambda: session.rate_limit_state.paused_for > 0)
    loop = asyncio.get_running_loop()
    asked = loop.time()
    with pytest.raises(ServerError):
        await campaign.get("someone")
    assert loop.time() - asked < NOTICED
    job.cancel()


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


@pytest.mark.parametrize("poison", [{"lead50", "lead150"}, {"lead199"}, {"lead182", "lead198"}])
async def test_poison_leads_are_found_however_many(server, make_session, poison):
    """In two chunks, in the last one, or in two halves of that: each lead at fault, and it is no outage."""
    seen = []
    policy = RetryPolicy(base_delay=0.001, max_delay=0.002, max_attempts=3)
    session = make_session(chunk_size=20, concurrency=1, retry=policy, on_event=seen.append)
    server.fault("500", times=None, when=lambda request: bool(poison & set(request.lead_ids)))
    result = await session.campaign("a", "c").get_many(leads(200), on_error="collect")
    assert set(result.failed_ids) == poison
    assert not [event for event in seen if isinstance(event, events.OutageStarted)]
    assert result.stats.splits == sum(isinstance(event, events.ChunkSplit) for event in seen)


async def test_a_poison_lead_in_a_stream_is_found(server, make_session):
    """In the last chunk, too."""
    policy = RetryPolicy(base_delay=0.001, max_delay=0.002, max_attempts=2)
    session = make_session(chunk_size=10, concurrency=1, retry=policy)
    server.fault("500", times=None, when=lambda request: "lead25" in request.lead_ids)
    outcomes = [outcome async for outcome in session.campaign("a", "c").stream(leads(30), on_error="collect")]
    assert [outcome.lead_id for outcome in outcomes if not outcome.ok] == ["lead25"]


async def test_endless_429s_end_when_patience_does(server, make_session):
    """No pause of our own reaches beyond `max_outage`."""
    server.fault("429", times=None)
    session = make_session(retry=RetryPolicy(base_delay=0.1, max_outage=1.5))
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(BatchError):
        await session.campaign("a", "c").get_many(leads(10))
    assert 1.5 <= loop.time() - begun < 1.5 + 0.1 + SLACK


async def test_a_burst_of_429s_is_put_up_with_even_without_patience(server, make_session):
    """max_outage=0: what was refused together is asked once more; only a second refusal is the end."""
    server.fault("429", times=16)
    server.hold()
    session = make_session(chunk_size=1, retry=RetryPolicy(base_delay=0.01, max_outage=0))
    job = asyncio.create_task(session.campaign("a", "c").get_many(leads(50)))
    await server.wait_for_requests(16)
    server.release()
    assert len((await job).statuses) == 50


async def test_a_server_that_shuts_down_costs_no_lead(server, make_session):
    """What it had taken it answers, one by one, and nothing new: whatever fails waits for its return."""
    seen = []
    policy = RetryPolicy(base_delay=0.5, max_attempts=3, max_outage=30)
    session = make_session(chunk_size=1, retry=policy, on_event=seen.append)
    campaign = session.campaign("a", "c")
    await campaign.get("warm")
    taken = []
    for number in range(8):
        server.latency = 0.1 + 0.05 * number
        taken.append(asyncio.create_task(campaign.get_many([f"early{number}"])))
        await server.wait_for_requests(2 + number)
    server.latency = 0
    server.fault("503", times=None)
    job = asyncio.create_task(campaign.get_many(leads(100)))
    assert [len((await each).statuses) for each in taken] == [1] * 8
    await until(lambda: any(isinstance(event, events.OutageStarted) for event in seen))
    server.clear_faults()
    assert len((await job).statuses) == 100
    refused = sum(request.status == 503 for request in server.requests)
    assert refused <= 8 + 4 + 8 + 1, "the free slots, twice four of them, a trial for each answer, a probe"
