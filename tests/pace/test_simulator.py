"""The controller against every kind of server and policy, in virtual time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from leadstatus_async import RateLimit
from leadstatus_async._state.rate import Controller
from leadstatus_async.testing.quota import FixedWindow
from tests.simulator import CASES, KINDS, SEEDS, Client, Nginx, Row, kind_row, play, told_kind

PAGE = Path(__file__).parents[2] / "docs" / "quota.md"


@pytest.fixture(scope="module")
def rows():
    """Play each case once for all tests."""
    return [play(case) for case in CASES]


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: CASES[number].name)
def test_every_case_stays_within_its_bounds(rows, number):
    """Everything is answered; time, refusals and lock-outs are bounded, for every seed."""
    row, case = rows[number], CASES[number]
    assert all(run.answered == case.requests and not run.given_up for run in row.runs)
    assert max(row.times) <= case.slack
    assert max(row.shares) <= case.share
    assert max(row.lockouts) <= 4


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_is_found_out(kind):
    """Whatever is drawn of a kind, time and refusals are bounded, and the page has the row."""
    times, shares = kind_row(kind)
    assert sum(times) / len(times) <= kind.mean
    assert max(times) <= kind.worst
    assert sum(shares) / len(shares) <= kind.refused
    page = PAGE.read_text("utf-8").splitlines()
    shown = next(line for line in page if line.startswith(f"| {kind.name} |"))
    assert figures(shown)[1] == pytest.approx(figures(told_kind(kind, times, shares))[1], abs=0.11)


def figures(line):
    """Return the name of a row of a table, and the numbers in the others of its cells."""
    name, *rest = [cell.strip() for cell in line.strip("|\n ").split("|")]
    return name, [float(figure) for cell in rest for figure in re.findall(r"[\d.]+", cell)]


def test_the_page_shows_what_the_simulation_gives(rows):
    """The table in the docs is the output of the simulator."""
    shown = [
        figures(line) for line in PAGE.read_text("utf-8").splitlines() if re.match(r"\| .*\d/s \|", line)
    ]
    assert [name for name, _ in shown] == [case.name for case in CASES]
    for (name, found), row in zip(shown, rows, strict=True):
        assert found == pytest.approx(figures(str(row))[1], abs=0.02), name
    assert f"{len(SEEDS)} seeds" in PAGE.read_text("utf-8")


class Deaf(Controller):
    """A controller that learns nothing."""

    def observe(self, *_, **__):
        """Learn nothing."""


def test_the_controller_is_what_makes_the_difference(rows):
    """The same client without it is refused at least five times as often: the model can fail."""
    case = CASES[0]
    client = Client(case.server(1000.0), case.limit, start=1000.0)
    client.controller = Deaf(case.limit.rate)
    assert client.ask(case.requests).refused > 5 * max(run.refused for run in rows[0].runs)


def test_an_hour_takes_a_moment():
    """Probing costs little in the long run: one episode a minute."""
    client = Client(FixedWindow(10), RateLimit(12))
    outcome = client.ask(36_000)
    assert outcome.seconds < 1.07 * 3600
    assert outcome.refused < 100


def test_a_client_told_the_truth_learns_nothing():
    """Zero 429s, and the rate stays as configured."""
    client = Client(Nginx(50, 2), RateLimit(49))
    assert client.ask(5000).refused == 0
    assert client.outcome.rates == []
    assert client.outcome.seconds < 1.05 * 5000 / 49


def test_rows_tell_mean_and_worst():
    """A row of the table names the case, what was told, and both figures."""
    text = str(Row(CASES[0], [Client(FixedWindow(40), CASES[0].limit).ask(40)], [0]))
    assert text.startswith(f"| {CASES[0].name} | 100/s | 0.0")
    assert text.endswith("| 0.00% (0.00%) |  |")
