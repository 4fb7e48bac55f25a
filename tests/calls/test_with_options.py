"""`with_options`: one session for patient jobs and impatient handlers."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import pytest

from leadstatus_async import (
    APITimeoutError,
    BatchError,
    ConfigurationError,
    DeadlineExceededError,
    LeadFailure,
    LeadStatusSession,
    RateLimitError,
    RetryPolicy,
    ServerError,
)
from leadstatus_async._state.patience import Patience
from leadstatus_async.testing import FakeLeadStatusServer
from tests.virtual_session import Wire, virtual_session
from tests.virtual_time import run


def asked(server, calls, **options):
    """Run calls in virtual time against a function; return what they return, and the wire."""
    wire = Wire(server, latency=0.05, seed=1)

    async def main():
        async with virtual_session(wire, **{"rate_limit": None} | options) as session:
            return await calls(session.campaign("a", "c"))

    return run(main), wire


async def timed(awaitable):
    """Return the class of what it raised, or None, and after how many seconds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        await awaitable
    except Exception as error:
        return type(error), loop.time() - began
    return None, loop.time() - began


def test_an_impatient_call_is_not_held():
    """Timeout and attempts of a handler are its own; those of a bulk job beside it are the session's."""

    async def calls(campaign):
        web = campaign.with_options(timeout=2.0, max_attempts=1)
        return await asyncio.gather(timed(web.get("web")), timed(campaign.get_many(["bulk"])))

    def server(sent):
        return "hang" if sent.ids == ["web"] or sent.at < 20 else "ok"

    ((kind, seconds), (answered, patient)), wire = asked(server, calls)
    assert kind is APITimeoutError
    assert seconds == pytest.approx(2, abs=0.01)
    assert answered is None
    assert patient > 30
    assert [sent.ids for sent in wire.sent].count(["web"]) == 1


@pytest.mark.parametrize("most", [1, 2, 7])
def test_attempts_are_the_calls_own(most):
    """More than the session's, or fewer; none of it changes what others have."""

    async def calls(campaign):
        own = await timed(campaign.with_options(max_attempts=most).get("own"))
        return own, await timed(campaign.get("other"))

    (own, other), wire = asked(lambda sent: "500", calls, concurrency=1)
    assert own[0] is other[0] is ServerError
    assert [sent.ids[0] for sent in wire.sent].count("own") == most


def test_one_attempt_is_one_for_429_too():
    """`max_attempts=1` sends nothing again; the pause holds for all others."""

    async def calls(campaign):
        web = campaign.with_options(max_attempts=1)
        return await asyncio.gather(timed(web.get_many(["web"])), timed(campaign.get_many(["bulk"])))

    (web, bulk), _ = asked(lambda sent: "429 Retry-After 3" if sent.at < 1 else "ok", calls)
    assert web[0] is BatchError
    assert web[1] < 1
    assert bulk[0] is None
    assert bulk[1] > 3


@pytest.mark.parametrize("lasts", [8, math.inf])
def test_one_attempt_is_not_held_in_an_outage(lasts):
    """What was in flight fails at once, what waits when a probe fails; nothing is sent twice, or for long."""

    async def calls(campaign):
        web = campaign.with_options(max_attempts=1)
        await campaign.get("first")
        await asyncio.sleep(1)
        return await asyncio.gather(
            timed(campaign.get_many([f"bulk{number}" for number in range(20)])),
            *(timed(web.get_many([f"web{number}"])) for number in range(12)),
        )

    (bulk, *web), wire = asked(
        lambda sent: "503" if 0.5 < sent.at < 1 + lasts else "ok", calls, chunk_size=1, concurrency=4
    )
    assert bulk[0] is (None if lasts == 8 else BatchError)
    for kind, seconds in web:
        assert kind is BatchError
        assert seconds < 5
    sent = Counter(sent.ids[0] for sent in wire.sent)
    assert max(sent[f"web{number}"] for number in range(12)) == 1


@pytest.mark.parametrize("most", [1, 2, 4])
def test_impatient_calls_end_no_outage_for_others(most):
    """While the server has never answered, they fail alone; a patient job waits for it."""

    async def calls(campaign):
        web = campaign.with_options(max_attempts=most)
        return await asyncio.gather(
            timed(campaign.get_many([f"bulk{number}" for number in range(500)])),
            *(timed(web.get_many([f"web{number}"])) for number in range(5)),
        )

    (bulk, *web), _ = asked(lambda sent: "503" if sent.at < 2 else "ok", calls)
    assert bulk[0] is None
    assert {kind for kind, _ in web} <= {BatchError, None}


def test_calls_that_retry_nothing_pay_for_no_retry():
    """The budget is there for those who do, however an outage begins, and ends before it was one."""

    def server(sent):
        if sent.ids[0].startswith("web"):
            return "ok" if sent.ids == ["web18"] else "503"
        return "503" if sent.ids == ["late"] and [one.ids for one in wire.sent].count(["late"]) < 2 else "ok"

    wire = Wire(server, latency=0.1)

    async def main():
        async with virtual_session(
            wire, rate_limit=None, concurrency=32, retry=RetryPolicy(budget=13)
        ) as session:
            campaign = session.campaign("a", "c")
            web = campaign.with_options(max_attempts=1)
            await campaign.get("first")
            await asyncio.gather(*(timed(web.get_many([f"web{number}"])) for number in range(19)))
            await campaign.get("second")
            return await campaign.get_many(["late"])

    assert run(main).stats.retries == 1


def test_gets_with_other_options_travel_together():
    """In one request, as patient as the most patient of them; each waits until its own deadline."""

    async def calls(campaign):
        return await asyncio.gather(
            timed(campaign.with_options(timeout=1.0, max_attempts=1).get("a")),
            timed(campaign.with_options(timeout=1.0, deadline=1.5).get("a")),
            timed(campaign.with_options(timeout=4.0).get("b")),
        )

    (first, second, third), wire = asked(lambda sent: "hang" if sent.at < 1 else "ok", calls)
    assert [sent.ids for sent in wire.sent] == [["a", "b"], ["a", "b"]]
    assert first[0] is third[0] is None
    assert 4 < first[1] < 5
    assert second == (DeadlineExceededError, pytest.approx(1.5, abs=0.01))


@pytest.mark.parametrize("deadline", ["campaign's", "call's", "none"])
def test_a_deadline_of_the_campaign_is_that_of_each_call(deadline):
    """Of `get`, `get_many`, `stream` and `retry`; a call's own wins, be it longer, or None."""
    own = {"campaign's": {}, "call's": {"deadline": 3.0}, "none": {"deadline": None}}[deadline]
    expected = {"campaign's": 1.0, "call's": 3.0, "none": 30.0}[deadline]

    async def calls(campaign):
        web = campaign.with_options(deadline=1.0, max_attempts=1)
        with pytest.raises(DeadlineExceededError) as caught:
            await web.get_many(["x"])
        first = await timed(anext(web.stream(["s"], **own)))
        return [
            first,
            await timed(web.get("g", **own)),
            await timed(web.get_many(["m"], **own)),
            await timed(web.retry(caught.value.result, **own)),
        ]

    took, _ = asked(lambda sent: "hang", calls)
    assert [seconds for _, seconds in took] == pytest.approx([expected] * 4, abs=0.01)


async def test_failures_are_collected_by_default_where_told(server, campaign):
    """`on_error` of the campaign is that of each call; a call's own wins."""
    collecting = campaign.with_options(on_error="collect")
    server.bad_ids.add("bad")
    result = await collecting.get_many(["a", "bad"])
    assert [outcome.ok for outcome in result] == [True, False]
    assert [outcome.ok async for outcome in collecting.stream(["a", "bad", ""])] == [True, False, False]
    assert [outcome.ok for outcome in await collecting.retry(result)] == [True, False]
    with pytest.raises(BatchError):
        await collecting.get_many(["bad"], on_error="raise")
    with pytest.raises(BatchError):
        await campaign.get_many(["bad"])
    with pytest.raises(BatchError):
        await collecting.with_options(on_error="raise").retry(result)


def test_options_add_up(campaign):
    """Each `with_options` changes what it is given, costs nothing, and leaves the campaign as it was."""
    web = campaign.with_options(timeout=2).with_options(max_attempts=1).with_options(deadline=5.0)
    assert (web._options.patience.timeout, web._options.patience.max_attempts) == (2, 1)
    assert web._options.deadline == 5.0
    assert web.with_options(deadline=None)._options.deadline is None
    assert campaign._options.deadline is None
    assert repr(web) == repr(campaign)
    assert campaign.with_options()._options is campaign._options


@pytest.mark.parametrize(
    ("options", "name"),
    [
        *[({"timeout": value}, "timeout") for value in (0, -1, "2", None, True, float("nan"))],
        *[({"max_attempts": value}, "max_attempts") for value in (0, 1.5, "2", None, True)],
        *[({"deadline": value}, "deadline") for value in (0, -1, "2", True, float("inf"))],
        *[({"on_error": value}, "on_error") for value in ("x", None, True)],
        *[({"max_age": value}, "max_age") for value in (-1, "2", True, float("nan"))],
    ],
    ids=repr,
)
def test_bad_options_are_named(options, name):
    """Before any I/O, what is wrong is said, and what is allowed."""
    session = LeadStatusSession("sk_test", base_url="http://127.0.0.1:9", cache_size=1)
    with pytest.raises(ConfigurationError, match=f"^{name} must be"):
        session.campaign("a", "c").with_options(**options)


async def test_over_sockets(make_session):
    """A shorter timeout than the session's, and a longer one, hold for what is on the wire."""
    async with FakeLeadStatusServer(latency=0.3) as server:
        campaign = make_session(base_url=server.url, timeout=0.05).campaign("a", "c")
        status = await campaign.with_options(timeout=20.0).get("a")
        assert status == server.expected("a")
        with pytest.raises(APITimeoutError, match=r"timeout=0\.02 s"):
            await campaign.with_options(timeout=0.02, max_attempts=1).get("a")
        assert server.count == 2


async def test_watch_is_as_patient_as_told(server, make_session):
    """`timeout` and `max_attempts` hold for each poll; a poll collects its failures in any case."""
    campaign = make_session().campaign("a", "c").with_options(max_attempts=1, on_error="raise", deadline=30)
    server.fault("500", times=2)
    server.set_status("a", "completed")
    seen = [outcome async for outcome in campaign.watch(["a"], interval=0.01)]
    assert [type(outcome) for outcome in seen] == [LeadFailure, type(server.expected("a"))]
    assert server.count == 3


def test_a_long_pause_is_a_calls_own_failure():
    """One attempt, while the gate is shut for longer than is waited for."""

    async def calls(campaign):
        return await timed(campaign.with_options(max_attempts=1).get("a"))

    (kind, _), _ = asked(lambda sent: "429 Retry-After 300", calls)
    assert kind is RateLimitError


def test_the_most_patient_is_most_patient_in_each_respect():
    """Timeout and attempts may be those of different gets."""
    assert Patience(2.0, 1).with_that_of(Patience(1.0, 5)) == Patience(2.0, 5)
    assert Patience(1.0, 1).with_that_of(Patience(2.0, 5)) == Patience(2.0, 5)
