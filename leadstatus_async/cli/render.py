"""How results look: a table with bars for people, CSV and JSON for programs.

Everything here returns or prints text for a given width; nothing waits and nothing decides.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from leadstatus_async.models import LeadStatus, WorkflowStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from leadstatus_async.learned import RateLimitState
    from leadstatus_async.models import LeadFailure
    from leadstatus_async.results import BatchResult, BatchStats, SessionStats

_COLOURS = {
    WorkflowStatus.COMPLETED: "green",
    WorkflowStatus.STOPPED: "red",
    WorkflowStatus.PENDING: "yellow",
    WorkflowStatus.WAITING: "cyan",
}
_ROWS_SHOWN = 200
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


def data(result: BatchResult[Any], form: str) -> str:
    """Return the outcomes as "csv", "jsonl" or "json" (an array of flat rows)."""
    if form == "csv":
        return result.to_csv()
    if form == "jsonl":
        return result.to_jsonl()
    return msgspec.json.format(msgspec.json.encode(result.to_dicts()), indent=2).decode() + "\n"


def leads_table(result: BatchResult[Any]) -> Table:
    """Return one row per position; of a long list, its beginning."""
    table = Table(box=None, pad_edge=False)
    for name in ("lead", "status", "step", "reason"):
        table.add_column(name, overflow="fold", no_wrap=False)
    for outcome in result[:_ROWS_SHOWN]:
        if isinstance(outcome, LeadStatus):
            status = Text(visible(outcome.workflow_status), style=_COLOURS.get(outcome.workflow_status, ""))
            step, reason = outcome.latest_step or "", outcome.workflow_stop_reason or ""
            table.add_row(_text(outcome.lead_id), status, _text(step), _text(reason))
        else:
            error = f"{type(outcome.error).__name__}: {outcome.error}"
            failed = Text("failed", style="bold red")
            table.add_row(_text(outcome.lead_id), failed, "", Text(sentence(error)))
    if len(result) > _ROWS_SHOWN:
        table.caption = f"{len(result) - _ROWS_SHOWN} more; --format csv shows all"
    return table


def summary_table(result: BatchResult[Any], out: Console) -> Table:
    """Return how many positions have which status, with a bar for each."""
    table = Table(box=None, pad_edge=False)
    table.add_column("status")
    table.add_column("leads", justify="right")
    table.add_column("")
    counts = result.counts.most_common()
    failed = len(result.failures)
    most = max(1, failed, *(count for _, count in counts))
    room, cell = max(5, min(40, out.width - 30)), _cell(out.encoding)

    def bar(count: int, style: str) -> Text:
        return Text(cell * max(1, round(room * count / most)), style=style)  # one at least

    for status, count in counts:
        table.add_row(_text(status.value), f"{count:,}", bar(count, _COLOURS.get(status, "blue")))
    if failed:
        table.add_row("(failed)", f"{failed:,}", bar(failed, "bold red"))
    return table


def reasons(failures: Sequence[LeadFailure]) -> list[str]:
    """Say why leads failed: a sentence for each reason, whatever the IDs, the most frequent first."""
    found = Counter(failure.reason for failure in failures).most_common()
    told = [sentence(f"{count:,} failed, {reason}") for reason, count in found[:_REASONS_SHOWN]]
    rest = sum(count for _, count in found[_REASONS_SHOWN:])
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
    limit, options = state.suggestion.rate_limit, list[str]()
    if limit is not None:
        options.append(f"--rate {limit.rate:.4g}")
    if state.suggestion.concurrency is not None:
        options.append(f"--concurrency {state.suggestion.concurrency}")
    why = f" ({state.reason})" if state.reason else ""
    return [f"requests were refused{why}; next time say {' '.join(options)}"]


def story(stats: BatchStats | SessionStats, leads: int, elapsed: float) -> str:
    """Say in words what a call has cost."""
    rate = leads / elapsed if elapsed else 0.0
    return (
        f"{counted(leads, 'lead')} in {elapsed:.1f} s ({rate:,.0f} leads/s): "
        f"{counted(stats.requests, 'request')}, {counted(stats.retries, 'retry', 'retries')}, "
        f"{stats.rate_limited} answered 429, {counted(stats.splits, 'split')}, {stats.waited:.1f} s waited"
    )
