"""Cancelled after the k-th step of the event loop, for every k: nothing is left behind, ever."""

from __future__ import annotations

import asyncio

import pytest

from leadstatus_async import LeadStatusSession, RateLimit, RetryPolicy
from leadstatus_async.testing import FakeLeadStatusServer

IDS = [f"lead{number}" for number in range(30)]


async def get_many(campaign):
    await campaign.get_many(IDS)


async def get(campaign):
    await asyncio.gather(*(campaign.get(lead_id) for lead_id in IDS[:5]))


async def stream(campaign):
    async with campaign.stream(IDS) as outcomes:
        async for _ in outcomes:
            pass


async def source():
    for lead_id in IDS:
        await asyncio.sleep(0)
        yield lead_id


async def async_stream(campaign):
    async for _ in campaign.stream(source(), ordered=False):
        pass


async def watch(campaign):
    async for _ in campaign.watch(IDS, interval=0.001, until=lambda _: True):
        pass


@pytest.mark.parametrize("call", [get_many, get, stream, async_stream, watch], ids=lambda call: call.__name__)
@pytest.mark.parametrize("limit", [None, RateLimit(2000)], ids=["unlimited", "paced"])
async def test_cancelled_at_any_step(call, limit):
    """Requests, slots, waiters, tasks and queue entries are gone, and the session works on."""
    faults = {"500": 7, "429-retry-after-ms": 31, "reset": 11}
    async with FakeLeadStatusServer(faults_every=faults, keep_requests=False) as server:
        session = LeadStatusSession(
            "sk_test",
            base_url=server.url,
            rate_limit=limit,
            chunk_size=4,
            concurrency=3,
            retry=RetryPolicy(base_delay=0.0005, max_delay=0.001, budget=10_000),
        )
        campaign = session.campaign("a", "c")
        for steps in range(60):
            task = asyncio.create_task(call(campaign))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                assert task.exception() is None
            assert session.stats.in_flight == session.stats.queued == 0, steps
            assert session._core.idle, steps
            assert not getattr(session.limiter, "_waiters", ())
        server.clear_faults()
        assert len(await campaign.get_many(IDS)) == 30
        await session.aclose()
