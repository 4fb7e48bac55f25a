"""Turns and deadlines in virtual time: who waits for whom, and for how long."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from leadstatus_async import (
    APITimeoutError,
    BatchError,
    DeadlineExceededError,
    LimiterError,
    RateLimit,
    RateLimitError,
    RetryPolicy,
)
from leadstatus_async._steps.decipher import Failure, Sort
from leadstatus_async.limiter import TokenBucketLimiter
from tests.virtual_session import START, Wire, virtual_session
from tests.virtual_time import run


def leads(count, prefix="lead"):
    """Return so many lead IDs."""
    return [f"{prefix}-{number}" for number in range(count)]


def caller(sent):
    """Return who asked, by the prefix of the first lead."""
    return sent.ids[0].partition("-")[0]


@pytest.mark.parametrize("concurrency", [1, 4, 16])
@pytest.mark.parametrize("rate", [5, 100])
def test_a_get_behind_a_bulk_waits_for_two_tokens(concurrency, rate):
    """However many chunks the bulk has left, and whether the network or the limiter is what it waits for."""

    async def main():
        wire = Wire(lambda sent: "ok", latency=0.05)
        options = {"chunk_size": 1, "rate_limit": RateLimit(rate), "concurrency": concurrency}
        async with virtual_session(wire, **options) as session:
            campaign = session.campaign("a", "c")
            bulk = asyncio.create_task(campaign.get_many(leads(100_000, "bulk")))
            for number in range(10):
                await asyncio.sleep(1.03)
                before = len(wire.sent)
                await campaign.get(f"web-{number}")
                (at,) = (sent.number for sent in wire.sent[before:] if caller(sent) == "web")
                assert at - before <= 2
            bulk.cancel()

    run(main)


@pytest.mark.parametrize("turns", [1, 2, 3, 4, 5])
def test_there_is_no_task_per_request(turns):
    """However fast the answers come, in turns of the loop: who is back sends the next request."""

    class Fast(Wire):
        async def send(self, target, seconds=None):
            workers.add(asyncio.current_task())
            for _ in range(turns):
                await asyncio.sleep(0)
            return await super().send(target, seconds)

    workers = set()

    async def main():
        async with virtual_session(
            Fast(lambda sent: "ok", latency=0), chunk_size=1, rate_limit=None
        ) as session:
            await session.campaign("a", "c").get_many(leads(300))

    run(main)
    assert len(workers) <= 16


def test_calls_take_turns():
    """Three bulks and a stream: none has two turns before the others have had theirs."""

    async def main():
        wire = Wire(lambda sent: "ok")
        async with virtual_session(wire, chunk_size=1, rate_limit=RateLimit(50)) as session:
            campaign = session.campaign("a", "c")

            async def stream():
                return [status async for status in campaign.stream(leads(100, "stream"))]

            calls = [campaign.get_many(leads(100, name)) for name in ("one", "two", "three")]
            await asyncio.gather(*calls, stream())
        for first in range(20, 380, 4):
            assert len({caller(sent) for sent in wire.sent[first : first + 4]}) == 4, first

    run(main)


def test_concurrency_is_never_exceeded():
    """Over all calls of a session."""

    async def main():
        wire = Wire(lambda sent: "ok", latency=1.0)
        async with virtual_session(wire, chunk_size=1, rate_limit=None, concurrency=7) as session:
            campaign = session.campaign("a", "c")
            gets = (campaign.get(f"get-{number}") for number in range(50))
            await asyncio.gather(campaign.get_many(leads(100)), campaign.get_many(leads(100, "two")), *gets)
        assert wire.most_in_flight == 7

    run(main)


def test_gets_fill_their_requests_while_they_wait():
    """At a request a second, the gets of that second travel together."""

    async def main():
        wire = Wire(lambda sent: "ok")
        async with virtual_session(wire, rate_limit=RateLimit(1)) as session:
            campaign, gets = session.campaign("a", "c"), []
            for number in range(100):
                gets.append(asyncio.create_task(campaign.get(f"x{number}")))
                await asyncio.sleep(0.1)
            assert all(status.ok for status in await asyncio.gather(*gets))
        assert len(wire.sent) <= 12
        assert sum(len(sent.ids) for sent in wire.sent) == 100

    run(main)


@pytest.mark.parametrize("deadline", [0.5, 2.0, 7.3, 30.0])
@pytest.mark.parametrize("rate", [2, 10])
def test_what_can_be_asked_before_the_deadline_is(rate, deadline):
    """The rest fails at once, and not at the deadline; the error says how long it would have taken."""

    async def main():
        wire = Wire(lambda sent: "ok")
        loop, told = asyncio.get_running_loop(), []
        async with virtual_session(wire, chunk_size=1, rate_limit=RateLimit(rate)) as session:
            with pytest.raises(DeadlineExceededError) as caught:
                await session.campaign("a", "c").get_many(
                    leads(1000), deadline=deadline, progress=lambda p: told.append((loop.time(), p.failed))
                )
        result = caught.value.result
        assert len(result.statuses) == pytest.approx(rate * deadline, abs=1 + 0.05 * rate * deadline)
        assert result.statuses == [*result][: len(result.statuses)], "the first ones"
        assert told[0] == (START, 1000 - len(wire.sent)), "before anything was sent"
        assert caught.value.needed == pytest.approx(1000 / rate, rel=0.05)
        assert loop.time() - START <= deadline

    run(main)


def test_a_deadline_in_mid_flight_cuts_what_is_on_its_way():
    """At the deadline itself, to the turn; finished work is kept."""

    async def main():
        wire = Wire(lambda sent: "hang" if sent.number >= 5 else "ok")
        loop = asyncio.get_running_loop()
        async with virtual_session(wire, chunk_size=1, rate_limit=None, concurrency=4) as session:
            with pytest.raises(DeadlineExceededError) as caught:
                await session.campaign("a", "c").get_many(leads(100), deadline=3.0)
            assert loop.time() - START == pytest.approx(3.0, abs=0.001)
            assert len(caught.value.result.statuses) == 5
            assert "95 of 100" in str(caught.value)
            assert session._core.idle
            assert wire.in_flight == 0

    run(main)


@pytest.mark.parametrize("deadline", [0.9, 2.5, 100.0])
def test_a_retry_that_would_come_too_late_fails_with_its_own_error(deadline):
    """And not with the deadline's, nor at it."""

    async def main():
        wire = Wire(lambda sent: "500", latency=1e-6)  # so that no retry is cut off in flight
        loop = asyncio.get_running_loop()
        policy = RetryPolicy(base_delay=10.0, max_attempts=2, max_outage=0)
        async with virtual_session(wire, retry=policy) as session:
            result = await session.campaign("a", "c").get_many(["x"], deadline=deadline, on_error="collect")
        (failure,) = result.failures
        assert failure.error.status == 500
        assert loop.time() - START <= deadline

    run(main)


def test_gets_have_deadlines_of_their_own():
    """Of twenty in one request that hangs, each ends when its own patience does."""

    async def main():
        wire = Wire(lambda sent: "hang", timeout=9.0)
        loop = asyncio.get_running_loop()

        async def get(campaign, number):
            with pytest.raises(DeadlineExceededError):
                await campaign.get(f"x{number}", deadline=1 + number / 10)
            return round(loop.time() - START, 3)

        async with virtual_session(wire) as session:
            campaign = session.campaign("a", "c")
            ended = await asyncio.gather(*(get(campaign, number) for number in range(20)))
            assert ended == [1 + number / 10 for number in range(20)]
            assert session._core.idle
        assert len(wire.sent) == 1

    run(main)


def test_a_limiter_is_told_how_many_could_go():
    """As many as there are to send; at least the one that asks."""
    told = []

    class Curious(TokenBucketLimiter):
        async def acquire(self, *, max_pause=None, waiting=1):
            told.append(waiting)
            await super().acquire(max_pause=max_pause, waiting=waiting)

    async def main():
        wire = Wire(lambda sent: "ok", latency=1.0)
        options = {"rate_limit": Curious(RateLimit(1000)), "chunk_size": 10, "concurrency": 8}
        async with virtual_session(wire, **options) as session:
            campaign = session.campaign("a", "c")
            await campaign.get("x")
            assert told == [1]
            told.clear()
            await campaign.get_many(leads(125))
            assert told == [13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]
            told.clear()
            await asyncio.gather(*(campaign.get(f"x{number}") for number in range(25)))
            assert told == [3, 2, 1]

    run(main)


def test_gets_that_do_not_fit_into_one_request_wait_on():
    """Each is asked for once, in as many requests as the bytes allow."""

    async def main():
        wire = Wire(lambda sent: "500" if sent.number == 0 else "ok")
        async with virtual_session(wire, rate_limit=None, max_url_bytes=256) as session:
            campaign = session.campaign("a", "c")
            asked = [f"{number:024}" for number in range(30)]
            got = await asyncio.gather(*(campaign.get(lead_id) for lead_id in asked))
        assert [status.lead_id for status in got] == asked
        assert sorted(lead_id for sent in wire.sent[1:] for lead_id in sent.ids) == asked
        assert 5 <= len(wire.sent) <= 7

    run(main)


def test_the_rest_of_a_batch_is_not_asked_for_nobody():
    """Two gets travel together and are split: one is answered, and who waited for the other has left."""

    async def main():
        wire = Wire(lambda sent: "400" if len(sent.ids) > 1 else "ok")
        async with virtual_session(wire, rate_limit=RateLimit(1)) as session:
            campaign = session.campaign("a", "c")
            both = [asyncio.create_task(campaign.get(lead_id)) for lead_id in ("x", "y")]
            await asyncio.sleep(0.5)
            both[1].cancel()
            assert (await both[0]).ok
            for _ in range(10):
                await asyncio.sleep(0)
            assert session._core.idle
            await asyncio.sleep(5)
        assert [sent.ids for sent in wire.sent] == [["x", "y"], ["x"]]

    run(main)


def test_what_is_left_at_the_end_of_a_source_does_not_wait():
    """Fifteen leads in requests of ten: both go at once, since no more will come."""

    async def main():
        wire = Wire(lambda sent: "ok", latency=1.0)
        async with virtual_session(wire, rate_limit=None, chunk_size=10) as session:
            assert len([one async for one in session.campaign("a", "c").stream(leads(15))]) == 15
        assert [(len(sent.ids), sent.at) for sent in wire.sent] == [(10, 0), (5, 0)]

    run(main)


def test_a_request_that_swallows_its_cancellation_ends_its_worker():
    """As one may that times out in the same turn: nobody waits for what that worker would do next."""

    class Swallowing(Wire):
        async def send(self, target, seconds=None):
            try:
                return await super().send(target, seconds)
            except asyncio.CancelledError:
                return Failure(APITimeoutError("in the same turn"), Sort.PASSING)

    async def main():
        wire = Swallowing(lambda sent: "hang" if sent.ids == ["x"] else "ok", latency=1.0)
        loop = asyncio.get_running_loop()
        async with virtual_session(wire, rate_limit=None, chunk_size=1, concurrency=1) as session:
            campaign = session.campaign("a", "c")
            cut = asyncio.create_task(campaign.get("x"))
            others = [asyncio.create_task(campaign.get(lead_id)) for lead_id in leads(5)]
            await asyncio.sleep(0.5)
            began = loop.time()
            cut.cancel()
            await asyncio.wait([cut])
            assert loop.time() - began < 0.1
            assert len(await asyncio.gather(*others)) == 5

    run(main)


def test_a_request_that_swallowed_its_cancellation_is_cut_again_by_the_end_of_the_session():
    """Closing does not wait for what a hook of a lent session does instead."""

    class Stubborn(Wire):
        async def send(self, target, seconds=None):
            try:
                return await super().send(target, seconds)
            except asyncio.CancelledError:
                await asyncio.sleep(3600)

    async def main():
        loop = asyncio.get_running_loop()
        session = virtual_session(Stubborn(lambda sent: "hang"), rate_limit=None)
        with pytest.raises(DeadlineExceededError):
            await session.campaign("a", "c").get_many(["x"], deadline=1.0)
        began = loop.time()
        await session.aclose()
        assert loop.time() - began < 1
        assert session._core.idle

    run(main)


def test_a_stream_asks_in_full_requests_while_its_consumer_is_slow():
    """What it reads ahead is bounded, and so are its requests; nothing waits for the slow one but its own."""

    async def main():
        wire = Wire(lambda sent: "ok")
        async with virtual_session(wire, rate_limit=None, chunk_size=10, concurrency=2) as session:
            campaign, got = session.campaign("a", "c"), []
            async for status in campaign.stream(leads(1000), max_buffered=50):
                got.append(status.lead_id)
                assert sum(len(sent.ids) for sent in wire.sent) <= len(got) + 50
                await asyncio.sleep(0.01)
        assert got == leads(1000)
        assert Counter(len(sent.ids) for sent in wire.sent) == {10: 100}

    run(main)


def test_what_is_told_of_a_deadline_agrees():
    """Message, leads, result and what would be needed, whenever and of however many leads it is told."""
    assert sum(runs_out_of_time(seed) for seed in range(60)) > 30


def runs_out_of_time(seed):
    dice = random.Random(seed)
    count, rate, deadline = dice.randrange(1, 4000), dice.choice([2, 10, 100]), dice.choice([0.3, 1.0, 5.0])
    words = dice.choice([["ok"], ["ok", "ok", "429 Retry-After 1"], ["ok", "hang"], ["ok", "500"], ["hang"]])

    async def main():
        wire = Wire(lambda sent: dice.choice(words), latency=dice.choice([0.05, 0.4]))
        options = {"chunk_size": 10, "rate_limit": RateLimit(rate), "concurrency": dice.choice([1, 16])}
        async with virtual_session(wire, **options) as session:
            error = None
            try:
                await session.campaign("a", "c").get_many(leads(count), deadline=deadline)
            except DeadlineExceededError as caught:
                error = caught
            except (BatchError, RateLimitError):
                pass
        if error is None:
            return False
        failures = error.result.failures
        late = [one.lead_id for one in failures if isinstance(one.error, DeadlineExceededError)]
        assert list(error.lead_ids) == late, seed
        of_all = f"{len(late)} of {count} leads unanswered: " if len(late) > 1 else ""
        assert str(error).startswith(f"{of_all}deadline"), seed
        asked = {lead_id for sent in wire.sent for lead_id in sent.ids}
        assert (error.needed is not None) == bool(set(late) - asked), seed
        assert error.args == (str(error), error.needed), seed
        return True

    return run(main)


@pytest.mark.parametrize("rate", [0.5, 100])
def test_a_get_that_was_never_asked_says_what_it_would_have_needed(rate):
    """And one that was asked does not."""

    async def main():
        wire = Wire(lambda sent: "hang")
        async with virtual_session(wire, rate_limit=RateLimit(rate), concurrency=1) as session:
            campaign = session.campaign("a", "c")
            first = asyncio.create_task(campaign.get("first", deadline=3))
            await asyncio.sleep(0.1)
            second = asyncio.create_task(campaign.get("second", deadline=2.5))
            with pytest.raises(DeadlineExceededError) as caught:
                await second
            assert caught.value.needed is not None
            with pytest.raises(DeadlineExceededError) as caught:
                await first
            assert caught.value.needed is None

    run(main)


def most_in_a_window(times, per):
    """Return the most that left in any window of so many seconds."""
    return max(sum(begin <= at < begin + per for at in times) for begin in times)


@pytest.mark.parametrize("kind", ["bulk", "gets", "several"])
@pytest.mark.parametrize(
    "limit",
    [
        RateLimit(5),
        RateLimit(5, burst=5),
        RateLimit(20, per=2, burst=3),
        RateLimit(100),
        RateLimit(3, per=10),
    ],
    ids=str,
)
def test_the_window_bound_holds_for_what_leaves(limit, kind):
    """Though the caller blocks the loop at any moment, between the grant of a token and its use too."""
    for seed in range(12):
        times = blocked_by_others(seed, limit, kind)
        assert len(times) == 60
        assert most_in_a_window(times, limit.per) <= limit.max_rate, seed


def blocked_by_others(seed, limit, kind):
    """Ask for 60 chunks while others block the loop now and then; return when the requests left."""
    dice = random.Random(seed)
    wire = Wire(lambda sent: "ok", latency=0.02, seed=seed)

    async def main():
        loop = asyncio.get_running_loop()

        async def block():
            while True:
                for _ in range(dice.randrange(8)):
                    await asyncio.sleep(0)
                await asyncio.sleep(limit.per / limit.max_rate * dice.choice([0, 0.2, 1.0]))
                if dice.random() < 0.3:
                    loop.now += limit.per * dice.choice([0.01, 0.1, 0.6, 1.0, 3.0])

        hogs = [asyncio.create_task(block()) for _ in range(3)]
        async with virtual_session(wire, chunk_size=1, rate_limit=limit) as session:
            campaign = session.campaign("a", "c")
            if kind == "bulk":
                await campaign.get_many(leads(60))
            elif kind == "gets":
                await asyncio.gather(*map(campaign.get, leads(60)))
            else:
                calls = [campaign.get_many(leads(10, name)) for name in ("one", "two", "three", "four")]
                await asyncio.gather(*calls, *map(campaign.get, leads(20)))
        for hog in hogs:
            hog.cancel()

    run(main)
    return [sent.at for sent in wire.sent]


def test_a_limiter_that_cannot_tell_leaves_the_deadline_its_word():
    """What never asked leads would need is then not known; the deadline is told all the same."""

    class Silent(TokenBucketLimiter):
        asked = 0

        def wait_time(self, ahead=0):
            self.asked += 1
            if self.asked > 1:
                raise LimiterError("gone")
            return 0.0

    async def main():
        options = {"rate_limit": Silent(RateLimit(2)), "chunk_size": 1}
        async with virtual_session(Wire(lambda sent: "ok"), **options) as session:
            with pytest.raises(DeadlineExceededError) as caught:
                await session.campaign("a", "c").get_many(leads(40), deadline=3)
            assert caught.value.needed is None
            assert str(caught.value).endswith("leads unanswered: deadline of 3 s passed")

    run(main)


def test_a_stream_keeps_going_past_a_retry(monkeypatch):
    """Two in a hundred are 502: in order, it still takes little longer than `get_many`, in bounded memory."""

    def seconds(seed, *, streamed=True, **options):
        dice = random.Random(seed)
        monkeypatch.setattr(random, "SystemRandom", lambda: random.Random(seed))
        wire = Wire(lambda sent: "502" if dice.random() < 0.02 else "ok", seed=seed)

        async def main():
            loop = asyncio.get_running_loop()
            async with virtual_session(wire, rate_limit=None) as session:
                campaign, ids, began = session.campaign("a", "c"), leads(30_000), loop.time()
                if streamed:
                    assert [status.lead_id async for status in campaign.stream(ids, **options)] == ids
                else:
                    await campaign.get_many(ids)
                return loop.time() - began

        return run(main)

    many = sum(seconds(seed, streamed=False) for seed in range(5))
    assert sum(map(seconds, range(5))) < 1.2 * many
    assert sum(seconds(seed, max_buffered=1600) for seed in range(5)) > 1.5 * many  # it is the space


def test_the_wait_of_gets_is_counted():
    """From when the first of a batch asked until its request goes, once for each request."""

    async def main():
        wire = Wire(lambda sent: "ok", latency=0.0)
        async with virtual_session(wire, rate_limit=RateLimit(0.1), chunk_size=2) as session:
            campaign = session.campaign("a", "c")
            await campaign.get("first")
            await asyncio.gather(*(campaign.get(f"x{number}") for number in range(4)))
            return session.stats.waited

    assert run(main) == pytest.approx(10 + 10, abs=0.3)
