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
    LimiterError,
    RateLimit,
    RateLimitError,
    ResponseTooLargeError,
    RetryPolicy,
    events,
)
from leadstatus_async._engine.transport import Received
from leadstatus_async.limiter import TokenBucketLimiter
from leadstatus_async.testing import FakeLeadStatusServer, Fault
from tests.conftest import KEY

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.mark.parametrize("body", [b"{}", b'{"data": {"items": [{"leadId": "x", "workflowStatus": "a"}]}}'])
async def test_an_answer_to_a_call_that_is_over_matters_no_more(make_session, monkeypatch, body):
    """The answer comes in the very turn in which its call ends."""
    session = make_session()
    core = session._core.enter()

    async def send(_target):
        for job in list(core.dispatcher.jobs):
            core.dispatcher.drop(job)
        return Received(200, {}, body)

    monkeypatch.setattr(core.transport, "send", send)
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


async def test_a_large_error_page_is_read_to_its_end(server, make_session):
    """Its beginning is what is kept, and the connection is used again (a10)."""
    server.fault(Fault(500, b"<p>sorry " + b"x" * 500_000, content_type="text/html"))
    session = make_session()
    assert (await session.campaign("a", "c").get("x")).ok
    assert [request.connection for request in server.requests] == [1, 1]


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


async def test_callbacks_that_raise_cancelled_hang_nobody(server, make_session):
    """CancelledError out of a callback is the callback's, not ours."""

    def broken(*_):
        raise asyncio.CancelledError

    session = make_session(on_event=broken)
    assert len(await session.campaign("a", "c").get_many(["x", "y"], progress=broken)) == 2


async def test_a_source_or_limiter_that_was_cancelled_by_others(server, make_session):
    """What they raise is an error of theirs: told, not waited for."""

    async def source():
        yield "x"
        raise asyncio.CancelledError

    outcomes = []
    with pytest.raises(Exception, match="cancelled"):
        async for outcome in make_session().campaign("a", "c").stream(source()):
            outcomes.append(outcome)
    assert len(outcomes) == 1

    from tests.calls.test_get_many_functional import Recorder

    limiter = Recorder(asyncio.CancelledError())
    with pytest.raises(BatchError, match="LimiterError"):
        await make_session(rate_limit=limiter).campaign("a", "c").get_many(["x"])
    assert limiter.acquired == 1


async def test_a_stream_has_one_consumer(server, make_session):
    """Two tasks in one stream would steal from each other: the second is told."""
    server.hold()
    stream = make_session().campaign("a", "c").stream(["x", "y"])
    first = asyncio.create_task(anext(stream))
    await server.wait_for_requests(1)
    with pytest.raises(RuntimeError, match="two tasks"):
        await anext(stream)
    server.release()
    first.cancel()
    await asyncio.wait([first])


async def test_any_source_that_can_be_closed_is(server, campaign):
    """Not only async generators have an aclose."""

    class Source:
        closed = False

        def __aiter__(self):
            return self

        async def __anext__(self):
            return "x"

        async def aclose(self):
            self.closed = True

    source = Source()
    async with campaign.stream(source) as stream:
        await anext(stream)
    assert source.closed


async def test_the_key_is_in_no_frame_of_a_cancelled_worker(server, make_session):
    """Even who digs the worker task out and cancels it finds no key in its traceback."""
    import traceback

    server.hold()
    session = make_session()
    call = asyncio.create_task(session.campaign("a", "c").get_many(["x"], on_error="collect"))
    await server.wait_for_requests(1)
    (worker,) = session._core.dispatcher._workers
    worker.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await worker
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert KEY not in "".join(shown.format())
    assert not (await call)[0].ok


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


async def test_a_pause_that_is_too_long_reaches_who_backs_off(server, make_session):
    """Not only the queue is turned away: chunks in back-off are, too."""
    policy = RetryPolicy(base_delay=20, max_delay=20, max_retry_after=30)
    session = make_session(chunk_size=1, retry=policy, concurrency=2)
    server.script("502", "429-retry-after-huge")
    loop = asyncio.get_running_loop()
    started = loop.time()
    result = await session.campaign("a", "c").get_many(["x", "y"], on_error="collect")
    assert len(result.failures) == 2
    assert loop.time() - started < 5


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


async def test_closing_while_a_long_list_is_read(make_session):
    """SessionClosedError, with a result that has every position."""
    from leadstatus_async import SessionClosedError

    session = make_session()
    call = asyncio.create_task(session.campaign("a", "c").get_many([f"x{n}" for n in range(20_000)]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await session._core.aclose(0.0)
    with pytest.raises(SessionClosedError) as caught:
        await call
    assert len(caught.value.result) == 20_000


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


async def test_a_learned_rate_is_forgotten_at_the_configured_one():
    """The bucket that was learned goes when there is nothing left to hold back."""
    from types import SimpleNamespace

    limiter = TokenBucketLimiter(RateLimit(10))
    await limiter.acquire()
    limiter._follow(SimpleNamespace(rate=2.0, reason="test"))
    assert limiter.wait_time(1) > 0.4
    limiter._follow(SimpleNamespace(rate=10.0, reason=""))
    assert limiter._learned is None
    assert len(limiter._buckets) == 1


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
    """A header cuts 50/s to 1/s in mid-job: what cannot be had before the deadline fails then (b11)."""
    headers = {"X-RateLimit-Limit": "3600", "X-RateLimit-Remaining": "60", "X-RateLimit-Reset": "61"}
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


async def test_an_absurd_pause_is_no_end_of_the_session(server, make_session):
    """A thousand years: the call is told, and the gate is shut for a day, not for ever."""
    server.fault(Fault(429, headers={"Retry-After": "31536000"}))
    session = make_session()
    with pytest.raises(RateLimitError) as caught:
        await session.campaign("a", "c").get("x")
    assert caught.value.retry_after == 31536000
    assert session.rate_limit_state.paused_for <= 86400


@pytest.mark.parametrize("broken", ["observe", "pause", "state"])
async def test_a_limiter_that_breaks_in_mid_call_loses_nothing(server, make_session, broken):
    """Whatever a lent limiter raises is a `LimiterError`; what was answered before stays."""

    class Breaking(TokenBucketLimiter):
        tripped = False

        def observe(self, *args):
            self._trip("observe")
            super().observe(*args)

        def pause(self, *args):
            self._trip("pause")
            super().pause(*args)

        @property
        def state(self):
            self._trip("state")
            return super().state

        def _trip(self, where):
            if self.tripped and where == broken:
                raise ValueError("mine")

    limiter = Breaking(None)
    server.fault("429", when=lambda request: request.lead_ids == ("x3",))
    session = make_session(chunk_size=1, concurrency=1, rate_limit=limiter)

    def trip(progress):
        limiter.tripped = progress.done == 3

    result = await session.campaign("a", "c").get_many(
        [f"x{number}" for number in range(6)], on_error="collect", progress=trip
    )
    assert [outcome.ok for outcome in result[:3]] == [True] * 3
    assert {type(failure.error) for failure in result.failures} == {LimiterError}
    assert isinstance(result.failures[0].error.__cause__, ValueError)


async def test_a_limiter_that_loses_its_clock_in_mid_call(server, make_session):
    """It is asked again when a pause comes, and the deadline may have to be told: a `LimiterError` then."""

    class Stopping(TokenBucketLimiter):
        def wait_time(self, ahead=0):
            if self.state.paused_for:
                raise ValueError("mine")
            return super().wait_time(ahead)

    server.fault("429", times=None)
    session = make_session(rate_limit=Stopping(RateLimit(100)), chunk_size=1, concurrency=1)
    result = await session.campaign("a", "c").get_many(["x", "y"], deadline=5, on_error="collect")
    assert {type(failure.error) for failure in result.failures} == {LimiterError}
    assert isinstance(result[0].error.__cause__, ValueError)
    assert server.count == 1


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


async def test_a_limiter_that_cannot_tell_the_time_is_named(make_session):
    """Its `wait_time` raises before anything is sent: the caller is told by a `LimiterError`."""

    class Timeless(TokenBucketLimiter):
        def wait_time(self, ahead=0):
            raise ValueError("mine")

    session = make_session(rate_limit=Timeless(RateLimit(10)))
    with pytest.raises(LimiterError, match="ValueError"):
        await session.campaign("a", "c").get_many(["x"], deadline=5)
    with pytest.raises(LimiterError, match="ValueError"):
        await session.campaign("a", "c").get("x", deadline=5)
    assert session.stats.requests == 0
