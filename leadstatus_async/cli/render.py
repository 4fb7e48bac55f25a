"""How results look: a table with bars for people, CSV and JSON for programs.

Everything here returns or prints text for a given width; nothing waits and nothing decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from leadstatus_async.cli.rows import error_of

if TYPE_CHECKING:
    from collections import Counter
    from typing import TextIO

    from leadstatus_async.cli.inputs import Record
    from leadstatus_async.cli.rows import Front, Values
    from leadstatus_async.cli.tally import Tally
    from leadstatus_async.learned import RateLimitState
    from leadstatus_async.results import BatchStats, SessionStats

_COLOURS = {
    "completed": "green",
    "stopped": "red",
    "pending": "yellow",
    "waiting": "cyan",
}
_REASONS_SHOWN = 10
_LONGEST_SENTENCE = 500


def console(file: TextIO) -> Console:
    """Return a console that writes plain text where `file` is no terminal."""
    return _Console(file=file, highlight=False, soft_wrap=False)


class _Console(Console):
    """Leaves it to the command what a broken pipe means."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def visible(text: str) -> str:
    """Return text in which nothing moves a cursor, changes a colour or turns the direction of writing."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)


def sentence(text: str) -> str:
    """Return a text of whatever length and shape as one line of at most 500 characters."""
    return visible(" ".join(text.split()))[:_LONGEST_SENTENCE]


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


class TableLayout:
    """Rows as a table whose columns have fixed widths, so that each can be shown as it comes.

    Args:
        out: where they are shown.
        several: whether there is a column for the campaign.

    Attributes:
        header: bytes that come before the first row.
    """

    def __init__(self, out: Console, *, several: bool = False) -> None:
        self._out = out
        room = max(out.width, 40) - 1
        status = min(16, room // 4)
        half = (room - status) // 2
        lead = min(36, max(24, half)) if room > 50 else half - 2
        ids = (lead - lead // 2, lead // 2) if several else (lead,)
        self._widths = (*ids, status, room - status - sum(ids) - 2 * (len(ids) + 1))
        names = ["lead", *(["campaign"] if several else []), "status", "step / reason"]
        self.header = self._line([(name, "bold") for name in names])

    def front(self, record: Record) -> list[str]:
        """Return what of a record's row is known before anything is asked."""
        return [record.lead_id]

    def row(self, front: Front, campaign: str | None, values: Values) -> bytes:
        """Return a line for each row; a failure shows why."""
        cells = [(front[0], "")]
        if campaign is not None and len(self._widths) > 3:
            cells.append((campaign, ""))
        error = error_of(values)
        if error is not None:
            cells += [("failed", "bold red"), (error, "")]
        else:
            status, _, *facts = values[:4]
            cells += [(str(status), _COLOURS.get(status, "")), (" / ".join(filter(None, facts)), "")]
        return self._line(cells)

    def _line(self, cells: list[tuple[str, str]]) -> bytes:
        """Return cells side by side; what is too long is cut, and says so."""
        line = Text()
        for (text, style), width in zip(cells, self._widths, strict=True):
            shown = visible(" ".join(text.split()))
            if cell_len(shown) > width:
                shown = set_cell_size(shown, width - 1) + "~"
            line.append(shown, style)
            line.append(" " * (width - cell_len(shown) + 2))
        line.rstrip()
        with self._out.capture() as shown_line:
            self._out.print(line, soft_wrap=True)
        return shown_line.get().encode("utf-8", "backslashreplace")


def summary_table(statuses: Counter[str], failed: int, out: Console) -> Table:
    """Return how many rows have which status, with a bar for each."""
    table = Table(box=None, pad_edge=False)
    table.add_column("status")
    table.add_column("leads", justify="right")
    table.add_column("")
    counts = statuses.most_common()
    most = max(1, failed, *(count for _, count in counts))
    room, cell = max(5, min(40, out.width - 30)), _cell(out.encoding)

    def bar(count: int, style: str) -> Text:
        return Text(cell * max(1, round(room * count / most)), style=style)  # one at least

    for status, count in counts:
        table.add_row(_text(status), f"{count:,}", bar(count, _COLOURS.get(status, "blue")))
    if failed:
        table.add_row("(failed)", f"{failed:,}", bar(failed, "bold red"))
    return table


def reasons(tally: Tally) -> list[str]:
    """Say why rows failed: a sentence for each reason, whatever the IDs, the most frequent first."""
    found = list(tally.reasons())
    told = [
        sentence(f"{count:,} failed, {why}") + f" ({what})" for count, why, what in found[:_REASONS_SHOWN]
    ]
    rest = sum(count for count, *_ in found[_REASONS_SHOWN:])
    return [*told, f"{rest:,} failed for other reasons"] if rest else told


def _text(text: str) -> Text:
    return Text(visible(text))


def _cell(encoding: str) -> str:
    try:
        "█".encode(encoding)
    except UnicodeEncodeError:
        return "#"
    return "█"


def learned(state: RateLimitState) -> list[str]:
    """Say what to state next time, if anything has been learned of the server's limit."""
    if state.suggestion is None:
        return []
    limit, told = state.suggestion.rate_limit, list[str]()
    why = f" ({state.reason})" if state.reason else ""
    if limit is not None:
        shown = _amount(limit.max_rate, limit.per)
        burst = f" --burst {limit.burst}" if limit.burst is not None else ""
        told.append(f"the server allowed {limit.rate:.4g} requests/s: next time --rate {shown}{burst}{why}")
    if state.suggestion.concurrency is not None:
        most = state.suggestion.concurrency
        told.append(f"the server allowed {most} requests at once: next time --concurrency {most}{why}")
    return told


def _amount(count: float, seconds: float) -> str:
    """Return a rate as `--rate` takes it."""
    units = {1.0: "s", 60.0: "min", 3600.0: "h"}
    return f"{count:.6g}/{units[seconds]}" if seconds in units else f"{count:.6g}/{seconds:.6g}s"


def story(stats: BatchStats | SessionStats, leads: int, elapsed: float) -> str:
    """Say in words what a call has cost."""
    rate = leads / elapsed if elapsed else 0.0
    return (
        f"{counted(leads, 'lead')} in {elapsed:.1f} s ({rate:,.0f} leads/s): "
        f"{counted(stats.requests, 'request')}, {counted(stats.retries, 'retry', 'retries')}, "
        f"{stats.rate_limited} answered 429, {counted(stats.splits, 'split')}, {stats.waited:.1f} s waited"
    )
