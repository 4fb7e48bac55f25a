"""`get`: single leads that travel together, and waiters that harm nobody."""

from __future__ import annotations

import asyncio
import contextvars

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from leadstatus_async import (
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    DeadlineExceededError,
    InvalidLeadIdError,
    LeadStatusError,
    LeadStatusSession,
    MissingLeadError,
    RateLimit,
    RateLimitError,
    RetryPolicy,
    ServerError,
)
from leadstatus_async.events import AttemptFinished
from leadstatus_async.testing import FakeLeadStatusServer
from tests.conftest import stopped_for

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_a_thousand_gets_cost_ten_requests(server, campaign):
    """Gets that are issued together travel together, on an idle session."""
    statuses = await asyncio.gather(*(campaign.get(f"lead{number}") for number in range(1000)))
    assert [status.lead_id for status in statuses] == [f"lead{number}" for number in range(1000)]
    assert server.count <= 12


async def test_batches_fill_up_under_a_tight_limit(server, make_session):
    """While no token is there, gets gather in the pending set, whoever makes the Campaign object."""
    session = make_session(rate_limit=RateLimit(5))

    async def handler(number):
        await asyncio.sleep(number / 1000)
        return await session.campaign("a", "c").get(f"lead{number}")

    await asyncio.gather(*(handler(number) for number in range(100)))
    assert server.count <= 4


async def test_a_lone_get_waits_for_no_timer(server, campaign):
    """On an idle session a get is sent within a few turns of the loop."""
    server.hold()
    call = asyncio.create_task(campaign.get("warm"))
    await server.wait_for_requests(1)
    server.release()
    await call
    loop = asyncio.get_running_loop()
    timers = []
    real = loop.call_at
    loop.call_at = lambda when, *args, **kwargs: (
        timers.append(when - loop.time()) or real(when, *args, **kwargs)
    )
    try:
        await campaign.get("x")
    finally:
        del loop.call_at
    assert all(delay > 5 for delay in timers), "only the timeouts of the request itself"


async def test_a_cancelled_waiter_harms_no_sibling(server, campaign):
    """Two wait for one lead; one leaves; the other is answered by the same request (e1)."""
    server.hold()
    first, second = (asyncio.create_task(campaign.get("x")) for _ in range(2))
    await server.wait_for_requests(1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    server.release()
    assert (await second).lead_id == "x"
    assert server.count == 1


async def test_the_last_waiter_leaving_cancels_the_request(server, make_session):
    """Nobody waits, nothing is in flight, and the lead can be asked again (e2)."""
    server.hold()
    session = make_session()
    campaign = session.campaign("a", "c")
    waiters = [asyncio.create_task(campaign.get("x")) for _ in range(2)]
    await server.wait_for_requests(1)
    for waiter in waiters:
        waiter.cancel()
    await asyncio.wait(waiters)
    assert session.stats.in_flight == 0
    server.release()
    assert (await campaign.get("x")).ok


async def test_leaving_before_being_sent_sends_nothing(server, make_session):
    """A pending set whose waiters have all left is forgotten."""
    session = make_session(rate_limit=RateLimit(1))
    campaign = session.campaign("a", "c")
    await campaign.get("first")
    waiters = [asyncio.create_task(campaign.get(lead_id)) for lead_id in ("x", "x", "y")]
    while session.stats.queued == 0:
        await asyncio.sleep(0)
    for waiter in waiters:
        waiter.cancel()
    await asyncio.wait(waiters)
    assert session.stats.queued == 0
    assert server.count == 1
    assert session._core.idle


async def test_an_id_already_on_its_way_is_asked_anew(server, campaign):
    """Status is mutable: a get after the request went out gets an answer of its own."""
    server.hold()
    first = asyncio.create_task(campaign.get("x"))
    await server.wait_for_requests(1)
    second = asyncio.create_task(campaign.get("x"))
    await server.wait_for_requests(2)
    server.release()
    await asyncio.gather(first, second)
    assert server.count == 2


async def test_errors_are_built_per_waiter(server, campaign):
    """Two waiters of one lead get equal errors and not the same object (e5); nothing is cached."""
    server.fault("missing-row")
    first, second = await asyncio.gather(campaign.get("x"), campaign.get("x"), return_exceptions=True)
    assert isinstance(first, MissingLeadError)
    assert first is not second
    assert first.lead_ids == second.lead_ids == ("x",)
    first.add_note("mine")
    assert "mine" not in second.__notes__
    assert (await campaign.get("x")).ok


async def test_a_missing_row_fails_only_its_own_waiters(server, campaign):
    """The batch's other leads are answered."""
    server.fault("missing-row")
    first, second = await asyncio.gather(campaign.get("x"), campaign.get("y"), return_exceptions=True)
    assert isinstance(first, MissingLeadError)
    assert second.ok


async def test_a_bad_lead_is_found_among_its_batch(server, campaign):
    """An enveloped 400 on a batch of gets is bisected like any other."""
    server.bad_ids = {"bad"}
    outcomes = await asyncio.gather(
        *(campaign.get(lead_id) for lead_id in ("a", "bad", "b", "c")), return_exceptions=True
    )
    assert isinstance(outcomes[1], BadRequestError)
    assert [outcome.ok for outcome in outcomes if not isinstance(outcome, Exception)] == [True] * 3


async def test_a_401_fails_all_of_them(server, campaign):
    """A fatal answer is every waiter's, as itself."""
    server.fault("401", times=None)
    outcomes = await asyncio.gather(
        *(campaign.get(f"x{number}") for number in range(5)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [AuthenticationError] * 5


async def test_a_bad_id_fails_before_it_joins(server, campaign):
    """Validation is before any I/O, and harms nobody else."""
    outcomes = await asyncio.gather(campaign.get("a,b"), campaign.get("x"), return_exceptions=True)
    assert isinstance(outcomes[0], InvalidLeadIdError)
    assert outcomes[1].ok
    with pytest.raises(ConfigurationError, match="deadline"):
        await campaign.get("x", deadline=-1)


async def test_a_deadline_is_the_waiters_own(server, campaign):
    """One gives up in time, with its attempts; the other goes on waiting."""
    server.hold()
    patient = asyncio.create_task(campaign.get("x"))
    hasty = asyncio.create_task(campaign.get("x", deadline=0.05))
    with pytest.raises(DeadlineExceededError, match="deadline of 0") as caught:
        await hasty
    assert caught.value.attempts == 1
    assert caught.value.lead_ids == ("x",)
    server.release()
    assert (await patient).ok


async def test_a_deadline_in_the_queue(server, make_session):
    """A get that never got its permit says so; nothing was sent for it."""
    campaign = make_session(rate_limit=RateLimit(1, per=60)).campaign("a", "c")
    await campaign.get("first")
    with pytest.raises(DeadlineExceededError) as caught:
        await campaign.get("x", deadline=0.05)
    assert caught.value.attempts == 0
    assert server.count == 1


async def test_a_long_pause_turns_gets_away(server, campaign):
    """A pause beyond max_retry_after fails waiting gets with the seconds that remain."""
    server.fault("429-retry-after-huge", times=None)
    with pytest.raises(RateLimitError):
        await campaign.get("x")
    with pytest.raises(RateLimitError) as caught:
        await campaign.get("y")
    assert caught.value.retry_after > 3000


async def test_the_batch_runs_in_its_own_context(server, make_session):
    """The request's context is not that of the first caller (e4); a get_many's is its caller's."""
    tenant = contextvars.ContextVar("tenant", default="none")
    seen = []
    session = make_session(
        on_event=lambda event: seen.append(tenant.get()) if isinstance(event, AttemptFinished) else None
    )
    campaign = session.campaign("a", "c")

    async def handler(name, call):
        tenant.set(name)
        await call

    await asyncio.gather(*(handler(f"req-{number}", campaign.get(f"x{number}")) for number in range(3)))
    assert seen == ["none"]
    await asyncio.gather(
        handler("bulk", campaign.get_many(["y"])),
        handler("other", campaign.get_many(["z"])),
        handler("single", campaign.get("w")),
    )
    assert sorted(seen[1:]) == ["bulk", "none", "other"]


async def test_campaigns_never_mix(server, make_session):
    """Each campaign has its own pending set, and none is kept when it is empty."""
    session = make_session()
    await asyncio.gather(*(session.campaign("a", f"c{number % 3}").get("x") for number in range(9)))
    assert sorted(request.campaign for request in server.requests) == ["c0", "c1", "c2"]
    assert session._core.idle


async def test_a_failed_probe_fails_the_gets_that_wait(server, make_session):
    """During an outage a get fails with the server's error instead of waiting it out."""
    session = make_session(chunk_size=1, retry=RetryPolicy(base_delay=0.01, max_delay=0.05, max_outage=60))
    campaign = session.campaign("a", "c")
    await campaign.get("warm")
    server.fault("500", times=None)
    bulk = asyncio.create_task(campaign.get_many([f"x{number}" for number in range(30)]))
    while not stopped_for(session):
        await asyncio.sleep(0.001)
    with pytest.raises(ServerError):
        await campaign.get("y")
    assert not bulk.done()
    server.clear_faults()
    assert len((await bulk).statuses) == 30


async def test_a_cancellation_that_races_with_the_answer_loses_nothing(server, campaign):
    """Cancelled in the very turn its failure comes: no "exception was never retrieved"."""
    server.fault("404", times=None)
    for steps in range(12):
        waiter = asyncio.create_task(campaign.get("x"))
        await server.wait_for_requests(server.count + 1)
        for _ in range(steps):
            await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.wait([waiter])


class Coalescer(RuleBasedStateMachine):
    """Gets that are asked, cancelled, held and broken in any order, against the real server."""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.waiters = []
        self.loop.run_until_complete(self._open())

    async def _open(self):
        self.server = FakeLeadStatusServer()
        await self.server.start_listening()
        self.session = LeadStatusSession(
            "sk_test",
            base_url=self.server.url,
            rate_limit=None,
            chunk_size=3,
            concurrency=2,
            retry=RetryPolicy(base_delay=0.001, max_delay=0.002),
        )
        self.campaign = self.session.campaign("a", "c")

    @rule(number=st.integers(0, 5))
    def get(self, number):
        lead_id = f"lead{number}"
        self.waiters.append((lead_id, self.loop.create_task(self.campaign.get(lead_id))))

    @precondition(lambda self: self.waiters)
    @rule(data=st.data())
    def cancel(self, data):
        data.draw(st.sampled_from(self.waiters))[1].cancel()

    @rule(turns=st.integers(1, 5))
    def turn(self, turns):
        for _ in range(turns):
            self.loop.run_until_complete(asyncio.sleep(0.0005))

    @rule()
    def hold(self):
        self.server.hold()

    @rule()
    def release(self):
        self.server.release()

    @rule(fault=st.sampled_from(["500", "reset", "missing-row", "400", "cut-body", "bad-row"]))
    def break_next(self, fault):
        self.server.script(fault)

    @invariant()
    def in_flight_is_bounded(self):
        assert self.session.stats.in_flight <= 2

    def teardown(self):
        self.loop.run_until_complete(self._close())
        self.loop.close()

    async def _close(self):
        self.server.release()
        outcomes = await asyncio.gather(*(task for _, task in self.waiters), return_exceptions=True)
        for (lead_id, _), outcome in zip(self.waiters, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                assert isinstance(outcome, LeadStatusError | asyncio.CancelledError)
            else:
                assert outcome == self.server.expected(lead_id)
        assert self.session._core.idle
        assert self.session.stats.in_flight == self.session.stats.queued == 0
        await self.session.aclose()
        await self.server.aclose()


def test_any_schedule_of_gets_and_cancellations_ends_well():
    """Whatever is asked, cancelled, held or broken: each waiter gets its lead or an error of ours."""
    run_state_machine_as_test(
        Coalescer, settings=settings(max_examples=25, stateful_step_count=30, deadline=None)
    )


async def test_closing_under_gets_that_wait_for_a_permit(make_session):
    """Each learns of it at once."""
    from leadstatus_async import SessionClosedError

    session = make_session(rate_limit=RateLimit(1000))
    await session.campaign("a", "c").get("warm")
    session.limiter.pause(60, "test")
    gets = [asyncio.create_task(session.campaign("a", f"c{number}").get("x")) for number in range(3)]
    await asyncio.sleep(0)
    await session.aclose()
    for get in gets:
        with pytest.raises(SessionClosedError):
            await get
