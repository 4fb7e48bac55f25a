"""The way into the command: says what to install where the extra `cli` is missing."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the `leadstatus` command."""
    try:
        from leadstatus_async.cli.app import run  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        if missing.name not in ("rich", "typer"):
            raise
        sys.exit('The leadstatus command needs its extra: pip install "leadstatus-async[cli]"')
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
