"""`watch`: first statuses, then changes, until all are settled."""

from __future__ import annotations

import asyncio
from functools import partial
from unittest.mock import AsyncMock, MagicMock, Mock

import pytest

from leadstatus_async import (
    AuthenticationError,
    ConfigurationError,
    InvalidLeadIdError,
    LeadFailure,
    LeadStatus,
    MissingLeadError,
    RateLimitError,
    SessionClosedError,
    WorkflowStatus,
)
from leadstatus_async._calls.watch import changes
from leadstatus_async.testing import Fault

pytestmark = pytest.mark.usefixtures("nothing_left")


def test_changes_are_what_differs_from_last_time():
    """Any field counts; a failure counts once per class and message; a status after a failure is news."""
    seen = {}
    one = LeadStatus("a", WorkflowStatus.PENDING)
    two = LeadStatus("a", WorkflowStatus.PENDING, latest_step="email_1")
    broken = [LeadFailure("a", MissingLeadError("no row")) for _ in range(2)]
    assert changes(seen, [one]) == [one]
    assert changes(seen, [one]) == []
    assert changes(seen, [two]) == [two]
    assert changes(seen, [broken[0]]) == [broken[0]]
    assert changes(seen, [broken[1]]) == []
    assert changes(seen, [two]) == [two]


async def test_only_unsettled_leads_are_asked_again(server, campaign):
    """The first status of each, then each change; the watch ends when all are settled."""
    server.set_status("a", "completed")
    server.set_status("b", "pending")
    server.set_status("c", "snoozed")
    seen = []
    async for change in campaign.watch(["a", "b", "c", "b"], interval=0.01):
        seen.append((change.lead_id, str(change.workflow_status)))
        if len(seen) == 3:
            server.set_status("b", "waiting")
        if seen[-1] == ("b", "waiting"):
            server.set_status("b", "stopped")
            server.set_status("c", "not_eligible")
    assert seen[:3] == [("a", "completed"), ("b", "pending"), ("c", "snoozed")]
    assert seen[3:] == [("b", "waiting"), ("b", "stopped"), ("c", "not_eligible")]
    assert all("a" not in request.lead_ids for request in server.requests[1:])


async def test_until_is_the_callers_word(server, campaign):
    """A predicate over LeadStatus decides when a lead needs no more asking."""
    server.set_status("a", "pending", hasPendingApproval=True)
    changes = []
    async for change in campaign.watch(["a"], interval=0.01, until=lambda s: s.has_pending_approval is False):
        changes.append(change)
        server.set_status("a", "pending", hasPendingApproval=False)
    assert [change.has_pending_approval for change in changes] == [True, False]


async def test_a_failed_lead_is_told_once_and_asked_again(server, campaign):
    """LeadFailure once per change, and the watch goes on."""
    server.set_status("a", "completed")
    server.script("missing-row", "missing-row")
    seen = [change.ok async for change in campaign.watch(["a"], interval=0.01)]
    assert seen == [False, True]
    assert server.count == 3


async def test_a_fatal_answer_ends_it(server, campaign):
    """401 is raised, not told as a failed lead for ever."""
    server.fault("401", times=None)
    with pytest.raises(AuthenticationError):
        async for _ in campaign.watch(["a"], interval=0.01):
            pass


async def test_the_interval_runs_from_start_to_start(server, campaign):
    """A poll that took longer than the interval is followed at once by the next, never by several."""
    server.set_status("a", "pending")
    server.latency = 0.1
    async for _ in campaign.watch(["a"], interval=0.03):
        break
    watching = aiter(campaign.watch(["a"], interval=0.03))
    await anext(watching)
    poll = asyncio.create_task(anext(watching))
    before = server.count
    await server.wait_for_requests(before + 3)
    server.set_status("a", "completed")
    await poll
    gaps = [
        b.at - a.at for a, b in zip(server.requests[before:], server.requests[before + 1 :], strict=False)
    ]
    assert min(gaps) >= 0.09
    assert server.max_in_flight == 1


async def test_closing_the_session_wakes_a_sleeping_watch(server, make_session):
    """An hour's interval is not slept through."""
    server.set_status("a", "pending")
    session = make_session()
    watching = aiter(session.campaign("a", "c").watch(["a"], interval=3600))
    await anext(watching)
    asleep = asyncio.create_task(anext(watching))
    await asyncio.sleep(0)
    await session.aclose()
    with pytest.raises(SessionClosedError):
        await asleep


@pytest.mark.parametrize(
    ("lead_ids", "options", "error"),
    [
        ("abc", {"interval": 1}, TypeError),
        (["a,b"], {"interval": 1}, InvalidLeadIdError),
        (["a"], {"interval": 0}, ConfigurationError),
        (["a"], {"interval": "1"}, ConfigurationError),
        (["a"], {"interval": 1, "until": 3}, ConfigurationError),
    ],
)
async def test_bad_arguments_fail_at_once(server, campaign, lead_ids, options, error):
    """Before the first poll, and when watch is called, not when it is iterated."""
    with pytest.raises(error):
        campaign.watch(lead_ids, **options)
    assert server.count == 0


async def test_nothing_to_watch_ends_at_once(server, campaign):
    """An empty list is settled."""
    assert [change async for change in campaign.watch([], interval=1)] == []
    assert server.count == 0


def test_a_pause_that_counts_down_is_told_once():
    """The seconds that are left are no change; another status or code is one."""
    seen = {}
    pauses = [
        LeadFailure("a", RateLimitError(429, None, f"paused for another {left} s", retry_after=left))
        for left in (90.0, 60.0, 30.0)
    ]
    other = LeadFailure("a", RateLimitError(429, "QUOTA", "paused", retry_after=10.0))
    told = [len(changes(seen, [outcome])) for outcome in (*pauses, other, other, pauses[0])]
    assert told == [1, 0, 0, 1, 0, 1]


async def test_a_long_pause_is_told_once(server, make_session):
    """Polls in a pause longer than max_retry_after fail at once, all alike."""
    server.fault(Fault(429, b"", {"Retry-After": "300"}), times=None)
    seen = []
    watching = make_session().campaign("a", "c").watch(["x"], interval=0.15)

    async def watch():
        async for change in watching:
            seen.append(change)

    watcher = asyncio.create_task(watch())
    await asyncio.sleep(0.8)
    watcher.cancel()
    await asyncio.wait({watcher})
    assert [type(change.error) for change in seen] == [RateLimitError]


async def coroutine_function(_):
    """Be no predicate."""
    return True


class Asynchronous:
    """Callable, but for a coroutine."""

    async def __call__(self, _):
        return True

    async def method(self, _):
        return True

    def generator(self, _):
        yield True


@pytest.mark.parametrize(
    "until",
    [
        coroutine_function,
        partial(coroutine_function),
        partial(partial(coroutine_function)),
        Asynchronous(),
        partial(Asynchronous()),
        Asynchronous().method,
        partial(Asynchronous().method),
        Asynchronous().generator,
        AsyncMock(return_value=False),
        partial(AsyncMock(return_value=False)),
        AsyncMock(spec=lambda _: False),
        MagicMock(spec=coroutine_function),
    ],
    ids=str(list(range(12)))[1:-1].split(", "),
)
async def test_what_would_only_make_a_coroutine_is_refused(campaign, until):
    """It would be true of every status, and end the watch after one poll."""
    with pytest.raises(ConfigurationError, match="until must be a plain function"):
        campaign.watch(["a"], interval=1, until=until)


@pytest.mark.parametrize(
    "until", [Mock(return_value=True), MagicMock(return_value=True), partial(bool), bool, LeadStatus.to_dict]
)
async def test_any_plain_callable_will_do(server, campaign, until):
    """Classes, mocks and partials too."""
    assert [change.lead_id async for change in campaign.watch(["a"], interval=1, until=until)] == ["a"]


async def test_a_predicate_that_returns_an_awaitable_ends_the_watch(server, campaign):
    """Rather than count as true."""
    server.set_status("a", "pending")
    with pytest.raises(ConfigurationError, match="until must be a plain function"):
        _ = [
            change
            async for change in campaign.watch(["a"], interval=1, until=lambda s: coroutine_function(s))
        ]
