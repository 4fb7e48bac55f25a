"""`max_age`: what the session has learned a moment ago need not be asked again."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest

from leadstatus_async import (
    APITimeoutError,
    BatchError,
    ConfigurationError,
    DeadlineExceededError,
    InvalidLeadIdError,
    LeadFailure,
    LeadStatus,
    LeadStatusError,
    RateLimit,
    RetryPolicy,
    ServerError,
    SessionClosedError,
)
from leadstatus_async._engine.cache import Cache
from leadstatus_async._steps.fold import BLOCK
from tests.virtual_session import START, Wire, virtual_session
from tests.virtual_time import run


def asked(calls, server=lambda sent: "ok", **options):
    """Run `calls(campaign)` in virtual time against a function; return the IDs of each request."""
    wire = Wire(server, latency=0.05, seed=1)

    async def main():
        async with virtual_session(wire, **{"rate_limit": None, "cache_size": 100} | options) as session:
            await calls(session.campaign("a", "c"))
            for _ in range(3):
                await asyncio.sleep(0)
            assert session._core.idle

    run(main)
    return [sent.ids for sent in wire.sent]


def test_a_page_that_is_reloaded_costs_one_request():
    """A hundred times in a second, one after another or all at once."""

    async def calls(campaign):
        for _ in range(10):
            pages = (campaign.get("a", max_age=5.0) for _ in range(10))
            assert len(set(await asyncio.gather(*pages))) == 1
            await asyncio.sleep(0.1)

    assert asked(calls) == [["a"]]


def test_what_is_older_is_asked_anew():
    """No older than told; without `max_age` everything is asked, always."""

    async def calls(campaign):
        await campaign.get("a")
        await asyncio.sleep(2.0)
        await campaign.get("a", max_age=2.1)
        await asyncio.sleep(0.2)
        await campaign.get("a", max_age=2.1)
        await campaign.get("a")
        await asyncio.sleep(0.1)
        await campaign.get("a", max_age=0.0)

    assert asked(calls) == [["a"]] * 4


@pytest.mark.parametrize("call", ["get", "get_many", "stream", "watch", "retry"])
def test_what_any_call_has_learned_counts(call):
    """For every call that accepts it."""

    async def calls(campaign):
        match call:
            case "get":
                await campaign.get("a")
            case "get_many":
                await campaign.get_many(["a"])
            case "stream":
                [_ async for _ in campaign.stream(["a"])]
            case "watch":
                await anext(campaign.watch(["a"], interval=1))
            case "retry":
                with pytest.raises(BatchError) as caught:
                    await campaign.get_many(["a"])
                await campaign.retry(caught.value.result)
        status = await campaign.get("a", max_age=1.0)
        result = await campaign.get_many(["a"], max_age=1.0)
        assert list(result) == [status]
        assert (result.stats.requests, result.stats.cached) == (0, 1)
        assert [one async for one in campaign.stream(["a"], max_age=1.0)] == [status]

    wire = asked(
        calls,
        server=lambda sent: "400" if call == "retry" and sent.number == 0 else "ok",
    )
    assert wire == [["a"]] * (2 if call == "retry" else 1)


def test_failures_are_never_remembered():
    """A lead that failed is asked again, whatever age is accepted."""

    async def calls(campaign):
        for _ in range(3):
            with pytest.raises(ServerError):
                await campaign.get("a", max_age=100.0)
        assert (await campaign.get("a", max_age=100.0)).ok

    options = {"retry": RetryPolicy(max_attempts=1)}
    assert asked(calls, lambda sent: "500" if sent.number < 3 else "ok", **options) == [["a"]] * 4


def test_each_campaign_and_account_has_its_own():
    """The same lead ID somewhere else is another lead."""
    wire = Wire(lambda sent: "ok")

    async def main():
        async with virtual_session(wire, rate_limit=None, cache_size=100) as session:
            for account, campaign in (("a", "c"), ("a", "d"), ("b", "c"), ("a", "c")):
                await session.campaign(account, campaign).get("x", max_age=100.0)

    run(main)
    assert len(wire.sent) == 3


def test_those_used_last_are_kept():
    """The least recently used go first; asking from memory is a use, and so is learning again."""
    cache = Cache(3)
    one, two, three, four, five = (LeadStatus(name, "pending") for name in "abcde")
    cache.learn("c", [one, two, three], 0.9, 1.0)
    assert cache.find("c", "a", 0.0) is one
    cache.learn("c", [LeadFailure("b", ServerError(500)), four], 1.9, 2.0)
    assert [cache.find("c", name, 0.0) for name in "abcd"] == [one, None, three, four]
    cache.learn("c", [one], 2.9, 3.0)
    cache.learn("c", [five, two], 3.9, 4.0)
    assert [cache.find("c", name, 0.0) for name in "abcde"] == [one, two, None, None, five]
    assert cache.find("c", "a", 3.0) is one
    assert cache.find("c", "a", 3.1) is None
    assert cache.find("d", "a", 0.0) is None
    cache.learn("c", [LeadStatus(f"{number}", "pending") for number in range(1000)], 4.9, 5.0)
    assert len(cache._kept) == 3


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("many", [True, False], ids=["get_many", "stream"])
def test_the_rest_is_asked(many, ordered):
    """Positions, duplicates and bad IDs stay what they are; only what is not known is asked."""
    ids = ["k1", "new1", "", "k1", "k2", "new2", "new1", 7]
    progress = []

    async def calls(campaign):
        known = await campaign.get_many(["k1", "k2"])
        options = {"on_error": "collect", "max_age": 9.0, "progress": progress.append}
        if many:
            result = await campaign.get_many(ids, **options)
            assert (result.stats.cached, result.stats.requests) == (3, 1)
            outcomes = list(result)
        else:
            outcomes = [outcome async for outcome in campaign.stream(ids, ordered=ordered, **options)]
        if many or ordered:
            assert [outcome.lead_id for outcome in outcomes] == [*ids[:-1], "7"]
            assert (outcomes[0], outcomes[4]) == tuple(known)
            assert outcomes[3] is outcomes[0]
        assert sorted(outcome.lead_id for outcome in outcomes) == sorted([*ids[:-1], "7"])
        failed = [outcome for outcome in outcomes if not outcome.ok]
        assert [type(outcome.error) for outcome in failed] == [InvalidLeadIdError] * 2

    assert asked(calls) == [["k1", "k2"], ["new1", "new2"]]
    last = progress[-1]
    assert (last.done, last.total, last.failed, last.requests) == (8, 8, 2, 1)


@pytest.mark.parametrize("ordered", [True, False])
def test_what_is_all_known_costs_nothing(ordered):
    """More than a window of it, or a list; progress is told all the same."""
    ids, told = [f"k{number}" for number in range(2500)], []

    async def calls(campaign):
        known = list(await campaign.get_many(ids))
        stream = campaign.stream(ids, ordered=ordered, max_buffered=300, max_age=60.0)
        assert [status async for status in stream] == known
        result = await campaign.get_many(ids, max_age=60.0, progress=told.append)
        assert list(result) == known
        assert (result.stats.cached, result.stats.requests) == (2500, 0)

    assert len(asked(calls, cache_size=5000)) == 25
    assert [(one.done, one.total) for one in told] == [(2500, 2500)]


def test_others_have_their_turn_while_a_long_list_is_recalled():
    """One in each of three walks over it, for every few thousand leads: checked, recalled, folded."""
    ids, known = [f"k{number}" for number in range(3 * BLOCK)], []
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def calls(campaign):
        nonlocal turns
        await campaign.get_many(ids)
        async with asyncio.TaskGroup() as group:
            other = group.create_task(others())
            await asyncio.sleep(0)
            turns = 0
            known.extend(await campaign.get_many(ids, max_age=60.0))
            other.cancel()

    asked(calls, cache_size=len(ids))
    assert [status.lead_id for status in known] == ids
    assert turns >= 3 + 2 + 2


def test_progress_of_a_retry_counts_what_was_answered():
    """All positions are counted, those that need no asking from the start."""
    told, mended = [], []

    async def calls(campaign):
        with pytest.raises(BatchError) as caught:
            await campaign.get_many(["a", "bad", "b"])
        mended.append(True)
        await campaign.retry(caught.value.result, progress=told.append)

    asked(calls, lambda sent: "400" if "bad" in sent.ids and not mended else "ok")
    assert (told[-1].done, told[-1].total, told[-1].failed) == (3, 3, 0)


def test_whoever_accepts_an_older_answer_waits_for_no_request():
    """What is remembered is given at once, though the lead is on its way; who wants it fresh waits."""

    async def calls(campaign):
        old = await campaign.get("a")
        await asyncio.sleep(1)
        fresh = asyncio.create_task(campaign.get("a"))
        await asyncio.sleep(0.1)
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await campaign.get("a", max_age=5.0) is old
        assert loop.time() == began
        await fresh

    assert asked(calls, lambda sent: "hang" if 0.9 < sent.at < 2 else "ok", timeout=2.0) == [["a"]] * 3


def test_what_is_on_its_way_is_shared_by_those_who_accept_it():
    """It was sent no longer ago than is accepted; each has its own deadline, and nobody harms others."""

    async def calls(campaign):
        first = asyncio.create_task(campaign.get("a"))
        await asyncio.sleep(1.0)
        rider = asyncio.create_task(campaign.get("a", max_age=1.5))
        late = asyncio.create_task(campaign.get("a", max_age=1.5, deadline=0.5))
        leaver = asyncio.create_task(campaign.get("a", max_age=1.5))
        anew = asyncio.create_task(campaign.get("a", max_age=0.5))
        other = asyncio.create_task(campaign.get("b", max_age=1.5))
        await asyncio.sleep(0.1)
        leaver.cancel()
        first.cancel()  # the request goes on for those who ride along
        with pytest.raises(DeadlineExceededError) as caught:
            await late
        assert caught.value.lead_ids == ("a",)
        assert (await rider).lead_id == (await anew).lead_id == "a"
        assert (await other).lead_id == "b"
        assert first.cancelled()
        assert leaver.cancelled()

    wire = asked(calls, lambda sent: "hang" if sent.at < 1 else "ok", timeout=3.0)
    assert wire == [["a"], ["a", "b"], ["a"]]


def test_the_last_who_rides_along_ends_the_request():
    """When nobody waits any more it is cut off, and leaves nothing behind."""

    async def calls(campaign):
        riders = [asyncio.create_task(campaign.get("a", max_age=10.0)) for _ in range(2)]
        await asyncio.sleep(1.0)
        riders.append(asyncio.create_task(campaign.get("a", max_age=10.0)))
        await asyncio.sleep(1.0)
        for rider in riders:
            rider.cancel()
        await asyncio.wait(riders)
        assert all(rider.cancelled() for rider in riders)

    assert asked(calls, lambda sent: "hang") == [["a"]]


def test_who_rides_along_fails_with_it():
    """Each with an error of its own, and the next asks anew."""

    async def calls(campaign):
        first = asyncio.create_task(campaign.get("a"))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(campaign.get("a", max_age=10.0))
        errors = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(error) for error in errors] == [ServerError] * 2
        assert errors[0] is not errors[1]
        assert (await campaign.get("a", max_age=10.0)).ok

    options = {"retry": RetryPolicy(max_attempts=1)}
    assert asked(calls, lambda sent: "500" if sent.number == 0 else "ok", **options) == [["a"]] * 2


@pytest.mark.parametrize("call", ["get", "get_many", "stream", "with_options"])
async def test_it_needs_a_memory(campaign, server, call):
    """Without `cache_size` it is a ConfigurationError that says so, before any I/O."""
    with pytest.raises(ConfigurationError, match="cache_size"):
        match call:
            case "get":
                await campaign.get("a", max_age=1.0)
            case "get_many":
                await campaign.get_many(["a"], max_age=1.0)
            case "stream":
                campaign.stream(["a"], max_age=1.0)
            case "with_options":
                campaign.with_options(max_age=1.0)
    assert (await campaign.get_many(["a"], max_age=None)).stats.cached == 0
    assert server.count == 1


async def test_a_closed_session_remembers_nothing_for_anybody(make_session):
    """Calls after `aclose` fail, whatever is known."""
    session = make_session(cache_size=10)
    campaign = session.campaign("a", "c")
    await campaign.get("x")
    await session.aclose()
    with pytest.raises(SessionClosedError):
        await campaign.get("x", max_age=100.0)


def test_off_costs_nothing():
    """Without `cache_size` nothing is kept, of answers or of what is on its way."""
    wire = Wire(lambda sent: "ok")

    async def main():
        async with virtual_session(wire, rate_limit=None) as session:
            asking = asyncio.create_task(session.campaign("a", "c").get("x"))
            await asyncio.sleep(0.01)
            assert session._core.cache is None
            assert session._core.on_their_way == {}
            await asking

    run(main)


def test_options_of_a_campaign_and_of_a_call():
    """`with_options(max_age=...)` holds for get, get_many and stream; None asks in any case."""

    async def calls(campaign):
        web = campaign.with_options(max_age=60.0)
        await web.get("a")
        await web.get("a")
        await web.get_many(["a"])
        [_ async for _ in web.stream(["a"])]
        await web.get("a", max_age=None)
        await web.get_many(["a"], max_age=None)
        [_ async for _ in web.stream(["a"], max_age=None)]
        await anext(web.watch(["a"], interval=1.0))

    assert asked(calls) == [["a"]] * 5


@pytest.mark.parametrize("seed", range(20))
def test_nobody_gets_what_is_older_than_accepted(seed):
    """Stories of random calls: every answer was on the wire no longer ago than its call accepts."""
    dice = random.Random(seed)
    versions = {}

    def server(sent):
        if dice.random() < 0.1:
            return "502"
        return "ok", {}

    class Dated(Wire):
        async def send(self, target, seconds=None):
            sent = asyncio.get_running_loop().time()
            came = await super().send(target, seconds)
            if getattr(came, "status", None) == 200:
                version = f"v{len(versions)}"
                versions[version] = (sent, asyncio.get_running_loop().time())
                body = bytes(came.body).replace(b'"pending"', f'"{version}"'.encode())
                came = msgspec.structs.replace(came, body=body)
            return came

    async def one(campaign):
        await asyncio.sleep(dice.uniform(0, 20))
        loop = asyncio.get_running_loop()
        age = dice.choice([None, 0.0, 0.5, 2.0, 5.0])
        ids = [f"x{dice.randrange(12)}" for _ in range(dice.randrange(1, 6))]
        began = loop.time()
        try:
            match dice.randrange(3):
                case 0:
                    statuses = [await campaign.get(ids[0], max_age=age)]
                case 1:
                    statuses = await campaign.get_many(ids, max_age=age)
                case _:
                    statuses = [status async for status in campaign.stream(ids, max_age=age)]
        except LeadStatusError:  # by bad luck
            return
        for status in statuses:
            sent, came = versions[status.workflow_status]
            assert came >= began - (age or 0.0) - 1e-9
            assert sent >= began - (age or 0.0) - 0.2  # the round trip, at most

    async def main():
        wire = Dated(server, latency=0.1, seed=seed)
        async with virtual_session(wire, rate_limit=RateLimit(50), cache_size=8) as session:
            campaign = session.campaign("a", "c")
            await asyncio.gather(*(one(campaign) for _ in range(60)))
            assert asyncio.get_running_loop().time() > START

    run(main)


def test_a_rider_is_as_patient_as_it_says():
    """What it joins is sent as often as it allows; it joins nothing that may take less long."""

    async def calls(campaign):
        web = campaign.with_options(max_attempts=1)
        first = asyncio.create_task(web.get("a"))
        await asyncio.sleep(0.01)
        rider = asyncio.create_task(campaign.get("a", max_age=9.0))
        assert (await rider) == (await first)
        hasty = asyncio.create_task(campaign.with_options(timeout=1.0, max_attempts=1).get("b"))
        await asyncio.sleep(0.01)
        patient = asyncio.create_task(campaign.get("b", max_age=9.0))
        with pytest.raises(APITimeoutError):
            await hasty
        assert (await patient).lead_id == "b"

    def server(sent):
        return "503" if sent.number == 0 else "hang" if sent.number == 2 else "ok"

    assert asked(calls, server) == [["a"], ["a"], ["b"], ["b"]]


def test_a_deadline_refuses_nothing_that_needs_no_permit():
    """Neither what is on its way nor what is remembered, though the limiter has no token for long."""

    async def calls(campaign):
        first = asyncio.create_task(campaign.get("a"))
        await asyncio.sleep(0.01)
        assert (await campaign.get("a", max_age=9.0, deadline=1.0)).ok
        assert [one.ok async for one in campaign.stream(["a"], max_age=9.0, deadline=1.0)] == [True]
        assert (await campaign.get_many(["a"], max_age=9.0, deadline=1.0)).stats.cached == 1
        with pytest.raises(DeadlineExceededError):
            await campaign.get("b", max_age=9.0, deadline=1.0)
        with pytest.raises(DeadlineExceededError):
            await campaign.get_many(["b"], max_age=9.0, deadline=1.0)
        await first

    assert asked(calls, rate_limit=RateLimit(1, per=10)) == [["a"]]


def test_an_answer_that_was_long_on_its_way_is_no_news():
    """It replaces none to a request that was sent later."""

    class Slow(Wire):
        async def send(self, target, seconds=None):
            number = len(self.sent)
            came = await super().send(target, seconds)
            await asyncio.sleep(5 if number == 0 else 0)
            body = bytes(came.body).replace(b'"pending"', f'"v{number}"'.encode())
            return msgspec.structs.replace(came, body=body)

    async def main():
        wire = Slow(lambda sent: "ok", latency=0.05)
        async with virtual_session(wire, rate_limit=None, cache_size=9) as session:
            campaign = session.campaign("a", "c")
            slow = asyncio.create_task(campaign.get("a"))
            await asyncio.sleep(1)
            assert (await campaign.get("a")).workflow_status == "v1"
            assert (await slow).workflow_status == "v0"
            assert (await campaign.get("a", max_age=60.0)).workflow_status == "v1"
            await session.aclose()
            assert not session._core.cache._kept

    run(main)


@pytest.mark.parametrize("buffered", [None, 2])
async def test_the_last_progress_knows_the_total_of_what_is_known(make_session, buffered):
    """A list of whole chunks, all remembered, or a buffer that divides it."""
    campaign = make_session(cache_size=9, chunk_size=2).campaign("a", "c")
    await campaign.get_many(["a", "b"])
    told = []
    stream = campaign.stream(["a", "b", "a", "b"], max_age=9.0, max_buffered=buffered, progress=told.append)
    assert [status.lead_id async for status in stream] == ["a", "b", "a", "b"]
    assert (told[-1].done, told[-1].total) == (4, 4)
