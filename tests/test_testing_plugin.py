"""The pytest plugin, run by pytest in a process of its own as users have it: found by its entry point."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest

from leadstatus_async import ConfigurationError
from leadstatus_async.testing import FakeLeadStatusServer
from leadstatus_async.testing._fixtures import session_with

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]
USE = """
    import asyncio
    import gc
    import time
    import unittest

    import pytest

    seen = []

    @pytest.fixture
    def leadstatus_server(leadstatus_server):
        '''See to it that the session, which is closed first, leaves no connection open.'''
        yield leadstatus_server
        end = time.monotonic() + 10
        while leadstatus_server.connections:
            assert time.monotonic() < end
            time.sleep(0)

    async def use(server, session):
        '''Leave idle connections behind, more than one, and be the first to use the session's loop.'''
        seen.append(session)
        campaign = session.campaign("acc", "camp")
        ids = [str(number) for number in range(250)]
        assert list(await campaign.get_many(ids)) == [server.expected(lead_id) for lead_id in ids]
        assert server.requests[0].headers["authorization"] == "Bearer sk_test_fake"
        assert server.count == 3
        assert server.connections > 1

    def teardown_module():
        assert seen and all(session.closed for session in seen)
        seen.clear()
        gc.collect()  # what was left open warns now
"""
PLAIN = """
    def test_server(leadstatus_server):
        assert leadstatus_server.url.startswith("http://127.0.0.1:")

    def test_in_a_loop_of_its_own(leadstatus_server, leadstatus_session):
        asyncio.run(use(leadstatus_server, leadstatus_session))

    def test_a_loop_of_old(leadstatus_server, leadstatus_session):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(use(leadstatus_server, leadstatus_session))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    def test_a_session_that_nobody_uses(leadstatus_session):
        seen.append(leadstatus_session)

    class TestCase(unittest.IsolatedAsyncioTestCase):
        @pytest.fixture(autouse=True)
        def take(self, leadstatus_server, leadstatus_session):
            self.server, self.session = leadstatus_server, leadstatus_session

        async def test_session(self):
            await use(self.server, self.session)
"""
ASYNC = """
    {mark}
    async def test_{name}(leadstatus_server, leadstatus_session):
        await use(leadstatus_server, leadstatus_session)

    {mark}
    async def test_{name}_again(leadstatus_server, leadstatus_session):
        assert leadstatus_session not in seen and not leadstatus_session.closed
        await use(leadstatus_server, leadstatus_session)
"""


def cases(mark, *names):
    """Return two tests for each name, as coroutines with this mark."""
    return "".join(ASYNC.format(mark=mark.format(name), name=name) for name in names)


SCOPES = cases("@pytest.mark.asyncio(loop_scope={!r})", "function", "class", "module", "session")


@pytest.fixture
def run(pytester, monkeypatch):
    """Run pytest on a file, with the library's entry point as `pyproject.toml` has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    ((name, module),) = project["entry-points"]["pytest11"].items()
    installed = pytester.mkdir("site") / "leadstatus_async_as_installed-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: leadstatus-async-as-installed\nVersion: 1\n"
    )
    (installed / "entry_points.txt").write_text(f"[pytest11]\n{name} = {module}\n")
    monkeypatch.setenv("PYTHONPATH", f"{installed.parent}:{ROOT}")
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", raising=False)
    monkeypatch.delenv("LEADSTATUS_TEST_LOOP", raising=False)

    def run(text, *args, mode="strict", anyio=False):
        asyncio_ini = f"asyncio_mode = {mode}\nasyncio_default_fixture_loop_scope = function" if mode else ""
        pytester.makeini(f"[pytest]\nfilterwarnings = error\n{asyncio_ini}\n")
        pytester.makepyfile(text)
        # Other plugins are not what this is about, and take most of the time.
        without = ["hypothesispytest", *([] if anyio else ["anyio"]), *([] if mode else ["asyncio"])]
        return pytester.runpytest_subprocess(*(f"-pno:{plugin}" for plugin in without), *args)

    return run


@pytest.mark.parametrize(
    ("mode", "text", "passed"),
    [
        ("strict", SCOPES, 8),
        ("auto", cases("", "auto") + SCOPES, 10),
        (None, "", 0),
    ],
    ids=["strict", "auto", "without pytest-asyncio"],
)
def test_fixtures_work_in_every_mode(run, mode, text, passed):
    """In plain tests, unittest's and those of every loop scope, with warnings as errors; closed after all."""
    run(USE + PLAIN + text, mode=mode).assert_outcomes(passed=passed + 5)


@pytest.mark.parametrize("mode", [None, "strict"])
def test_fixtures_work_with_anyio(run, mode):
    """With anyio's plugin, alone or beside pytest-asyncio; fixtures of its kind can use the session, too."""
    text = """
    @pytest.fixture
    def anyio_backend():
        return "asyncio"

    @pytest.fixture
    async def outliving(leadstatus_server, leadstatus_session, anyio_backend):
        yield leadstatus_session
        await leadstatus_session.campaign("acc", "camp").get("late")
        assert leadstatus_server.requests[-1].lead_ids == ("late",)

    @pytest.mark.anyio
    async def test_fixture(leadstatus_server, outliving):
        await use(leadstatus_server, outliving)
    """
    both = cases("@pytest.mark.asyncio", "asyncio") if mode else ""
    done = run(USE + cases("@pytest.mark.anyio", "anyio") + text + both, mode=mode, anyio=True)
    done.assert_outcomes(passed=5 if mode else 3)


def test_fixtures_work_in_several_processes(run):
    """Under pytest-xdist each worker has servers of its own."""
    run(USE + SCOPES, "-pxdist", "-n2").assert_outcomes(passed=8)


def test_fixtures_work_on_uvloop(run):
    """On another kind of loop."""
    pytest.importorskip("uvloop")
    text = """
    @pytest.fixture
    def anyio_backend():
        return "asyncio", {"use_uvloop": True}

    @pytest.mark.anyio
    async def test_uvloop():
        assert "uvloop" in repr(asyncio.get_running_loop())
    """
    run(USE + text + cases("@pytest.mark.anyio", "anyio"), mode=None, anyio=True).assert_outcomes(passed=3)


def test_async_fixtures_of_the_users(run):
    """What depends on the session may use it until its own end, in the loop of the test."""
    text = """
    import pytest_asyncio

    @pytest_asyncio.fixture
    async def app(leadstatus_session):
        yield leadstatus_session.campaign("acc", "camp")
        assert (await leadstatus_session.campaign("acc", "camp").get("late")).lead_id == "late"

    @pytest.mark.asyncio
    async def test_app(leadstatus_server, leadstatus_session, app):
        await use(leadstatus_server, leadstatus_session)
        assert (await app.get("a")).lead_id == "a"
    """
    run(USE + text).assert_outcomes(passed=1)


def test_options_are_overridden(run):
    """A project's own options are laid over ours, key and base URL included; its observers are told."""
    text = """
    events = []

    @pytest.fixture
    def leadstatus_session_options(leadstatus_session_options):
        return leadstatus_session_options | {"chunk_size": 2, "api_key": "sk_own", "on_event": events.append}

    def test_own(leadstatus_server, leadstatus_session):
        asyncio.run(leadstatus_session.campaign("acc", "camp").get_many(["a", "b", "c"]))
        assert [len(request.lead_ids) for request in leadstatus_server.requests] == [2, 1]
        assert leadstatus_server.requests[0].headers["authorization"] == "Bearer sk_own"
        assert events
        seen.append(leadstatus_session)
    """
    run(USE + text).assert_outcomes(passed=1)


def test_what_was_not_met_fails_the_test(run):
    """A server made strict, by the test or by a project's fixture, is checked when the test has ended."""
    text = """
    import pytest

    def test_lenient(leadstatus_server):
        leadstatus_server.script("500")

    def test_strict(leadstatus_server):
        leadstatus_server.strict = True
        leadstatus_server.script("500")

    class TestAll:
        @pytest.fixture
        def leadstatus_server(self, leadstatus_server):
            leadstatus_server.strict = True
            return leadstatus_server

        def test_strict(self, leadstatus_server):
            leadstatus_server.fault("reset", times=2)
    """
    result = run(text)
    result.assert_outcomes(passed=3, errors=2)
    result.stdout.fnmatch_lines(["*script: 1 left: '500'", "*fault('reset', times=2): 2 left"])


TROUBLE = """
    from leadstatus_async import APIConnectionError, APITimeoutError, RateLimitError

    @pytest.mark.parametrize("many", [1, 500])
    @pytest.mark.parametrize(("trouble", "error"), [
        (lambda server: server.stop_listening(), APIConnectionError),
        (lambda server: server.fault("429", times=None), RateLimitError),
        (lambda server: server.fault("429-retry-after", times=None), RateLimitError),
        (lambda server: setattr(server, "latency", 60.0), APITimeoutError),
        (lambda server: server.fault("hang", times=None), APITimeoutError),
    ])
    def test_trouble(leadstatus_server, leadstatus_session, trouble, error, many):
        seen.append(leadstatus_session)

        with asyncio.Runner() as runner:
            campaign = leadstatus_session.campaign("acc", "camp")
            runner.run(campaign.get("before"))
            trouble(leadstatus_server)
            before = time.monotonic()
            ids = [str(number) for number in range(many)]
            result = runner.run(campaign.get_many(ids, on_error="collect"))
            assert [type(failure.error) for failure in result.failures] == [error] * many
            assert time.monotonic() - before < 5
"""


def test_trouble_is_over_soon(run):
    """By the fixture's own options an outage, a 429 storm and a slow server cost no time to speak of."""
    run(USE + TROUBLE).assert_outcomes(passed=10)


def test_patience_is_short(leadstatus_session_options):
    """Whatever happens without end is over in less than half a second."""
    patience, timeout = leadstatus_session_options["retry"], leadstatus_session_options["timeout"]
    assert leadstatus_session_options["rate_limit"] is None
    assert patience.max_attempts * (timeout + patience.max_delay) < 0.4
    assert max(patience.max_outage, patience.max_retry_after) + timeout < 0.4


def test_retries_are_kept(run):
    """Patience is short, but there is some: what passes is retried, as in earnest."""
    text = """
    def test_passing(leadstatus_server, leadstatus_session):
        seen.append(leadstatus_session)
        leadstatus_server.script("500", "429", "reset", "429-retry-after-zero")
        assert asyncio.run(leadstatus_session.campaign("acc", "camp").get("a")).lead_id == "a"
        leadstatus_server.check()
    """
    run(USE + text).assert_outcomes(passed=1)


def test_fixtures_are_closed(run):
    """After a test the session is closed and nobody listens at the server's port."""
    text = """
        import socket
        from urllib.parse import urlsplit

        seen = {}

        async def test_use(leadstatus_server, leadstatus_session):
            await leadstatus_session.campaign("acc", "camp").get("a")
            seen["session"], seen["server"] = leadstatus_session, leadstatus_server
            assert not leadstatus_session.closed

        def test_closed():
            assert seen["session"].closed
            assert seen["server"].connections == 0
            with socket.socket() as client:
                assert client.connect_ex(("127.0.0.1", urlsplit(seen["server"].url).port)) != 0
    """
    run(text, mode="auto").assert_outcomes(passed=2)


def test_named_by_hand(run, monkeypatch):
    """Without autoload, `-p` brings the fixtures."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    run(USE + PLAIN, "-pleadstatus_async.testing.plugin", mode=None).assert_outcomes(passed=5)


def test_without_pytest_asyncio(run):
    """Who does not use it is not bothered: it stays unloaded."""
    text = """
        import sys

        def test_plain(request, leadstatus_server, leadstatus_session):
            assert "pytest_asyncio" not in sys.modules
            assert request.config.pluginmanager.hasplugin("leadstatus_async")
    """
    run(text, mode=None).assert_outcomes(passed=1)


def test_fixtures_are_described(run):
    """`pytest --fixtures` lists all with a line that says what they give."""
    result = run("", "--fixtures")
    result.stdout.fnmatch_lines(
        [
            "leadstatus_server*", "*fake server*",
            "leadstatus_session_options*", "*options*",
            "leadstatus_session *", "*`leadstatus_server`*",
        ]
    )  # fmt: skip


def test_who_does_not_use_it_does_not_pay(run):
    """In a run that asks for no fixture, nothing that sends, decodes or serves is loaded."""
    text = """
        import sys

        def test_plain(request):
            assert request.config.pluginmanager.hasplugin("leadstatus_async")
            heavy = {"aiohttp", "msgspec", "aiolimiter", "yarl"}
            assert not heavy & set(sys.modules)
            assert "leadstatus_async.testing.server" not in sys.modules
            assert "leadstatus_async.session" not in sys.modules
    """
    run(text).assert_outcomes(passed=1)


def test_the_plugin_alone_loads_nothing():
    """Importing the plugin module loads neither asyncio nor what sends: pytest, and this package's shell."""
    code = "import sys, pytest; before = set(sys.modules); import leadstatus_async.testing.plugin as _;"
    code += "print(*(name.split('.')[0] for name in set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert set(done.stdout.split()) == {"leadstatus_async"}


# The session of one test, without pytest


@pytest.fixture
def server():
    """Give a server in a thread of its own."""
    with FakeLeadStatusServer() as server:
        yield server


async def use(server, session):
    """Ask once; a connection stays behind."""
    await session.campaign("acc", "camp").get("a")
    assert server.connections == 1


def options(server, **others):
    """Return the options of a session that asks the server."""
    return {"api_key": "sk_test", "base_url": server.url, "rate_limit": None, **others}


def test_a_loop_that_outlives_the_test(server):
    """The session is closed in it, and nothing is left there."""
    loop = asyncio.new_event_loop()
    with contextlib.closing(loop):
        with session_with(options(server)) as session:
            loop.run_until_complete(use(server, session))
        assert session.closed
        assert not asyncio.all_tasks(loop)


def test_a_loop_that_runs_in_another_thread(server):
    """The session is closed in it, too."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    with session_with(options(server)) as session:
        asyncio.run_coroutine_threadsafe(use(server, session), loop).result()
    assert session.closed
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_loop_in_which_nothing_was_asked(server):
    """One call that sends nothing binds the session, which is closed all the same."""
    loop = asyncio.new_event_loop()
    with contextlib.closing(loop), session_with(options(server)) as session:
        loop.run_until_complete(session.campaign("acc", "camp").get_many([]))
    assert session.closed


def test_a_loop_that_was_closed_without_care():
    """Nobody ended what was begun in it: the session is closed, as far as that is possible."""
    code = """if True:
        import asyncio
        from leadstatus_async.testing import FakeLeadStatusServer
        from leadstatus_async.testing._fixtures import session_with
        with FakeLeadStatusServer() as server:
            with session_with({"api_key": "k", "base_url": server.url}) as session:
                loop = asyncio.new_event_loop()
                loop.run_until_complete(session.campaign("acc", "camp").get("a"))
                loop.close()
        print(session.closed)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.parametrize("theirs", [1, 2])
def test_observers_of_the_users(server, theirs):
    """They are told, one or a list of them; what is none is refused as ever."""
    told = [[] for _ in range(theirs)]
    observers = [each.append for each in told]
    on_event = observers if theirs > 1 else observers[0]
    with session_with(options(server, on_event=on_event)) as session:
        asyncio.run(use(server, session))
    assert all(told)
    with pytest.raises(ConfigurationError, match="on_event"), session_with(options(server, on_event=0)):
        pass
