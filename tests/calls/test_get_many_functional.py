"""`get_many`, `retry` and `plan` against the fake server: every answer and every fault."""

from __future__ import annotations

import asyncio
import json

import pytest

from leadstatus_async import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    BatchError,
    ConfigurationError,
    DeadlineExceededError,
    InvalidLeadIdError,
    LeadFailure,
    LeadStatus,
    LimiterError,
    MissingLeadError,
    NotFoundError,
    PermissionDeniedError,
    RateLimit,
    RateLimitError,
    RateLimitState,
    RequestTooLargeError,
    ResponseDecodeError,
    ResponseTooLargeError,
    RetryPolicy,
    ServerError,
    UnexpectedStatusError,
    UpstreamError,
    WorkflowStatus,
)
from leadstatus_async.testing import Fault
from tests.conftest import turns

pytestmark = pytest.mark.usefixtures("nothing_left")

IDS = [f"{number:024x}" for number in range(250)]
ONE_TRY = RetryPolicy(max_attempts=1)


def expected(server, lead_ids):
    return [server.expected(lead_id) for lead_id in lead_ids]


async def test_every_lead_is_answered_in_input_order(server, campaign):
    """250 leads in three requests come back as 250 statuses, each under its own ID."""
    result = await campaign.get_many(IDS)
    assert list(result) == expected(server, IDS)
    assert sorted(len(request.lead_ids) for request in server.requests) == [50, 100, 100]
    assert result.stats.requests == 3
    assert len(result.trace_ids) == 3


async def test_duplicates_are_asked_once_and_answered_everywhere(server, campaign):
    """The same ID at several positions costs one place in one request."""
    seen = []
    result = await campaign.get_many(["b", "a", "b", "b"], progress=seen.append)
    assert list(result) == expected(server, ["b", "a", "b", "b"])
    assert server.requests[0].lead_ids == ("b", "a")
    assert (seen[-1].done, seen[-1].total) == (4, 4)


async def test_an_empty_list_costs_nothing(server, campaign):
    """No leads, no request."""
    result = await campaign.get_many([])
    assert len(result) == 0
    assert server.count == 0


async def test_a_generator_and_more_than_one_block_are_fine(server, campaign):
    """Any iterable is read to its end, also where it is longer than what is checked at once."""
    lead_ids = [f"lead-{number}" for number in range(10_001)]
    result = await campaign.get_many(iter(lead_ids))
    assert [status.lead_id for status in result] == lead_ids


@pytest.mark.parametrize(
    ("lead_ids", "error"),
    [
        ("abc", TypeError),
        (b"abc", TypeError),
        (None, TypeError),
        (7, TypeError),
        (["ok", "a,b", ""], InvalidLeadIdError),
        ([1, "ok"], InvalidLeadIdError),
        (["x" * 5000], InvalidLeadIdError),
    ],
    ids=["str", "bytes", "None", "int", "comma", "int-id", "too-long"],
)
async def test_bad_lists_are_refused_before_any_io(server, campaign, lead_ids, error):
    """What cannot be asked for is an error at once, for get_many and plan alike."""
    with pytest.raises(error):
        await campaign.get_many(lead_ids)
    with pytest.raises(error):
        campaign.plan(lead_ids)
    assert server.count == 0


async def test_an_async_iterable_is_told_where_to_go(campaign):
    """get_many names stream() to who gives it an async iterable."""

    async def source():
        yield "a"

    with pytest.raises(TypeError, match="stream"):
        await campaign.get_many(source())


async def test_collect_keeps_bad_ids_as_failures(server, campaign):
    """With "collect" bad IDs fail at their place and the rest is asked."""
    seen = []
    result = await campaign.get_many(["a", "b,c", 3], on_error="collect", progress=seen.append)
    assert [outcome.ok for outcome in result] == [True, False, False]
    assert [outcome.lead_id for outcome in result] == ["a", "b,c", "3"]
    assert isinstance(result[1].error, InvalidLeadIdError)
    assert server.requests[0].lead_ids == ("a",)
    assert (seen[-1].done, seen[-1].total, seen[-1].failed) == (3, 3, 2)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"on_error": "ignore"}, "on_error"),
        ({"deadline": 0}, "deadline"),
        ({"deadline": True}, "deadline"),
        ({"deadline": float("nan")}, "deadline"),
        ({"progress": 3}, "progress"),
    ],
)
async def test_bad_call_options_are_named(server, campaign, options, name):
    """A bad option of a call is a ConfigurationError that names it, before any I/O."""
    with pytest.raises(ConfigurationError, match=name):
        await campaign.get_many(IDS, **options)
    assert server.count == 0


async def test_an_async_progress_callback_is_refused(campaign):
    """A coroutine function would never be awaited, so it is refused."""

    async def progress(_):
        """Never called."""

    with pytest.raises(ConfigurationError, match="progress"):
        await campaign.get_many(IDS, progress=progress)


GOOD = [
    "408", "500", "502", "502-html", "503", "504", "data-null", "items-missing", "html-200", "empty-body",
    "truncated-json", "cut-body", "reset", "disconnect", "garbage-status-line", "echo-key", "deep-nesting",
    "429", "429-retry-after-zero", "429-retry-after-past", "429-retry-after-garbage", "429-retry-after-ms",
    "shuffled-rows", "foreign-row", "duplicate-row", "extra-fields", "bom", "gzip", "set-cookie",
    "stale-keep-alive", "400-html", "413", "414", "431",
]  # fmt: skip


@pytest.mark.parametrize("fault", GOOD)
async def test_a_fault_that_passes_costs_no_lead(server, campaign, fault):
    """One bad answer is retried, cut smaller or read round, and every lead has its right status."""
    server.fault(fault)
    result = await campaign.get_many(IDS)
    assert list(result) == expected(server, IDS)
    assert result.stats.requests == server.count


@pytest.mark.parametrize(
    ("fault", "error", "status"),
    [
        ("401", AuthenticationError, 401),
        ("403", PermissionDeniedError, 403),
        ("404", NotFoundError, 404),
        ("redirect", UnexpectedStatusError, 302),
    ],
)
async def test_a_fatal_answer_is_raised_as_itself_and_stops_the_rest(
    server, make_session, fault, error, status
):
    """Fatal answers are not repeated chunk by chunk, and every position carries the error."""
    server.fault(fault, times=None)
    campaign = make_session(concurrency=2).campaign("acc", "camp")
    with pytest.raises(error) as caught:
        await campaign.get_many([f"id{number}" for number in range(1000)])
    assert server.count <= 3
    assert caught.value.status == status
    assert len(caught.value.result) == 1000
    assert {type(failure.error) for failure in caught.value.result.failures} == {error}
    assert caught.value.attempts >= 1


@pytest.mark.parametrize(
    ("fault", "error", "requests"),
    [
        ("204", UnexpectedStatusError, 1),
        ("success-false", UnexpectedStatusError, 1),
        ("huge-body", ResponseTooLargeError, 1),
        ("500", ServerError, 3),
        ("502", UpstreamError, 3),
        ("html-200", ResponseDecodeError, 3),
        ("reset", APIConnectionError, 3),
        ("hang", APITimeoutError, 3),
        (Fault(422, b"no"), UnexpectedStatusError, 1),
        (Fault(501, b""), ServerError, 1),
    ],
    ids=str,
)
async def test_a_fault_that_stays_fails_its_leads(server, make_session, fault, error, requests):
    """What does not pass is given up after its attempts, with the last error and how it came about."""
    server.fault(fault, times=None)
    session = make_session(retry=RetryPolicy(max_attempts=3, base_delay=0.01, max_delay=0.01), timeout=0.3)
    with pytest.raises(BatchError) as caught:
        await session.campaign("acc", "camp").get_many(["a", "b"])
    (only,) = caught.value.exceptions
    assert type(only) is error
    assert only.attempts == requests == server.count
    assert only.lead_ids == ("a", "b")
    assert [outcome.lead_id for outcome in caught.value.result] == ["a", "b"]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("missing-row", MissingLeadError),
        ("bad-row", ResponseDecodeError),
        ("bad-row-no-id", MissingLeadError),
    ],
)
async def test_one_bad_row_loses_one_lead(server, campaign, fault, error):
    """The 99 neighbours of a missing or malformed row are answered; nothing is asked again."""
    server.fault(fault)
    result = await campaign.get_many(IDS[:100], on_error="collect")
    assert [outcome.ok for outcome in result] == [False] + [True] * 99
    assert type(result[0].error) is error
    assert server.count == 1


async def test_foreign_rows_are_counted_and_dropped(server, campaign):
    """A row nobody asked for shows up in the figures only."""
    server.fault("foreign-row")
    result = await campaign.get_many(["a", "b"])
    assert result.stats.foreign == 1
    assert [status.lead_id for status in result] == ["a", "b"]


async def test_an_unlisted_status_keeps_its_text(server, campaign):
    """A status the API adds later is data, not an error."""
    server.set_status("a", "snoozed", latestStep=None)
    (status,) = await campaign.get_many(["a"])
    assert status.workflow_status == "snoozed"
    assert not status.workflow_status.is_known


async def test_numbers_for_ids_and_lone_surrogates_are_read(server, campaign):
    """IDs as JSON numbers are their digits; half an emoji costs a question mark, not the answer."""
    server.script("row-int-id", "lone-surrogate")
    (status,) = await campaign.get_many(["12345"])
    assert status == server.expected("12345")
    (status,) = await campaign.get_many(["a"])
    assert status.latest_step == "call ?"


async def test_a_server_with_a_lower_count_costs_a_handful_of_splits(server, campaign):
    """30,000 leads against a server that allows 50: no lead lost, and the lesson is learned once."""
    server.max_ids = 50
    lead_ids = [f"{number:024x}" for number in range(30_000)]
    result = await campaign.get_many(lead_ids)
    assert [status.lead_id for status in result] == lead_ids
    assert result.stats.splits <= 6
    before = server.count
    await campaign.get_many(lead_ids[:100])
    assert server.count == before + 2, "what was learned applies to later calls"


@pytest.mark.parametrize("too_long", [400, 413, 414, 431])
async def test_a_server_with_a_shorter_url_teaches_its_limit(server, campaign, too_long):
    """A target refused for its size is halved for everything unsent, and for later calls."""
    server.max_url_bytes, server.too_long = 1000, too_long
    result = await campaign.get_many(IDS)
    assert list(result) == expected(server, IDS)
    assert result.stats.splits == 2
    before = server.count
    await campaign.get_many(IDS)
    assert {request.status for request in server.requests[before:]} == {200}


async def test_a_bad_id_is_found_and_its_neighbours_answered(server, campaign):
    """An enveloped 400 is bisected to the leads it is about."""
    server.bad_ids = {IDS[3], IDS[77]}
    with pytest.raises(BatchError) as caught:
        await campaign.get_many(IDS[:100])
    (only,) = caught.value.exceptions
    assert isinstance(only, BadRequestError)
    assert only.lead_ids == (IDS[3], IDS[77])
    assert (only.code, only.message, only.details) == ("VALIDATION_ERROR", "leadIds is invalid", "string")
    assert only.trace_id
    assert len(caught.value.result.statuses) == 98


async def test_a_request_that_is_never_accepted_ends_after_twenty_refusals(server, campaign):
    """Where nothing is ever answered with a row, it is the request itself that is refused."""
    server.fault("400-html", times=None)
    with pytest.raises(BatchError) as caught:
        await campaign.get_many([f"id{number}" for number in range(2000)])
    assert isinstance(caught.value.exceptions[0], BadRequestError)
    assert server.count < 60
    assert len(caught.value.result.failures) == 2000


async def test_a_single_lead_too_large_is_that_leads_failure(server, campaign):
    """413, 414 and 431 for one lead alone fail that lead."""
    server.fault("414", times=None)
    with pytest.raises(BatchError) as caught:
        await campaign.get_many(["a"])
    assert isinstance(caught.value.exceptions[0], RequestTooLargeError)
    assert server.count == 1


async def test_retry_asks_for_the_failures_only(server, campaign):
    """Retry keeps what is answered, asks for the rest and keeps the order; hopeless IDs stay."""
    server.fault("missing-row")
    first = await campaign.get_many(["a", "b,b", "c", "a"], on_error="collect")
    assert [outcome.ok for outcome in first] == [False, False, True, False]
    second = await campaign.retry(first, on_error="collect")
    assert [outcome.lead_id for outcome in second] == ["a", "b,b", "c", "a"]
    assert [outcome.ok for outcome in second] == [True, False, True, True]
    assert server.requests[-1].lead_ids == ("a",)
    with pytest.raises(TypeError, match="BatchResult"):
        await campaign.retry(["a"])


async def test_plan_says_what_a_call_will_cost(server, make_session):
    """Requests and bytes are those that get_many sends, and the seconds follow from the rate."""
    campaign = make_session(rate_limit=RateLimit(1, per=2.0)).campaign("acc", "camp")
    plan = campaign.plan(iter(IDS + IDS[:5]))
    free = make_session().campaign("acc", "camp")
    await free.get_many(IDS)
    assert plan.requests == server.count == 3
    assert plan.bytes == sum(len(request.target) for request in server.requests)
    assert plan.seconds == pytest.approx(2 * 2 * 1.01, rel=0.02)
    assert free.plan(IDS).seconds == 0.0
    assert campaign.plan([]) == type(plan)(requests=0, bytes=0, seconds=0.0)


async def test_a_long_list_with_duplicates_lets_others_run(make_session):
    """Thousands of positions, some of them twice: each is answered, and other tasks have their turns."""
    campaign = make_session(chunk_size=1000, max_url_bytes=100_000).campaign("acc", "camp")
    lead_ids = [f"x{number % 10_000}" for number in range(12_000)]
    async with turns() as had:
        result = await campaign.get_many(lead_ids)
    assert [status.lead_id for status in result] == lead_ids
    assert had() > 10


class Recorder:
    """A limiter that is not ours: grants everything, and remembers."""

    def __init__(self, error=None):
        self.error = error
        self.acquired = self.refunded = 0
        self.seen = []

    async def acquire(self, *, max_pause=None, waiting=1):
        self.acquired += 1
        if self.error is not None:
            raise self.error

    def refund(self):
        self.refunded += 1

    def pause(self, seconds, reason):
        self.seen.append(("pause", seconds))

    def observe(self, status, sent_at, headers):
        self.seen.append(("observe", status))

    def wait_time(self, ahead=0):
        return 0.5 + ahead / 2

    @property
    def state(self):
        return RateLimitState(rate=2.0)

    async def aclose(self):
        raise AssertionError("a lent limiter is never closed")


async def test_any_object_with_the_protocol_is_a_limiter(server, make_session):
    """A limiter of one's own is asked before, told after, used for plans, and never closed."""
    limiter = Recorder()
    session = make_session(rate_limit=limiter)
    campaign = session.campaign("acc", "camp")
    server.script("429-retry-after-ms")
    await campaign.get_many(["a"])
    assert session.limiter is limiter
    assert limiter.acquired == server.count == 2
    assert ("observe", 429) in limiter.seen
    assert campaign.plan(IDS).seconds == 0.5 + 2 / 2.0
    await session.aclose()


async def test_a_limiter_that_breaks_fails_the_calls_and_hangs_none(server, make_session):
    """Whatever acquire raises reaches every caller as LimiterError with its cause."""
    broken = RuntimeError("no connection to the quota store")
    campaign = make_session(rate_limit=Recorder(broken)).campaign("acc", "camp")
    with pytest.raises(BatchError) as caught:
        await campaign.get_many(IDS)
    (only,) = caught.value.exceptions
    assert isinstance(only, LimiterError)
    assert only.__cause__ is broken
    assert server.count == 0


async def test_an_absurd_retry_after_is_raised_at_once(server, campaign):
    """An hour's pause is not slept through: the error has the value, and later calls fail fast too."""
    server.fault("429-retry-after-huge")
    with pytest.raises(BatchError) as caught:
        await campaign.get_many(["a"])
    assert caught.value.exceptions[0].retry_after == 3600
    with pytest.raises(BatchError) as caught:
        await campaign.get_many(["b"])
    (only,) = caught.value.exceptions
    assert isinstance(only, RateLimitError)
    assert 3500 < only.retry_after < 4000
    assert server.count == 1


async def test_one_429_pauses_every_session_that_shares_the_limiter(server, make_session):
    """The gate belongs to the limiter."""
    first = make_session(rate_limit=RateLimit(1000))
    second = make_session(rate_limit=first.limiter)
    server.script("429-retry-after-ms")
    await first.campaign("acc", "camp").get_many(["a"])
    server.script("429-retry-after-decimal")
    call = asyncio.create_task(first.campaign("acc", "camp").get_many(["a"]))
    await server.wait_for_requests(3)
    while not first.rate_limit_state.paused_for:
        await asyncio.sleep(0)
    assert second.rate_limit_state.paused_for > 0
    assert "429" in second.rate_limit_state.reason
    await second.campaign("acc", "camp").get_many(["b"])
    await call
    assert server.requests[3].at - server.requests[2].at >= 0.74


async def test_retrying_can_be_turned_off(server, make_session):
    """max_attempts=1 sends once, for 429 and for 500."""
    campaign = make_session(retry=ONE_TRY).campaign("acc", "camp")
    for fault, error in (("429-retry-after-zero", RateLimitError), ("500", ServerError)):
        before = server.count
        server.fault(fault)
        with pytest.raises(BatchError) as caught:
            await campaign.get_many(["a"])
        assert type(caught.value.exceptions[0]) is error
        assert server.count == before + 1


async def test_endless_429s_end_after_max_outage(server, make_session):
    """A run of nothing but 429s that states no pause is given up, in every call that waits."""
    server.fault("429", times=None)
    policy = RetryPolicy(base_delay=0.01, max_delay=0.02, max_outage=0.1)
    campaign = make_session(retry=policy).campaign("acc", "camp")
    outcomes = await asyncio.gather(
        *(campaign.get_many(IDS, on_error="collect") for _ in range(2)),
    )
    for result in outcomes:
        assert {type(failure.error) for failure in result.failures} == {RateLimitError}
        assert len(result.failures) == 250
        assert result.stats.rate_limited > 0
        assert result.stats.retries == 0


async def test_the_deadline_keeps_what_was_finished(server, make_session):
    """In time, and with every answer that had come; requests in flight are cut."""
    session = make_session(concurrency=2)
    server.fault("hang", times=None, when=lambda request: IDS[150] in request.lead_ids)
    with pytest.raises(DeadlineExceededError) as caught:
        await session.campaign("acc", "camp").get_many(IDS, deadline=0.3)
    result = caught.value.result
    assert [outcome.ok for outcome in result] == [True] * 100 + [False] * 100 + [True] * 50
    assert caught.value.lead_ids == tuple(IDS[100:200])
    assert session.stats.in_flight == 0


async def test_a_retry_that_would_come_too_late_fails_now_with_its_own_error(server, make_session):
    """No sleeping into the deadline: the last real error is raised at once (d13)."""
    server.fault("503-retry-after", times=None)
    campaign = make_session().campaign("acc", "camp")
    with pytest.raises(BatchError) as caught:
        await campaign.get_many(["a"], deadline=0.5)
    assert caught.value.exceptions[0].retry_after == 1.0
    assert server.count == 1


async def test_cancelling_a_call_leaves_nothing_behind(server, make_session):
    """The caller's CancelledError is its own, and requests, tasks and slots are gone when it arrives."""
    server.hold()
    session = make_session(concurrency=3)
    call = asyncio.create_task(
        session.campaign("acc", "camp").get_many(IDS * 2 + [f"x{n}" for n in range(300)])
    )
    await server.wait_for_requests(3)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert session.stats.in_flight == 0
    assert session.stats.queued == 0
    server.release()
    assert len(await session.campaign("acc", "camp").get_many(IDS)) == 250


async def test_a_worker_cancelled_from_outside_fails_its_chunk_only(server, make_session):
    """Somebody who cancels all tasks gets an error for these leads, and no call that hangs."""
    server.hold()
    session = make_session(concurrency=1)
    call = asyncio.create_task(session.campaign("acc", "camp").get_many(["a"], on_error="collect"))
    await server.wait_for_requests(1)
    (worker,) = [task for task in asyncio.all_tasks() if "Dispatcher._work" in repr(task.get_coro())]
    worker.cancel()
    result = await call
    assert isinstance(result[0].error, APIConnectionError)


async def test_a_bug_of_ours_reaches_the_caller(campaign, monkeypatch):
    """An exception in our own decisions is raised to who waits, not swallowed in a task."""

    def broken(*_args, **_kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr("leadstatus_async._engine.attempt.merge", broken)
    with pytest.raises(ZeroDivisionError):
        await campaign.get_many(["a"])
    with pytest.raises(ZeroDivisionError):
        await campaign.get("a")
    with pytest.raises(ZeroDivisionError):
        await anext(campaign.stream(["a"]))


async def test_a_progress_callback_that_raises_is_logged_once(campaign, caplog):
    """Watching never breaks a call."""

    def progress(_):
        raise ValueError("mine")

    result = await campaign.get_many(IDS, progress=progress)
    assert len(result.statuses) == 250
    assert sum("progress callback raised" in record.message for record in caplog.records) == 1


async def test_progress_reaches_its_total(campaign):
    """The last report is complete, and the figures never go back."""
    seen = []
    await campaign.get_many(IDS, progress=seen.append)
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
    assert (seen[-1].done, seen[-1].total, seen[-1].failed, seen[-1].requests) == (250, 250, 0, 3)


async def test_calls_take_turns(server, make_session):
    """A small call beside a bulk of many chunks waits for a turn, not for the bulk."""
    session = make_session(concurrency=1, chunk_size=1)
    campaign = session.campaign("acc", "camp")
    server.hold()
    bulk = asyncio.create_task(campaign.get_many([f"bulk{number}" for number in range(50)]))
    await server.wait_for_requests(1)
    small = asyncio.create_task(campaign.get_many(["small"]))
    single = asyncio.create_task(campaign.get("single"))
    while session.stats.queued < 3:
        await asyncio.sleep(0)
    server.release()
    await asyncio.gather(small, single, bulk)
    order = [request.lead_ids[0] for request in server.requests]
    assert order.index("small") <= 3
    assert order.index("single") <= 4


async def test_outcomes_are_the_documented_types(server, campaign):
    """What comes back is LeadStatus and LeadFailure, and counts what it says."""
    server.fault("missing-row")
    result = await campaign.get_many(["a", "b"], on_error="collect")
    assert [type(outcome) for outcome in result] == [LeadFailure, LeadStatus]
    assert result.counts == {WorkflowStatus(result[1].workflow_status): 1}
    assert result.failed_ids == ["a"]


async def test_non_ascii_ids_go_out_as_utf8_and_commas_raw(server, campaign):
    """The wire form is pinned (a23): raw commas, everything else percent-encoded as UTF-8."""
    lead_ids = ["é", "a&b", "100%", "x=y", "p+q"]
    result = await campaign.get_many(lead_ids)
    assert server.requests[0].target.endswith("?leadIds=%C3%A9,a%26b,100%25,x%3Dy,p%2Bq")
    assert [status.lead_id for status in result] == lead_ids


async def test_the_repeat_format_sends_each_id_by_itself(server, make_session):
    """lead_ids_format="repeat" for servers that want it."""
    session = make_session(lead_ids_format="repeat")
    result = await session.campaign("acc", "camp").get_many(["a", "é"])
    assert server.requests[0].target.endswith("?leadIds=a&leadIds=%C3%A9")
    assert [status.lead_id for status in result] == ["a", "é"]


async def test_a_server_that_spells_ids_its_own_way_is_told_so(server, make_session):
    """None of its rows was asked for, but they are no other request's: nothing is asked again."""
    server.fault(lower_case(), times=None)
    session = make_session(chunk_size=2)
    with pytest.raises(BatchError) as caught:
        await session.campaign("a", "c").get_many(["A1", "B2"])
    assert "'a1', which is its ID in another case" in str(caught.value.result[0].error)
    assert server.count == 1


def lower_case():
    items = [{"leadId": lead_id, "workflowStatus": "pending"} for lead_id in ("a1", "b2")]
    return Fault(200, json.dumps({"success": True, "data": {"items": items}}).encode())


class DataFrame:
    """A table, as pandas and polars have them."""

    columns = ("lead_id", "name")

    def __iter__(self):
        return iter(self.columns)


async def test_a_table_is_no_list_of_ids(campaign, server):
    """It would be asked for by the names of its columns."""
    for call in (campaign.get_many, campaign.stream, campaign.plan):
        with pytest.raises(TypeError, match="lead_ids is a DataFrame; pass the column"):
            called = call(DataFrame())
            await called
    assert server.count == 0


class Unspeakable:
    """What raises when it is to be shown."""

    def __repr__(self):
        raise RuntimeError("no")


async def test_what_cannot_be_shown_is_refused_like_any_other(campaign):
    """By its class."""
    with pytest.raises(InvalidLeadIdError, match="<Unspeakable> is Unspeakable, not str"):
        await campaign.get_many(["a", Unspeakable()])
    result = await campaign.get_many(["a", Unspeakable()], on_error="collect")
    assert [outcome.lead_id for outcome in result] == ["a", "<Unspeakable>"]
