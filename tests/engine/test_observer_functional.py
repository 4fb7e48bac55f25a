"""What observers and logs are told, and that nothing they do breaks a call."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import time
import warnings
from collections import Counter

import pytest

from leadstatus_async import (
    BadRequestError,
    BatchStats,
    ConfigurationError,
    DeadlineExceededError,
    LeadStatusSession,
    PermissionDeniedError,
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


async def test_log_records_carry_facts(server, make_session, caplog):
    """For JSON formatters and structlog's ExtraAdder: what is known, under names of its own."""
    caplog.set_level(logging.INFO, logger="leadstatus_async")
    server.script("500", "reset", "429-retry-after-ms")
    campaign = make_session(rate_limit=RateLimit(1000)).campaign("acc", "camp")
    await campaign.get_many(leads(3))
    names = ("campaign", "leads", "attempt", "status", "trace_id", "delay")
    facts = [
        {name: vars(record)[name] for name in names if name in vars(record)} for record in caplog.records
    ]
    again, reset, paused, throttled = [found for found in facts if found]
    assert again == {**again, "campaign": "camp", "leads": 3, "attempt": 1, "status": 500}
    assert again["trace_id"].startswith("trace-")
    assert 0 < again["delay"] <= 0.01
    assert reset.keys() == {"campaign", "leads", "attempt", "delay"}
    assert paused.keys() == {"delay"}
    assert (throttled["status"], throttled["attempt"]) == (429, 2)
    assert "delay" not in throttled


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
    names = ["CallStarted", "AttemptFinished", "BatchFinished", "CallFinished"]
    assert [type(event).__name__ for event in seen] == names
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


# Calls, from their beginning to their end


def calls_of(seen):
    """Return pairs of `CallStarted` and `CallFinished`, in order of beginning; each has both, once."""
    began = {event.call_id: event for event in seen if isinstance(event, events.CallStarted)}
    ended = {event.call_id: event for event in seen if isinstance(event, events.CallFinished)}
    assert len(began) + len(ended) == sum(isinstance(event, CALL_EVENTS) for event in seen)
    assert began.keys() == ended.keys()
    return [(event, ended[call_id]) for call_id, event in began.items()]


CALL_EVENTS = events.CallStarted | events.CallFinished


async def test_each_call_has_a_beginning_and_an_end(server, make_session):
    """Of whatever kind; with the leads that it is about, those that failed, and what it cost."""
    seen = []
    campaign = make_session(on_event=seen.append, chunk_size=10, cache_size=9).campaign("acc", "camp")
    server.bad_ids.add("bad")
    server.set_status("a", "completed")
    result = await campaign.get_many(["a", "b", "a", "bad", ""], on_error="collect")
    await campaign.retry(result, on_error="collect")
    await campaign.get("a")
    with pytest.raises(BadRequestError):
        await campaign.get("bad")
    await campaign.get("a", max_age=9.0)
    [_ async for _ in campaign.stream(["a", "bad", "", "a"], on_error="collect", max_age=9.0)]
    [_ async for _ in campaign.watch(["a", "a"], interval=1)]
    calls = calls_of(seen)
    assert {(start.account, start.campaign) for start, _ in calls} == {("acc", "camp")}
    assert [(start.kind, start.leads, end.leads, end.failures) for start, end in calls] == [
        ("get_many", 5, 5, 2),
        ("get_many", 2, 2, 2),
        ("get", 1, 1, 0),
        ("get", 1, 1, 1),
        ("get", 1, 1, 0),
        ("stream", None, 4, 2),
        ("watch", 1, 1, 0),
    ]
    assert [end.error for _, end in calls] == [None, None, None, "BadRequestError", None, None, None]
    assert [end.stats.cached for _, end in calls] == [0, 0, 0, 0, 1, 2, 0]
    assert calls[0][1].stats.requests > 1
    assert [end.stats.requests for _, end in calls[2:]] == [1, 1, 0, 1, 1]
    for _, end in calls:
        assert 0 <= end.stats.elapsed <= end.seconds + 0.001
    assert len({start.call_id for start, _ in calls}) == 7


async def test_requests_name_the_calls_that_they_serve(server, make_session):
    """One call, or all gets that travel together; every request of every session has its own."""
    seen = []
    campaign = make_session(on_event=seen.append, chunk_size=2).campaign("a", "c")
    other = make_session(on_event=seen.append).campaign("a", "c")
    before = time.time()
    await campaign.get_many(["a", "b", "c"])
    await asyncio.gather(campaign.get("d"), campaign.get("d"), campaign.get("e"), other.get("f"))
    [_ async for _ in campaign.stream(["g"])]
    await anext(campaign.watch(["h"], interval=9))
    ids = {start.kind: [] for start, _ in calls_of([*seen, *ends(seen)])}
    for event in seen:
        if isinstance(event, events.CallStarted):
            ids[event.kind].append(event.call_id)
    attempts = [event for event in seen if isinstance(event, events.AttemptFinished)]
    served = sorted(event.call_ids for event in attempts)
    (many,), (one, two, three, four), (stream,), (watch,) = ids.values()
    assert served == [(many,), (many,), (one, two, three), (four,), (stream,), (watch,)]
    for event in attempts:
        assert before - 0.01 <= event.started_at <= time.time() - event.seconds + 0.01


def ends(seen):
    """Return an end for each call that is still under way, as a watch is that was left alone."""
    ended = {event.call_id for event in seen if isinstance(event, events.CallFinished)}
    return [
        events.CallFinished(event.call_id, 0, 0, 0.0, BatchStats())
        for event in seen
        if isinstance(event, events.CallStarted) and event.call_id not in ended
    ]


async def test_a_call_begins_in_its_callers_context(server, make_session):
    """So that an observer knows whose it is: the span, the tenant, the web request."""
    tenant = contextvars.ContextVar("tenant", default="nobody")
    seen = []

    def observe(event):
        if isinstance(event, events.CallStarted):
            seen.append((event.kind, tenant.get(), asyncio.current_task().get_name()))

    campaign = make_session(on_event=observe).campaign("a", "c")

    async def handler(kind):
        tenant.set(kind)
        asyncio.current_task().set_name(kind)
        match kind:
            case "get":
                await campaign.get("a")
            case "get_many":
                await campaign.get_many(["a"])
            case "stream":
                [_ async for _ in campaign.stream(["a"])]
            case "watch":
                await anext(campaign.watch(["a"], interval=9))

    kinds = ["get", "get_many", "stream", "watch"]
    await asyncio.gather(*map(handler, kinds))
    assert sorted(seen) == [(kind, kind, kind) for kind in kinds]


@pytest.mark.parametrize("how", ["deadline", "cancelled", "closed", "left", "fatal", "bad IDs"])
async def test_a_call_that_ends_early_has_an_end(server, make_session, how):
    """In whatever way; `error` is the class of what it raised, None if its caller has left it."""
    seen = []
    session = make_session(on_event=seen.append)
    campaign = session.campaign("a", "c")
    server.fault("401" if how == "fatal" else "hang", times=None)
    match how:
        case "deadline":
            calls = [campaign.get("a", deadline=0.05), campaign.get_many(["b"], deadline=0.05)]
        case "bad IDs":
            calls = [campaign.get(""), campaign.get_many([""])]
        case "left":
            server.clear_faults()
            stream = campaign.stream(leads(1000))
            await anext(stream)
            await stream.aclose()
            calls = []
        case _:
            calls = [campaign.get("a"), campaign.get_many(["b"]), anext(campaign.stream(["c"]))]
    tasks = [asyncio.ensure_future(call) for call in calls]
    if how in {"cancelled", "closed"}:
        await server.wait_for_requests(3)
        if how == "closed":
            await session.aclose()
        else:
            for task in tasks:
                task.cancel()
    raised = [type(error).__name__ for error in await asyncio.gather(*tasks, return_exceptions=True)]
    ended = sorted(str(end.error) for _, end in calls_of(seen))
    assert ended == ([] if how == "bad IDs" else ["None"] if how == "left" else sorted(raised))


async def test_without_observers_no_call_is_told(server, make_session, monkeypatch):
    """Nor is anything counted for them."""
    monkeypatch.setattr(events, "CallStarted", None)
    monkeypatch.setattr(events, "CallFinished", None)
    campaign = make_session().campaign("a", "c")
    assert (await campaign.get("a")).ok
    assert len(await campaign.get_many(["a"])) == 1


def attempts_of(seen):
    """Return how many leads each request asked for, the calls it served, and its error."""
    return [
        (event.leads, event.call_ids, event.error)
        for event in seen
        if isinstance(event, events.AttemptFinished)
    ]


async def test_a_part_of_a_request_names_its_own_calls(server, make_session):
    """Halves serve the gets that are in them."""
    seen = []
    campaign = make_session(on_event=seen.append).campaign("a", "c")
    server.bad_ids.add("bad")
    await campaign.get("first")
    del seen[:]
    await asyncio.gather(*map(campaign.get, ["a", "bad", "c", "d"]), return_exceptions=True)
    numbers = dict(
        zip(["a", "bad", "c", "d"], sorted(start.call_id for start, _ in calls_of(seen)), strict=True)
    )
    asked = [request.lead_ids for request in server.requests[1:]]
    assert asked[0] == ("a", "bad", "c", "d")
    for (_, call_ids, _), ids in zip(attempts_of(seen), asked, strict=True):
        assert call_ids == tuple(numbers[lead_id] for lead_id in ids)


@pytest.mark.parametrize("how", ["cancelled", "deadline", "closed"])
@pytest.mark.parametrize("kind", ["get", "get_many", "stream", "watch"])
async def test_a_cut_request_is_over_before_its_call(server, make_session, how, kind):
    """And names it, though nobody waits any more: that is the request which one looks for."""
    seen = []
    session = make_session(on_event=seen.append)
    campaign = session.campaign("a", "c").with_options(deadline=0.1 if how == "deadline" else None)
    server.fault("hang", times=None)
    calls = {
        "get": lambda: campaign.get("x"),
        "get_many": lambda: campaign.get_many(["x"]),
        "stream": lambda: anext(campaign.stream(["x"])),
        "watch": lambda: anext(campaign.watch(["x"], interval=1)),
    }
    if (kind, how) == ("watch", "deadline"):
        return  # it has none
    task = asyncio.ensure_future(calls[kind]())
    await server.wait_for_requests(1)
    if how == "closed":
        await session.aclose()
    elif how == "cancelled":
        task.cancel()
    await asyncio.wait([task])
    ((start, _),) = calls_of(seen)
    assert attempts_of(seen) == [(1, (start.call_id,), "CancelledError")]
    names = [type(event).__name__ for event in seen]
    assert names.index("AttemptFinished") < names.index("CallFinished")


async def test_figures_of_calls_that_were_cut_short(server, make_session):
    """What was answered before counts; duplicates count at each position, as in a list."""
    seen = []
    session = make_session(on_event=seen.append, cache_size=9, chunk_size=1)
    campaign = session.campaign("a", "c")
    await campaign.get_many(["a", "b"])
    assert len([one async for one in campaign.stream(["n", "n", "m"])]) == 3
    server.set_status("w", "pending")
    watch = campaign.watch(["w", "v"], interval=0.01, until=lambda status: status.lead_id == "v")
    await anext(watch)
    await anext(watch)
    server.fault("hang", times=None)
    watching = asyncio.ensure_future(anext(watch))
    listing = asyncio.ensure_future(campaign.get_many(["a", "b", "new"], max_age=9.0))
    await server.wait_for_requests(8)
    for task in (watching, listing):
        task.cancel()
    await asyncio.wait([watching, listing])
    _, stream, watched, listed = [end for _, end in calls_of(seen)]
    assert (stream.leads, stream.failures) == (3, 0)
    assert (watched.leads, watched.failures) == (2, 0)
    assert (listed.leads, listed.stats.cached, listed.error) == (2, 2, "CancelledError")


async def test_a_watch_that_is_refused_tells_of_all_its_leads(server, make_session):
    """Those that were settled before, too."""
    seen = []
    campaign = make_session(on_event=seen.append).campaign("a", "c")
    server.script("ok", "403")
    with pytest.raises(PermissionDeniedError):
        async for _ in campaign.watch(["a", "b", "z"], interval=0.01, until=lambda one: one.lead_id != "z"):
            pass
    ((_, end),) = calls_of(seen)
    assert (end.leads, end.failures, end.error) == (3, 1, "PermissionDeniedError")


async def test_what_an_outage_holds_is_told_to_be_sent_again(server, make_session):
    """As a retry with a back-off is: as many events as the statistics have retries."""
    seen = []
    campaign = make_session(on_event=seen.append, chunk_size=1, concurrency=4).campaign("a", "c")
    await campaign.get("first")
    server.script(*["503"] * 8)
    result = await campaign.get_many(leads(12))
    assert any(isinstance(event, events.OutageStarted) for event in seen)
    told = [event for event in seen if isinstance(event, events.RetryScheduled)]
    assert len(told) == result.stats.retries == 8
