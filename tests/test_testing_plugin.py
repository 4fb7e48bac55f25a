"""The pytest plugin, run by pytest in a process of its own as users have it: found by its entry point."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]
USES = """
    import pytest

    {mark}
    async def test_server(leadstatus_server):
        assert leadstatus_server.url.startswith("http://127.0.0.1:")

    {mark}
    async def test_session(leadstatus_server, leadstatus_session):
        result = await leadstatus_session.campaign("acc", "camp").get_many(["a", "b"])
        assert list(result) == [leadstatus_server.expected("a"), leadstatus_server.expected("b")]
        assert leadstatus_server.requests[0].headers["authorization"] == "Bearer sk_test_fake"
        assert leadstatus_server.count == 1
"""


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

    def run(text, *args, mode="strict"):
        asyncio_ini = f"asyncio_mode = {mode}\nasyncio_default_fixture_loop_scope = function" if mode else ""
        pytester.makeini(f"[pytest]\nfilterwarnings = error\n{asyncio_ini}\n")
        pytester.makepyfile(text)
        # Other plugins are not what this is about, and take most of the time.
        return pytester.runpytest_subprocess("-p", "no:hypothesispytest", "-p", "no:anyio", *args)

    return run


@pytest.mark.parametrize(("mode", "mark"), [("auto", ""), ("strict", "@pytest.mark.asyncio")])
def test_fixtures_work_in_both_modes(run, mode, mark):
    """A started server and a session bound to it, closed afterwards, with warnings as errors."""
    run(USES.format(mark=mark), mode=mode).assert_outcomes(passed=2)


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
    """Without autoload, `-p` brings both plugins, and the fixtures are there."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    named = ("-p", "pytest_asyncio.plugin", "-p", "leadstatus_async.testing.plugin")
    run(USES.format(mark="@pytest.mark.asyncio"), *named).assert_outcomes(passed=2)


def test_without_pytest_asyncio(run):
    """Who does not use it is not bothered: it stays unloaded, and no fixture is offered."""
    text = """
        import sys

        def test_plain(request):
            assert "pytest_asyncio" not in sys.modules
            assert request.config.pluginmanager.hasplugin("leadstatus_async")

        def test_fixture(leadstatus_server):
            pass
    """
    result = run(text, "-p", "no:asyncio", mode=None)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*fixture 'leadstatus_server' not found"])


def test_fixtures_are_described(run):
    """`pytest --fixtures` lists both with a line that says what they give."""
    result = run("", "--fixtures")
    result.stdout.fnmatch_lines(
        ["leadstatus_server*", "*fake server*", "leadstatus_session*", "*`leadstatus_server`*"]
    )


def test_who_does_not_use_it_does_not_pay(run):
    """In a run that asks for neither fixture, nothing that sends, decodes or serves is loaded."""
    text = """
        import sys

        def test_plain(request):
            assert request.config.pluginmanager.hasplugin("leadstatus_async_fixtures")
            heavy = {"aiohttp", "msgspec", "aiolimiter", "yarl"}
            assert not heavy & set(sys.modules)
            assert "leadstatus_async.testing.server" not in sys.modules
            assert "leadstatus_async.session" not in sys.modules
    """
    run(text).assert_outcomes(passed=1)


def test_the_plugin_alone_loads_nothing():
    """Importing the plugin module loads neither pytest's helpers nor asyncio, only this package's shell."""
    code = "import sys; before = set(sys.modules); import leadstatus_async.testing.plugin as _;"
    code += "print(*(name.split('.')[0] for name in set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not set(done.stdout.split()) & {"pytest", "pytest_asyncio", "asyncio", "aiohttp", "msgspec"}
