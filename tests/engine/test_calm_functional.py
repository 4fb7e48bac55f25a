"""Calls that end at odd moments: they leave nothing behind, and harm nobody else."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import weakref
from collections import Counter

import aiohttp
import pytest

from leadstatus_async import (
    LeadStatusError,
    LeadStatusSession,
    RateLimit,
    RetryPolicy,
    SessionClosedError,
    SessionLoopError,
)
from leadstatus_async._engine.transport import Received
from leadstatus_async.testing import FakeLeadStatusServer
from tests.conftest import KEY, leads

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.mark.parametrize("body", [b"{}", b'{"data": {"items": [{"leadId": "x", "workflowStatus": "a"}]}}'])
async def test_an_answer_to_a_call_that_is_over_matters_no_more(make_session, monkeypatch, body):
    """The answer comes in the very turn in which its call ends."""
    session = make_session()
    core = session._core.enter()

    async def send(_target, _seconds):
        for job in list(core.dispatcher.jobs):
            core.dispatcher.drop(job)
        return Received(200, {}, body)

    monkeypatch.setattr(core.transport, "send", send)
    await session.campaign("a", "c").get_many(["x"])
    assert session.stats.in_flight == 0


async def test_a_get_beside_a_bulk_in_another_context(server, make_session):
    """A permit granted to a call of another context is sent from that context, in the same turn."""
    session = make_session(concurrency=2, chunk_size=1, rate_limit=RateLimit(500))
    campaign = session.campaign("a", "c")
    bulk = asyncio.create_task(campaign.get_many([f"b{number}" for number in range(40)]))
    singles = await asyncio.gather(*(campaign.get(f"s{number}") for number in range(5)))
    assert [status.lead_id for status in singles] == [f"s{number}" for number in range(5)]
    assert len(await bulk) == 40
    assert server.max_in_flight <= 2


async def test_a_call_that_ends_between_permit_and_sending_leaves_nothing(server, make_session, monkeypatch):
    """A permit granted across contexts belongs to the call from the grant on, and dies with it."""
    session = make_session(concurrency=2, chunk_size=1)
    campaign = session.campaign("a", "c")
    dispatcher = session._core.enter().dispatcher
    spawn, calls = dispatcher._spawn, {}

    def ends_at_once(context, granted=None):
        worker = spawn(context, granted)
        if granted is not None and granted[1].ids[0].startswith("b"):
            calls["b"].cancel()
        return worker

    monkeypatch.setattr(dispatcher, "_spawn", ends_at_once)
    calls["a"] = asyncio.create_task(campaign.get_many([f"a{number}" for number in range(30)]))
    calls["b"] = asyncio.create_task(campaign.get_many([f"b{number}" for number in range(30)]))
    await asyncio.wait(calls.values())
    assert session.stats.in_flight == 0
    assert session._core.idle
    assert len(calls["a"].result()) == 30


async def test_closing_while_a_long_list_is_read(make_session):
    """SessionClosedError, with a result that has every position."""
    session = make_session()
    call = asyncio.create_task(session.campaign("a", "c").get_many([f"x{n}" for n in range(20_000)]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await session._core.aclose(0.0)
    with pytest.raises(SessionClosedError) as caught:
        await call
    assert len(caught.value.result) == 20_000


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


@pytest.mark.parametrize("call", ["get", "get_many"])
async def test_a_coroutine_that_is_closed_by_hand(server, make_session, call):
    """It may not wait, and leaves nothing behind all the same."""
    server.hold()
    session = make_session()
    campaign = session.campaign("a", "c")
    coroutine = campaign.get("x") if call == "get" else campaign.get_many(["x"])
    coroutine.send(None)
    await server.wait_for_requests(1)
    coroutine.close()
    async with asyncio.timeout(10):
        while not session._core.idle:
            await asyncio.sleep(0)
    assert session.stats.in_flight == 0


@pytest.mark.parametrize("drain", [0.0, 30.0])
async def test_closing_that_is_cancelled_closes_all_the_same(server, make_session, drain):
    """Calls end, requests are cut, the connections are gone; only whoever waited does not any more."""
    server.hold()
    session = make_session()
    call = asyncio.create_task(session.campaign("a", "c").get("x"))
    await server.wait_for_requests(1)
    closing = asyncio.create_task(session.aclose(drain))
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    with pytest.raises(SessionClosedError):
        await call
    async with asyncio.timeout(10):
        while not session._core.idle:
            await asyncio.sleep(0)
    assert session._core.transport._session.closed


async def test_nobody_waits_for_the_end_of_others(server):
    """A request that is cut off may take its time to go: only its own caller waits for that."""
    slow = asyncio.Event()

    async def lingers(request, handler):
        try:
            return await handler(request)
        except asyncio.CancelledError:
            await slow.wait()
            raise

    async with aiohttp.ClientSession(middlewares=[lingers]) as lent:
        session = LeadStatusSession(KEY, base_url=server.url, http_session=lent)
        campaign = session.campaign("a", "c")
        server.hold()
        cut = asyncio.create_task(campaign.get("x"))
        await server.wait_for_requests(1)
        server.release()
        server.hold()
        cut.cancel()
        server.release()
        async with asyncio.timeout(5):
            assert len(await campaign.get_many(["y", "z"])) == 2
        assert not cut.done()
        slow.set()
        await asyncio.wait([cut])
        await session.aclose()


@pytest.mark.parametrize("how", ["404", "deadline", "cancelled", "answered"])
async def test_a_get_keeps_nothing_of_its_caller(server, make_session, how):
    """No cycle has the traceback of an error, which has the caller's frame and all that it has in hand."""

    class Big:
        """What a caller may have in hand."""

    async def caller(campaign):
        big = Big()
        kept.append(weakref.ref(big))
        try:
            await campaign.get("x", deadline=0.05 if how == "deadline" else None)
        except (LeadStatusError, asyncio.CancelledError):
            return

    kept = []
    if how == "404":
        server.script("404")
    elif how != "answered":
        server.fault("hang", times=None)
    campaign = make_session().campaign("a", "c")
    gc.disable()
    try:
        task = asyncio.create_task(caller(campaign))
        if how == "cancelled":
            await server.wait_for_requests(1)
            task.cancel()
        await asyncio.wait([task])
        del task
        for _ in range(5):
            await asyncio.sleep(0)
        assert kept[0]() is None
    finally:
        gc.enable()


async def test_a_stream_that_has_ended_keeps_nothing(make_session):
    """Neither its source, nor what that has in hand, though somebody still has the stream."""

    class Cursor:
        """What a source may refer to."""

        def __init__(self):
            self.left = 5

        def __iter__(self):
            return self

        def __next__(self):
            if not self.left:
                raise StopIteration
            self.left -= 1
            return f"x{self.left}"

    kept = []

    def source():
        cursor = Cursor()
        kept.append(weakref.ref(cursor))
        return cursor

    campaign = make_session().campaign("a", "c")
    gc.disable()
    try:
        stream = campaign.stream(source())
        assert len([status async for status in stream]) == 5
        assert kept[0]() is None
        await stream.aclose()
    finally:
        gc.enable()


def test_a_stream_of_another_loop():
    """Says so, and nothing else: neither that a loop is closed, nor that a coroutine was never awaited."""

    async def make():
        session = LeadStatusSession(KEY, base_url="http://127.0.0.1:9")
        async with session:
            pass
        return session.campaign("a", "c"), LeadStatusSession(KEY, base_url="http://127.0.0.1:9")

    async def source():
        yield "x"

    async def begin(session):
        session._core.enter()
        return session.campaign("a", "c").stream(source())

    async def use(session, stream):
        with pytest.raises(SessionLoopError):
            await anext(stream)
        session._core._loop = asyncio.get_running_loop()
        await session.aclose()

    _, session = asyncio.run(make())
    stream = asyncio.run(begin(session))
    asyncio.run(use(session, stream))


def test_an_interrupt_in_a_source_is_not_kept_for_later():
    """It is the process's, and comes at once."""

    def source():
        yield "x"
        raise SystemExit(7)

    async def main():
        async with FakeLeadStatusServer() as server, LeadStatusSession(KEY, base_url=server.url) as session:
            async for _ in session.campaign("a", "c").stream(source()):
                pass

    with pytest.raises(SystemExit) as caught:
        asyncio.run(main())
    assert caught.value.code == 7


@pytest.mark.parametrize("times", [1, 2])
async def test_a_drain_that_is_cancelled_leaves_nothing(server, make_session, times):
    """Told to stop while it closes, once or again: nothing in flight, no connection, all calls are told."""
    server.hold()
    session = make_session(chunk_size=1)
    job = asyncio.create_task(session.campaign("a", "c").get_many(leads(40)))
    get = asyncio.create_task(session.campaign("a", "c").get("x"))
    await server.wait_for_requests(16)
    closing = asyncio.create_task(session.aclose(drain_timeout=60))
    await asyncio.sleep(0.01)
    for _ in range(times):
        closing.cancel()
        await asyncio.sleep(0)
    await asyncio.wait({closing, job, get}, timeout=5)
    assert closing.cancelled()
    assert isinstance(job.exception(), SessionClosedError)
    assert isinstance(get.exception(), SessionClosedError)
    async with asyncio.timeout(5):
        while not (session._core.idle and session._core.transport._session.closed):
            await asyncio.sleep(0)
    assert session.stats.in_flight == session.stats.queued == 0
