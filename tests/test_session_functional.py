"""The session: its options, its life, its secrets, and what it borrows."""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import os
import pickle
import ssl
import subprocess
import sys
import traceback
import warnings
from types import SimpleNamespace

import aiohttp
import pytest
from aioresponses import aioresponses

from leadstatus_async import (
    APIConnectionError,
    APITimeoutError,
    BatchError,
    ConfigurationError,
    DeadlineExceededError,
    LeadStatusSession,
    Limiter,
    RateLimit,
    RetryPolicy,
    ServerError,
    SessionClosedError,
    SessionLoopError,
)
from leadstatus_async.testing import FakeLeadStatusServer
from tests.conftest import KEY, stopped_for

pytestmark = pytest.mark.usefixtures("nothing_left")

IDS = [f"{number:024x}" for number in range(250)]
LOCAL = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"base_url": ""}, "base_url"),
        ({"base_url": "ftp://host"}, "base_url"),
        ({"base_url": "http://api.sonarly.io"}, "https"),
        ({"base_url": "https://user:pass@host"}, "base_url"),
        ({"base_url": "https://host/?x=1"}, "base_url"),
        ({"base_url": 7}, "base_url"),
        ({"rate_limit": 10}, "rate_limit"),
        ({"rate_limit": []}, "rate_limit"),
        ({"rate_limit": [RateLimit(1), 3]}, "rate_limit"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": 2.5}, "concurrency"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"max_url_bytes": 255}, "max_url_bytes"),
        ({"lead_ids_format": "semicolon"}, "lead_ids_format"),
        ({"retry": 5}, "retry"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"max_response_bytes": 0}, "max_response_bytes"),
        ({"http_session": object()}, "http_session"),
        ({"proxy": "not a url"}, "proxy"),
        ({"proxy": "http://p:1", "proxy_from_env": True}, "proxy"),
        ({"proxy_from_env": "yes"}, "proxy_from_env"),
        ({"ssl": False}, "ssl"),
        ({"headers": {"Authorization": "Bearer x"}}, "Authorization"),
        ({"headers": {"X": "a\nb"}}, "headers"),
        ({"headers": 3}, "headers"),
        ({"allow_insecure": 1}, "allow_insecure"),
        ({"on_event": 3}, "on_event"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_options_fail_at_construction(options, named):
    """A ConfigurationError names the option, and never shows the key."""
    with pytest.raises(ConfigurationError, match=named) as caught:
        LeadStatusSession(KEY, **({"base_url": LOCAL} | options))
    assert KEY not in str(caught.value)


def test_an_async_observer_is_refused():
    """A coroutine function would never be awaited."""

    async def observe(_):
        """Never called."""

    with pytest.raises(ConfigurationError, match="on_event"):
        LeadStatusSession(KEY, on_event=observe)


@pytest.mark.parametrize("key", ["", "HUSH x", "HUSH\n", "\tHUSH", "HUSHü", "Bearer HUSH", "bearer HUSH", 7])
def test_bad_keys_are_refused_unseen(key):
    """Keys that would break the header are refused at construction, without being echoed (a22)."""
    with pytest.raises(ConfigurationError, match="api_key") as caught:
        LeadStatusSession(key)
    assert "HUSH" not in str(caught.value)


def test_key_and_url_come_from_the_environment_only_if_none_is_given(monkeypatch):
    """None falls back to the environment; an empty string is a bad value, not a missing one."""
    with pytest.raises(ConfigurationError, match="SONARLY_API_KEY"):
        LeadStatusSession()
    monkeypatch.setenv("SONARLY_API_KEY", KEY)
    monkeypatch.setenv("SONARLY_BASE_URL", "https://other.example/base/")
    assert "https://other.example/base" in repr(LeadStatusSession())
    with pytest.raises(ConfigurationError):
        LeadStatusSession("")


@pytest.mark.parametrize(
    "base_url",
    ["https://h", "https://h/", "https://h/p/", "http://localhost:1", "http://127.9.9.9", "http://[::1]:8"],
)
def test_good_base_urls(base_url):
    """Https anywhere, http on loopback, a path and a trailing slash are fine."""
    assert base_url.rstrip("/") in repr(LeadStatusSession(KEY, base_url=base_url))


def test_plain_http_can_be_allowed():
    """allow_insecure=True is the way to another host without TLS."""
    LeadStatusSession(KEY, base_url="http://staging.internal", allow_insecure=True)


@pytest.mark.parametrize(
    "bad", ["", ".", "..", "a/b", "a?b", "a#b", "%2e", "a b", "a\x00", "\ud800", 7, "a,b"]
)
def test_path_ids_that_bend_the_url_are_refused(bad):
    """campaign() refuses them before any I/O (a6), naming which of the two it is."""
    session = LeadStatusSession(KEY)
    with pytest.raises(ConfigurationError, match="account_group_id"):
        session.campaign(bad, "c")
    with pytest.raises(ConfigurationError, match="campaign_id"):
        session.campaign("a", bad)


async def test_a_prefix_path_is_kept(make_session):
    """A base URL with a path asks below that path."""
    async with FakeLeadStatusServer(path_prefix="/gateway/sonarly") as server:
        session = make_session(base_url=server.url + "/")
        await session.campaign("a", "c").get_many(["x"])
        assert server.requests[0].target == "/gateway/sonarly/v1/accounts/a/campaigns/c/lead-status?leadIds=x"


async def test_requests_carry_the_key_and_say_who_asks(server, make_session):
    """Authorization, Accept and User-Agent go with each request; one's own headers win."""
    await make_session().campaign("a", "c").get_many(["x"])
    headers = server.requests[-1].headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["accept"] == "application/json"
    assert headers["user-agent"].startswith("leadstatus-async/")
    await make_session(headers={"user-agent": "mine/1", "X-Tenant": "t"}).campaign("a", "c").get_many(["x"])
    headers = server.requests[-1].headers
    assert (headers["user-agent"], headers["x-tenant"]) == ("mine/1", "t")


async def test_no_cookie_is_kept(server, make_session):
    """What a load balancer sets is not sent back (a13)."""
    server.fault("set-cookie", times=None)
    session = make_session()
    for _ in range(2):
        await session.campaign("a", "c").get_many(["x"])
    assert "cookie" not in server.requests[-1].headers


async def test_one_disconnect_is_one_request(server, make_session):
    """Aiohttp's hidden second attempt is off: what is counted is what the server saw (a3)."""
    server.fault("disconnect")
    session = make_session()
    result = await session.campaign("a", "c").get_many(["x"])
    assert result.stats.requests == server.count == 2
    assert result.stats.retries == 1


async def test_many_stale_connections_cost_no_lead(server, make_session):
    """A pool full of stale keep-alive sockets is survived, each with one immediate retry (a20)."""
    session = make_session(chunk_size=1)
    campaign = session.campaign("a", "c")
    server.hold()
    server.fault("stale-keep-alive", times=16)
    warm = asyncio.create_task(campaign.get_many([f"warm{number}" for number in range(16)]))
    await server.wait_for_requests(16)
    server.release()
    await warm
    events = []
    session._core.observer._callback = events.append
    result = await campaign.get_many([f"lead{number}" for number in range(16)])
    assert len(result.statuses) == 16
    assert not [event for event in events if "Outage" in type(event).__name__]


async def test_a_borrowed_session_works_and_is_left_as_it_was(server):
    """raise_for_status, a 1 ms timeout and own headers are overridden per request, not changed (a16)."""
    async with aiohttp.ClientSession(
        raise_for_status=True,
        timeout=aiohttp.ClientTimeout(total=0.001),
        headers={"Authorization": "Basic other", "X-Own": "1"},
    ) as lent:
        server.latency = 0.05
        server.script("500")
        session = LeadStatusSession(
            KEY, base_url=server.url, http_session=lent, retry=RetryPolicy(base_delay=0.01)
        )
        result = await session.campaign("a", "c").get_many(["x"])
        assert result[0].ok
        assert server.requests[-1].headers["authorization"] == f"Bearer {KEY}"
        assert server.requests[-1].headers["x-own"] == "1"
        await session.aclose()
        assert not lent.closed
        assert lent.timeout.total == 0.001
        assert lent.headers["Authorization"] == "Basic other"


async def test_a_disconnect_on_a_borrowed_session_counts_twice(server):
    """There aiohttp may have sent a second time behind our back: both are counted and paid for."""
    async with aiohttp.ClientSession() as lent:
        events = []
        session = LeadStatusSession(
            KEY,
            base_url=server.url,
            http_session=lent,
            rate_limit=RateLimit(1000),
            retry=RetryPolicy(base_delay=0.01),
            on_event=events.append,
        )
        server.fault("disconnect", times=2)
        result = await session.campaign("a", "c").get_many(["x"])
        await session.aclose()
    assert result.stats.requests == server.count == 3
    assert sum(type(event).__name__ == "AttemptFinished" for event in events) == 3


async def test_a_borrowed_session_with_auth_of_its_own_is_refused():
    """Aiohttp would refuse every request; we say so at construction."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        lent = aiohttp.ClientSession(auth=aiohttp.BasicAuth("u", "p"))
    with pytest.raises(ConfigurationError, match="auth"):
        LeadStatusSession(KEY, http_session=lent)
    await lent.close()


async def test_a_closed_borrowed_session_is_said_plainly(server):
    """Closed before the first call, or between two: SessionClosedError, not RuntimeError."""
    lent = aiohttp.ClientSession()
    session = LeadStatusSession(KEY, base_url=server.url, http_session=lent)
    await session.campaign("a", "c").get_many(["x"])
    await lent.close()
    with pytest.raises(SessionClosedError, match="aiohttp session"):
        await session.campaign("a", "c").get_many(["x"])
    with pytest.raises(SessionClosedError, match="lent"):
        await (
            LeadStatusSession(KEY, base_url=server.url, http_session=lent).campaign("a", "c").get_many(["x"])
        )
    await session.aclose()


def test_a_second_event_loop_is_told_what_to_do():
    """SessionLoopError for every call from another loop, and for a session borrowed from another."""

    async def use(session):
        async with FakeLeadStatusServer() as server:
            await session.campaign("a", "c").get_many([])
            return server

    async def plan(session):
        return session.campaign("a", "c").plan(["x"])

    session = LeadStatusSession(KEY, base_url=LOCAL)
    asyncio.run(use(session))
    for call in (
        lambda: session.campaign("a", "c").get_many([]),
        lambda: session.campaign("a", "c").get("x"),
        lambda: session.campaign("a", "c").stream(["x"]).__anext__(),
        lambda: plan(session),
        session.__aenter__,
    ):

        async def run(call=call):
            await call()

        with pytest.raises(SessionLoopError, match=r"first use, which is closed.*loop_scope"):
            asyncio.run(run())
    asyncio.run(session.aclose())
    assert session.closed

    async def elsewhere():
        other = LeadStatusSession(KEY, base_url=LOCAL)
        async with other:
            for call in (other.aclose, other.__aenter__):
                with pytest.raises(SessionLoopError, match="which is not the running one"):
                    await asyncio.to_thread(lambda call=call: asyncio.run(call()))

    asyncio.run(elsewhere())

    async def lend():
        return aiohttp.ClientSession()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        lent = asyncio.run(lend())
        with pytest.raises(SessionLoopError, match="http_session"):
            asyncio.run(use(LeadStatusSession(KEY, http_session=lent)))
        asyncio.run(lent.close())
        session._core.closed = True
        asyncio.run(session._core.transport._session.close())


async def test_closing_ends_calls_in_flight_with_all_that_was_finished(server, make_session):
    """Within a second, SessionClosedError with .result, whatever on_error says; never CancelledError."""
    session = make_session(concurrency=4)
    campaign = session.campaign("a", "c")
    server.fault(
        "hang", times=None, when=lambda request: IDS[150] in request.lead_ids or "g" in request.lead_ids
    )
    seen = []
    calls = [
        asyncio.create_task(campaign.get_many(IDS, progress=seen.append)),
        asyncio.create_task(campaign.get_many(IDS, on_error="collect")),
        asyncio.create_task(campaign.get("g")),
    ]
    while session.stats.leads < 300 or session.stats.in_flight < 3:
        await asyncio.sleep(0.005)
    loop = asyncio.get_running_loop()
    started = loop.time()
    await session.aclose()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert loop.time() - started < 1
    assert [type(outcome) for outcome in outcomes] == [SessionClosedError] * 3
    assert [outcome.ok for outcome in outcomes[0].result] == [True] * 100 + [False] * 100 + [True] * 50
    await session.aclose()
    with pytest.raises(SessionClosedError):
        await campaign.get_many(["x"])
    assert session.closed
    assert "closed" in repr(session)


async def test_draining_sends_what_is_queued_and_refuses_what_is_new(server, make_session):
    """aclose(drain_timeout) waits for queued work, gets included, and no longer than it takes."""
    session = make_session(concurrency=1, rate_limit=RateLimit(100))
    campaign = session.campaign("a", "c")
    call = asyncio.create_task(campaign.get_many(IDS))
    await server.wait_for_requests(1)
    single = asyncio.create_task(campaign.get("x"))
    await asyncio.sleep(0)
    closing = asyncio.create_task(session.aclose(drain_timeout=30))
    await asyncio.sleep(0)
    with pytest.raises(SessionClosedError):
        await campaign.get_many(["late"])
    await closing
    assert len((await call).statuses) == 250
    assert (await single).ok


async def test_draining_has_an_end(server, make_session):
    """What is not done within drain_timeout ends as by a plain aclose."""
    server.fault("hang", times=None)
    session = make_session()
    call = asyncio.create_task(session.campaign("a", "c").get_many(["x"]))
    await server.wait_for_requests(1)
    await session.aclose(drain_timeout=0.05)
    with pytest.raises(SessionClosedError):
        await call
    with pytest.raises(ConfigurationError, match="drain_timeout"):
        await session.aclose(drain_timeout=-1)


async def test_closing_during_an_outage_is_prompt(server, make_session):
    """The timer of the outage goes with the session."""
    session = make_session(chunk_size=1, retry=RetryPolicy(base_delay=0.01, max_delay=30))
    await session.campaign("a", "c").get_many(["x"])
    await server.stop_listening()
    call = asyncio.create_task(session.campaign("a", "c").get_many([f"x{number}" for number in range(30)]))
    while not stopped_for(session):
        await asyncio.sleep(0.005)
    await session.aclose()
    with pytest.raises(SessionClosedError):
        await call


async def test_a_session_that_was_never_used_closes_without_ado():
    """Nothing was opened, nothing is to be closed."""
    session = LeadStatusSession(KEY)
    await session.aclose()
    assert session.closed


async def test_an_unclosed_session_warns_by_name(server):
    """A ResourceWarning that names our class, not only aiohttp's."""
    session = LeadStatusSession(KEY, base_url=server.url)
    await session.campaign("a", "c").get_many(["x"])
    own = session._core.transport._session
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # what other tests have left
    with pytest.warns(ResourceWarning, match="LeadStatusSession"):
        del session
        gc.collect()
    await own.close()


def gathered(error, seen=None):
    """Return every text a crash reporter could find on an error."""
    seen = set() if seen is None else seen
    if error is None or id(error) in seen:
        return ""
    seen.add(id(error))
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    texts = [repr(error), str(error), repr(error.args), repr(vars(error)), "".join(shown.format())]
    texts += [gathered(linked, seen) for linked in (error.__context__, error.__cause__)]
    texts += [gathered(inner, seen) for inner in getattr(error, "exceptions", ())]
    result = getattr(error, "result", None)
    texts += [gathered(failure.error, seen) for failure in (result.failures if result else ())]
    return "".join(texts)


@pytest.mark.parametrize(
    "fault", ["401", "echo-key", "reset", "hang", "cut-body", "garbage-status-line", "html-200"]
)
async def test_the_key_is_nowhere_to_be_found(server, make_session, caplog, fault):
    """In no repr, str, args, vars, traceback with locals, context chain, pickle or DEBUG log."""
    caplog.set_level(logging.DEBUG)
    server.fault(fault, times=None)
    session = make_session(timeout=0.2, retry=RetryPolicy(max_attempts=2, base_delay=0.01))
    with pytest.raises((BatchError, Exception)) as caught:
        await session.campaign("a", "c").get_many(["x"])
    with pytest.raises(Exception) as single:
        await session.campaign("a", "c").get("x")
    for error in (caught.value, single.value):
        assert KEY not in gathered(error)
        assert KEY.encode() not in pickle.dumps(error)
    assert KEY not in caplog.text
    assert KEY not in repr(session) + repr(vars(session)) + repr(vars(session._core.transport))
    assert all(KEY not in request.target for request in server.requests)


async def test_a_session_cannot_be_pickled_or_copied(make_session):
    """It holds the key and sockets, so it says what to do instead."""
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="one per process"):
            attempt(make_session())


async def test_errors_of_real_calls_pickle_and_copy(server, make_session):
    """With result, status, details and all (g9)."""
    server.fault("500", times=None)
    session = make_session(retry=RetryPolicy(max_attempts=1))
    with pytest.raises(BatchError) as caught:
        await session.campaign("a", "c").get_many(["x", "y"])
    for twin in (pickle.loads(pickle.dumps(caught.value)), copy.deepcopy(caught.value)):
        assert str(twin) == str(caught.value)
        assert twin.result.failed_ids == ["x", "y"]
        assert isinstance(twin.exceptions[0], ServerError)
        assert twin.exceptions[0].code == "INTERNAL"


async def test_a_server_that_refuses_is_said_by_name():
    """Connection refused: what was tried, and the operating system's word for it."""
    session = LeadStatusSession(KEY, base_url=LOCAL, retry=RetryPolicy(max_attempts=2, base_delay=0.01))
    with pytest.raises(BatchError) as caught:
        await session.campaign("a", "c").get_many(["x"])
    assert isinstance(caught.value.exceptions[0], APIConnectionError)
    assert "http://127.0.0.1:9" in str(caught.value.exceptions[0])
    await session.aclose()


async def test_connecting_takes_at_most_its_share(make_session, monkeypatch):
    """A host that swallows packets fails after the connect timeout, said as such."""
    monkeypatch.setattr("leadstatus_async._engine.transport.CONNECT_TIMEOUT", 0.05)

    async def never(*_args, **_kwargs):
        await asyncio.Event().wait()

    monkeypatch.setattr("aiohttp.TCPConnector._create_connection", never)
    session = make_session(retry=RetryPolicy(max_attempts=1))
    with pytest.raises(BatchError) as caught:
        await session.campaign("a", "c").get_many(["x"])
    assert isinstance(caught.value.exceptions[0], APITimeoutError)
    assert "no connection" in str(caught.value.exceptions[0])


async def test_a_certificate_nobody_trusts_is_said_plainly_and_not_retried(tmp_path):
    """TLS failures stop the call, name the host and the option that helps (a15)."""
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem"),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    body = b'{"success":true,"data":{"items":[{"leadId":"x","workflowStatus":"pending"}]}}'
    accepted = 0

    async def answer(reader, writer):
        nonlocal accepted
        accepted += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    tls = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{tls.sockets[0].getsockname()[1]}"
    async with LeadStatusSession(KEY, base_url=url) as session:
        with pytest.raises(BatchError) as caught:
            await session.campaign("a", "c").get_many([f"x{number}" for number in range(1000)])
    (only,) = caught.value.exceptions
    assert isinstance(only, APIConnectionError)
    assert "certificate" in str(only)
    assert "ssl=" in str(only)
    assert accepted == 0
    trusting = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    async with LeadStatusSession(KEY, base_url=url, ssl=trusting) as session:
        assert (await session.campaign("a", "c").get("x")).lead_id == "x"
    tls.close()


async def test_a_proxy_gets_the_request_and_its_own_credentials(server, make_session, monkeypatch):
    """proxy= and proxy_from_env= go through it; its password is as secret as the key."""
    host = server.url.removeprefix("http://")
    for options in ({"proxy": f"http://user:hush@{host}"}, {"proxy_from_env": True}):
        monkeypatch.setenv("http_proxy", f"http://user:hush@{host}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        session = make_session(base_url="http://api.example", allow_insecure=True, **options)
        await session.campaign("a", "c").get_many(["x"])
        assert server.requests[-1].target.startswith("http://api.example/v1/accounts/a/")
        assert server.requests[-1].headers["proxy-authorization"].startswith("Basic ")
        assert "hush" not in repr(session) + repr(vars(session._core.transport))
    plain = make_session(base_url="http://api.example", allow_insecure=True, proxy=f"http://{host}")
    await plain.campaign("a", "c").get_many(["x"])
    assert "proxy-authorization" not in server.requests[-1].headers
    monkeypatch.setenv("no_proxy", "*")
    before = server.count
    session = make_session(proxy_from_env=True)
    await session.campaign("a", "c").get_many(["x"])
    assert "proxy-authorization" not in server.requests[before].headers


async def test_a_gzip_bomb_stays_small(server):
    """200 MB in 200 kB of gzip are refused while streaming: 20 MB more at the peak, at most (a11)."""
    code = f"""
import asyncio, resource
from leadstatus_async import *
async def main():
    async with LeadStatusSession("sk_x", base_url={server.url!r}, rate_limit=None) as session:
        campaign = session.campaign("a", "c")
        await campaign.get_many(["warm"])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result = await campaign.get_many(["x"], on_error="collect")
        print(type(result[0].error).__name__, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
asyncio.run(main())
"""
    server.script(None, "gzip-bomb")
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    told, _ = await process.communicate()
    error, grown = told.decode().split()
    assert error == "ResponseTooLargeError"
    assert int(grown) < 20 * 1024


async def test_a_large_error_page_keeps_its_status(server, make_session):
    """The body of an error is read up to the cap, and the status counts whatever its size."""
    from leadstatus_async.testing import Fault

    server.fault(Fault(500, b"x" * 100_000, how="until-close"))
    session = make_session(max_response_bytes=10_000, retry=RetryPolicy(max_attempts=1))
    with pytest.raises(BatchError) as caught:
        await session.campaign("a", "c").get_many(["x"])
    assert caught.value.exceptions[0].status == 500


async def test_error_bodies_are_read_so_that_connections_live(server, make_session):
    """Three errors and an answer, one connection (a10)."""
    server.script("500", "502-html", "503")
    session = make_session(concurrency=1)
    await session.campaign("a", "c").get_many(["x"])
    assert len({request.connection for request in server.requests}) == 1


async def test_the_timeout_counts_from_the_moment_of_sending(server, make_session):
    """Waiting for a slot is no part of an attempt: slow neighbours cause no timeouts (a7)."""
    server.latency = 0.15
    session = make_session(concurrency=1, timeout=0.4, chunk_size=1)
    result = await session.campaign("a", "c").get_many([f"x{number}" for number in range(6)])
    assert result.stats.requests == 6


async def test_stats_and_limiter_are_snapshots(server, make_session):
    """session.stats counts over calls; session.limiter is a Limiter, never None."""
    session = make_session()
    await session.campaign("a", "c").get_many(IDS)
    await session.campaign("a", "c").get("x")
    stats = session.stats
    assert (stats.requests, stats.leads, stats.failures, stats.in_flight, stats.queued) == (4, 251, 0, 0, 0)
    assert isinstance(session.limiter, Limiter)
    assert session.rate_limit_state.rate is None
    assert make_session(rate_limit=RateLimit(7)).rate_limit_state.configured_rate == 7
    with pytest.raises(AttributeError):
        stats.requests = 3


async def test_aioresponses_users_find_their_way(make_session, monkeypatch):
    """With the shim that aioresponses 0.7.9 needs on aiohttp 3.14 (f1), a canned reply works."""
    from aioresponses import core

    class Shimmed(aiohttp.ClientResponse):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, stream_writer=SimpleNamespace(output_size=0), **kwargs)

    monkeypatch.setattr(core, "ClientResponse", Shimmed)
    url = "http://127.0.0.1:9/v1/accounts/a/campaigns/c/lead-status?leadIds=x"
    payload = {"success": True, "data": {"items": [{"leadId": "x", "workflowStatus": "waiting"}]}}
    with aioresponses() as canned:
        canned.get(url, payload=payload)
        status = await make_session(base_url=LOCAL).campaign("a", "c").get("x")
    assert status.workflow_status == "waiting"


async def test_a_deadline_error_says_how_far_it_came(server, make_session):
    """Attempts and waited are on the error where a request was made."""
    server.fault("hang")
    with pytest.raises(DeadlineExceededError) as caught:
        await make_session().campaign("a", "c").get_many(["x"], deadline=0.1)
    assert caught.value.attempts == 1


def test_a_path_that_leaves_no_room_is_said_when_the_campaign_is_made():
    """Rather than refusing every lead ID one by one."""
    with pytest.raises(ConfigurationError, match="max_url_bytes"):
        LeadStatusSession(KEY, max_url_bytes=256).campaign("a" * 400, "c")


def test_forked_workers_do_not_back_off_as_one():
    """What delays are drawn from is not copied by a fork: else all workers would come back at once."""

    async def main():
        async with LeadStatusSession(KEY, base_url=LOCAL) as session:
            await session.campaign("a", "c").get_many([])
            drawn = []
            for _ in range(2):
                reading, writing = os.pipe()
                if os.fork() == 0:
                    os.write(writing, str(session._core.dispatcher._attempt._dice.random()).encode())
                    os._exit(0)
                os.wait()
                drawn.append(os.read(reading, 100))
                os.close(reading)
                os.close(writing)
            return drawn

    first, second = asyncio.run(main())
    assert first != second
