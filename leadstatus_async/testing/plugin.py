"""The pytest plugin: fixtures `leadstatus_server` and `leadstatus_session`.

It is loaded in every pytest run of everyone who has the library installed, so it imports nothing; the
fixtures come from a module that is loaded only where pytest-asyncio is, and the server and the session
only when a test asks for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Offer the fixtures where pytest-asyncio is at work, by entry point or by `-p`, in any mode."""
    plugins = config.pluginmanager
    if plugins.hasplugin("asyncio") or plugins.hasplugin("pytest_asyncio.plugin"):
        from leadstatus_async.testing import _fixtures  # noqa: PLC0415 - without pytest-asyncio it cannot be

        plugins.register(_fixtures, "leadstatus_async_fixtures")
