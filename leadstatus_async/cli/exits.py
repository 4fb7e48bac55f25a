"""How the command ends: what its exit code means, and what becomes of output that nobody takes."""

from __future__ import annotations

import os
import sys
from enum import IntEnum


class Exit(IntEnum):
    """The exit codes; `--help` lists them."""

    ANSWERED = 0
    FAILURE = 1
    USAGE = 2
    SOME_FAILED = 3
    KEY_REFUSED = 4
    UNREACHABLE = 5
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


EXITS = (
    "Exit codes: 0 all answered, 1 failure, 2 usage, 3 some leads failed, 4 key refused (401, 403), "
    "5 unreachable, 130 interrupted, 141 broken pipe, 143 terminated."
)


def discard_output() -> None:
    """Let go of what is still buffered: Python would complain once more when it flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
