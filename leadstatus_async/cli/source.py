"""Where lead IDs and the key come from: arguments, files, standard input, the environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from leadstatus_async.errors import ConfigurationError

_STDIN = "-"


def lead_ids(arguments: list[str], file: str | None) -> list[str]:
    """Return the IDs of arguments and file, in that order.

    Args:
        arguments: IDs; `-` stands for standard input.
        file: one ID a line, blank lines and `#` comments skipped; `-` is standard input.

    Raises:
        ConfigurationError: none are given, or the file cannot be read.
    """
    sources = [*arguments, *([] if file is None else [f"@{file}"])]
    ids: list[str] = []
    for source in sources:
        if source == _STDIN or source.startswith("@"):
            ids += _lines(source.removeprefix("@"))
        else:
            ids.append(source)
    if not ids:
        raise ConfigurationError("no lead IDs: give them as arguments, with --file F, or - for stdin")
    return ids


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


def _lines(name: str) -> list[str]:
    text = sys.stdin.read() if name == _STDIN else _read(name)
    lines = (line.strip() for line in text.removeprefix("\ufeff").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _read(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{name} is no UTF-8 text") from None
    except OSError as error:
        raise ConfigurationError(f"cannot read {name}: {error.strerror}") from None
