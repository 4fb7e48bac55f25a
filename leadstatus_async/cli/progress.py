"""How far a job is, on stderr: a live line where that is a terminal, else a plain one now and then."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars

from leadstatus_async.cli.render import counted, visible
from leadstatus_async.events import OutageEnded, OutageStarted, Paused

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from rich.console import Console

    from leadstatus_async import LeadStatusSession
    from leadstatus_async.events import Event

EVERY = 10.0
"""Seconds between plain lines."""

_SHOWN_PAUSE = 1.0  # seconds: shorter ones are not worth a line


class Display:
    """What is shown of a job under way.

    Args:
        console: of stderr.
        total: rows that there will be, if that is known.
        per_request: leads that go in one request.
        live: whether a line may be drawn again and again.
        quiet: whether nothing is to be shown.
        clock: for tests.
    """

    def __init__(
        self,
        console: Console,
        total: int | None,
        *,
        per_request: int = 100,
        live: bool = True,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._total = total
        self._per_request = per_request
        self._quiet = quiet
        self._clock = clock
        self._began = self._told = clock()
        self._first = 0
        can = console.is_terminal and os.environ.get("TERM") != "dumb" and not console.is_dumb_terminal
        self._bars: Bars | None = None
        if live and can and not quiet:
            bar = [BarColumn(bar_width=None if console.width < 80 else 20)] if total else []
            said = TextColumn("{task.fields[said]}", markup=False)
            self._bars = Bars(*bar, said, console=console, transient=True)
            self._task = self._bars.add_task("", total=total, said="")

    @contextmanager
    def shown(self) -> Generator[Display]:
        """Show it while the block runs."""
        if self._bars is None:
            yield self
        else:
            with self._bars:
                yield self

    def begin(self, done: int) -> None:
        """Note how many rows were there before."""
        self._first = done

    def update(self, done: int, failed: int, session: LeadStatusSession) -> None:
        """Show how many rows are done; cheap where it is not yet time."""
        now = self._clock()
        if self._quiet or now - self._told < (0.1 if self._bars is not None else EVERY):
            return
        self._told = now
        said = self._said(done, failed, now - self._began, session)
        if self._bars is not None:
            self._bars.update(self._task, completed=done, said=said)
        elif not self._console.is_terminal:
            self.tell(said)

    def tell(self, sentence: str) -> None:
        """Print a line above what is shown."""
        if not self._quiet:
            self._console.print(visible(sentence), markup=False)

    def observe(self, event: Event) -> None:
        """Tell of what holds a job up."""
        match event:
            case Paused(seconds=seconds, reason=reason) if seconds >= _SHOWN_PAUSE:
                self.tell(f"paused {seconds:.0f} s: {reason}")
            case OutageStarted(error=error):
                self.tell(f"server down, probing ({error})")
            case OutageEnded(seconds=seconds, answered=answered):
                self.tell(f"server {'is back' if answered else 'given up'} after {seconds:.0f} s")
            case _:
                pass

    def _said(self, done: int, failed: int, seconds: float, session: LeadStatusSession) -> str:
        pace = (done - self._first) / seconds if seconds else 0.0
        of = f"{done:,}/{self._total:,}" if self._total else f"{done:,}"
        said = [of, f"{pace:,.0f} leads/s"]
        if self._total and pace:
            left = max(0, self._total - done)
            quota = session.limiter.wait_time(left // self._per_request)
            said.append(f"ETA {_clock(max(left / pace, quota))}")
        stats = session.stats
        said.append(counted(stats.requests, "request"))
        if stats.retries:
            said.append(counted(stats.retries, "retry", "retries"))
        if failed:
            said.append(f"{failed:,} failed")
        line = ", ".join(said)
        while self._bars is not None and len(line) > self._console.width - 12 and len(said) > 1:
            said.pop()
            line = ", ".join(said)
        return line


def _clock(seconds: float) -> str:
    """Return a duration as people read it."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
