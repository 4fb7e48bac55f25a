"""What is between us and the API: proxies, TLS, name lookup, file descriptors, the pool of a lent session."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import traceback

import aiohttp
import pytest

from leadstatus_async import (
    APIConnectionError,
    APITimeoutError,
    BatchError,
    LeadStatusError,
    LeadStatusSession,
    RateLimit,
    RateLimitError,
    RetryPolicy,
)
from leadstatus_async._engine.transport import failures
from leadstatus_async._engine.transport.connections import Way
from leadstatus_async.testing import FakeLeadStatusServer
from tests.conftest import KEY, leads

pytestmark = pytest.mark.usefixtures("nothing_left")
QUICK = RetryPolicy(max_attempts=3, base_delay=0.001, max_delay=0.001, max_outage=0)


@contextlib.asynccontextmanager
async def listening(answer):
    """Listen; `answer(head)` returns what is said to each head, b"" closes. Yields port and heads heard."""
    heard = []

    async def serve(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                heard.append(await reader.readuntil(b"\r\n\r\n"))
                said = answer(heard[-1])
                if not said:
                    break
                writer.write(said)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], heard
    finally:
        server.close()


async def a_dead_port():
    async with listening(bytes) as (port, _):
        return port


def page(status, words=b"<h1>squid</h1>"):
    return (
        b"HTTP/1.1 %s\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % (status, len(words)) + words
    )


async def trouble(session, chunks=40):
    """Ask for so many chunks of one lead; return the error of all of them, told as the caller sees it."""
    with pytest.raises(LeadStatusError) as caught:
        await session.campaign("a", "c").get_many(leads(chunks))
    assert len(caught.value.result.failures) == chunks
    return caught.value.exceptions[0] if isinstance(caught.value, BatchError) else caught.value


def through(proxy, scheme, **options):
    """Make a session to some host through a proxy, with one lead a request."""
    return LeadStatusSession(
        KEY,
        base_url=f"{scheme}://api.example",
        allow_insecure=True,
        proxy=f"http://bob:hush-hush@127.0.0.1:{proxy}",
        retry=QUICK,
        rate_limit=None,
        chunk_size=1,
        concurrency=4,
        **options,
    )


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("status", [b"407 Proxy Authentication Required", b"403 Forbidden"])
async def test_a_proxy_that_refuses_is_named_and_stops_the_call(scheme, status):
    """For CONNECT and for plain http: it is not the API that refuses, and nothing is asked again."""
    async with listening(lambda _: page(status)) as (port, heard), through(port, scheme) as session:
        error = await trouble(session)
    assert f"the proxy http://127.0.0.1:{port}" in str(error)
    assert status[:3].decode() in str(error)
    assert "no valid HTTP" not in str(error)
    assert "campaigns:read" not in str(error)
    assert "hush" not in str(error)
    assert ("login" in str(error)) == status.startswith(b"407")
    assert isinstance(error, APIConnectionError if scheme == "https" else LeadStatusError)
    assert len(heard) <= 4


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_dead_proxy_is_named_and_stops_the_call(scheme):
    """It is not the API that cannot be reached."""
    port = await a_dead_port()
    async with through(port, scheme) as session:
        error = await trouble(session)
        assert session.stats.requests <= 4
    assert isinstance(error, APIConnectionError)
    assert str(error).startswith(f"cannot connect to the proxy http://127.0.0.1:{port}")
    assert "hush" not in str(error)


async def test_a_proxy_that_cannot_is_asked_again():
    """A 502 to CONNECT is of the moment."""
    async with (
        listening(lambda _: page(b"502 Bad Gateway")) as (port, heard),
        through(port, "https") as session,
    ):
        error = await trouble(session, chunks=1)
    assert "the proxy http://127.0.0.1" in str(error)
    assert len(heard) == 3


async def test_a_proxy_of_a_lent_session_is_named_as_that():
    """We do not know its address."""
    async with listening(lambda _: page(b"407 Proxy Authentication Required")) as (port, _):
        lent = aiohttp.ClientSession(proxy=f"http://127.0.0.1:{port}")
        async with lent, LeadStatusSession(KEY, base_url="https://api.example", http_session=lent) as session:
            error = await trouble(session, chunks=1)
    assert str(error).startswith("the proxy of the lent http_session refuses the way to https://api.example")


async def test_plain_http_on_a_tls_port():
    """No certificate is at fault, so that no CA is advised."""

    async def serve(reader, writer):
        await reader.read(100)
        writer.write(page(b"400 Bad Request"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, LeadStatusSession(KEY, base_url=f"https://127.0.0.1:{port}", retry=QUICK) as session:
        error = await trouble(session, chunks=1)
        assert session.stats.requests == 1
    assert isinstance(error, APIConnectionError)
    assert "speaks no TLS: check base_url" in str(error)
    assert "ssl=" not in str(error)


async def test_a_slow_name_lookup_is_no_slow_answer(monkeypatch):
    """What takes so long is said: nothing was sent yet."""

    async def getaddrinfo(*_, **__):
        await asyncio.sleep(60)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    async with LeadStatusSession(
        KEY, base_url="http://slow.example", allow_insecure=True, retry=QUICK, timeout=0.05
    ) as session:
        error = await trouble(session, chunks=1)
    assert isinstance(error, APITimeoutError)
    assert str(error).startswith("no connection to http://slow.example")


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
async def test_without_file_descriptors_the_connections_there_are_will_do(server, monkeypatch, code):
    """The process may open no more than three: every lead is answered on those, at no cost."""
    start, opened = aiohttp.connector.aiohappyeyeballs.start_connection, 0

    async def start_connection(*args, **options):
        nonlocal opened
        if opened == 3:
            raise OSError(code, "Too many open files")
        opened += 1
        return await start(*args, **options)

    monkeypatch.setattr(aiohttp.connector.aiohappyeyeballs, "start_connection", start_connection)
    options = {"chunk_size": 1, "concurrency": 16, "rate_limit": None, "retry": RetryPolicy(budget=0)}
    async with LeadStatusSession(KEY, base_url=server.url, **options) as session:
        result = await session.campaign("a", "c").get_many(leads(200))
        assert result.stats.requests == server.count == 200
        cut = asyncio.create_task(session.campaign("a", "c").get_many(leads(200)))
        await asyncio.sleep(0.02)
        cut.cancel()
        opened = -100  # those of the requests that were cut off are closed
        assert (await session.campaign("a", "c").get("x")).ok


async def test_without_any_file_descriptor_it_is_told(monkeypatch):
    """There is no connection to wait for."""

    async def start_connection(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(aiohttp.connector.aiohappyeyeballs, "start_connection", start_connection)
    async with LeadStatusSession(
        KEY, base_url="http://127.0.0.1:9", retry=QUICK, chunk_size=1, rate_limit=None
    ) as session:
        error = await trouble(session, chunks=20)
    assert str(error) == "cannot connect to http://127.0.0.1:9: Too many open files"


@pytest.mark.parametrize("pool", [{"limit_per_host": 2}, {"limit": 2}, {"limit": 1, "limit_per_host": 5}])
async def test_a_lent_pool_that_is_small(pool):
    """Waiting for it takes no time of any attempt: none is lost, and each request is counted once."""
    async with FakeLeadStatusServer(latency=0.04) as server:
        lent = aiohttp.ClientSession(connector=aiohttp.TCPConnector(**pool))
        options = {"timeout": 0.15, "chunk_size": 1, "rate_limit": None, "http_session": lent}
        async with lent, LeadStatusSession(KEY, base_url=server.url, **options) as session:
            result = await session.campaign("a", "c").get_many(leads(20))
            assert len(result.statuses) == 20
            assert result.stats.requests == session.stats.requests == server.count == 20
            assert server.max_in_flight <= 2


async def test_a_lent_pool_that_its_owner_uses(server):
    """The owner's own requests may fill it for longer than an attempt may take."""
    release = asyncio.Event()

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await release.wait()
        writer.close()

    slow = await asyncio.start_server(serve, "127.0.0.1", 0)
    lent = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=2))
    options = {
        "timeout": 0.05,
        "rate_limit": None,
        "http_session": lent,
        "retry": RetryPolicy(max_attempts=1),
    }
    async with slow, lent, LeadStatusSession(KEY, base_url=server.url, **options) as session:
        port = slow.sockets[0].getsockname()[1]
        owners = [asyncio.create_task(lent.get(f"http://127.0.0.1:{port}")) for _ in range(2)]
        await asyncio.sleep(0.02)
        ours = asyncio.create_task(session.campaign("a", "c").get("x"))
        await asyncio.wait([ours], timeout=0.3)
        assert not ours.done()
        release.set()
        assert (await ours).ok
        await asyncio.gather(*owners, return_exceptions=True)
    assert server.count == 1


@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_hook_of_a_lent_session_that_hangs_is_cut_off(server, where):
    """Before the request is sent or after: what is not the pool's is the attempt's."""

    async def hangs(request, handler):
        if where == "before":
            await asyncio.sleep(60)
        answer = await handler(request)
        await asyncio.sleep(60)
        return answer

    lent = aiohttp.ClientSession(middlewares=[hangs])
    options = {"timeout": 0.05, "http_session": lent, "retry": RetryPolicy(max_attempts=1)}
    async with lent, LeadStatusSession(KEY, base_url=server.url, **options) as session:
        with pytest.raises(APITimeoutError):
            await session.campaign("a", "c").get("x")


def test_a_proxy_login_that_cannot_be_sent_is_refused_at_once():
    """A colon ends the user name in HTTP."""
    with pytest.raises(LeadStatusError, match="colon"):
        LeadStatusSession(KEY, proxy="http://us%3Aer:hush@127.0.0.1:1")


def most_at_once(times, per=1.0):
    """Return the most requests that a server heard in any window of so many seconds."""
    return max(sum(begin <= at < begin + per for at in times) for begin in times)


@pytest.mark.parametrize(("burst", "keeps"), [(None, True), (5, True), (None, False)])
async def test_the_window_bound_holds_though_connecting_takes_long(monkeypatch, burst, keeps):
    """Tokens that waited for a connection are taken anew, though each request needs one of its own."""
    heard, loop, delays = [], asyncio.get_running_loop(), [0.0] * 30 + [1.0] * 8
    look_up, start = loop.getaddrinfo, aiohttp.connector.aiohappyeyeballs.start_connection

    async def getaddrinfo(*args, **options):
        await asyncio.sleep(1.5 if keeps else 0)
        return await look_up("127.0.0.1", *args[1:], **options)

    async def start_connection(*args, **options):
        await asyncio.sleep(0 if keeps else delays.pop())
        return await start(*args, **options)

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(aiohttp.connector.aiohappyeyeballs, "start_connection", start_connection)

    def answer(head):
        heard.append(loop.time())
        said = answer_to(head)
        return said if keeps else said.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)

    async with listening(answer) as (port, _):
        session = LeadStatusSession(
            KEY, base_url=f"http://slow.example:{port}", allow_insecure=True, chunk_size=1,
            rate_limit=RateLimit(10, burst=burst),
        )  # fmt: skip
        async with session:
            result = await session.campaign("a", "c").get_many(leads(25))
    assert result.stats.requests == len(heard) == 25
    assert most_at_once(heard) <= 10


async def test_the_window_bound_holds_though_a_lent_pool_is_full():
    """Its owner holds it for a second and a half."""
    heard, loop, release = [], asyncio.get_running_loop(), asyncio.Event()

    async def hold(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await release.wait()
        writer.close()

    slow = await asyncio.start_server(hold, "127.0.0.1", 0)
    lent = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=8))
    async with slow, lent, listening(lambda head: heard.append(loop.time()) or answer_to(head)) as (port, _):
        target = f"http://127.0.0.1:{slow.sockets[0].getsockname()[1]}"
        owners = [asyncio.create_task(lent.get(target)) for _ in range(8)]
        await asyncio.sleep(0.02)
        loop.call_later(1.5, release.set)
        options = {"http_session": lent, "chunk_size": 1, "rate_limit": RateLimit(10)}
        async with LeadStatusSession(KEY, base_url=f"http://127.0.0.1:{port}", **options) as session:
            result = await session.campaign("a", "c").get_many(leads(20))
        await asyncio.gather(*owners, return_exceptions=True)
    assert result.stats.requests == len(heard) == 20
    assert most_at_once(heard) <= 10


def answer_to(head):
    ids = head.split(b" ", 2)[1].partition(b"leadIds=")[2].decode().split(",")
    items = [{"leadId": lead_id, "workflowStatus": "pending"} for lead_id in ids]
    body = json.dumps({"success": True, "data": {"items": items}}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def test_a_tunnel_is_no_request(monkeypatch):
    """CONNECT is the proxy's business: it costs no token and no attempt, and is not counted."""
    monkeypatch.setattr(aiohttp.TCPConnector, "_start_tls_connection", tunnel_without_tls)
    heard = []

    def proxy(head):
        heard.append(head.split(b" ")[0])
        return b"HTTP/1.1 200 OK\r\n\r\n" if heard[-1] == b"CONNECT" else answer_to(head)

    async with listening(proxy) as (port, _), through(port, "https") as session:
        result = await session.campaign("a", "c").get_many(leads(20))
    assert heard.count(b"CONNECT") >= 1
    assert result.stats.requests == heard.count(b"GET") == 20


async def tunnel_without_tls(self, underlying_transport, req, timeout, client_error=None):
    """Go on in the tunnel as it is."""
    del req, timeout, client_error
    protocol = self._factory()
    underlying_transport.set_protocol(protocol)
    protocol.connection_made(underlying_transport)
    return underlying_transport, protocol


@pytest.mark.parametrize("how", ["cancelled", "late"])
async def test_what_never_left_a_lent_pool_is_not_counted(server, how):
    """Five sessions share a pool of two: requests are those that the server saw."""
    server.latency = 0.3
    lent = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=2))
    sessions = [
        LeadStatusSession(KEY, base_url=server.url, http_session=lent, rate_limit=None, chunk_size=1)
        for _ in range(5)
    ]
    deadline = 0.5 if how == "late" else None
    calls = [
        asyncio.create_task(one.campaign("a", "c").get_many(leads(4), deadline=deadline)) for one in sessions
    ]
    await asyncio.sleep(0.5)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    assert sum(session.stats.requests for session in sessions) == server.count
    for session in sessions:
        await session.aclose()
    await lent.close()


async def test_a_bulk_leaves_others_their_turn_at_a_lent_pool():
    """The owner's own request, and another session's get, do not wait for its end."""
    async with FakeLeadStatusServer(latency=0.02) as server:
        lent = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=2))
        options = {"base_url": server.url, "http_session": lent, "rate_limit": None, "chunk_size": 1}
        async with (
            lent,
            LeadStatusSession(KEY, **options) as session,
            LeadStatusSession(KEY, **options) as other,
        ):
            job = asyncio.create_task(session.campaign("a", "c").get_many(leads(300)))
            await server.wait_for_requests(10)
            assert (await other.campaign("a", "c").get("x")).ok
            async with lent.get(f"{server.url}/elsewhere") as response:
                await response.read()
            assert server.count < 100
            assert not job.done()
            await job


@pytest.mark.parametrize(
    ("borrowed", "unasked"),
    [
        (False, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
        (True, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
        (False, b"HTTP/1.1 2"),
    ],
    ids=["own", "lent", "own, a fragment"],
)
async def test_what_is_said_unasked_while_a_token_is_waited_for_is_no_answer(monkeypatch, borrowed, unasked):
    """A connection that took long has its request sent when there is a token; what comes before ends it."""
    said, loop = [], asyncio.get_running_loop()
    look_up = loop.getaddrinfo

    async def getaddrinfo(*args, **options):
        await asyncio.sleep(0.05)
        return await look_up("127.0.0.1", *args[1:], **options)

    async def serve(reader, writer):
        if not said:  # the first connection says something before it is asked
            said.append(unasked)
            loop.call_later(0.2, writer.write, unasked)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                writer.write(answer_to(await reader.readuntil(b"\r\n\r\n")))
        writer.close()

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    raw = await asyncio.start_server(serve, "127.0.0.1", 0)
    lent = aiohttp.ClientSession() if borrowed else None
    url = f"http://slow.example:{raw.sockets[0].getsockname()[1]}"
    options = {"allow_insecure": True, "http_session": lent, "rate_limit": RateLimit(1), "chunk_size": 1}
    async with raw, LeadStatusSession(KEY, base_url=url, **options) as session:
        assert len((await session.campaign("a", "c").get_many(leads(2))).statuses) == 2
        assert session.stats.requests == 2
    if lent is not None:
        await lent.close()


async def test_a_pause_that_came_meanwhile_is_too_long_for_a_request_that_waited(server, monkeypatch):
    """Its connection was long in coming: the token is taken anew, and there is none."""
    loop = asyncio.get_running_loop()
    look_up = loop.getaddrinfo

    async def getaddrinfo(*args, **options):
        session.limiter.pause(500.0, "HTTP 429")
        await asyncio.sleep(0.05)
        return await look_up("127.0.0.1", *args[1:], **options)

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    url = server.url.replace("127.0.0.1", "slow.example")
    async with LeadStatusSession(KEY, base_url=url, allow_insecure=True) as session:
        with pytest.raises(RateLimitError, match="paused for another") as caught:
            await session.campaign("a", "c").get("x")
        assert session.stats.requests == 0
    assert server.count == 0
    assert caught.value.retry_after > 400
    assert KEY not in "".join(traceback.format_exception(caught.value))


async def test_a_lent_session_that_cannot_connect_in_time():
    """How long it may take is said, and for how long a pool is waited for."""
    lent = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1))
    options = {"http_session": lent, "timeout": 0.1, "retry": RetryPolicy(max_attempts=1)}
    async with lent, LeadStatusSession(KEY, base_url="http://127.0.0.1:9", **options) as session:
        lent._connector._create_connection = never
        with pytest.raises(APITimeoutError, match="no connection to http://127"):
            await session.campaign("a", "c").get("x")
        where = {"origin": "http://a", "goes_to": "http://a", "borrowed": True}
        told = failures.failure_of(aiohttp.ConnectionTimeoutError(), Way(), seconds=3.0, **where)
        assert str(told.error) == "no connection to http://a within 3 s, or of the lent pool within 60 s"


async def never(*_, **__):
    await asyncio.sleep(60)


@pytest.mark.parametrize("said", [b"", b"no HTTP at all\r\n\r\n"], ids=["nothing", "garbage"])
async def test_a_proxy_that_does_not_speak_is_named(said):
    """It is neither the API that closed the connection, nor a stale one."""
    async with listening(lambda _: said) as (port, _), through(port, "https") as session:
        error = await trouble(session, chunks=1)
    assert str(error).startswith(f"the proxy http://127.0.0.1:{port} gave no answer to CONNECT")


async def test_without_files_a_proxy_is_not_dead(monkeypatch):
    """Of our own lack the call may recover."""

    async def start_connection(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(aiohttp.connector.aiohappyeyeballs, "start_connection", start_connection)
    async with through(9, "http") as session:
        await trouble(session, chunks=1)
        assert session.stats.requests == 3
