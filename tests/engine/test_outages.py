"""Outages in virtual time, with the default policy: no lead is lost to one, and nobody is held for long."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from leadstatus_async import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    BatchError,
    LeadStatusError,
    NotFoundError,
    PermissionDeniedError,
    RateLimit,
    RetryPolicy,
    ServerError,
    UpstreamError,
)
from leadstatus_async.events import OutageEnded, OutageStarted
from tests.conftest import leads
from tests.virtual_session import Wire, virtual_session
from tests.virtual_time import lateness, run

KINDS = {
    "refused": APIConnectionError,
    "reset": APIConnectionError,
    "500": ServerError,
    "502-html": UpstreamError,
    "503": ServerError,
    "520": ServerError,
    "404-html": NotFoundError,
    "403-html": PermissionDeniedError,
    "503 Retry-After 1": ServerError,
    "hang": APITimeoutError,
}
DOWN, BACK = 10.0, 18.0
SEEDS = range(4)


def down(kind, begin=DOWN, end=BACK):
    """Return a server that fails between two times."""
    return lambda sent: kind if begin <= sent.at < end else "ok"


def at(seconds):
    """Sleep until the clock shows so many seconds since it began."""
    loop = asyncio.get_running_loop()
    return asyncio.sleep(1000.0 + seconds - loop.time())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("chunks", "options"),
    [
        (2, {}),
        (3, {}),
        (5, {}),
        (300, {}),
        (40, {"concurrency": 1}),
        (40, {"rate_limit": RateLimit(200)}),
        (400, {"rate_limit": RateLimit(200), "concurrency": 64}),
    ],
    ids=["2", "3", "5", "300", "40, one at a time", "40, fast", "400, fast, 64 at once"],
)
def test_eight_seconds_of_downtime(kind, chunks, options):
    """No lead lost, few requests meanwhile, on again within 5 s, told of once; a get is told within 5 s."""
    for seed in SEEDS:
        run(lambda seed=seed: live_through(kind, chunks, options, seed), lateness(seed))


async def live_through(kind, chunks, options, seed):
    wire = Wire(down(kind), seed=seed, timeout=0.5)
    seen, loop = [], asyncio.get_running_loop()
    async with virtual_session(wire, chunk_size=1, on_event=seen.append, **options) as session:
        campaign = session.campaign("a", "c")
        await campaign.get("warm")
        busy = chunks > 100
        await at(DOWN - 2 if busy else DOWN)
        job = asyncio.create_task(campaign.get_many(leads(chunks)))
        await at(DOWN + 2)
        asked = loop.time()
        with pytest.raises(KINDS[kind]):
            await campaign.get("someone")
        assert loop.time() - asked <= 5
        result = await job
        assert [status.lead_id for status in result] == leads(chunks)
    stopped = next(event for event in seen if isinstance(event, OutageStarted))
    assert stopped.error == KINDS[kind].__name__
    assert Counter(type(event) for event in seen)[OutageStarted] == 1
    assert [event.answered for event in seen if isinstance(event, OutageEnded)] == [True]
    meanwhile = sum(DOWN <= sent.at < BACK for sent in wire.sent)
    limit = options.get("rate_limit", RateLimit(10)).rate
    assert meanwhile <= (14 if limit <= 10 else 44) + options.get("concurrency", 16)
    back = min(sent.at for sent in wire.sent if sent.at >= BACK)
    assert back - BACK <= 5


def test_a_session_tells_of_an_outage():
    """While it lasts, from the failure that began it to the answer that ends it; a health check can tell."""

    async def main():
        wire, told = Wire(down("502-html")), []
        async with virtual_session(wire, rate_limit=RateLimit(40)) as session:
            await session.campaign("a", "c").get("warm")
            told.append(session.outage)
            await at(DOWN)
            job = asyncio.create_task(session.campaign("a", "c").get_many(leads(8000)))
            await at(DOWN + 2)
            told.append(session.outage)
            await job
            told.append(session.outage)
        assert told == [False, True, False]

    run(main)


@pytest.mark.parametrize("kind", ["404-html", "401-html", "405-html", "507", "530"])
def test_half_a_second_of_pages_costs_no_lead(kind):
    """A proxy that answers for the API in mid-job is a passing trouble, whatever its page says."""

    async def main():
        wire = Wire(down(kind, begin=0.3, end=0.8))
        async with virtual_session(wire, rate_limit=RateLimit(40)) as session:
            assert all(status.ok for status in await session.campaign("a", "c").get_many(leads(2000)))
        assert any(0.3 <= sent.at < 0.8 for sent in wire.sent)

    run(main)


@pytest.mark.parametrize("kind", ["404-html", "403-html", "404", "402", "405", "410", "302"])
@pytest.mark.parametrize("chunks", [1, 40])
def test_what_concerns_no_lead_stops_the_call(kind, chunks):
    """Before the API has answered at all, a page does so too: nothing is asked again and again."""

    async def main():
        wire = Wire(lambda sent: kind)
        async with virtual_session(wire, chunk_size=1, rate_limit=RateLimit(50)) as session:
            with pytest.raises(APIStatusError) as caught:
                await session.campaign("a", "c").get_many(leads(chunks))
        assert caught.value.status == int(kind[:3])
        assert len(caught.value.result.failures) == chunks
        assert len(wire.sent) <= 6

    run(main)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("concurrency", [1, 16, 64])
def test_a_server_that_never_comes_back_is_given_up(kind, concurrency):
    """After max_outage, what waits fails with the last error; whoever comes later starts afresh."""

    async def main():
        wire = Wire(down(kind, end=500.0), timeout=0.5)
        seen, loop = [], asyncio.get_running_loop()
        options = {"concurrency": concurrency, "rate_limit": RateLimit(200), "on_event": seen.append}
        async with virtual_session(wire, chunk_size=1, **options) as session:
            campaign = session.campaign("a", "c")
            await campaign.get("warm")
            await at(DOWN)
            with pytest.raises(BatchError) as caught:
                await campaign.get_many(leads(1000))
            assert {type(error) for error in caught.value.exceptions} == {KINDS[kind]}
            assert len(caught.value.result.failures) == 1000
            took = loop.time() - 1000 - DOWN
            assert 60 <= took <= 70
            assert [event.answered for event in seen if isinstance(event, OutageEnded)] == [False]
            assert len(wire.sent) <= 45 + 2 * concurrency
            await at(500.0)
            assert (await campaign.get("back")).ok

    run(main)


@pytest.mark.parametrize("kind", KINDS)
def test_web_requests_are_not_held(kind):
    """One a second for a minute of downtime: five of them show that it is one; none waits for longer."""

    async def main():
        wire = Wire(down(kind, end=70.0), timeout=0.5)
        loop, took = asyncio.get_running_loop(), []

        async def ask(campaign, number):
            asked = loop.time()
            try:
                return (await campaign.get(f"web{number}")).ok
            except LeadStatusError as error:
                took.append(loop.time() - asked)
                return type(error)

        async with virtual_session(wire) as session:
            campaign = session.campaign("a", "c")
            await campaign.get("warm")
            await at(DOWN + 0.5)
            gets = []
            for number in range(60):
                gets.append(asyncio.create_task(ask(campaign, number)))
                await asyncio.sleep(1)
            told = await asyncio.gather(*gets)
            assert set(told) <= {KINDS[kind], True}
            assert max(took) <= 6.5
            await at(120.0)
            assert (await campaign.get("after")).ok

    run(main)


def test_a_session_that_never_had_an_answer_gives_up_with_its_attempts():
    """A host that refuses costs seconds, and not a minute; the probes are the attempts of one request."""

    async def main():
        wire = Wire(lambda sent: "refused")
        loop = asyncio.get_running_loop()
        async with virtual_session(wire, chunk_size=1) as session:
            with pytest.raises(BatchError) as caught:
                await session.campaign("a", "c").get_many(leads(1000))
            assert len(caught.value.result.failures) == 1000
        assert loop.time() - 1000 <= 10
        assert len(wire.sent) <= 12

    run(main)


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_half_broken_is_no_outage(share):
    """Failures by chance end in retries: nothing is lost to an outage, and retries keep to their budget."""
    for seed in SEEDS:

        async def main(seed=seed):
            seen = []
            wire = Wire(lambda sent: "ok", seed=seed)
            wire.server = lambda sent: "500" if wire._dice.random() < share else "ok"
            options = {"rate_limit": RateLimit(200), "on_event": seen.append}
            async with virtual_session(wire, chunk_size=1, **options) as session:
                result = await session.campaign("a", "c").get_many(leads(1000), on_error="collect")
            assert result.stats.retries <= 100 + len(result.statuses) / 10 + 1
            assert all(failure.error.status == 500 for failure in result.failures)
            assert {event.answered for event in seen if isinstance(event, OutageEnded)} <= {True}

        run(main, lateness(seed))


@pytest.mark.parametrize("budget", [0, 10, 100])
def test_the_budget(budget):
    """30% of the chunks fail for ever: retries stay within the budget and a tenth of the successes."""

    async def main():
        wire = Wire(lambda sent: "503" if int(sent.ids[0][4:]) % 10 < 3 else "ok")
        policy = RetryPolicy(budget=budget, max_outage=0)
        async with virtual_session(wire, chunk_size=1, retry=policy, rate_limit=None) as session:
            result = await session.campaign("a", "c").get_many(leads(1000), on_error="collect")
        assert len(result.statuses) == 700
        assert result.stats.retries <= budget + 700 / 10
        assert result.stats.retries >= 0.9 * (budget + 700 / 10) or not budget

    run(main)


@pytest.mark.parametrize(
    "poison", [{"lead50"}, {"lead50", "lead150"}, {"lead0", "lead99"}, {"lead199"}, {"lead182", "lead198"}]
)
@pytest.mark.parametrize("call", ["get_many", "stream", "gets"])
def test_poison(poison, call):
    """A 500 that sticks to certain leads costs those and no others, in whatever call they are."""

    async def main():
        seen = []
        wire = Wire(lambda sent: "500" if poison & set(sent.ids) else "ok")
        policy = RetryPolicy(max_attempts=3)
        options = {"chunk_size": 20, "retry": policy, "rate_limit": RateLimit(100), "on_event": seen.append}
        async with virtual_session(wire, **options) as session:
            campaign = session.campaign("a", "c")
            await campaign.get("warm")
            if call == "get_many":
                outcomes = list(await campaign.get_many(leads(200), on_error="collect"))
            elif call == "stream":
                outcomes = [one async for one in campaign.stream(leads(200), on_error="collect")]
            else:
                gets = (campaign.get(lead_id) for lead_id in leads(200))
                outcomes = await asyncio.gather(*gets, return_exceptions=True)
            both = zip(leads(200), outcomes, strict=True)
            assert {lead_id for lead_id, one in both if not getattr(one, "ok", False)} == poison
            assert not [event for event in seen if isinstance(event, OutageStarted)]

    run(main)


@pytest.mark.parametrize("others", [False, True], ids=["nothing else passes", "others pass"])
def test_a_500_is_cut_only_where_others_pass_meanwhile(others):
    """That the session had answers before this call says nothing about the leads of this one."""

    async def main():
        wire = Wire(lambda sent: "500" if "bad" in sent.ids else "ok")
        policy = RetryPolicy(max_attempts=2, max_outage=0)
        async with virtual_session(wire, chunk_size=4, retry=policy, rate_limit=RateLimit(10)) as session:
            campaign = session.campaign("a", "c")
            await campaign.get("warm")
            asked = ["x", "bad", "y", "z", *(leads(40) if others else [])]
            result = await campaign.get_many(asked, on_error="collect")
        assert result.failed_ids == (["bad"] if others else ["x", "bad", "y", "z"])
        assert (result.stats.splits > 0) is others

    run(main)


def test_a_server_that_shuts_down_gracefully_costs_no_lead():
    """What it had taken it answers, one by one, and nothing new: whatever fails waits for its return."""
    for seed in SEEDS:

        async def main(seed=seed):
            taken = 16
            wire = Wire(lambda sent: "ok" if sent.number <= taken or sent.at > 20 else "503", 0.8, seed)
            async with virtual_session(wire, chunk_size=1, rate_limit=RateLimit(100)) as session:
                campaign = session.campaign("a", "c")
                await campaign.get("warm")
                result = await campaign.get_many(leads(200))
                assert len(result.statuses) == 200
            refused = sum(sent.number > taken and sent.at <= 20 for sent in wire.sent)
            assert refused <= 60

        run(main, lateness(seed))
