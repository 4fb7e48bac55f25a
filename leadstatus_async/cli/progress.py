"""Live progress on stderr, where that is a terminal that can show it; otherwise none at all."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from leadstatus_async.cli.render import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from rich.console import Console

    from leadstatus_async import Progress


@contextmanager
def showing_progress(console: Console, total: int) -> Generator[Callable[[Progress], object], None, None]:
    """Yield a `progress` callback that draws a bar while the block runs."""
    if not console.is_terminal or os.environ.get("TERM") == "dumb":
        yield lambda _: None
        return
    columns = (
        BarColumn(bar_width=None if console.width < 80 else 40),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task("", total=total, said="")

        def show(progress: Progress) -> None:
            said = counted(progress.requests, "request") if console.width >= 60 else ""
            bars.update(task, completed=progress.done, said=said)

        yield show
