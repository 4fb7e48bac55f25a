"""README and docs: every Python snippet runs, every command and link exists."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from leadstatus_async import errors
from leadstatus_async.policy import RetryPolicy

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
SNIPPETS = [
    pytest.param(code, bool(notebook), id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, (notebook, code) in enumerate(
        re.findall(r"```python( notebook)?\n(.*?)```", page.read_text(), re.DOTALL)
    )
]
IN_A_NOTEBOOK = """
import ast, asyncio, types
cell = compile({code!r}, "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
asyncio.run(types.FunctionType(cell, {{}})())
"""
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
RAW = URLS["Repository"].replace("github.com", "raw.githubusercontent.com") + "/main/"


@pytest.mark.parametrize(("code", "notebook"), SNIPPETS)
async def test_snippets_run_as_they_stand(server, code, notebook):
    """In a process of their own, against the fake server through the environment."""
    if notebook:  # where `await` may stand at the top level
        code = IN_A_NOTEBOOK.format(code=code)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", code,
        env={**os.environ, "SONARLY_API_KEY": "sk_test", "SONARLY_BASE_URL": server.url},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, err = await process.communicate()
    assert process.returncode == 0, err.decode()


@pytest.fixture
def examples(tmp_path):
    """Write down the examples of the guide to testing, each under the name that its fence gives it."""
    text = (ROOT / "docs/testing.md").read_text()
    for name, code in re.findall(r"```python (\w+\.py)\n(.*?)```", text, re.DOTALL):
        (tmp_path / name).write_text(code)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    return tmp_path


STRICT = "-oasyncio_default_fixture_loop_scope=function"


@pytest.mark.parametrize(
    ("options", "passed"),
    [([STRICT], 12), (["-pno:asyncio", "test_anyio.py"], 1), ([STRICT, "-n2"], 12)],
    ids=["strict", "anyio alone", "xdist"],
)
def test_the_guide_to_testing_runs(examples, options, passed):
    """Its examples are tests that pass, in strict mode, with anyio's plugin alone and in two processes."""
    pytest.importorskip("fastapi.testclient")
    bare = {
        name: value for name, value in os.environ.items() if not name.startswith("COV")
    }  # measured elsewhere
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options],
        cwd=examples,
        capture_output=True,
        text=True,
        check=False,
        env={**bare, "PYTHONPATH": str(ROOT)},
    )
    assert f"{passed} passed in" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """Relative links name files that exist, and so do those into the repository."""
    places = (f"{URLS['Repository']}/blob/main/", f"{URLS['Repository']}/tree/main/", RAW)
    for place in places:
        for target in re.findall(rf"\]\({re.escape(place)}([^)#]+)", page.read_text()):
            assert (ROOT / target).exists(), target
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_links_work_where_the_readme_is_shown():
    """On an index of packages there is nothing beside it, so they are absolute; those of the project too."""
    assert not re.findall(r"\]\((?!https://)", (ROOT / "README.md").read_text())
    assert all(url.startswith(URLS["Repository"]) for url in URLS.values())


def test_the_readme_is_short_and_names_every_error():
    """Under 150 lines, and the table of errors leaves none out that a user may meet."""
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 150
    internal = {"ResponseError", "APIStatusError", "LimiterError"}
    named = {name for name, kind in vars(errors).items() if isinstance(kind, type) and name.endswith("Error")}
    assert {name for name in named - internal if f"`{name}`" not in text} == set()
    defaults = ", ".join(
        f"{field}={getattr(RetryPolicy(), field)}" for field in RetryPolicy.__struct_fields__
    )
    assert f"RetryPolicy({defaults})" in text
