"""The session of one test: made outside of any event loop, and closed in the one that used it.

Which loop that is, and when it is closed, depends on the plugin that runs the test, and is asked of none
of them. Before a loop is closed, the asynchronous generators that were begun in it are (`asyncio.Runner`
does so, and whoever is built on it): one is begun where the session is used, and its end closes the
session. If the loop outlives the test, the session is closed in it after the test.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, cast

from leadstatus_async import LeadStatusSession

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping


@contextlib.contextmanager
def session_with(options: Mapping[str, Any]) -> Generator[LeadStatusSession]:
    """Make a session with these options, and close it in its own event loop, before that is closed."""
    begun: list[AsyncGenerator[None]] = []

    async def until_closed() -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await session.aclose()

    def begin(_event: object) -> None:
        if not begun:
            begun.append(until_closed())
            with contextlib.suppress(StopIteration):  # with what it yields
                begun[0].asend(None).send(None)

    async def end() -> None:
        for each in begun:
            await each.aclose()
        await session.aclose()

    told: dict[str, Any] = {"on_event": [begin, *_callbacks(options.get("on_event"))]}
    session = LeadStatusSession(**{**options, **told})
    try:
        yield session
    finally:
        loop = session._core._loop  # noqa: SLF001 - nothing public tells it
        if loop is None or loop.is_closed():
            with contextlib.suppress(StopIteration):  # at once: there is nothing to wait for
                session.aclose().send(None)
        elif loop.is_running():  # in another thread
            asyncio.run_coroutine_threadsafe(end(), loop).result()
        else:
            loop.run_until_complete(end())


def _callbacks(given: object) -> list[Any]:
    if isinstance(given, list | tuple):
        return list(cast("list[Any]", given))
    return [] if given is None else [given]
