"""What all tests share: which event loop they run on, and sessions against the fake server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import warnings

import coverage
import pytest
from hypothesis import settings

from leadstatus_async import LeadStatusSession, RetryPolicy
from leadstatus_async.testing import FakeLeadStatusServer

KEY = "sk_live_0123456789abcdefSECRET"

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or each command that is started compiles the library anew
settings.register_profile("on a busy machine", deadline=None)
settings.load_profile("on a busy machine")

# The same story with other figures: the first of them tells what runs in it, and measuring doubles the time.
_AGAIN = re.compile(
    r"test_a_right_limit_is_never_refused\[.*-1000?\d?\]"
    r"|test_a_limit_that_was_guessed_wrong_costs_no_lead\[.*-[123]\]"
    r"|test_two_who_share_a_quota_and_nothing_else_share_it_fairly\[.*-[12]\]"
    r"|test_every_case_stays_within_its_bounds\[(?!10/s|token|nginx)"
    r"|test_lower_count_costs_a_lesson_not_one_per_chunk\[.*-[1-9]\]"
    r"|test_eight_seconds_of_downtime\[[^25]"
    r"|test_days_of_use|test_secrets_of_all_kinds"
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Measure no coverage where that is told nothing new."""
    measuring = coverage.Coverage.current() if _AGAIN.search(item.nodeid) else None
    if measuring is None:
        return (yield)
    measuring.stop()
    try:
        return (yield)
    finally:
        # Of what was imported meanwhile, which is measured already, nobody need be warned.
        with warnings.catch_warnings(action="ignore"):
            measuring.start()


if os.environ.get("LEADSTATUS_TEST_LOOP") == "uvloop":

    def pytest_asyncio_loop_factories(config, item):
        """Run every async test on uvloop."""
        import uvloop

        return {"uvloop": uvloop.new_event_loop}


def leads(count, prefix="lead"):
    """Return so many lead IDs."""
    return [f"{prefix}{number}" for number in range(count)]


@contextlib.asynccontextmanager
async def turns():
    """Count the turns that another task has meanwhile; call what is yielded for their number."""
    had = 0

    async def others():
        nonlocal had
        while True:
            had += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    try:
        yield lambda: had
    finally:
        other.cancel()


def stopped_for(session):
    """Return the seconds for which an outage stops a session's sending; 0.0 in good times."""
    dispatcher = session._core.dispatcher
    return dispatcher._health.stopped_for(dispatcher._loop.time())


@pytest.fixture(autouse=True)
def _no_key_in_the_environment(monkeypatch):
    """Keep the developer's own key and base URL out of the tests."""
    monkeypatch.delenv("SONARLY_API_KEY", raising=False)
    monkeypatch.delenv("SONARLY_BASE_URL", raising=False)


@pytest.fixture
async def server():
    """Give a fake server of its own to each test."""
    async with FakeLeadStatusServer() as server:
        yield server


@pytest.fixture
async def make_session(server):
    """Make sessions against `server`: no rate limit and short delays unless told otherwise."""
    made = []

    def make(**options):
        options = {
            "base_url": server.url,
            "rate_limit": None,
            "retry": RetryPolicy(base_delay=0.01, max_delay=0.05),
        } | options
        session = LeadStatusSession(KEY, **options)
        made.append(session)
        return session

    yield make
    for session in made:
        await session.aclose()


@pytest.fixture
def campaign(make_session):
    """Give a campaign of a session with default test options."""
    return make_session().campaign("acc", "camp")


@pytest.fixture
async def nothing_left():
    """Check that the test left no task of the library behind (f4)."""
    yield
    left = [task for task in asyncio.all_tasks() if "leadstatus_async/_" in repr(task.get_coro())]
    assert not left
