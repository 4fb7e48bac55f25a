"""How results look: a table with bars for people, CSV and JSON for programs.

Everything here returns or prints text for a given width; nothing waits and nothing decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from leadstatus_async.models import LeadStatus, WorkflowStatus

if TYPE_CHECKING:
    from typing import TextIO

    from leadstatus_async.results import BatchResult, BatchStats

_COLOURS = {
    WorkflowStatus.COMPLETED: "green",
    WorkflowStatus.STOPPED: "red",
    WorkflowStatus.PENDING: "yellow",
    WorkflowStatus.WAITING: "cyan",
}
_ROWS_SHOWN = 200


def console(file: TextIO) -> Console:
    """Return a console that writes plain text where `file` is no terminal."""
    return Console(file=file, highlight=False, soft_wrap=False)


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
            status = Text(outcome.workflow_status, style=_COLOURS.get(outcome.workflow_status, ""))
            step, reason = outcome.latest_step or "", outcome.workflow_stop_reason or ""
            table.add_row(Text(outcome.lead_id), status, Text(step), Text(reason))
        else:
            error = f"{type(outcome.error).__name__}: {outcome.error}"
            failed = Text("failed", style="bold red")
            table.add_row(Text(ascii(outcome.lead_id)[1:-1]), failed, "", Text(error))
    if len(result) > _ROWS_SHOWN:
        table.caption = f"{len(result) - _ROWS_SHOWN} more; --format csv shows all"
    return table


def summary_table(result: BatchResult[Any], width: int) -> Table:
    """Return how many positions have which status, with a bar for each."""
    table = Table(box=None, pad_edge=False)
    table.add_column("status")
    table.add_column("leads", justify="right")
    table.add_column("")
    counts = result.counts.most_common()
    most = max([count for _, count in counts], default=1)
    failed = len(result.failures)
    room = max(5, min(40, width - 30))
    for status, count in counts:
        table.add_row(status.value, f"{count:,}", bar(count, most, room, _COLOURS.get(status, "blue")))
    if failed:
        table.add_row("(failed)", f"{failed:,}", bar(failed, max(most, failed), room, "bold red"))
    return table


def bar(count: int, most: int, room: int, style: str) -> Text:
    """Return a bar of at most `room` cells, at least one for what is not nothing."""
    return Text("█" * max(1, round(room * count / most)), style=style)


def story(stats: BatchStats, leads: int) -> str:
    """Say in words what a call has cost."""
    rate = leads / stats.elapsed if stats.elapsed else 0.0
    return (
        f"{leads:,} leads in {stats.elapsed:.1f} s ({rate:,.0f} leads/s): {stats.requests} requests, "
        f"{stats.retries} retries, {stats.rate_limited} answered 429, {stats.splits} splits, "
        f"{stats.waited:.1f} s waited"
    )
