"""What is shown of a job under way, by a clock of the test's own."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from leadstatus_async import events
from leadstatus_async.cli.progress import Display
from leadstatus_async.results import SessionStats


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def session(requests=3, retries=0, wait=0.0):
    """What of a session a display reads."""
    limiter = SimpleNamespace(wait_time=lambda ahead: wait and ahead * wait)
    return SimpleNamespace(limiter=limiter, stats=SessionStats(requests=requests, retries=retries))


def display(total=1000, *, terminal=False, width=100, **options):
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=terminal, width=width, highlight=False)
    return Display(console, total, clock=clock, **options), out, clock


def test_a_plain_line_every_ten_seconds():
    """Done and total, pace, what is left at this pace or at the quota's, requests, retries, failures."""
    shown, out, clock = display()
    with shown.shown():
        shown.begin(100)
        shown.update(150, 0, session())
        clock.now += 9.9
        shown.update(150, 0, session())
        assert out.getvalue() == ""
        clock.now += 0.1
        shown.update(200, 0, session())
        clock.now += 10.0
        shown.update(300, 2, session(1, 2, wait=700.0))
    assert out.getvalue().splitlines() == [
        "200/1,000, 10 leads/s, ETA 1:20, 3 requests",
        "300/1,000, 10 leads/s, ETA 1:21:40, 1 request, 2 retries, 2 failed",
    ]


def test_without_a_total_there_is_no_end():
    """As for a pipe."""
    shown, out, clock = display(None)
    clock.now += 10.0
    shown.update(200, 0, session())
    assert out.getvalue() == "200, 20 leads/s, 3 requests\n"


@pytest.mark.parametrize("total", [1000, None])
@pytest.mark.parametrize("width", [30, 60, 100])
def test_a_live_line_fits_its_terminal(monkeypatch, total, width):
    """What does not fit is left out."""
    monkeypatch.setenv("TERM", "xterm")
    shown, out, clock = display(total, terminal=True, width=width)
    with shown.shown():
        for done in (100, 200):
            clock.now += 1.0
            shown.update(done, 1, session(1, 5))
    assert f"{200:,}" in out.getvalue()
    assert (
        max(map(len, out.getvalue().replace("\r", "\n").split("\n"))) <= width + 100
    )  # with control sequences


@pytest.mark.parametrize("options", [{"quiet": True}, {"terminal": True, "live": False}])
def test_nothing_is_shown(monkeypatch, options):
    """Where that is wanted, and where rows go to the same terminal."""
    monkeypatch.setenv("TERM", "xterm")
    shown, out, clock = display(**options)
    with shown.shown():
        clock.now += 60.0
        shown.update(10, 0, session())
        if options.get("quiet"):
            shown.observe(events.OutageStarted("ServerError"))
    assert out.getvalue() == ""


def test_what_holds_a_job_up_is_told():
    """As it happens; pauses of less than a second are not worth a line."""
    shown, out, _ = display()
    for event in (
        events.Paused(0.2, "HTTP 429"),
        events.Paused(12.0, "HTTP 429"),
        events.OutageStarted("ServerError"),
        events.OutageEnded(7.0, answered=True),
        events.OutageEnded(60.0, answered=False),
        events.RateChanged(None, 1.0, ""),
    ):
        shown.observe(event)
    assert out.getvalue().splitlines() == [
        "paused 12 s: HTTP 429",
        "server down, probing (ServerError)",
        "server is back after 7 s",
        "server given up after 60 s",
    ]
