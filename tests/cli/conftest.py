"""The command in this process, against a fake server in a thread of its own: a matter of milliseconds."""

from __future__ import annotations

import csv
import io

import pytest

from leadstatus_async.cli import app
from leadstatus_async.testing import FakeLeadStatusServer

WHERE = ["check", "--account", "acc", "--campaign", "camp"]


class Run:
    """What a run has left: its exit code, and what it wrote."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err
        self.text = out.decode("utf-8", "surrogateescape")
        self.words = " ".join(err.split())

    @property
    def rows(self):
        """Its standard output, read as CSV."""
        return list(csv.DictReader(io.StringIO(self.text, newline="")))


@pytest.fixture
def fake():
    with FakeLeadStatusServer() as server:
        yield server


@pytest.fixture
def leadstatus(fake, monkeypatch, capsysbinary):
    """Run the command; no request is held back by a rate."""
    monkeypatch.setenv("SONARLY_API_KEY", "sk_test")
    monkeypatch.setenv("SONARLY_BASE_URL", fake.url)
    monkeypatch.setenv("LEADSTATUS_RATE", "none")
    monkeypatch.setenv("COLUMNS", "500")

    def run(*arguments):
        capsysbinary.readouterr()
        code = app.run([str(one) for one in arguments])
        out, err = capsysbinary.readouterr()
        assert "sk_test" not in err.decode()
        return Run(code, out, err.decode())

    return run


@pytest.fixture
def check(leadstatus):
    """Check a campaign's leads."""
    return lambda *arguments: leadstatus(*WHERE, *arguments)
