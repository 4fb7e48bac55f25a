"""What hardly ever happens, and must not hang or leak when it does."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from leadstatus_async import (
    APIConnectionError,
    BatchError,
    DeadlineExceededError,
    LeadStatusSession,
    RateLimit,
    ResponseTooLargeError,
    RetryPolicy,
)
from leadstatus_async._coalesce import PendingGets, _Waiter
from leadstatus_async._transport import Received
from leadstatus_async.testing import Fault
from tests.conftest import KEY

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_an_answer_to_a_call_that_is_over_matters_no_more(make_session, monkeypatch):
    """The answer comes in the very turn in which its call ends."""
    session = make_session()
    engine = session._engine

    async def send(_target):
        for call in list(engine.calls):
            call.end()
        return Received(200, {}, b"{}")

    monkeypatch.setattr(engine.transport, "send", send)
    await session.campaign("a", "c").get_many(["x"])
    assert session.stats.in_flight == 0


async def test_a_hook_of_a_lent_session_that_raises_hangs_nobody(server):
    """Whatever a trace config raises becomes an error that names its class, without the key in its frames."""

    async def on_request_start(*_):
        raise ValueError(KEY)

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(on_request_start)
    async with aiohttp.ClientSession(trace_configs=[trace]) as lent:
        session = LeadStatusSession(KEY, base_url=server.url, http_session=lent)
        with pytest.raises(BatchError) as caught:
            await session.campaign("a", "c").get_many(["x"])
        await session.aclose()
    (only,) = caught.value.exceptions
    assert isinstance(only, APIConnectionError)
    assert "ValueError" in str(only)
    assert KEY not in repr(only) + str(only.__cause__) + str(only.__context__)


async def test_a_body_that_announces_its_size_is_not_read(server, make_session):
    """Content-Length beyond the cap is refused before reading (a11)."""
    server.fault(Fault(200, b"x" * 20_000))
    with pytest.raises(BatchError) as caught:
        await make_session(max_response_bytes=10_000).campaign("a", "c").get_many(["x"])
    assert isinstance(caught.value.exceptions[0], ResponseTooLargeError)


async def test_what_waits_twice_is_told_once(make_session):
    """A waiter that has its answer takes no second one, nor a crash after it."""
    session = make_session()
    campaign = session.campaign("a", "c")
    engine = session._engine.enter()
    waiter = _Waiter("x", PendingGets(engine, campaign._endpoint))
    waiter.crash(KeyError("first"))
    waiter.crash(KeyError("second"))
    waiter.settle(await campaign.get("x"))
    with pytest.raises(KeyError, match="first"):
        await waiter.future


async def test_a_call_that_is_over_crashes_no_more(server, make_session):
    """A bug after the end is nobody's error any more."""
    session = make_session()
    calls = []
    session._engine.begin, real = lambda call: (calls.append(call), real(call)), session._engine.begin
    await session.campaign("a", "c").get_many(["x"])
    calls[0].crash(KeyError("late"))
    calls[0].trim()
    calls[0].turn_away(DeadlineExceededError("late"))
    assert calls[0].done.exception() is None


async def test_closing_while_probes_wait_cancels_their_timer(server, make_session):
    """An outage whose next probe is due later leaves no timer behind."""
    session = make_session(chunk_size=1, retry=RetryPolicy(base_delay=30, max_delay=30))
    campaign = session.campaign("a", "c")
    server.fault("500", times=None)
    job = asyncio.create_task(campaign.get_many([f"x{number}" for number in range(30)], on_error="collect"))
    while session._engine.permits._alarm is None:
        await asyncio.sleep(0.001)
    await session.aclose()
    with pytest.raises(Exception, match="closed"):
        await job
    assert session._engine.permits._alarm.cancelled()


async def test_a_get_beside_a_bulk_in_another_context(server, make_session):
    """A permit granted to a call of another context is sent from that context, in the same turn."""
    session = make_session(concurrency=2, chunk_size=1, rate_limit=RateLimit(500))
    campaign = session.campaign("a", "c")
    bulk = asyncio.create_task(campaign.get_many([f"b{number}" for number in range(40)]))
    singles = await asyncio.gather(*(campaign.get(f"s{number}") for number in range(5)))
    assert [status.lead_id for status in singles] == [f"s{number}" for number in range(5)]
    assert len(await bulk) == 40
    assert server.max_in_flight <= 2


async def test_a_source_with_bad_ids_and_a_slow_consumer_goes_on(server, make_session):
    """Chunks that bad IDs leave partly filled are sent when nothing else is in flight."""
    session = make_session(chunk_size=10)
    source = ["bad,id" if number % 3 == 0 else f"x{number}" for number in range(100)]
    outcomes = []
    async for outcome in session.campaign("a", "c").stream(source, on_error="collect", max_buffered=25):
        outcomes.append(outcome.ok)
        await asyncio.sleep(0)
    assert outcomes == [number % 3 != 0 for number in range(100)]


async def test_the_deadline_of_a_call_that_was_split(server, make_session):
    """Leads that were planned anew count for admission like all others."""
    server.max_url_bytes = 400
    session = make_session(rate_limit=RateLimit(20, per=1.0), concurrency=2)
    result = await session.campaign("a", "c").get_many(
        [f"{number:024x}" for number in range(60)], deadline=2.0, on_error="collect"
    )
    assert len(result) == 60
    assert result.statuses
