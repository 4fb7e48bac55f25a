"""Where lead IDs and the key come from: arguments, files, standard input, the environment."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from leadstatus_async.errors import ConfigurationError, InvalidLeadIdError
from leadstatus_async.models import LeadFailure

_STDIN = "-"
_LINE_END = re.compile(r"\r\n|\n|\r")


def lead_ids(
    arguments: list[str], file: str | None, *, skip_blank: bool = False, comment: str | None = None
) -> list[str | LeadFailure]:
    """Return the IDs of arguments and file, in that order; each line of a file has its place.

    Args:
        arguments: IDs as they are; `-` stands for standard input.
        file: one ID a line; `-` is standard input.
        skip_blank: leave out blank lines, which else are failures.
        comment: leave out lines that begin with this; those that begin with `#` else are failures.

    Raises:
        ConfigurationError: none are given, or the file cannot be read.
    """
    if [*arguments, file].count(_STDIN) > 1:
        raise ConfigurationError("standard input is given twice; it can be read once")
    given: list[str | LeadFailure] = []
    for argument in arguments:
        given += _lines(_STDIN, skip_blank, comment) if argument == _STDIN else [argument]
    if file is not None:
        given += _lines(file, skip_blank, comment)
    if not given:
        raise ConfigurationError("no lead IDs: give them as arguments, with --file F, or - for stdin")
    return given


def api_key(file: str | None) -> str | None:
    """Return the key in `file`, without the newline at its end; None leaves it to the environment.

    Raises:
        ConfigurationError: there is no key at all, or the file cannot be read.
    """
    if file is not None:
        return _read(file).removeprefix("\ufeff").strip()
    if not os.environ.get("SONARLY_API_KEY"):
        raise ConfigurationError("no API key: set SONARLY_API_KEY, or give --api-key-file F")
    return None


def _lines(name: str, skip_blank: bool, comment: str | None) -> list[str | LeadFailure]:
    lines = _LINE_END.split(_read(name).removeprefix("\ufeff"))
    if not lines[-1]:
        lines.pop()  # what follows the last newline is no line
    lines = [line.strip() for line in lines]
    return [
        _refused(line) if not line or line.startswith("#") else line
        for line in lines
        if not (skip_blank and not line) and not (comment and line.startswith(comment))
    ]


def _refused(line: str) -> LeadFailure:
    why = "begins with #: give --comment '#' to leave such lines out" if line else "is empty"
    return LeadFailure(line, InvalidLeadIdError([(0, line, why)]))  # `check` knows its place


def _read(name: str) -> str:
    shown = "standard input" if name == _STDIN else name
    try:
        if name != _STDIN:
            return Path(name).read_bytes().decode()
        if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] - closed by who started us
            raise ConfigurationError("standard input is closed")
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError:
        raise ConfigurationError(f"{shown} is no UTF-8 text") from None
    except OSError as error:
        raise ConfigurationError(f"cannot read {shown}: {error.strerror}") from None
