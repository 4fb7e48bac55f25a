"""Draw the pictures of the command: what it shows in a terminal of 80 columns, as SVG by rich's own export.

python docs/make_pictures.py
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from leadstatus_async.testing import FakeLeadStatusServer

DOCS = Path(__file__).parent
WHERE = ["--account", "64b0", "--campaign", "650c"]


def shown(command: list[str], server: FakeLeadStatusServer, folder: str) -> str:
    """Run a command in a pseudo-terminal, and return what it showed there."""
    main, side = pty.openpty()
    environment = os.environ | {
        "SONARLY_API_KEY": "sk_test",
        "SONARLY_BASE_URL": server.url,
        "COLUMNS": "80",
        "TERM": "xterm-256color",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "leadstatus_async", "--no-progress", *command],
        stdin=side,
        stdout=side,
        stderr=side,
        env=environment,
        cwd=folder,
    )
    os.close(side)
    text = b""
    while piece := _read(main):
        text += piece
    os.close(main)
    process.wait()
    return text.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # its other side is closed
        return b""


def draw(name: str, *commands: list[str], server: FakeLeadStatusServer, folder: str) -> None:
    """Save a picture of commands and what they showed."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        terminal = Console(record=True, width=80, file=nowhere, highlight=False, color_system="truecolor")
        for command in commands:
            terminal.print(Text(f"$ leadstatus {' '.join(command)}", style="bold"))
            terminal.print(Text.from_ansi(shown(command, server, folder)))
        picture = terminal.export_svg(title="leadstatus")
    local = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)  # no fonts from other hosts
    (DOCS / name).write_text(local)


def main() -> None:
    """Draw them all."""
    with FakeLeadStatusServer() as server, tempfile.TemporaryDirectory() as folder:
        ids = [f"507f1f77bcf86cd7994390{number:02d}" for number in range(8)]
        draw("cli-table.svg", ["check", *WHERE, *ids, "not, an ID"], server=server, folder=folder)
        rows = [f"Lead {number},507f1f77bcf86cd7{number:08d}" for number in range(20_000)]
        rows[777] = "Lead 777,"
        Path(folder, "leads.csv").write_text("\n".join(["Name,Lead ID", *rows]) + "\n")
        server.bad_ids = {"507f1f77bcf86cd700000123", "507f1f77bcf86cd700000124"}
        job = ["check", *WHERE, "--file", "leads.csv", "--enrich", "--output", "out.csv", "--rate", "100/s"]
        draw(
            "cli-job.svg",
            ["plan", *WHERE, "--file", "leads.csv", "--rate", "100/s"],
            job,
            server=server,
            folder=folder,
        )
        draw("demo.svg", ["demo"], server=server, folder=folder)


if __name__ == "__main__":
    main()
