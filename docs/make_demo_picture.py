"""Draw `docs/demo.svg`, the picture in the README: what `leadstatus demo` shows, in a terminal of 80 columns.

python docs/make_demo_picture.py
"""

from __future__ import annotations

import asyncio
import io
import re
from pathlib import Path

from rich.console import Console

from leadstatus_async.cli.demo import demo


def main() -> None:
    """Run the demo on a recording terminal and save what it shows."""
    terminal = Console(record=True, width=80, file=io.StringIO(), highlight=False, color_system="truecolor")
    asyncio.run(demo(terminal, terminal))
    picture = terminal.export_svg(title="leadstatus demo")
    local = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)  # no fonts from other hosts
    Path(__file__).with_name("demo.svg").write_text(local)


if __name__ == "__main__":
    main()
