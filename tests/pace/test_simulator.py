"""The controller against every kind of server and policy, in virtual time."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

from leadstatus_async import RateLimit
from leadstatus_async._state.rate import Controller
from leadstatus_async.testing.quota import FixedWindow
from tests.simulator import CASES, KINDS, SEEDS, Client, Nginx, Row, kind_row, play

PAGE = Path(__file__).parents[2] / "docs" / "quota.md"


@functools.cache
def row(number):
    """Play a case once for all tests."""
    return play(CASES[number])


def figures(line):
    """Return the name of a row of a table, and the numbers in the others of its cells."""
    name, *rest = [cell.strip() for cell in line.strip("|\n ").split("|")]
    return name, [float(figure) for cell in rest for figure in re.findall(r"[\d.]+", cell)]


def shown(pattern):
    """Return the rows of the page that match."""
    return [figures(line) for line in PAGE.read_text("utf-8").splitlines() if re.match(pattern, line)]


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: CASES[number].name)
def test_every_case_stays_within_its_bounds(number):
    """Everything is answered; time, refusals and lock-outs are bounded, for every seed; the page says so."""
    played, case = row(number), CASES[number]
    assert all(run.answered == case.requests and not run.given_up for run in played.runs)
    assert max(played.times) <= case.slack
    assert max(played.shares) <= case.share
    assert max(played.lockouts) <= 4
    name, found = shown(r"\| .*\d/s \|")[number]
    assert name == case.name
    assert found == pytest.approx(figures(str(played))[1], abs=0.02)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_is_found_out(kind):
    """Whatever is drawn of a kind, time and refusals are bounded (two draws here; the page has twelve)."""
    times, shares = kind_row(kind, SEEDS[:2])
    assert max(times) <= kind.worst
    assert sum(shares) / len(shares) <= 1.5 * kind.refused
    _, (mean, worst, refused, _) = next(found for found in shown(r"\| ") if found[0] == kind.name)
    assert (mean, worst, refused / 100) <= (kind.mean, kind.worst, kind.refused)
    assert worst >= max(times) - 0.01


def test_the_page_tells_of_all_cases():
    """No more and no fewer than are played."""
    assert len(shown(r"\| .*\d/s \|")) == len(CASES)
    assert f"{len(SEEDS)} seeds" in PAGE.read_text("utf-8")


class Deaf(Controller):
    """A controller that learns nothing."""

    def observe(self, *_, **__):
        """Learn nothing."""


def test_the_controller_is_what_makes_the_difference():
    """The same client without it is refused at least five times as often: the model can fail."""
    case = CASES[0]
    client = Client(case.server(1000.0), case.limit, start=1000.0)
    client.controller = Deaf(case.limit.rate)
    assert client.ask(case.requests).refused > 5 * max(run.refused for run in row(0).runs)


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
