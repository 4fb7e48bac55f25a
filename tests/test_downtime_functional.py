"""A server that is down for eight seconds in mid-job, with the default policy: the promise as it stands.

The cases run at once, each with a server and a session of its own, so that the test takes little longer
than the eight seconds.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from leadstatus_async import LeadStatusError, LeadStatusSession, RateLimit, ServerError, events
from leadstatus_async.errors import APIConnectionError, APITimeoutError
from leadstatus_async.testing import FakeLeadStatusServer
from tests.conftest import KEY

pytestmark = pytest.mark.usefixtures("nothing_left")

DOWN = 8.0
NOTICED = 5.0  # seconds within which the job goes on, and within which a get is told
SLACK = 1.0  # for the machine


@dataclass(frozen=True)
class Case:
    """How the server is down, and what job meets that.

    Attributes:
        fault: by name; "" for one that refuses connections.
        error: what a get is told.
        chunks: of the job.
        concurrency: of the session.
        timeout: of each request, in seconds.
    """

    fault: str
    error: type[LeadStatusError]
    chunks: int
    concurrency: int = 16
    timeout: float = 30.0


CASES = [
    Case("", APIConnectionError, 100),
    Case("", APIConnectionError, 2),
    Case("", APIConnectionError, 40, concurrency=1),
    Case("503", ServerError, 100),
    Case("503", ServerError, 2, concurrency=1),
    Case("502-html", ServerError, 40, concurrency=2),
    Case("reset", APIConnectionError, 100),
    Case("hang", APITimeoutError, 40, timeout=0.5),
]


async def go_down(server: FakeLeadStatusServer, case: Case) -> None:
    """Let the server fail from now on."""
    if case.fault:
        server.fault(case.fault, times=None)
    else:
        await server.stop_listening()


async def come_back(server: FakeLeadStatusServer, case: Case) -> None:
    """Let the server answer again."""
    server.clear_faults()
    if not case.fault:
        await server.start_listening()


async def told(session: LeadStatusSession, case: Case) -> None:
    """Ask for one lead while the server is down: the error comes within seconds."""
    loop = asyncio.get_running_loop()
    asked = loop.time()
    with pytest.raises(case.error):
        await session.campaign("a", "web").get("someone")
    assert loop.time() - asked <= NOTICED + SLACK


async def live_through(case: Case) -> None:
    """Run a job across the downtime and check all that is promised about it."""
    loop = asyncio.get_running_loop()
    seen: list[events.Event] = []
    leads = [f"lead{number}" for number in range(case.chunks)]
    async with (
        FakeLeadStatusServer() as server,
        LeadStatusSession(
            KEY,
            base_url=server.url,
            rate_limit=RateLimit(50),
            chunk_size=1,
            concurrency=case.concurrency,
            timeout=case.timeout,
            on_event=seen.append,
        ) as session,
    ):
        await session.campaign("a", "c").get("warm")
        job = asyncio.create_task(session.campaign("a", "c").get_many(leads))
        await server.wait_for_requests(1 + case.chunks // 4)
        await go_down(server, case)
        went_down = loop.time()
        while not any(isinstance(event, events.OutageStarted) for event in seen):
            await asyncio.sleep(0.01)
        sent = session.stats.requests
        await told(session, case)
        await asyncio.sleep(max(0.0, went_down + DOWN - loop.time()))
        assert session.stats.requests - sent <= 16, "few requests while it is down"
        await come_back(server, case)
        came_back = loop.time()
        result = await job
        assert [status.lead_id for status in result.statuses] == leads
        assert loop.time() - came_back <= NOTICED + SLACK + case.chunks / 50
        ends = [event for event in seen if isinstance(event, events.OutageEnded)]
        assert [end.answered for end in ends] == [True]


async def test_eight_seconds_of_downtime_cost_no_lead():
    """The job goes on within 5 s of the server's return, and a get meanwhile is told within 5 s."""
    async with asyncio.TaskGroup() as cases:
        for case in CASES:
            cases.create_task(live_through(case), name=str(case))
