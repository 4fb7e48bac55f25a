"""However a sent request ends, exactly one account of it is given, and a lost probe frees the way (h2)."""

from __future__ import annotations

import asyncio
import traceback
from collections import Counter

import aiohttp
import pytest

from leadstatus_async import (
    BatchError,
    DeadlineExceededError,
    LeadStatusError,
    LeadStatusSession,
    LimiterError,
    RateLimit,
    RateLimitState,
    RetryPolicy,
    ServerError,
    SessionClosedError,
)
from leadstatus_async.events import AttemptFinished, OutageEnded, OutageStarted
from leadstatus_async.limiter import TokenBucketLimiter
from leadstatus_async.testing import Fault
from tests.conftest import KEY, stopped_for

pytestmark = pytest.mark.usefixtures("nothing_left")

TIMEOUT = 0.05
SHARE = {"equal": 1.0, "just below": 0.98, "just above": 1.02}
LEADS = [f"lead{number}" for number in range(20)]


class Watched:
    """A session, what it tells its observer, and a campaign."""

    def __init__(self, make_session, **options):
        self.seen = []
        self.down = asyncio.Event()
        retry = RetryPolicy(base_delay=0.005, max_delay=0.01)
        options = {"timeout": TIMEOUT, "chunk_size": 1, "retry": retry} | options
        self.session = make_session(on_event=self.observe, **options)
        self.campaign = self.session.campaign("acc", "camp")

    def observe(self, event):
        self.seen.append(event)
        if isinstance(event, OutageStarted):
            self.down.set()

    def count(self, kind):
        return sum(isinstance(event, kind) for event in self.seen)

    async def fall(self, server):
        """Let the server be down, until an outage has begun and its next probe is due."""
        await self.campaign.get("warm")
        server.fault("500", times=None)
        job = asyncio.create_task(self.campaign.get_many(LEADS))
        await self.down.wait()
        job.cancel()
        await asyncio.wait([job])
        server.clear_faults()
        while stopped_for(self.session) > 0:
            await asyncio.sleep(0.001)

    async def unanswered(self, server):
        """Return the task of a `get` whose request has reached a server that holds its answer."""
        server.hold()
        before = server.count
        get = asyncio.create_task(self.campaign.get("x"))
        await server.wait_for_requests(before + 1)
        return get

    async def comes_back(self, server):
        """Check that it sends again, and has told of each request once."""
        server.clear_faults()
        async with asyncio.timeout(10):
            assert (await self.campaign.get("back")).ok
        assert self.count(AttemptFinished) == self.session.stats.requests
        assert self.session.stats.in_flight == 0
        assert self.count(OutageStarted) == self.count(OutageEnded)


async def patiently(campaign, lead, how, seconds):
    """Get a lead that will not be answered in time."""
    if how == "deadline":
        with pytest.raises(LeadStatusError):  # the deadline's error, or the attempt's, whichever came first
            await campaign.get(lead, deadline=seconds)
    else:
        with pytest.raises((TimeoutError, LeadStatusError)):
            async with asyncio.timeout(seconds):
                await campaign.get(lead)


@pytest.mark.parametrize("probe", [True, False], ids=["probe", "no probe"])
@pytest.mark.parametrize("how", ["deadline", "timeout"])
@pytest.mark.parametrize("share", SHARE)
async def test_patience_as_long_as_the_timeout(server, make_session, share, how, probe):
    """A caller's patience may end in the very turn in which aiohttp's own timeout does."""
    many = [Watched(make_session) for _ in range(1 if probe else 10)]
    for watched in many:
        if probe:
            await watched.fall(server)
        server.fault("hang", times=None)
        seconds = SHARE[share] * TIMEOUT
        await patiently(watched.campaign, "x", how, seconds)
        server.clear_faults()
    async with asyncio.timeout(10):
        for number, watched in enumerate(many):
            assert (await watched.campaign.get(f"back{number}")).ok
    assert all(watched.count(AttemptFinished) == watched.session.stats.requests for watched in many)
    assert all(watched.session.stats.in_flight == 0 for watched in many)


async def test_forty_sessions_whose_probe_is_cut_off_with_the_timeout(server, make_session):
    """All of them send again when the server is back."""
    many = [Watched(make_session) for _ in range(40)]
    for watched in many:
        await watched.fall(server)
        server.fault("hang", times=None)
        await patiently(watched.campaign, "x", "deadline", TIMEOUT)
        server.clear_faults()
    back = [asyncio.create_task(one.campaign.get("back")) for one in many]
    await asyncio.wait(back, timeout=10)
    assert sum(not get.done() for get in back) == 0, "sessions that never send again"
    assert all(one.count(AttemptFinished) == one.session.stats.requests for one in many)


async def test_a_server_that_hangs_is_noticed_as_down(server, make_session):
    """Even if each caller leaves in the very turn in which its request times out."""
    watched = Watched(make_session, retry=RetryPolicy(base_delay=0.001, max_delay=0.001))
    await watched.campaign.get("warm")
    server.fault("hang", times=None)
    for number in range(30):
        await patiently(watched.campaign, f"x{number}", "deadline", TIMEOUT)
    assert watched.count(OutageStarted) == 1
    await watched.comes_back(server)


class Grumpy(TokenBucketLimiter):
    """A limiter that raises where it is told to, once."""

    broken = None

    def _maybe(self, where):
        if self.broken == where:
            self.broken = None
            raise RuntimeError(where)

    def observe(self, *args):
        self._maybe("observe")
        super().observe(*args)

    def pause(self, *args):
        self._maybe("pause")
        super().pause(*args)


@pytest.mark.parametrize("probe", [True, False], ids=["probe", "no probe"])
@pytest.mark.parametrize("answer", ["ok", "500", "429", "503-retry-after"])
@pytest.mark.parametrize("where", ["observe", "pause"])
async def test_a_lent_limiter_that_raises(server, make_session, where, answer, probe):
    """The request is accounted for all the same; what was answered is delivered."""
    limiter = Grumpy([RateLimit(1000)])
    watched = Watched(make_session, rate_limit=limiter)
    if probe:
        await watched.fall(server)
    limiter.broken = where
    server.script(answer)
    (outcome,) = await asyncio.gather(watched.campaign.get("x"), return_exceptions=True)
    if answer == "ok":
        assert outcome.ok, "the rows that had come were delivered"
    elif limiter.broken:  # it was not asked
        assert isinstance(outcome, ServerError) if probe else outcome.ok
    else:
        assert isinstance(outcome, LimiterError)
        assert isinstance(outcome.__cause__, RuntimeError)
    limiter.broken = None
    await watched.comes_back(server)


@pytest.mark.parametrize("probe", [True, False], ids=["probe", "no probe"])
@pytest.mark.parametrize("where", ["decipher", "merge", "decide"])
async def test_a_bug_of_our_own(server, make_session, monkeypatch, where, probe):
    """It reaches the caller, and the request is accounted for."""
    watched = Watched(make_session)
    if probe:
        await watched.fall(server)

    def bug(*_, **__):
        monkeypatch.undo()
        raise KeyError("a bug")

    home = "_state.health" if where == "decide" else "_engine.attempt"
    monkeypatch.setattr(f"leadstatus_async.{home}.{where}", bug)
    if where == "decide":
        server.script("403")
    with pytest.raises(KeyError, match="a bug"):
        await watched.campaign.get("x")
    ended = Counter(event.error for event in watched.seen if isinstance(event, AttemptFinished))
    assert ended["KeyError"] == (where != "decide")
    await watched.comes_back(server)


@pytest.mark.parametrize("probe", [True, False], ids=["probe", "no probe"])
async def test_cancellation(server, make_session, probe):
    """A request cut off by its caller is told as such."""
    watched = Watched(make_session)
    if probe:
        await watched.fall(server)
    get = await watched.unanswered(server)
    get.cancel()
    with pytest.raises(asyncio.CancelledError):
        await get
    server.release()
    assert watched.seen[-1].error == "CancelledError"
    await watched.comes_back(server)


@pytest.mark.parametrize("probe", [True, False], ids=["probe", "no probe"])
async def test_close(server, make_session, probe):
    """A session that is closed over its requests tells of each once, and ends its outage."""
    watched = Watched(make_session)
    if probe:
        await watched.fall(server)
    cut_before = watched.session.stats.requests - server.count  # by the fall, before they reached the server
    get = await watched.unanswered(server)
    await watched.session.aclose()
    with pytest.raises(SessionClosedError):
        await get
    server.release()
    assert watched.count(AttemptFinished) == watched.session.stats.requests == server.count + cut_before
    assert watched.count(OutageStarted) == watched.count(OutageEnded)


async def test_a_pause_is_kept_whose_caller_left_with_the_answer(server, make_session, monkeypatch):
    """A 429 closes the gate for everybody, even if the call it answers ended in the same turn."""
    session = make_session(rate_limit=RateLimit(1000))
    core = session._core
    transport_send = core.transport.send

    async def send(target, seconds):
        answer = await transport_send(target)
        for job in list(core.dispatcher.jobs):
            core.dispatcher.stop(job, DeadlineExceededError("in the same turn"))
        return answer

    monkeypatch.setattr(core.transport, "send", send)
    server.fault("429-retry-after")
    with pytest.raises((DeadlineExceededError, BatchError)):
        await session.campaign("a", "c").get_many(["x"])
    assert session.rate_limit_state.paused_for > 0.5


class Halves:
    """A limiter whose parts raise or are missing, where it is told so."""

    def __init__(self, broken=None):
        self.broken = broken

    async def acquire(self, *, max_pause=None, waiting=1):
        del max_pause

    def refund(self):
        """Nothing to give back."""

    def pause(self, seconds, reason):
        """Let everybody pass."""

    def observe(self, status, sent_at, headers):
        if self.broken == "observe":
            raise RuntimeError(str(status))

    def wait_time(self, ahead=0):
        if self.broken == "wait_time":
            raise RuntimeError(str(ahead))
        return 0.0

    @property
    def state(self):
        return object() if self.broken == "state" else RateLimitState()

    async def aclose(self):
        """Nothing to let go of."""


async def test_a_limiter_whose_state_has_no_rate(make_session):
    """The rows that had come are delivered; what comes next is told why."""
    limiter = Halves()
    campaign = make_session(rate_limit=limiter).campaign("a", "c")
    limiter.broken = "state"
    assert (await campaign.get("x")).ok


async def test_a_call_that_the_limiter_refuses_to_time_leaves_nothing(make_session):
    """Neither a call nor a pending set stays behind."""
    limiter = Halves()
    session = make_session(rate_limit=limiter)
    await session.campaign("a", "c").get("warm")
    limiter.broken = "wait_time"
    with pytest.raises(LimiterError):
        await session.campaign("a", "c").get_many(["x"], deadline=3)
    for number in range(5):
        with pytest.raises(LimiterError):
            await session.campaign("a", f"c{number}").get("x", deadline=3)
    async with asyncio.timeout(1):
        while not session._core.idle:  # the first one's worker has a turn to end in
            await asyncio.sleep(0)
    async with asyncio.timeout(1):
        await session.aclose(10)


async def test_gets_that_are_refused_at_once_leave_no_pending_set(make_session):
    """However many campaigns they are of."""
    session = make_session(rate_limit=RateLimit(1000))
    await session.campaign("a", "c").get("warm")
    session.limiter.pause(60, "test")
    for number in range(100):
        with pytest.raises(DeadlineExceededError):
            await session.campaign("a", f"c{number}").get("x", deadline=0.1)
    async with asyncio.timeout(1):
        while not session._core.idle:  # the first one's worker has a turn to end in
            await asyncio.sleep(0)


async def test_the_error_of_a_limiter_shows_no_answer(server, make_session):
    """The locals of our frames on its traceback have none that echoes the key."""
    server.fault(Fault(429, b"{}", headers={"X-Echo": KEY, "Retry-After": "1"}), times=None)
    with pytest.raises(LimiterError) as caught:
        await make_session(rate_limit=Halves("observe")).campaign("a", "c").get("x")
    shown = traceback.TracebackException.from_exception(caught.value.__cause__, capture_locals=True)
    ours = [frame for frame in shown.stack if "leadstatus_async" in frame.filename]
    assert ours
    assert KEY not in repr([frame.locals for frame in ours])


async def test_a_bug_of_our_own_shows_no_answer(server, make_session, monkeypatch):
    """It comes without frames, and says where it was."""
    from leadstatus_async._engine import attempt

    def bug(*_, **__):
        answer = f"Bearer {KEY}"
        try:
            return {}[answer]
        except KeyError:
            return 1 / 0

    monkeypatch.setattr(attempt, "merge", bug)
    with pytest.raises(ZeroDivisionError) as caught:
        await make_session().campaign("a", "c").get("x")
    assert caught.value.__context__ is None
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "attempt.py" in shown
    assert KEY not in shown


async def test_closing_the_lent_session_in_an_outage_is_no_answer(server):
    """It tells nothing of the server."""
    seen = []
    async with aiohttp.ClientSession() as lent:
        session = LeadStatusSession(
            KEY,
            base_url=server.url,
            http_session=lent,
            chunk_size=1,
            rate_limit=None,
            retry=RetryPolicy(base_delay=0.005, max_delay=0.01),
            on_event=seen.append,
        )
        campaign = session.campaign("a", "c")
        await campaign.get("warm")
        server.fault("500", times=None)
        job = asyncio.create_task(campaign.get_many(LEADS))
        while not any(isinstance(event, OutageStarted) for event in seen):
            await asyncio.sleep(0.001)
        await lent.close()
        with pytest.raises(LeadStatusError):
            await job
        await session.aclose()
    ended = [event for event in seen if isinstance(event, OutageEnded)]
    assert [event.answered for event in ended] == [False]
