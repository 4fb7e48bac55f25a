"""What the command's exit code means: decided from the outcomes alone."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

from leadstatus_async.errors import APIConnectionError, AuthenticationError, PermissionDeniedError

if TYPE_CHECKING:
    from leadstatus_async.results import BatchResult


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


def exit_of(result: BatchResult[Any]) -> Exit:
    """Return the exit code for what became of the leads."""
    failures = result.failures
    if not failures:
        return Exit.ANSWERED
    errors = [failure.error for failure in failures]
    if any(isinstance(error, AuthenticationError | PermissionDeniedError) for error in errors):
        return Exit.KEY_REFUSED
    if len(failures) == len(result) and all(isinstance(error, APIConnectionError) for error in errors):
        return Exit.UNREACHABLE
    return Exit.SOME_FAILED
