"""A result at a glance, for notebooks: how many leads have which status, and why others have none.

Colours are legible on white and on black; everything else is the page's own. What came from outside is
escaped. Data only: no I/O, no clock, no randomness.
"""

from __future__ import annotations

from collections import Counter
from html import escape
from typing import TYPE_CHECKING

from leadstatus_async.models import WorkflowStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from leadstatus_async.models import LeadFailure

_COLOURS = {
    WorkflowStatus.COMPLETED: "#2e9e5b",
    WorkflowStatus.STOPPED: "#8a6fc0",
    WorkflowStatus.PENDING: "#c9922e",
    WorkflowStatus.WAITING: "#2f97b5",
}
_OTHER, _FAILED = "#7d8590", "#d9534f"
_SHOWN = 10  # statuses, and reasons; servers may invent any number of them
_LONGEST = 200  # characters of a reason
_CELL = "text-align:left;padding:2px 12px 2px 0;border:0"


def at_a_glance(
    counts: Mapping[WorkflowStatus, int], failures: Sequence[LeadFailure], told: Mapping[str, object]
) -> str:
    """Return HTML: bars for statuses and failures, the reasons of these, and some figures."""
    statuses = Counter(counts).most_common()
    bars = [(status.value, count, _COLOURS.get(status, _OTHER)) for status, count in statuses[:_SHOWN]]
    if others := sum(count for _, count in statuses[_SHOWN:]):
        bars.append(("(other statuses)", others, _OTHER))
    if failures:
        bars.append(("(failed)", len(failures), _FAILED))
    most = max((count for _, count, _ in bars), default=1)
    reasons = Counter(failure.reason for failure in failures).most_common()
    parts = [_table(_bar(name, count, most, colour) for name, count, colour in bars)]
    if reasons:
        shown = [(reason, count) for reason, count in reasons[:_SHOWN]]
        if others := sum(count for _, count in reasons[_SHOWN:]):
            shown.append(("other reasons", others))
        parts.append(_table(_row(_number(count), _text(reason)) for reason, count in shown))
    figures = ", ".join(f"{figure} {escape(name)}" for name, figure in told.items())
    return f'<div class="leadstatus">{"".join(parts)}<div style="opacity:.7">{figures}</div></div>'


def _bar(name: str, count: int, most: int, colour: str) -> str:
    width = max(1, round(100 * count / most))
    bar = f'<div style="background:{colour};width:{width}%;height:.8em;border-radius:2px"></div>'
    return _row(_text(name), _number(count), f'<td style="{_CELL};min-width:240px">{bar}</td>')


def _row(*cells: str) -> str:
    return f'<tr style="background:transparent">{"".join(cells)}</tr>'


def _table(rows: Iterable[str]) -> str:
    return f'<table style="border:0;margin:0 0 8px 0">{"".join(rows)}</table>'


def _number(count: int) -> str:
    style = f"{_CELL};text-align:right;font-variant-numeric:tabular-nums"
    return f'<td style="{style}">{count:,}</td>'


def _text(text: str) -> str:
    shown = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
    return f'<td style="{_CELL}">{escape(shown)}</td>'
