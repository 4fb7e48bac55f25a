"""The fake server in a thread of its own, or in a loop but asked from others: who may call what, where."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import copy
import http.client
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from leadstatus_async.testing import FakeLeadStatusServer
from leadstatus_async.testing._thread import Deed, _wait

ROOT = Path(__file__).parents[1]
PATIENCE = 10.0  # seconds until a test that hangs fails
TARGET = "/v1/accounts/acc/campaigns/camp/lead-status?leadIds="


def ask(server, lead_id="a"):
    """Ask from this thread, and return the status; None if the server refuses, or gives no answer."""
    client = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=PATIENCE)
    with contextlib.closing(client):
        try:
            client.request("GET", TARGET + lead_id, headers={"Authorization": "Bearer sk_test"})
            response = client.getresponse()
            response.read()
        except (ConnectionError, http.client.BadStatusLine):
            return None
        return response.status


def listens(server):
    """Whether anybody takes connections at the server's port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", urlsplit(server.url).port)) == 0


def in_thread(call, *args):
    """Start a thread; what is returned joins it, and returns or raises what came of it."""
    came = []

    def run():
        try:
            came.append((call(*args), None))
        except BaseException as error:
            came.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()

    def join():
        thread.join(PATIENCE)
        assert not thread.is_alive()
        value, error = came[0]
        if error is not None:
            raise error
        return value

    return join


def until(holds):
    """Give other threads their turn until something holds."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0)


async def turns(holds):
    """Give the loop, and other threads, their turn until something holds."""
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _no_thread_left():
    """See to it that no server's thread outlives its test."""
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "FakeLeadStatusServer"]


# Life


def test_in_a_thread_of_its_own():
    """`with` needs no loop; what was seen can be asked for after the end, and nobody listens then."""
    with FakeLeadStatusServer() as server:
        assert server.expected("a").lead_id == "a"
        assert [ask(server), ask(server)] == [200, 200]
        assert server.count == len(server.requests) == 2
    assert (server.count, server.peak_rate(60.0), server.connections, server.in_flight) == (2, 2, 0, 0)
    assert not listens(server)


def test_from_any_thread():
    """It is started in one thread, used in another and closed in a third."""
    server = FakeLeadStatusServer()
    assert in_thread(server.__enter__)() is server
    assert in_thread(ask, server)() == 200
    in_thread(server.aclose)()
    assert not listens(server)
    assert server.count == 1


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_beside_a_running_loop(loop):
    """In a coroutine it runs beside the loop, whatever kind that is, and what takes time is awaited."""

    async def use():
        with FakeLeadStatusServer() as server:
            first = asyncio.create_task(server.wait_for_requests(1))
            await asyncio.sleep(0)
            assert not first.done()
            assert await asyncio.to_thread(ask, server) == 200
            await first
            await server.stop_listening()
            assert await asyncio.to_thread(ask, server) is None
            await server.start_listening()
            assert await asyncio.to_thread(ask, server) == 200
            with pytest.raises(TimeoutError, match="2 of 3 requests have come in 0"):
                await server.wait_for_requests(3, timeout=0.0)
        assert not listens(server)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    factory = pytest.importorskip("uvloop").new_event_loop if loop == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(use())


async def test_an_awaitable_that_is_cancelled():
    """Who no longer waits in one loop leaves nothing that waits in the other."""
    with FakeLeadStatusServer() as server:
        waiter = asyncio.create_task(server.wait_for_requests(1))
        await turns(lambda: server._log._waiting)
        waiter.cancel()
        await turns(lambda: not server._log._waiting)
        assert waiter.cancelled()


async def test_a_loop_that_other_threads_ask():
    """With `async with` too, threads without a loop wait, and threads with another one await."""
    async with FakeLeadStatusServer() as server:

        def plain():
            server.wait_for_requests(1)
            server.stop_listening()
            return ask(server)

        async def other():
            await server.start_listening()
            return await asyncio.to_thread(ask, server)

        task = asyncio.create_task(asyncio.to_thread(plain))
        assert await asyncio.to_thread(ask, server) == 200
        assert await task is None
        assert await asyncio.to_thread(asyncio.run, other()) == 200
        await asyncio.to_thread(server.aclose)
        assert not listens(server)


def test_an_outage_without_a_loop():
    """Where no loop runs, it has been done when the call returns, and may be awaited all the same."""
    with FakeLeadStatusServer() as server:
        assert ask(server) == 200
        server.stop_listening()
        assert not listens(server)
        assert server.connections == 0
        asyncio.run(server.start_listening())
        assert ask(server) == 200


def test_what_has_been_done_is_a_coroutine():
    """What a call without a loop returns does nothing more, however it is used."""

    async def wait(deed):
        return await deed

    assert asyncio.run(wait(Deed())) is None
    assert asyncio.run(Deed()) is None
    Deed().close()
    with pytest.raises(KeyError):
        Deed().throw(KeyError())


def test_closed_by_hand():
    """`aclose` ends the thread as well, with a loop or without, and may be called twice."""
    server = FakeLeadStatusServer().__enter__()
    server.aclose()
    server.aclose()
    assert not listens(server)

    async def use():
        with FakeLeadStatusServer() as server:
            await server.aclose()
            assert not listens(server)

    asyncio.run(use())


def test_closed_by_many():
    """Whoever closes it, it is closed for each of them when the call returns."""
    for _ in range(20):
        server = FakeLeadStatusServer().__enter__()
        for each in [in_thread(lambda server=server: (server.aclose(), listens(server))) for _ in range(4)]:
            assert each()[1] is False


def test_used_again():
    """After its end it can be started again, on the same port and with the same log, either way."""
    server = FakeLeadStatusServer()
    with server:
        url = server.url
        assert ask(server) == 200

    async def use():
        async with server:
            assert await asyncio.to_thread(ask, server) == 200
        async with server:
            assert await asyncio.to_thread(ask, server) == 200

    asyncio.run(use())
    with server:
        assert ask(server) == 200
        assert (server.url, server.count) == (url, 4)


def test_neither_started_nor_in_a_loop():
    """Where nothing could ever be done it is refused; to stop what does not run is done already."""
    server = FakeLeadStatusServer()
    for _ in range(2):
        server.stop_listening()
        server.aclose()
        for use in (server.start_listening, lambda: server.wait_for_requests(1)):
            with pytest.raises(RuntimeError, match="not started, or closed"):
                use()
        with server:
            pass


def test_started_twice():
    """A block in a block, in whatever way, says that it is started already, and harms nothing."""

    async def use(server):
        async with server:
            pass

    async def both():
        async with FakeLeadStatusServer() as server:
            with pytest.raises(RuntimeError, match="started already, and is not closed"), server:
                pass
            with pytest.raises(RuntimeError, match="another event loop"):
                await asyncio.to_thread(asyncio.run, use(server))
            assert await asyncio.to_thread(ask, server) == 200

    with FakeLeadStatusServer() as server:
        with pytest.raises(RuntimeError, match="started already, and is not closed"), server:
            pass
        with pytest.raises(RuntimeError, match="another event loop"):
            asyncio.run(use(server))
        assert ask(server) == 200
    asyncio.run(both())


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_in_the_block(error):
    """It goes on as it is; the server is closed."""
    with pytest.raises(error), FakeLeadStatusServer(strict=True) as server:
        server.script("500")
        raise error
    assert not listens(server)


def test_two_servers():
    """They have nothing in common."""
    with FakeLeadStatusServer() as one, FakeLeadStatusServer() as other:
        other.script("500")
        assert [ask(one), ask(other), ask(one)] == [200, 500, 200]
        assert (one.count, other.count) == (2, 1)


def test_a_thread_that_cannot_start(monkeypatch):
    """The error reaches the caller, and nothing is left behind: it can be tried again."""

    def start(_):
        raise RuntimeError("can't start new thread")

    server = FakeLeadStatusServer()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start"), server:
            pass
    with server:
        assert ask(server) == 200


def test_a_port_that_was_taken():
    """A server that cannot listen says so where it is started, and leaves no thread."""
    server = FakeLeadStatusServer()
    with server:
        port = urlsplit(server.url).port
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(OSError, match="in use"), server:
            pass
        assert not [thread for thread in threading.enumerate() if thread.name == "FakeLeadStatusServer"]
    with server:
        assert ask(server) == 200


# Waiting


def test_waiting_without_a_loop():
    """It returns when so many have come, and gives up when told to."""
    with FakeLeadStatusServer() as server:
        asked = in_thread(lambda: [ask(server) for _ in range(3)])
        server.wait_for_requests(3)
        assert asked() == [200] * 3
        with pytest.raises(TimeoutError, match=r"3 of 4 requests have come in 0\.01 s"):
            server.wait_for_requests(4, timeout=0.01)


def test_closed_while_somebody_waits():
    """Nobody waits for what can come no more."""
    with FakeLeadStatusServer() as server:
        waits = in_thread(server.wait_for_requests, 1)
        until(lambda: server._log._waiting)
    with pytest.raises(RuntimeError, match="closed when 0 of 1 requests had come"):
        waits()


async def test_a_loop_that_is_closed_while_somebody_waits():
    """In one loop it is the same, and one who has left already is no error."""
    server = await FakeLeadStatusServer().start()
    waiters = [asyncio.create_task(server.wait_for_requests(1)) for _ in range(2)]
    await turns(lambda: len(server._log._waiting) == 2)
    waiters[0].cancel()
    for _, waiting in server._log._waiting:
        waiting.add_done_callback(lambda _: None)
    await server.aclose()
    await asyncio.wait(waiters)
    assert waiters[0].cancelled()
    assert isinstance(waiters[1].exception(), RuntimeError)


@pytest.fixture
def interruptible():
    """See that SIGINT interrupts: whoever is started in the background may ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to threads")
def test_an_interrupt_while_waiting(interruptible):
    """Ctrl-C ends the waiting and the block."""

    def interrupt(server, main):
        until(lambda: server._log._waiting)
        signal.pthread_kill(main, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), FakeLeadStatusServer() as server:
        done = in_thread(interrupt, server, threading.get_ident())
        server.wait_for_requests(1)
    done()
    assert not listens(server)


def test_who_is_interrupted_waits_no_longer():
    """What was waited for in the server's loop is cancelled there."""

    class Interrupted(concurrent.futures.Future):
        def result(self):
            raise KeyboardInterrupt

    future = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        _wait(future)
    assert future.cancelled()


def test_called_while_it_closes(monkeypatch):
    """What comes after the beginning of the end is refused; who closes it too waits for the end."""
    with FakeLeadStatusServer() as server:
        home, thread = server._home, server._home._thread
        joins = threading.Event()
        join = thread.join
        monkeypatch.setattr(thread, "join", lambda: (joins.set(), join()))
        home.do(home.turn.acquire)  # which the end has to wait for
        first = in_thread(server.aclose)
        until(lambda: home._closing)
        with pytest.raises(RuntimeError, match="the fake server is closed"):
            server.start_listening()
        second = in_thread(server.aclose)
        assert joins.wait(PATIENCE)
        assert listens(server)
        home.soon(home.turn.release)
        for each in (first, second):
            each()
        assert not listens(server)


# What is seen from other threads


def test_held_and_released():
    """What is held in one thread is released by another."""
    with FakeLeadStatusServer() as server:
        server.hold()
        asked = [in_thread(ask, server) for _ in range(3)]
        server.wait_for_requests(3)
        assert (server.in_flight, server.max_in_flight) == (3, 3)
        assert [request.status for request in server.requests] == [None] * 3
        server.release()
        assert [each() for each in asked] == [200] * 3
        assert server.in_flight == 0


def test_held_from_before_the_start():
    """Who holds before it is started, or releases after the end, needs no loop for it."""
    server = FakeLeadStatusServer()
    server.release()
    server.hold()
    with server:
        asked = in_thread(ask, server)
        server.wait_for_requests(1)
        server.release()
        assert asked() == 200
        server.hold()
    server.release()
    with server:
        assert ask(server) == 200


def test_callbacks_use_the_server():
    """What is called in its thread may look and script, begin an outage, but not close it."""
    refused = []

    def status_of(lead_id):
        if lead_id == "close":
            with pytest.raises(RuntimeError, match="cannot close it") as caught:
                server.aclose()
            refused.append(caught.value)
        server.set_status("counted", str(server.count))

    def dies(request):
        if "die" in request.lead_ids:
            tasks.append(asyncio.ensure_future(server.stop_listening()))
        return False

    tasks = []
    with FakeLeadStatusServer(status_of=status_of) as server:
        server.fault("500", when=dies)
        assert [ask(server), ask(server, "close")] == [200, 200]
        assert server.expected("counted").workflow_status == "2"
        assert len(refused) == 1
        ask(server, "die")
        until(lambda: not listens(server))
        server.start_listening()
        assert ask(server) == 200
        assert tasks[0].done()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, ValueError])
def test_a_callback_that_raises(error):
    """Whatever it is costs that connection, and not the server."""

    def status_of(lead_id):
        if lead_id == "bad":
            raise error

    with FakeLeadStatusServer(status_of=status_of) as server:
        asked = in_thread(ask, server, "bad")
        server.wait_for_requests(1)
        assert ask(server) == 200
        server.stop_listening()
        assert asked() is None
        assert server.in_flight == 0


def test_options_change_at_any_time():
    """What is set between two requests holds for the second one."""
    with FakeLeadStatusServer() as server:
        assert ask(server) == 200
        server.api_key = "another"
        assert ask(server) == 401
        server.api_key = None
        server.unknown.add("acc")
        assert ask(server) == 404
        server.unknown.clear()
        server.set_status("a", "completed")
        server.statuses["b"] = "stopped"
        assert {server.expected("a").workflow_status, server.expected("b").workflow_status} == {
            "completed",
            "stopped",
        }


def test_the_log_is_a_snapshot():
    """What `requests` gave does not grow, and is the caller's own."""
    with FakeLeadStatusServer() as server:
        ask(server)
        seen = server.requests
        ask(server)
        assert len(seen) == 1
        seen.clear()
        assert len(server.requests) == 2


def test_a_request_is_seen_when_it_is_decided():
    """While it is decided what a request meets, nobody else sees it."""

    def look():
        free = server._home.lock.acquire(blocking=False)
        if free:
            server._home.lock.release()
        return free

    def when(_):
        free.append(in_thread(look)())
        return True

    free = []
    with FakeLeadStatusServer() as server:
        server.fault("500", when=when)
        assert ask(server) == 500
        assert free == [False]


@pytest.mark.parametrize("debug", ["", "1"])
def test_many_threads_at_once(monkeypatch, debug):
    """Nothing is lost or seen half done, though threads ask, script, hold, stop and look as they please."""
    monkeypatch.setenv("PYTHONASYNCIODEBUG", debug)  # in which asyncio refuses calls from other threads
    threads, times = 6, 40
    with FakeLeadStatusServer(strict=True) as server:
        going = True

        def client(number):
            for time in range(times):
                name = f"{number}-{time}"
                assert ask(server, name) in {200, 500, 429}
                (mine,) = [request for request in server.requests if request.lead_ids == (name,)]
                assert mine.status == {None: 200}.get(mine.fault) or int(mine.fault)

        def meddler():
            scripted = 0
            while going:
                server.fault("500", when=lambda request: request.at >= 0)
                server.script("429")
                scripted += 2
                server.wait_for_requests(min(scripted, threads * times))
                server.hold()
                server.set_status("x", "waiting")
                server.release()
                assert server.count >= len(server.requests) - threads
                assert server.peak_rate(60.0) >= 1
            server.clear_faults()

        meddling = in_thread(meddler)
        clients = [in_thread(client, number) for number in range(threads)]
        for each in clients:
            each()
        going = False
        meddling()
        assert server.count == threads * times
        assert server.in_flight == 0
        server.script("404", None)
        assert [ask(server), ask(server)] == [404, 200]


def test_stopped_and_started_by_many():
    """Whatever the order, nothing is left that listens after the end."""
    with FakeLeadStatusServer() as server:

        def meddle():
            for _ in range(10):
                server.stop_listening()
                server.start_listening()

        for each in [in_thread(meddle) for _ in range(4)]:
            each()
        assert ask(server) == 200
    assert not listens(server)


async def test_stopped_and_closed_at_once():
    """What stops, starts and closes does so one after another, and in the end all is closed."""
    server = FakeLeadStatusServer()
    for first, second in [("start", "aclose"), ("stop_listening", "aclose"), ("stop_listening", "start")]:
        await server.start()
        if first == "start":
            await server.stop_listening()
        else:
            _, client = await asyncio.open_connection("127.0.0.1", urlsplit(server.url).port)
            await turns(lambda: server.connections)
        under_way = asyncio.create_task(getattr(server, first)())
        await asyncio.sleep(0)
        await getattr(server, second)()
        await under_way
        assert listens(server) == (second == "start")
        assert second == "start" or server._listener._placeholder is None
        if first != "start":
            client.close()
    await server.aclose()


# Other processes


def test_neither_pickled_nor_copied():
    """It says what to hand on instead."""
    for use in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="hand its url to other processes"):
            use(FakeLeadStatusServer())


FORK = """
import os, sys, http.client
from urllib.parse import urlsplit
from leadstatus_async.testing import FakeLeadStatusServer

child = False
with FakeLeadStatusServer(strict=True) as server:
    server.script("500")
    pid = os.fork()
    if pid == 0:
        child = True
        client = http.client.HTTPConnection(urlsplit(server.url).netloc)
        client.request("GET", "/")
        assert client.getresponse().status == 500
        client.close()
        for use in "count requests stop_listening aclose check clear_faults hold release".split():
            try:
                what = getattr(server, use)
                callable(what) and what()
            except RuntimeError as error:
                assert "a forked child can use its url only" in str(error)
            else:
                sys.exit(use)
    else:
        assert os.waitpid(pid, 0)[1] == 0
        assert server.count == 1
if child:
    os._exit(0)  # what else the end of a forked Python does is not our business
print("parent")
"""


def alone(code, *flags):
    """Run code in a process of its own in which warnings are errors, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", *flags, "-c", code],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child():
    """It asks at the url, is refused all else in words, and leaves the block without harm to its parent."""
    assert alone(FORK, "-W", "ignore::DeprecationWarning") == "parent\n"  # 3.12 warns of any such fork


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
async def test_a_forked_child_of_a_loop():
    """The same of a server in a loop, which the child does not have."""
    async with FakeLeadStatusServer() as server:
        server._home._process += 1  # as a child would see it
        await server.__aexit__(None)
        assert listens(server)
        with pytest.raises(RuntimeError, match="forked child"):
            _ = server.count
        server._home._process -= 1


def test_a_forked_child_leaves_the_block():
    """Without harm to the thread, which is its parent's."""
    with FakeLeadStatusServer() as server:
        server._home._process += 1  # as a child would see it
        server.__exit__(None)
        server._home._process -= 1
        assert server.count == 0


def test_left_open():
    """A process that forgets to close one ends all the same, and quietly."""
    code = (
        "from leadstatus_async.testing import FakeLeadStatusServer as Fake; print(Fake().__enter__().count)"
    )
    assert alone(code) == "0\n"
