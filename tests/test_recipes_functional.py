"""The files under `docs/recipes`, each run as its reader would run it, against the fake server."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib.util
import json
import os
import re
import signal
import sys
from pathlib import Path

import aiohttp
import pytest
from pyarrow import parquet
from yarl import URL

from leadstatus_async.testing import FakeLeadStatusServer

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "docs" / "recipes"
KEY = "sk_live_recipes"
IDS = [f"{number:024x}" for number in range(1000)]
ENV = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "SONARLY_API_KEY": KEY, "PORT": "0"}
PATIENCE = 60  # seconds after which a test is given up for hanging


def needs(*modules):
    """Skip, and say so, where an optional package is absent."""
    absent = [name for name in modules if not _installed(name)]
    return pytest.mark.skipif(bool(absent), reason=f"not installed: {', '.join(absent)}")


def _installed(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package above it
        return False


needs_fastapi = needs("fastapi", "uvicorn")
WEB = [pytest.param("fastapi_app.py", marks=needs_fastapi), "aiohttp_app.py"]


class Recipe:
    """A recipe in a process of its own, with its output line by line."""

    def __init__(self, process):
        self.process = process
        self.out, self.err = process.stdout, process.stderr

    async def said(self, pattern):
        """Read on, on both outputs, until one says `pattern`; return the match."""
        readers = {asyncio.ensure_future(self._until(stream, pattern)) for stream in (self.out, self.err)}
        try:
            async with asyncio.timeout(PATIENCE):
                for first in asyncio.as_completed(readers):
                    if match := await first:
                        return match
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.wait(readers)
        raise AssertionError(f"it ended without saying {pattern!r}")

    async def _until(self, stream, pattern):
        while line := await stream.readline():
            if match := re.search(pattern, line.decode()):
                return match
        return None

    async def ends(self, stop=None):
        """Return exit status, stdout and stderr lines of the rest, after sending the signal `stop`."""
        if stop is not None:
            self.process.send_signal(stop)
        async with asyncio.timeout(PATIENCE):
            out, err = await self.process.communicate()
        return self.process.returncode, out.decode().splitlines(), err.decode().splitlines()


@contextlib.asynccontextmanager
async def running(name, *args, server, stdin=None, **env):
    """Start a recipe that talks to `server`, and see to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(RECIPES / name),
        *args,
        stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=2**20,
        env={**os.environ, **ENV, "SONARLY_BASE_URL": server.url, **env},
    )
    try:
        if stdin is not None:
            process.stdin.write(stdin.encode())
            process.stdin.close()
        yield Recipe(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@contextlib.asynccontextmanager
async def web(name, server, **env):
    """Start a web recipe; yields a client of it and ends it by SIGINT, which must be clean."""
    async with running(name, server=server, **env) as recipe:
        base = (await recipe.said(r"unning on (http://127\.0\.0\.1:\d+)"))[1]
        async with aiohttp.ClientSession(base) as client:
            yield client
        _, _, errors = await recipe.ends(signal.SIGINT)
        assert not [line for line in errors if "Traceback" in line or "unclosed" in line]


@pytest.fixture
async def server():
    """Give a fake server that knows our key only."""
    async with FakeLeadStatusServer(api_key=KEY) as server:
        yield server


def path(lead_id="", campaign="c"):
    """Return a path of the web recipes."""
    return f"/accounts/a/campaigns/{campaign}/leads" + (f"/{lead_id}" if lead_id else "")


@pytest.mark.parametrize("name", WEB)
async def test_web_answers_with_one_status(name, server):
    """A route with `get` answers with the lead's status as plain JSON."""
    async with web(name, server) as client, client.get(path(IDS[0])) as response:
        assert response.status == 200
        assert await response.json() == server.expected(IDS[0]).to_dict()


@needs_fastapi
async def test_a_page_that_is_reloaded_costs_one_request(server):
    """A hundred times within its age, and `/healthz` says so in plain JSON."""
    async with web("fastapi_app.py", server, MAX_AGE="60") as client:
        for _ in range(10):
            pages = await asyncio.gather(*(client.get(path(IDS[0])) for _ in range(10)))
            assert [page.status for page in pages] == [200] * 10
        async with client.get("/healthz") as response:
            health = await response.json()
    assert server.count == 1
    stats = health["stats"]
    assert (stats["requests"], stats["leads"], health["outage"]) == (1, 1, False)
    assert health["limit"]["rate"] == 20


@pytest.mark.parametrize("name", WEB)
async def test_web_requests_share_requests(name, server):
    """Callers of ours who wait at the same time travel in common requests, with one session for all."""

    async def ask(client, lead_id):
        async with client.get(path(lead_id)) as response:
            return (await response.json())["lead_id"]

    async with web(name, server, DEADLINE="30") as client:
        assert await asyncio.gather(*(ask(client, lead_id) for lead_id in IDS[:80])) == IDS[:80]
    assert server.count < 40
    assert len({request.connection for request in server.requests}) < 20


@pytest.mark.parametrize("name", WEB)
async def test_web_refuses_when_the_deadline_cannot_be_kept(name, server):
    """Whoever cannot be answered in time gets our own 429, with whole seconds to come back after."""
    server.hold()
    async with web(name, server, DEADLINE="0.05") as client, client.get(path(IDS[0])) as response:
        assert response.status == 429
        assert int(response.headers["Retry-After"]) >= 1
        assert await response.json() == {"error": "DeadlineExceededError"}


@pytest.mark.parametrize("name", WEB)
async def test_web_hands_on_the_servers_pause(name, server):
    """A pause too long to be waited for becomes our own 429, with the pause's end as Retry-After."""
    server.fault("429-retry-after-huge", times=None)
    async with web(name, server) as client, client.get(path(IDS[0])) as response:
        assert response.status == 429
        assert 3000 < int(response.headers["Retry-After"]) <= 3600
        assert await response.json() == {"error": "RateLimitError"}


REFUSALS = [
    (path("a,b"), None, 422, "InvalidLeadIdError"),
    (path(IDS[0], campaign="c%3Fx"), None, 422, "ConfigurationError"),
    (path(IDS[0]), "404", 404, "NotFoundError"),
    (path(IDS[0]), "401", 502, "AuthenticationError"),
]


@pytest.mark.parametrize("name", WEB)
async def test_web_says_whose_fault_it_is(name, server):
    """What our caller got wrong is a 4xx; what is between us and the API is a 502, without its words."""
    async with web(name, server) as client:
        for target, fault, status, error in REFUSALS:
            if fault:
                server.fault(fault)
            async with client.get(URL(target, encoded=True)) as response:
                assert (response.status, await response.json()) == (status, {"error": error})


@needs_fastapi
async def test_fastapi_streams_lines(server):
    """The streaming route writes one JSON line per lead, in order, failures in their places."""
    server.bad_ids = {IDS[7]}
    async with web("fastapi_app.py", server) as client, client.post(path(), json=IDS[:300]) as response:
        assert response.content_type == "application/x-ndjson"
        rows = [json.loads(line) async for line in response.content]
    assert [row["lead_id"] for row in rows] == IDS[:300]
    assert [row["lead_id"] for row in rows if "error" in row] == [IDS[7]]


@needs_fastapi
async def test_fastapi_caller_hangs_up(server):
    """A caller who leaves a stream cancels what is in flight for it, which makes room for the others."""
    crowd = [f"lead-{number}" for number in range(1700)]
    server.hold()
    async with web("fastapi_app.py", server, DEADLINE="30") as client:
        async with client.post(path(), json=crowd) as response:
            await server.wait_for_requests(16)  # every slot of the session is taken
            response.close()
        waiting = asyncio.create_task(client.get(path(IDS[0])))
        async with asyncio.timeout(PATIENCE):
            await server.wait_for_requests(17)
        assert server.requests[16].lead_ids == (IDS[0],)
        server.release()
        async with await waiting as response:
            assert response.status == 200


async def test_aiohttp_answers_a_list(server):
    """The list route of the aiohttp recipe answers with one flat row per position, failures too."""
    server.bad_ids = {IDS[1]}
    async with web("aiohttp_app.py", server) as client, client.post(path(), json=IDS[:3]) as response:
        rows = await response.json()
    assert [row["lead_id"] for row in rows] == IDS[:3]
    assert [bool(row["error"]) for row in rows] == [False, True, False]


def done(lines):
    """Return the leads that the worker says it has answered."""
    return [json.loads(line)["lead_id"] for line in lines]


def left(lines):
    """Return the leads that the worker says it has left."""
    return [line.removeprefix("left ") for line in lines if line.startswith("left ")]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_worker_drains(stop, server):
    """Stopped by a signal, the worker finishes what is under way and leaves the rest in the queue."""
    server.hold()
    async with running("worker.py", "a", "c", server=server, stdin="\n".join(IDS)) as worker:
        await server.wait_for_requests(1)
        worker.process.send_signal(stop)
        await worker.said("stopping")
        server.release()
        status, out, err = await worker.ends()
    assert status == 0
    assert sorted(done(out)) == IDS[:200]
    assert sorted(left(err)) == IDS[200:]
    assert sorted(lead_id for request in server.requests for lead_id in request.lead_ids) == IDS[:200]


async def test_worker_gives_up_draining(server):
    """What cannot be finished within the time to drain is left too: no job is lost, and it does end."""
    server.hold()
    async with running("worker.py", "a", "c", server=server, stdin="\n".join(IDS), DRAIN="0.1") as worker:
        await server.wait_for_requests(1)
        status, out, err = await worker.ends(signal.SIGTERM)
    assert (status, out) == (0, [])
    assert sorted(left(err)) == IDS


async def test_worker_idle(server):
    """A worker whose queue is empty ends on a signal too, with all its jobs done, a failed one included."""
    server.bad_ids = {IDS[1]}
    async with running("worker.py", "a", "c", server=server, stdin="\n".join(IDS[:3])) as worker:
        rows = [json.loads(await worker.out.readline()) for _ in range(3)]
        status, out, err = await worker.ends(signal.SIGTERM)
    assert (status, out, err) == (0, [], ["stopping"])
    assert {row["lead_id"]: "error" in row for row in rows} == {IDS[0]: False, IDS[1]: True, IDS[2]: False}


async def test_worker_tries_again_later(server):
    """What may help is tried again, some times; what came of it at last is told once."""
    server.fault("bad-row", times=2)
    async with running("worker.py", "a", "c", server=server, stdin=IDS[0], LATER="0.01") as worker:
        row = json.loads(await worker.out.readline())
        server.fault("bad-row", times=None)
        status, out, _ = await worker.ends(signal.SIGTERM)
    assert (status, out) == (0, [])
    assert row == server.expected(IDS[0]).to_dict()
    assert server.count == 3
    before = server.count
    async with running("worker.py", "a", "c", server=server, stdin=IDS[0], LATER="0.01") as worker:
        row = json.loads(await worker.out.readline())
        await worker.ends(signal.SIGTERM)
    assert (row["error_type"], row["retryable"]) == ("ResponseDecodeError", True)
    assert server.count - before == 5


async def test_worker_stops_when_refused(server):
    """A refused key ends the worker with status 1 and every job still in the queue."""
    server.fault("401", times=None)
    async with running("worker.py", "a", "c", server=server, stdin="\n".join(IDS)) as worker:
        status, out, err = await worker.ends()
    assert (status, out) == (1, [])
    assert sorted(left(err)) == IDS


async def run_cell(cell, names):
    """Run a notebook's cell as IPython does: `await` may stand at its top level."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    running = eval(compile("".join(cell["source"]), cell["id"], "exec", flags), names)
    if running is not None:
        await running


async def test_notebook(server, monkeypatch, tmp_path, capsys):
    """Every cell runs; one that is interrupted keeps what was answered, and goes on when it is run again."""
    monkeypatch.setenv("SONARLY_API_KEY", KEY)
    monkeypatch.setenv("SONARLY_BASE_URL", server.url)
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((RECIPES / "notebook.ipynb").read_text())
    names = {}
    interrupted = False
    server.bad_ids.add(IDS[7])
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert not cell["outputs"]
        if "tqdm" in "".join(cell["source"]):
            task = asyncio.ensure_future(run_cell(cell, names))
            while len(names["done"]) < 200:
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.wait([task])
            interrupted = task.cancelled()
            assert len(names["done"]) >= 200
            assert names["session"]._core.idle
        await run_cell(cell, names)
    assert interrupted
    expected = [server.expected(lead_id) for lead_id in names["lead_ids"]]
    assert names["result"].statuses == [one for one in expected if one.lead_id != IDS[7]]
    for file in ("statuses.parquet", "all.parquet"):
        rows = parquet.read_table(tmp_path / file).to_pylist()
        assert [row["lead_id"] for row in rows] == names["lead_ids"]
        assert rows[7]["error_type"] == "BadRequestError"


def test_index():
    """The index names every recipe, every recipe says what it is, and none is long."""
    index = (RECIPES / "README.md").read_text()
    recipes = sorted(RECIPES.glob("*.py"))
    listed = sorted(re.findall(r"\]\((\w+\.(?:py|ipynb))\)", index))
    assert listed == sorted(recipe.name for recipe in [*recipes, *RECIPES.glob("*.ipynb")])
    for recipe in recipes:
        text = recipe.read_text()
        assert ast.get_docstring(ast.parse(text))
        assert len(text.splitlines()) < 80


@pytest.mark.parametrize("page", ["docs/CONTRIBUTING.md", "docs/SECURITY.md", "docs/recipes/README.md"])
def test_pages_name_what_exists(page):
    """Every file that a page names is there."""
    named = re.findall(r"[\w./-]+/[\w.-]+\.(?:py|md)\b|\.ci/run", (ROOT / page).read_text())
    assert not [name for name in named if not (ROOT / name).exists()]
