"""`stream`: outcomes in bounded memory, and nothing left when it is left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import time
from collections.abc import AsyncIterator

import pytest

from leadstatus_async import (
    AuthenticationError,
    ConfigurationError,
    DeadlineExceededError,
    InvalidLeadIdError,
    LeadStatusError,
    RateLimit,
    RateLimitError,
    RetryPolicy,
    SessionClosedError,
)
from tests.conftest import turns

pytestmark = pytest.mark.usefixtures("nothing_left")

IDS = [f"{number:024x}" for number in range(2500)]


class Source:
    """An async source that counts what is read and knows whether it was closed."""

    def __init__(self, lead_ids, pause_at=(), fail_at=None):
        self.lead_ids, self.pause_at, self.fail_at = lead_ids, pause_at, fail_at
        self.read = 0
        self.closed = False
        self.go_on = asyncio.Event()

    async def __aiter__(self):
        try:
            for lead_id in self.lead_ids:
                if self.read in self.pause_at:
                    await self.go_on.wait()
                if self.read == self.fail_at:
                    raise OSError("the file has gone")
                self.read += 1
                yield lead_id
        finally:
            self.closed = True


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("kind", ["list", "generator", "async"])
async def test_every_lead_comes_once(server, campaign, ordered, kind):
    """Any source, ordered or as they come: each lead once, with its right status."""
    source = {"list": IDS, "generator": (lead_id for lead_id in IDS), "async": Source(IDS)}[kind]
    got = [status async for status in campaign.stream(source, ordered=ordered)]
    wanted = [server.expected(lead_id) for lead_id in IDS]
    assert got == wanted if ordered else sorted(got, key=lambda s: s.lead_id) == wanted
    assert server.count <= 27


async def test_duplicates_are_answered_at_each_position(server, campaign):
    """A lead that occurs twice in what is sent together is asked once."""
    got = [status.lead_id async for status in campaign.stream(["a", "b", "a"])]
    assert got == ["a", "b", "a"]
    assert server.requests[0].lead_ids == ("a", "b")


@pytest.mark.parametrize("kind", ["generator", "async"])
async def test_reading_ahead_is_bounded(server, campaign, kind):
    """No more than max_buffered leads are read ahead of the consumer."""
    read = 0

    def counted():
        nonlocal read
        for lead_id in IDS:
            read += 1
            yield lead_id

    source = Source(IDS)
    stream = campaign.stream(counted() if kind == "generator" else source, max_buffered=150)
    async with stream:
        for taken in range(1, 400):
            await anext(stream)
            assert (read if kind == "generator" else source.read) <= taken + 150


async def test_a_slow_consumer_stops_the_requests(server, make_session):
    """Back-pressure: without anybody taking, requests end at what may be buffered."""
    session = make_session()
    stream = session.campaign("a", "c").stream(iter(IDS), max_buffered=300)
    await anext(stream)
    while session.stats.in_flight or session.stats.queued:
        await asyncio.sleep(0.001)
    assert server.count == 3
    await stream.aclose()


async def test_a_buffer_smaller_than_a_chunk_works(server, campaign):
    """max_buffered=1 asks lead by lead."""
    got = [status.lead_id async for status in campaign.stream(IDS[:5], max_buffered=1)]
    assert got == IDS[:5]
    assert server.count == 5


async def test_out_of_order_does_not_wait_for_the_slowest(server, make_session):
    """ordered=False yields what is there while one request hangs."""
    server.fault("hang", times=None, when=lambda request: IDS[0] in request.lead_ids)
    campaign = make_session().campaign("a", "c")
    async with campaign.stream(IDS[:300], ordered=False) as stream:
        got = [(await anext(stream)).lead_id for _ in range(200)]
    assert sorted(got) == IDS[100:300]


async def test_leaving_early_cancels_what_is_in_flight(server, make_session):
    """By break out of a plain loop, by break out of a block, by an exception: all the same."""
    session = make_session()
    campaign = session.campaign("a", "c")
    for _ in range(2):
        async for _status in campaign.stream(IDS):
            server.hold()
            break
        gc.collect()
        while not session._core.idle:  # the loop closes what was let go of
            await asyncio.sleep(0)
        assert session.stats.in_flight == session.stats.queued == 0
        server.release()
    source = Source(IDS)
    with pytest.raises(ZeroDivisionError):
        async with campaign.stream(source) as stream:
            async for _status in stream:
                raise ZeroDivisionError
    assert source.closed
    assert session.stats.in_flight == 0


async def test_cancelling_the_consumer_closes_the_source(server, make_session):
    """Requests are cut, the source is closed, and whoever goes on reading is told."""
    session = make_session()
    source = Source(IDS, pause_at={150})
    stream = session.campaign("a", "c").stream(source)

    async def consume():
        async for _ in stream:
            pass

    consumer = asyncio.create_task(consume())
    await server.wait_for_requests(1)
    while source.read < 150:
        await asyncio.sleep(0.001)
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    assert source.closed
    assert session.stats.in_flight == 0
    with pytest.raises(LeadStatusError, match="cancelled"):
        await anext(stream)


async def test_errors_in_the_source_come_after_what_was_finished(campaign):
    """What was read is yielded first, then the source's own exception is raised."""
    for source in (Source(IDS, fail_at=150), failing()):
        got = []
        with pytest.raises(OSError, match="the file has gone"):
            async for status in campaign.stream(source):
                got.append(status.lead_id)
        assert got == IDS[: len(got)]
        assert len(got) in (150, 100)


def failing():
    yield from IDS[:100]
    raise OSError("the file has gone")


async def test_a_slow_source_holds_nothing_back(server, campaign):
    """A partly filled chunk goes out when a permit is free and the source has nothing ready."""
    source = Source(IDS[:20], pause_at={7})
    stream = campaign.stream(source)
    got = [(await anext(stream)).lead_id for _ in range(7)]
    assert got == IDS[:7]
    source.go_on.set()
    assert [status.lead_id async for status in stream] == IDS[7:20]


async def test_an_async_iterator_that_is_no_generator_is_fine(campaign):
    """Anything with __aiter__ and __anext__ will do."""

    class Plain(AsyncIterator):
        left = 3

        async def __anext__(self):
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return f"x{self.left}"

    assert [status.lead_id async for status in campaign.stream(Plain())] == ["x2", "x1", "x0"]


async def test_raise_stops_at_the_first_failed_lead(server, campaign):
    """With "raise" the lead's own error comes at its place."""
    server.fault("missing-row", times=None, when=lambda request: IDS[100] in request.lead_ids)
    got = []
    with pytest.raises(LeadStatusError) as caught:
        async for status in campaign.stream(IDS[:300]):
            got.append(status.lead_id)
    assert got == IDS[:100]
    assert caught.value.lead_ids == (IDS[100],)


async def test_collect_yields_failures_and_bad_ids_in_place(server, campaign):
    """With "collect" everything read is yielded."""
    server.fault("missing-row")
    outcomes = [o async for o in campaign.stream(["a", "b,c", 7, "d"], on_error="collect")]
    assert [outcome.lead_id for outcome in outcomes] == ["a", "b,c", "7", "d"]
    assert [outcome.ok for outcome in outcomes] == [False, False, False, True]
    assert isinstance(outcomes[2].error, InvalidLeadIdError)
    assert outcomes[2].error.bad == [(2, 7)]


async def test_a_fatal_answer_ends_the_stream(server, campaign):
    """What was read fails with it, and the rest of the source is not asked for."""
    server.fault("401", times=None)
    source = Source(IDS)
    got = []
    with pytest.raises(AuthenticationError):
        async for outcome in campaign.stream(source, on_error="collect", max_buffered=200):
            got.append(outcome)
    assert {type(outcome.error) for outcome in got} == {AuthenticationError}
    assert len(got) <= 200
    assert source.closed
    assert server.count <= 2


async def test_the_deadline_ends_the_stream(server, make_session):
    """What was read and not answered fails with it; the rest of the source is said to be left out."""
    server.fault("hang", times=None, when=lambda request: IDS[100] in request.lead_ids)
    got = []
    with pytest.raises(DeadlineExceededError):
        async for outcome in (
            make_session()
            .campaign("a", "c")
            .stream(iter(IDS), on_error="collect", deadline=0.2, max_buffered=200)
        ):
            got.append(outcome.ok)
    assert got == [True] * 100 + [False] * 100 + [True] * 100


async def test_closing_the_session_ends_the_stream(server, make_session):
    """SessionClosedError, after what was finished."""
    session = make_session()
    campaign = session.campaign("a", "c")
    stream = campaign.stream(Source(IDS), max_buffered=200)
    first = await anext(stream)
    await session.aclose()
    with pytest.raises(SessionClosedError):
        async for _ in stream:
            pass
    assert first.ok
    with pytest.raises(SessionClosedError):
        campaign.stream(IDS)


async def test_a_stream_that_begins_after_the_session_closed(make_session):
    """Made before, first awaited after: SessionClosedError, and nothing was read."""
    session = make_session()
    source = Source(IDS)
    stream = session.campaign("a", "c").stream(source)
    await session.aclose()
    with pytest.raises(SessionClosedError):
        await anext(stream)
    assert source.read == 0


async def test_a_long_pause_fails_what_waits(server, make_session):
    """A pause beyond max_retry_after is not slept through by streams either."""
    server.fault("429-retry-after-huge", times=None)
    campaign = make_session(concurrency=1).campaign("a", "c")
    outcomes = [outcome async for outcome in campaign.stream(IDS[:300], on_error="collect")]
    assert {type(outcome.error) for outcome in outcomes} == {RateLimitError}
    assert len(outcomes) == 300
    assert server.count == 1


async def test_progress_learns_the_total_at_the_end(campaign):
    """Total is None until the source has ended."""
    seen = []
    async for _ in campaign.stream(Source(IDS[:250]), progress=seen.append, max_buffered=100):
        pass
    assert seen[0].total is None
    assert (seen[-1].done, seen[-1].total, seen[-1].failed) == (250, 250, 0)
    assert seen[-1].requests >= 3


async def test_an_empty_source_ends_at_once(server, campaign):
    """No leads, no request, no hang; and the end stays the end."""
    stream = campaign.stream([])
    assert [status async for status in stream] == []
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    await stream.aclose()
    assert server.count == 0


async def test_streams_share_the_limit_with_others(server, make_session):
    """A get beside a stream takes its turn."""
    session = make_session(concurrency=1, chunk_size=10, rate_limit=RateLimit(200))
    campaign = session.campaign("a", "c")
    async with campaign.stream(IDS) as stream:
        await anext(stream)
        before = server.count
        await campaign.get("single")
        assert server.count - before <= 4


@pytest.mark.parametrize(
    ("source", "options", "error"),
    [
        ("abc", {}, TypeError),
        (7, {}, TypeError),
        (IDS, {"ordered": 1}, ConfigurationError),
        (IDS, {"max_buffered": 0}, ConfigurationError),
        (IDS, {"on_error": "x"}, ConfigurationError),
        (IDS, {"deadline": 0}, ConfigurationError),
        (IDS, {"progress": 1}, ConfigurationError),
    ],
)
async def test_bad_arguments_fail_at_once(server, campaign, source, options, error):
    """Before anything is read or sent."""
    with pytest.raises(error):
        campaign.stream(source, **options)
    assert server.count == 0


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("buffered", [1, 3, None])
async def test_bad_ids_alone_fill_the_buffer(make_session, buffered, ordered):
    """A source with nothing to ask for, longer than the buffer, is told to its end (h5)."""
    session = make_session(concurrency=2, chunk_size=4)
    most = buffered or 2 * 4 * 8

    async def source():
        for _ in range(2 * most + 1):
            yield "a,b"

    campaign = session.campaign("a", "c")
    stream = campaign.stream(source(), on_error="collect", max_buffered=buffered, ordered=ordered)
    async with asyncio.timeout(10), stream:
        outcomes = [outcome async for outcome in stream]
    assert [type(outcome.error) for outcome in outcomes] == [InvalidLeadIdError] * (2 * most + 1)


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_bad_id_is_told_while_the_source_is_quiet(make_session, ordered):
    """Nothing else needs to happen for an outcome that needs no request; progress is told, too."""
    told = []

    async def source():
        yield "a,b"
        await asyncio.Event().wait()

    campaign = make_session().campaign("a", "c")
    stream = campaign.stream(source(), on_error="collect", ordered=ordered, progress=told.append)
    async with asyncio.timeout(10), stream:
        assert not (await anext(stream)).ok
    assert [(one.done, one.failed) for one in told] == [(1, 1)]


async def test_the_deadline_wakes_a_consumer_that_waits_for_a_quiet_source(make_session):
    """What ends the stream from elsewhere is told at once: the deadline, a closed session."""

    async def source():
        yield "a"
        await asyncio.Event().wait()

    session = make_session()
    async with asyncio.timeout(10):
        stream = session.campaign("a", "c").stream(source(), deadline=0.05)
        assert (await anext(stream)).ok
        with pytest.raises(DeadlineExceededError):
            await anext(stream)
        stream = session.campaign("a", "c").stream(source())
        assert (await anext(stream)).ok
        waiting = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        await session.aclose()
        with pytest.raises(SessionClosedError):
            await waiting


class Endless:
    """An async source without end, that knows how much was read and whether it was closed."""

    def __init__(self):
        self.read = 0
        self.closed = False

    async def __aiter__(self):
        try:
            while True:
                self.read += 1
                yield f"lead{self.read}"
                await asyncio.sleep(0)
        finally:
            self.closed = True


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("end", ["deadline", "401", "close"])
async def test_a_stream_that_is_stopped_asks_for_nothing_more(server, make_session, end, ordered):
    """Though its consumer is slow and its source endless: it is told what was read, and why it ended."""
    session = make_session(concurrency=2, chunk_size=10)
    source, got = Endless(), 0
    deadline = 0.2 if end == "deadline" else None
    stream = session.campaign("a", "c").stream(source, ordered=ordered, deadline=deadline, on_error="collect")
    errors = {"deadline": DeadlineExceededError, "401": AuthenticationError, "close": SessionClosedError}
    async with asyncio.timeout(10):
        with pytest.raises(errors[end]):
            async for outcome in stream:
                got += outcome.ok
                await asyncio.sleep(0.001)
                if got == 30 and end == "401":
                    server.fault("401", times=None)
                if got == 30 and end == "close":
                    await session.aclose()
                    asked, read = server.count, source.read
        if end != "close":
            asked, read = server.count, source.read
    for _ in range(20):
        await asyncio.sleep(0)
    assert got >= 30
    assert source.closed
    assert (server.count, source.read) == (asked, read)


async def test_a_second_consumer_harms_only_itself(server, make_session):
    """It is refused, and the first gets everything."""
    server.hold()
    stream = make_session(chunk_size=2).campaign("a", "c").stream([f"x{number}" for number in range(10)])
    first = asyncio.create_task(anext(stream))
    await server.wait_for_requests(1)
    with pytest.raises(RuntimeError, match="two tasks"):
        await anext(stream)
    server.release()
    assert (await first).lead_id == "x0"
    assert [status.lead_id async for status in stream] == [f"x{number}" for number in range(1, 10)]


async def test_a_stream_closed_under_its_consumer(server, make_session):
    """Who waits for its next outcome sees the end, and the source is closed."""
    server.hold()
    session = make_session()
    source = Source(IDS)
    stream = session.campaign("a", "c").stream(source)
    consumer = asyncio.create_task(anext(stream))
    await server.wait_for_requests(1)
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await consumer
    assert source.closed
    assert session._core.idle
    await stream.aclose()


class Rows:
    """A cursor as database drivers have it: its own iterator, to be closed."""

    def __init__(self, lead_ids):
        self._lead_ids = iter(lead_ids)
        self.closed = 0

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._lead_ids)

    def close(self):
        self.closed += 1


class AsyncRows(Rows):
    """The same for drivers that are async."""

    __iter__ = None

    def __aiter__(self):
        return self

    async def __anext__(self):
        for lead_id in self._lead_ids:
            return lead_id
        raise StopAsyncIteration

    async def aclose(self):
        await asyncio.sleep(0)
        self.closed += 1


@pytest.mark.parametrize("kind", [Rows, AsyncRows], ids=["plain", "async"])
@pytest.mark.parametrize("way", ["end", "break", "block", "raise", "cancel", "twice", "never begun"])
async def test_a_source_is_closed_in_whatever_way_the_stream_is_left(server, make_session, kind, way):
    """Once; and nothing of the stream is left in the session."""
    session = make_session()
    source = kind(IDS)
    stream = session.campaign("a", "c").stream(source, max_buffered=200)
    if way == "end":
        assert len([status async for status in stream]) == len(IDS)
    elif way == "break":
        async for _ in stream:
            break
        del stream
        gc.collect()
    elif way in ("block", "raise", "never begun"):
        with contextlib.suppress(ZeroDivisionError):
            async with stream:
                if way != "never begun":
                    await anext(stream)
                if way == "raise":
                    raise ZeroDivisionError
    else:
        server.hold()
        consumer = asyncio.create_task(anext(stream))
        await server.wait_for_requests(1)
        consumer.cancel()
        if way == "twice":
            await asyncio.sleep(0)
            consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer
        server.release()
    async with asyncio.timeout(10):
        while not (session._core.idle and source.closed):
            await asyncio.sleep(0)
    assert source.closed == 1


@pytest.mark.parametrize("method", ["__next__", "__anext__", "__getitem__"])
async def test_whatever_can_be_iterated_is_a_source(campaign, method):
    """Iterators without `__iter__` or `__aiter__`, and sequences of old."""

    class Source:
        left = 3

        def _take(self, index=None):
            if index is not None:
                return ["x2", "x1", "x0"][index]
            self.left -= 1
            if self.left < 0:
                raise StopAsyncIteration if method == "__anext__" else StopIteration
            return f"x{self.left}"

    async def take(self):
        return self._take()

    setattr(Source, method, take if method == "__anext__" else Source._take)
    assert [status.lead_id async for status in campaign.stream(Source())] == ["x2", "x1", "x0"]


async def test_others_get_their_turn_between_two_blocks_of_a_slow_source(make_session):
    """A source that computes for a while before each lead must not stop the loop for all of them."""
    campaign = make_session(chunk_size=2).campaign("a", "c")
    seen = []

    def source():
        for lead_id in IDS[:20]:
            seen.append(had())
            time.sleep(0.002)
            yield lead_id

    async with turns() as had:
        assert len(await drained(campaign.stream(source()))) == 20
    blocks = seen[::2]
    assert all(later > earlier for earlier, later in itertools.pairwise(blocks))


async def test_a_source_that_never_waits_lets_others_run(make_session):
    """An async source of a hundred leads, none of which it has to wait for."""
    campaign = make_session(chunk_size=5).campaign("a", "c")
    seen = []

    async def source():
        for lead_id in IDS[:100]:
            seen.append(had())
            yield lead_id

    async with turns() as had:
        assert len(await drained(campaign.stream(source()))) == 100
    assert len(set(seen)) >= 20


async def test_one_request_in_back_off_does_not_stop_the_others(server, make_session):
    """What is read ahead by default is enough for eight rounds of all workers."""
    session = make_session(concurrency=2, chunk_size=5, retry=RetryPolicy(base_delay=0.2))
    server.script("500")
    stream = session.campaign("a", "c").stream(IDS)
    waiting = asyncio.create_task(anext(stream))
    await server.wait_for_requests(16)
    assert not waiting.done()
    await waiting
    await stream.aclose()


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_bug_ends_a_stream_though_outcomes_are_ready(make_session, monkeypatch, ordered):
    """What is ready is told, then the bug: it neither hangs nor ends as if nothing had been."""
    from leadstatus_async._engine import attempt

    decipher, told = attempt.decipher, []

    def buggy(*args, **facts):
        told.append(1)
        if len(told) == 3:
            raise KeyError("a bug")
        return decipher(*args, **facts)

    monkeypatch.setattr(attempt, "decipher", buggy)
    got = []
    stream = (
        make_session(chunk_size=2, concurrency=1)
        .campaign("a", "c")
        .stream((f"x{number}" for number in range(100)), ordered=ordered)
    )
    async with asyncio.timeout(10):
        with pytest.raises(KeyError, match="a bug"):
            async for status in stream:
                got.append(status.lead_id)
                await asyncio.sleep(0)
    assert got == [f"x{number}" for number in range(len(got))]


async def test_a_source_that_will_not_be_cancelled_is_not_heard(server, make_session):
    """What it hands over after the stream was stopped is nobody's."""

    class Stubborn(Endless):
        async def __aiter__(self):
            try:
                while not self.closed:
                    self.read += 1
                    yield f"lead{self.read}"
                    try:
                        await asyncio.sleep(0.001)
                    except asyncio.CancelledError:
                        self.closed = True
                        yield "after the end"
            finally:  # it may be between two leads, too, when the stream ends
                self.closed = True

    source, got = Stubborn(), []
    stream = make_session(chunk_size=2).campaign("a", "c").stream(source, deadline=0.1, on_error="collect")
    with pytest.raises(DeadlineExceededError):
        async for outcome in stream:
            got.append(outcome.lead_id)
    assert source.closed
    assert "after the end" not in got


async def test_a_none_among_the_ids_is_not_the_end_of_the_source(server, make_session):
    """A stream that is stopped before it says so, rather than end as if all had been told."""
    server.fault("401", times=None)
    source = iter(["a", "b", None, "d", "e"])
    stream = make_session(chunk_size=2).campaign("a", "c").stream(source, on_error="collect", max_buffered=2)
    outcomes = []
    with pytest.raises(AuthenticationError):
        async for outcome in stream:
            outcomes.append(outcome)
    assert len(outcomes) == 2


@pytest.mark.parametrize("end", ["break", "deadline"])
async def test_leaving_a_stream_whose_source_swallows_a_cancellation(make_session, end):
    """It is left all the same, and the source is closed."""
    closed = []

    async def source():
        try:
            number = 0
            while True:
                number += 1
                yield f"lead{number}"
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.001)
        finally:
            closed.append(True)

    campaign = make_session(chunk_size=2).campaign("a", "c")
    deadline = 0.1 if end == "deadline" else None
    async with asyncio.timeout(10):
        stream = campaign.stream(source(), max_buffered=2, on_error="collect", deadline=deadline)
        if end == "break":
            async with stream:
                assert (await anext(stream)).ok
        else:
            with pytest.raises(DeadlineExceededError):
                async for _ in stream:
                    await asyncio.sleep(0.001)
    assert closed


async def test_a_source_with_bad_ids_and_a_slow_consumer_goes_on(server, make_session):
    """Chunks that bad IDs leave partly filled are sent when nothing else is in flight."""
    session = make_session(chunk_size=10)
    source = ["bad,id" if number % 3 == 0 else f"x{number}" for number in range(100)]
    outcomes = []
    async for outcome in session.campaign("a", "c").stream(source, on_error="collect", max_buffered=25):
        outcomes.append(outcome.ok)
        await asyncio.sleep(0)
    assert outcomes == [number % 3 != 0 for number in range(100)]


async def test_each_failed_lead_of_a_stream_has_its_own_error(server, make_session):
    """lead_ids name the leads of the request, not those of another."""
    server.hold()
    server.fault("401", when=lambda request: "x2" in request.lead_ids)
    campaign = make_session(chunk_size=2, concurrency=3).campaign("a", "c")
    stream = campaign.stream([f"x{number}" for number in range(8)], on_error="collect", max_buffered=8)
    first = asyncio.create_task(anext(stream))
    await server.wait_for_requests(3)
    server.release()
    outcomes = [await first, *[outcome async for outcome in stream]]
    for outcome in outcomes:
        assert outcome.ok or outcome.lead_id in outcome.error.lead_ids


async def test_a_source_that_breaks_while_the_stream_ends(server, make_session):
    """The fatal answer comes first; what the source would have said is nobody's business any more."""
    from leadstatus_async import AuthenticationError

    def source():
        yield from ["x", "y"]
        raise OSError("gone")

    server.fault("401", times=None)
    campaign = make_session(chunk_size=2).campaign("a", "c")
    for on_error in ("raise", "collect"):
        with pytest.raises(AuthenticationError):
            async for _ in campaign.stream(source(), max_buffered=2, on_error=on_error):
                pass


class Outcome(BaseException):
    """What is no Exception, as test frameworks and frameworks of tasks have it."""


@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize("fault", [Outcome("no"), asyncio.CancelledError("mine"), GeneratorExit()], ids=repr)
async def test_a_source_that_raises_no_exception(campaign, kind, fault):
    """What was read comes first, then its fault, or that it was cancelled, and not by the stream."""

    def plain():
        yield "a"
        raise fault

    class Async:
        left = 1

        def __aiter__(self):
            return self

        async def __anext__(self):
            if self.left:
                self.left -= 1
                return "a"
            raise fault

    got = []
    expected = LeadStatusError if isinstance(fault, asyncio.CancelledError) else type(fault)
    async with asyncio.timeout(10):
        with pytest.raises(expected):
            async for status in campaign.stream(plain() if kind == "plain" else Async()):
                got.append(status.lead_id)
    assert got == ["a"]


async def test_a_reader_that_others_cancel_before_its_first_step(make_session):
    """The stream ends with an error, and does not wait for what will never come."""
    stream = make_session().campaign("a", "c").stream(Source(IDS))
    first = asyncio.create_task(anext(stream))
    while not (readers := [task for task in asyncio.all_tasks() if "_read_on" in repr(task.get_coro())]):
        await asyncio.sleep(0)
    readers[0].cancel()
    async with asyncio.timeout(10):
        with pytest.raises(LeadStatusError, match="not by its stream"):
            await first


class Slow:
    """An async source whose clean-up takes a while, as a database's does."""

    def __init__(self, pause=0.02):
        self.log = []
        self.pause = pause

    async def __aiter__(self):
        try:
            yield "a"
            yield "b"
            await asyncio.Event().wait()
        finally:
            self.log.append("closing")
            await asyncio.sleep(self.pause)
            self.log.append("closed")


@pytest.mark.parametrize("way", ["break", "deadline", "close", "block"])
async def test_the_clean_up_of_a_source_is_not_cut_off(make_session, way):
    """However the stream ends, and though the session is closed at once: that waits for it."""
    source, session = Slow(), make_session()
    campaign = session.campaign("a", "c")
    if way == "break":
        async for _ in campaign.stream(source):
            break
    elif way == "block":
        async with campaign.stream(source) as stream:
            await anext(stream)
    elif way == "deadline":
        with pytest.raises(DeadlineExceededError):
            async for _ in campaign.stream(source, deadline=0.2):
                pass
    else:
        consumer = asyncio.create_task(drained(campaign.stream(source)))
        while not session.stats.leads:
            await asyncio.sleep(0.001)
    await session.aclose()
    if way == "close":
        with pytest.raises(SessionClosedError):
            await consumer
    assert source.log == ["closing", "closed"]
    assert session._core.idle


async def drained(stream):
    return [outcome async for outcome in stream]


async def test_outcomes_do_not_wait_for_a_slow_source(server, make_session):
    """A source without end, or that takes its time, keeps nothing back that is answered."""
    read = 0

    def slow():
        nonlocal read
        for number in range(10**9):
            read += 1
            time.sleep(0.0002)
            yield f"x{number}"

    async with asyncio.timeout(10):
        async with make_session().campaign("a", "c").stream(slow(), max_buffered=10**12) as stream:
            assert (await anext(stream)).lead_id == "x0"
    assert read < 5000


@pytest.mark.parametrize("name", ["close", "aclose"])
@pytest.mark.parametrize("coroutine", [True, False], ids=["coroutine", "plain"])
async def test_a_source_may_close_by_a_coroutine_or_not(campaign, name, coroutine):
    """Database drivers have all four."""
    closed = []

    class Source(AsyncRows):
        close = aclose = None

    async def later(self):
        closed.append(await asyncio.sleep(0, "later"))

    setattr(Source, name, later if coroutine else lambda self: closed.append("now"))
    assert len(await drained(campaign.stream(Source(IDS[:5])))) == 5
    assert closed == ["later" if coroutine else "now"]


async def test_an_error_in_closing_replaces_no_other(server, campaign, caplog):
    """It is told once if it is alone, and logged if another is on its way."""

    class Source(Rows):
        def close(self):
            raise ValueError("cannot be closed")

    with pytest.raises(ValueError, match="cannot be closed"):
        await drained(campaign.stream(Source(IDS[:5])))
    with pytest.raises(KeyError):
        async with campaign.stream(Source(IDS[:5])) as stream:
            await anext(stream)
            raise KeyError
    server.script("404")
    stream = campaign.stream(Source(IDS[:5]))
    with pytest.raises(LeadStatusError):
        await drained(stream)
    await stream.aclose()
    assert [record.message for record in caplog.records].count("a source raised when it was closed") == 2


async def test_the_last_progress_knows_the_total(campaign):
    """Though the source says so only after its last lead was answered."""
    told = []

    async def source():
        for lead_id in IDS[:3]:
            yield lead_id
            await asyncio.sleep(0.02)

    assert len(await drained(campaign.stream(source(), progress=told.append))) == 3
    assert (told[-1].done, told[-1].total) == (3, 3)


@pytest.mark.parametrize("on_error", ["raise", "collect"])
async def test_a_stream_of_which_all_was_read_is_closed_too(server, make_session, on_error):
    """SessionClosedError comes at its end, after what it had."""
    server.hold()
    session = make_session()
    stream = session.campaign("a", "c").stream(["x", "y"], on_error=on_error)
    consumer = asyncio.create_task(drained(stream))
    await server.wait_for_requests(1)
    await session.aclose()
    with pytest.raises(SessionClosedError):
        await consumer


@pytest.fixture
def hasty(monkeypatch):
    """Wait for the clean-up of sources for a moment only."""
    monkeypatch.setattr("leadstatus_async._calls.stream.CLEAN_UP", 0.05)
    monkeypatch.setattr("leadstatus_async._engine.core.CLEAN_UP", 0.05)


@pytest.mark.parametrize("what", ["session", "stream"])
@pytest.mark.parametrize("end", ["break", "deadline"])
@pytest.mark.usefixtures("hasty")
async def test_a_source_that_closes_what_reads_it(make_session, what, end):
    """Each would wait for the other: neither does for ever."""
    session, log, streams = make_session(), [], []

    async def source():
        try:
            yield "a"
            await asyncio.Event().wait()
        finally:
            await (session if what == "session" else streams[0]).aclose()
            log.append("closed")

    stream = session.campaign("a", "c").stream(source(), deadline=0.2 if end == "deadline" else None)
    streams.append(stream)
    async with asyncio.timeout(10):
        if end == "break":
            async with stream:
                await anext(stream)
        else:
            with pytest.raises((DeadlineExceededError, SessionClosedError)):
                await drained(stream)
        await session.aclose()
        while not session._core.idle:
            await asyncio.sleep(0.001)
    assert log == ["closed"]


@pytest.mark.usefixtures("hasty")
async def test_a_source_with_a_timeout_of_its_own_making(make_session):
    """Whose cancellation it never takes back: ours is another one."""
    session = make_session()

    async def source():
        yield "a"
        asyncio.current_task().cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        yield "b"
        await asyncio.Event().wait()

    async with asyncio.timeout(10):
        async with session.campaign("a", "c").stream(source()) as stream:
            assert [(await anext(stream)).lead_id for _ in range(2)] == ["a", "b"]
        await session.aclose()
    assert session._core.idle


@pytest.mark.usefixtures("hasty")
async def test_a_source_that_swallows_its_cancellation_is_asked_again(make_session):
    """Not at once, which would cut off its clean-up."""
    session, log = make_session(), []

    async def source():
        yield "a"
        for _ in range(2):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                log.append("cancelled")

    async with asyncio.timeout(10):
        async with session.campaign("a", "c").stream(source()) as stream:
            assert (await anext(stream)).lead_id == "a"
            await asyncio.sleep(0)
        await session.aclose()
        while not session._core.idle:
            await asyncio.sleep(0.001)
    assert log == ["cancelled", "cancelled"]


@pytest.mark.parametrize("where", ["at a yield", "waiting"])
@pytest.mark.parametrize("way", ["break", "aclose", "body", "plain break"])
async def test_what_the_clean_up_of_a_source_raises_is_told(campaign, caplog, where, way):
    """Raised where it is alone, logged where an error is on its way; wherever the source was."""

    async def source():
        try:
            yield "a"
            if where == "waiting":
                await asyncio.Event().wait()
            while True:
                yield "b"
        finally:
            raise ValueError("in its clean-up")

    stream = campaign.stream(source(), max_buffered=1 if where == "at a yield" else None)
    if way == "aclose":
        await anext(stream)
        with pytest.raises(ValueError, match="clean-up"):
            await stream.aclose()
        await stream.aclose()
    elif way == "break":
        with pytest.raises(ValueError, match="clean-up"):
            async with stream:
                await anext(stream)
    elif way == "body":
        with pytest.raises(KeyError):
            async with stream:
                await anext(stream)
                raise KeyError
        assert "a source raised when it was closed" in caplog.text
    else:
        told = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        async for _ in stream:
            break
        del stream
        gc.collect()
        async with asyncio.timeout(10):
            while not told:
                await asyncio.sleep(0)
        assert isinstance(told[0]["exception"], ValueError)


async def test_cancelled_twice_over_a_clean_up_that_raises(make_session):
    """Nobody is left to be told, and asyncio does not complain."""
    session, told = make_session(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    class Source(AsyncRows):
        async def aclose(self):
            await asyncio.sleep(0.01)
            raise ValueError("late")

    consumer = asyncio.create_task(
        drained(session.campaign("a", "c").stream(Source(f"x{n}" for n in range(10**9))))
    )
    while not session.stats.leads:
        await asyncio.sleep(0.001)
    consumer.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    consumer.cancel()
    await asyncio.wait([consumer])
    await session.aclose()
    del consumer
    gc.collect()
    assert not told


async def test_a_fatal_answer_beside_a_source_that_raises_no_exception(server, make_session):
    """The answer's error is the stream's, whatever the source would have said next."""

    def source():
        yield from ("a", "b")
        raise asyncio.CancelledError

    server.fault("401", times=None)
    campaign = make_session(chunk_size=2).campaign("a", "c")
    with pytest.raises(AuthenticationError):
        async for _ in campaign.stream(source(), max_buffered=2, on_error="collect"):
            pass
