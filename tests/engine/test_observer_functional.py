"""What observers and logs are told, and that nothing they do breaks a call."""

from __future__ import annotations

import asyncio
import gc
import logging
import warnings
from collections import Counter

import pytest

from leadstatus_async import (
    ConfigurationError,
    DeadlineExceededError,
    LeadStatusSession,
    RateLimit,
    SessionClosedError,
    events,
)
from leadstatus_async.testing import FakeLeadStatusServer, Fault
from tests.conftest import KEY, leads

pytestmark = pytest.mark.usefixtures("nothing_left")


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


async def test_callbacks_that_raise_cancelled_hang_nobody(server, make_session):
    """CancelledError out of a callback is the callback's, not ours."""

    def broken(*_):
        raise asyncio.CancelledError

    session = make_session(on_event=broken)
    assert len(await session.campaign("a", "c").get_many(["x", "y"], progress=broken)) == 2


async def test_a_pause_is_told_once(server, make_session):
    """Sixteen 429s of requests sent together are one `Paused`."""
    seen = []
    server.fault(Fault(429, headers={"Retry-After": "1"}), times=16)
    server.hold()
    session = make_session(chunk_size=1, on_event=seen.append)
    job = asyncio.create_task(session.campaign("a", "c").get_many([f"x{number}" for number in range(16)]))
    await server.wait_for_requests(16)
    server.release()
    await job
    assert len([event for event in seen if isinstance(event, events.Paused)]) == 1


@pytest.mark.parametrize("where", ["on_event", "progress"])
def test_an_interrupt_in_a_callback_ends_the_loop_and_hangs_nobody(where):
    """SystemExit is for the process, and not for us to catch; nor do we wait for what it has ended."""
    told = []

    def leave(what):
        told.append(what)
        if len(told) == 1:
            raise SystemExit(7)

    async def main():
        async with FakeLeadStatusServer() as server:
            options = {"on_event": leave} if where == "on_event" else {}
            session = LeadStatusSession(KEY, base_url=server.url, rate_limit=None, **options)
            async with session, asyncio.timeout(10):
                options = {"progress": leave} if where == "progress" else {}
                await session.campaign("a", "c").get_many(["x"], **options)

    with pytest.raises(SystemExit) as caught:
        asyncio.run(main())
    assert caught.value.code == 7


class Foreign(BaseException):
    """What is no Exception."""


@pytest.mark.parametrize(
    "kind", ["RetryScheduled", "ChunkSplit", "AttemptFinished", "Paused", "BatchFinished"]
)
async def test_an_observer_that_raises_no_exception_breaks_nothing(server, make_session, kind):
    """At whatever it is told, and neither does a progress callback."""

    def broken(event):
        if type(event).__name__ in (kind, "Progress"):
            raise Foreign

    server.script("500", "400", "429-retry-after-ms")
    session = make_session(on_event=broken)
    async with asyncio.timeout(10):
        result = await session.campaign("a", "c").get_many(leads(20), progress=broken)
    assert len(result.statuses) == 20


@pytest.mark.parametrize("kind", ["RetryScheduled", "ChunkSplit", "AttemptFinished", "Paused"])
async def test_an_observer_that_closes_the_session(server, make_session, kind):
    """In the very turn in which it is told, as an eager task would: every position has its outcome."""
    closing = []

    def close(event):
        if type(event).__name__ == kind and not closing:
            coroutine = session._core.dispatcher.aclose(SessionClosedError("closed"))
            closing.append(coroutine)
            coroutine.send(None)

    server.script("500", "400", "429-retry-after-ms")
    session = make_session(on_event=close, chunk_size=5)
    with pytest.raises(SessionClosedError) as caught:
        await session.campaign("a", "c").get_many(leads(40))
    assert [outcome.lead_id for outcome in caught.value.result] == leads(40)
    assert session.stats.leads + session.stats.failures == 40
    closing[0].close()
    await session.aclose()
    assert session._core.idle


@pytest.mark.parametrize("how", ["filter", "handler"])
@pytest.mark.parametrize("name", ["leadstatus_async", "leadstatus_async.limiter"])
async def test_logging_that_raises_breaks_nothing(server, make_session, how, name):
    """A filter or a handler of the user's costs its lines, and no more."""

    class Broken(logging.Handler):
        def emit(self, record):
            raise RuntimeError(record.getMessage())

    def broken(record):
        raise RuntimeError(record.getMessage())

    logger, handler = logging.getLogger(name), Broken()
    before, disabled = logger.level, logger.disabled
    logger.setLevel(logging.DEBUG)
    logger.disabled = False
    logger.addFilter(broken) if how == "filter" else logger.addHandler(handler)
    try:
        server.script("500", "429-retry-after-ms", "502", "reset")
        session = make_session(on_event=lambda event: 1 / 0, rate_limit=RateLimit(500))
        campaign = session.campaign("a", "c")
        async with asyncio.timeout(10):
            assert (await campaign.get("x")).ok
            server.script("400", "414")
            assert len((await campaign.get_many(leads(250))).statuses) == 250
            server.script("500", "503")
            assert len([status async for status in campaign.stream(leads(250))]) == 250
    finally:
        logger.removeFilter(broken)
        logger.removeHandler(handler)
        logger.setLevel(before)
        logger.disabled = disabled


async def test_a_log_line_says_where_it_was_written(server, make_session, caplog):
    """Not in what guards it."""
    caplog.set_level(logging.INFO, "leadstatus_async")
    server.script("500")
    await make_session().campaign("a", "c").get("x")
    assert {record.filename for record in caplog.records} == {"observer.py"}


async def test_several_observers_are_guarded_each_by_itself(server, make_session):
    """One that raises takes nothing from the others."""
    seen = []

    def broken(_):
        raise ValueError

    session = make_session(on_event=[broken, seen.append, broken])
    await session.campaign("a", "c").get("x")
    assert [type(event).__name__ for event in seen] == ["AttemptFinished", "BatchFinished"]
    assert make_session(on_event=()) is not None


@pytest.mark.parametrize("bad", [[None], [print, 3], "print", asyncio.sleep])
def test_observers_are_checked_one_by_one(bad):
    """Whatever the list holds is a function that can be called."""
    with pytest.raises(ConfigurationError, match="on_event must be a plain function"):
        LeadStatusSession(KEY, on_event=bad)


async def test_an_awaitable_that_a_callback_returns_counts_as_raising(server, make_session, caplog):
    """Nobody would await it, and nobody is warned that it was not."""

    async def later(_):
        """Never run."""

    session = make_session(on_event=lambda event: later(event))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await session.campaign("a", "c").get_many(["x"], progress=lambda progress: later(progress))
        gc.collect()
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "an on_event callback raised; it is ignored from now on where it does",
        "a progress callback raised; it is ignored from now on where it does",
    ]


@pytest.mark.parametrize("refusals", [["400"], ["400", "400", "400"], ["414"], ["414", "414"]])
async def test_a_split_is_told_where_it_is_made(server, make_session, refusals):
    """As often as the call's statistics have it, with what was cut."""
    seen = []
    session = make_session(on_event=seen.append, chunk_size=64)
    server.script(*refusals)
    result = await session.campaign("a", "c").get_many(leads(300))
    told = [event for event in seen if isinstance(event, events.ChunkSplit)]
    assert len(told) == result.stats.splits == session.stats.splits >= 1
    assert all(event.leads > 1 and event.status == int(refusals[0]) for event in told)
