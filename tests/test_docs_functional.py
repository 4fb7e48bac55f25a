"""README and docs: every Python snippet runs, every command and link exists."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from leadstatus_async import errors
from leadstatus_async.policy import RetryPolicy

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
SNIPPETS = [
    pytest.param(code, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("code", SNIPPETS)
async def test_snippets_run_as_they_stand(server, code):
    """In a process of their own, against the fake server through the environment."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", code,
        env={**os.environ, "SONARLY_API_KEY": "sk_test", "SONARLY_BASE_URL": server.url},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, err = await process.communicate()
    assert process.returncode == 0, err.decode()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """Relative links name files that exist."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


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
