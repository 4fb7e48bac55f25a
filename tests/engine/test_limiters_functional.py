"""Pauses that are long, and limiters that break: told by an error, lost by nobody."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from leadstatus_async import (
    BatchError,
    DeadlineExceededError,
    LeadStatusSession,
    LimiterError,
    RateLimit,
    RateLimitError,
    RateLimitState,
    RetryPolicy,
)
from leadstatus_async.limiter import TokenBucketLimiter
from leadstatus_async.testing import FakeLeadStatusServer, Fault
from leadstatus_async.testing.quota import FixedWindow
from tests.conftest import KEY, leads

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_a_burst_of_429s_is_put_up_with_even_without_patience(server, make_session):
    """max_outage=0: what was refused together is asked once more; only a second refusal is the end."""
    server.fault("429", times=16)
    server.hold()
    session = make_session(chunk_size=1, retry=RetryPolicy(base_delay=0.01, max_outage=0))
    job = asyncio.create_task(session.campaign("a", "c").get_many(leads(50)))
    await server.wait_for_requests(16)
    server.release()
    assert len((await job).statuses) == 50


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


class Foreign(BaseException):
    """What is no Exception."""


class UncopiedError(LimiterError):
    """A class of somebody's own that cannot be copied."""

    def __init__(self, one, two, three):
        super().__init__(one)

    def __reduce__(self):
        raise TypeError("cannot be copied")


@pytest.mark.parametrize(
    "error", [Foreign("mine"), UncopiedError("a", "b", "c")], ids=["no exception", "uncopied"]
)
@pytest.mark.parametrize("call", ["get", "get_many"])
async def test_whatever_acquire_raises_is_told(make_session, error, call):
    """Once, to whoever waits; it is not asked again and again."""

    class Broken(TokenBucketLimiter):
        asked = 0

        async def acquire(self, *, max_pause=None, waiting=1):
            self.asked += 1
            raise error

    limiter = Broken(None)
    campaign = make_session(rate_limit=limiter).campaign("a", "c")
    async with asyncio.timeout(10):
        if call == "get":
            with pytest.raises(LimiterError):
                await campaign.get("x")
        else:
            result = await campaign.get_many(["x"], on_error="collect")
            assert isinstance(result[0].error, LimiterError)
    assert limiter.asked == 1


@pytest.mark.parametrize("where", ["observe", "pause", "wait_time"])
async def test_a_rate_limit_error_in_the_wrong_place(server, make_session, where):
    """Only `acquire` may raise it; elsewhere it is a fault of the limiter, and loses no rows."""

    class Odd(TokenBucketLimiter):
        def observe(self, *args):
            if where == "observe":
                raise RateLimitError(429)
            super().observe(*args)

        def pause(self, *args):
            if where == "pause":
                raise RateLimitError(429)
            super().pause(*args)

        def wait_time(self, ahead=0):
            if where == "wait_time":
                raise RateLimitError(429)
            return super().wait_time(ahead)

    campaign = make_session(rate_limit=Odd(None)).campaign("a", "c")
    if where == "wait_time":
        with pytest.raises(LimiterError):
            await campaign.get_many(["x"], deadline=5)
        return
    if where == "pause":
        server.script("429")
    (outcome,) = await campaign.get_many(["x"], on_error="collect")
    assert outcome.ok if where == "observe" else isinstance(outcome.error, LimiterError)


async def test_a_limiter_that_tidies_up_for_long_holds_nobody(server, make_session):
    """Whoever's deadline has passed is told soon, and others may stand in its place."""
    tidy = asyncio.Event()

    class Slow(TokenBucketLimiter):
        stuck = True

        async def acquire(self, *, max_pause=None, waiting=1):
            if self.stuck:
                try:
                    await asyncio.Event().wait()
                finally:
                    await tidy.wait()

    limiter = Slow(None)
    campaign = make_session(rate_limit=limiter).campaign("a", "c")
    async with asyncio.timeout(10):
        with pytest.raises(DeadlineExceededError):
            await campaign.get("x", deadline=0.05)
        limiter.stuck = False
        assert (await campaign.get("y")).ok
    tidy.set()


async def test_a_bug_of_ours_before_a_request_is_made(make_session, monkeypatch):
    """It is told, with what it was; nobody waits, and the loop does not spin."""
    from leadstatus_async._state.backlog import Backlog

    asked = []

    def take(_self):
        asked.append(1)
        raise KeyError("a bug")

    monkeypatch.setattr(Backlog, "take", take)
    campaign = make_session().campaign("a", "c")
    async with asyncio.timeout(10):
        result = await campaign.get_many(["x"], on_error="collect")
    assert "a bug of leadstatus_async: KeyError" in str(result[0].error)
    assert isinstance(result[0].error.__cause__, KeyError)
    assert len(asked) == 1


async def test_what_a_lent_session_sends_twice_is_counted():
    """Whether its second attempt succeeds or not: by the server's count, the events and the figures."""
    from leadstatus_async.events import AttemptFinished

    seen = []
    async with (
        aiohttp.ClientSession() as lent,
        FakeLeadStatusServer(faults_every={"stale-keep-alive": 2}) as stale,
    ):
        options = {"http_session": lent, "rate_limit": None, "chunk_size": 1, "on_event": seen.append}
        options["retry"] = RetryPolicy(max_attempts=20, base_delay=0.01)  # each is lost at every other try
        async with LeadStatusSession(KEY, base_url=stale.url, **options) as session:
            assert len(await session.campaign("a", "c").get_many(leads(200))) == 200
        assert stale.count > 200
        assert session.stats.requests == stale.count
        assert sum(isinstance(event, AttemptFinished) for event in seen) == stale.count


async def test_what_a_lent_session_sends_twice_is_counted_though_it_is_cut_off():
    """The second attempt hangs, and its caller leaves: the server saw two."""
    async with (
        aiohttp.ClientSession() as lent,
        FakeLeadStatusServer() as stale,
        LeadStatusSession(KEY, base_url=stale.url, http_session=lent, rate_limit=None) as session,
    ):
        campaign = session.campaign("a", "c")
        stale.script("stale-keep-alive", "hang")
        assert (await campaign.get("warm")).ok
        with pytest.raises(DeadlineExceededError):
            await campaign.get("x", deadline=0.3)
        assert session.stats.requests == stale.count == 3
        assert session._core.dispatcher._attempt.owed == 1
        assert (await campaign.get("y")).ok
        assert session._core.dispatcher._attempt.owed == 0


async def test_a_limiter_that_cancels_its_own_task(make_session):
    """It is asked once, and whoever waits is told."""

    class Confused(TokenBucketLimiter):
        asked = 0

        async def acquire(self, *, max_pause=None, waiting=1):
            self.asked += 1
            asyncio.current_task().cancel()
            await asyncio.sleep(0)

    limiter = Confused(None)
    async with asyncio.timeout(10):
        with pytest.raises(LimiterError, match="cancelled"):
            await make_session(rate_limit=limiter).campaign("a", "c").get("x")
    assert limiter.asked == 1


@pytest.mark.parametrize("headers", ["ietf", "x-ratelimit"])
async def test_what_remains_of_an_hour_is_never_overrun(server, make_session, headers):
    """20 remain of an hour: a job of 15 is not slowed, and of the next those that do not fit fail at once."""
    server.rate_limit = FixedWindow(35, per=3600, headers=headers)
    session = make_session(chunk_size=1, rate_limit=RateLimit(1000), concurrency=4)
    campaign = session.campaign("a", "c")
    result = await campaign.get_many([f"x{number}" for number in range(15)])
    assert len(result.statuses) == 15
    assert session.rate_limit_state.rate == 1000
    with pytest.raises(DeadlineExceededError) as caught:
        await campaign.get_many([f"y{number}" for number in range(50)], deadline=30)
    assert len(caught.value.result.statuses) == 20
    assert session.rate_limit_state.reason.endswith("rate-limit headers)" if headers == "ietf" else "headers")
    assert [request.status for request in server.requests].count(429) == 0


class Gate:
    """A limiter that grants when it is told to, and counts what is given back."""

    state = RateLimitState(rate=None)

    def __init__(self):
        self.waiting = []
        self.refunded = 0

    async def acquire(self, *, max_pause=None, waiting=1):
        granted = asyncio.get_running_loop().create_future()
        self.waiting.append(granted)
        await granted

    def refund(self):
        self.refunded += 1

    def pause(self, seconds, reason):
        pass

    def observe(self, status, sent_at, headers):
        pass

    def wait_time(self, ahead=0):
        return 0.0

    async def aclose(self):
        pass


async def test_a_token_handed_to_a_worker_that_never_begins_is_given_back(server, make_session):
    """Its call was dropped in the very turn in which the token came, by somebody else's worker."""
    gate = Gate()
    session = make_session(rate_limit=gate)
    dispatcher = session._core.enter().dispatcher
    first = asyncio.create_task(session.campaign("a", "c").get_many(["x"]))
    while not gate.waiting:
        await asyncio.sleep(0)
    second = asyncio.create_task(session.campaign("a", "d").get_many(["y"]))
    while dispatcher.queued < 2:
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    gate.waiting[0].set_result(None)
    asyncio.get_running_loop().call_soon(lambda: [dispatcher.drop(job) for job in list(dispatcher.jobs)])
    for _ in range(5):
        await asyncio.sleep(0)
    assert (gate.refunded, server.count) == (1, 0)
    second.cancel()
    await asyncio.wait([second])
