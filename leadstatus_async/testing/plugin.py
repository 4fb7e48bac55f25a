"""The pytest plugin: fixtures `leadstatus_server`, `leadstatus_session` and `leadstatus_session_options`.

It is loaded in every pytest run of everyone who has the library installed, so it imports nothing but
pytest; the server and the session, and with them aiohttp and msgspec, only when a test asks for them.
The fixtures are plain ones: they need no asyncio plugin, and work with any, in whatever mode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from leadstatus_async import LeadStatusSession
    from leadstatus_async.testing import FakeLeadStatusServer


@pytest.fixture
def leadstatus_server() -> Iterator[FakeLeadStatusServer]:
    """Give a fake server in a thread of its own, which listens on a free port of loopback."""
    from leadstatus_async.testing import FakeLeadStatusServer  # noqa: PLC0415 - see above

    with FakeLeadStatusServer() as server:
        yield server


@pytest.fixture
def leadstatus_session_options() -> dict[str, Any]:
    """Give the options of `leadstatus_session`: no rate limit, and patience of milliseconds."""
    from leadstatus_async.policy import RetryPolicy  # noqa: PLC0415 - see above

    patience = RetryPolicy(
        max_attempts=3, base_delay=0.001, max_delay=0.01, max_retry_after=0.2, max_outage=0.2
    )
    return {"rate_limit": None, "retry": patience, "timeout": 0.1}


@pytest.fixture
def leadstatus_session(
    leadstatus_server: FakeLeadStatusServer, leadstatus_session_options: dict[str, Any]
) -> Iterator[LeadStatusSession]:
    """Give a session that asks `leadstatus_server`, in whatever event loop uses it first."""
    from leadstatus_async.testing._fixtures import session_with  # noqa: PLC0415 - see above

    where = {"api_key": "sk_test_fake", "base_url": leadstatus_server.url}
    with session_with(where | leadstatus_session_options) as session:
        yield session
