"""The fixtures themselves, for pytest-asyncio in any of its modes.

Loaded in every run of a project that uses pytest-asyncio, so it imports nothing else: the server and
the session, and with them aiohttp and msgspec, only when a test asks for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from leadstatus_async import LeadStatusSession
    from leadstatus_async.testing import FakeLeadStatusServer


@pytest_asyncio.fixture
async def leadstatus_server() -> AsyncIterator[FakeLeadStatusServer]:
    """Give a fake server that listens on a free port of loopback."""
    from leadstatus_async.testing import FakeLeadStatusServer  # noqa: PLC0415 - see above

    async with FakeLeadStatusServer() as server:
        yield server


@pytest_asyncio.fixture
async def leadstatus_session(leadstatus_server: FakeLeadStatusServer) -> AsyncIterator[LeadStatusSession]:
    """Give a session that asks `leadstatus_server`, without a rate limit."""
    from leadstatus_async import LeadStatusSession  # noqa: PLC0415 - see above

    async with LeadStatusSession("sk_test_fake", base_url=leadstatus_server.url, rate_limit=None) as session:
        yield session
