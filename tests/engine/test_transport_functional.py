"""What is read of an answer, and that nothing of aiohttp gets out."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from leadstatus_async import (
    APIConnectionError,
    BatchError,
    LeadStatusSession,
    ResponseTooLargeError,
)
from leadstatus_async.testing import Fault
from tests.conftest import KEY

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_a_hook_of_a_lent_session_that_raises_hangs_nobody(server):
    """Whatever a trace config raises becomes an error that names its class, without the key in its frames."""

    async def on_request_start(*_):
        raise ValueError(KEY)

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(on_request_start)
    async with aiohttp.ClientSession(trace_configs=[trace]) as lent:
        session = LeadStatusSession(KEY, base_url=server.url, http_session=lent)
        with pytest.raises(BatchError) as caught:
            await session.campaign("a", "c").get_many(["x"])
        await session.aclose()
    (only,) = caught.value.exceptions
    assert isinstance(only, APIConnectionError)
    assert "ValueError" in str(only)
    assert KEY not in repr(only) + str(only.__cause__) + str(only.__context__)


async def test_a_body_that_announces_its_size_is_not_read(server, make_session):
    """Content-Length beyond the cap is refused before reading (a11)."""
    server.fault(Fault(200, b"x" * 20_000))
    with pytest.raises(BatchError) as caught:
        await make_session(max_response_bytes=10_000).campaign("a", "c").get_many(["x"])
    assert isinstance(caught.value.exceptions[0], ResponseTooLargeError)


async def test_a_large_error_page_is_read_to_its_end(server, make_session):
    """Its beginning is what is kept, and the connection is used again (a10)."""
    server.fault(Fault(500, b"<p>sorry " + b"x" * 500_000, content_type="text/html"))
    session = make_session()
    assert (await session.campaign("a", "c").get("x")).ok
    assert [request.connection for request in server.requests] == [1, 1]


async def test_the_key_is_in_no_frame_of_a_cancelled_worker(server, make_session):
    """Even who digs the worker task out and cancels it finds no key in its traceback."""
    import traceback

    server.hold()
    session = make_session()
    call = asyncio.create_task(session.campaign("a", "c").get_many(["x"], on_error="collect"))
    await server.wait_for_requests(1)
    (worker,) = session._core.dispatcher._workers
    worker.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await worker
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert KEY not in "".join(shown.format())
    assert not (await call)[0].ok
