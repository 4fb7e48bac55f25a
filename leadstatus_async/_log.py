"""Log lines that never break what they tell of: a filter or handler that raises loses its line, no more."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

_CALLER = 3  # frames up: who has something to say, not this file


class Log:
    """A logger of this library; silent unless logging is set up.

    Args:
        name: of the logger.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def info(self, message: str, *values: object, **facts: object) -> None:
        """Say what was decided; the facts that are known (not None) become attributes of the record."""
        extra = {name: fact for name, fact in facts.items() if fact is not None}
        self._say(logging.INFO, message, values, extra=extra)

    def warning(self, message: str, *values: object, **options: Any) -> None:
        """Say what somebody should look at."""
        self._say(logging.WARNING, message, values, **options)

    def exception(self, message: str, *values: object) -> None:
        """Say what the exception being handled has spoilt."""
        self._say(logging.ERROR, message, values, exc_info=True)

    def _say(self, level: int, message: str, values: tuple[object, ...], **options: Any) -> None:
        with contextlib.suppress(Exception):
            self._logger.log(level, message, *values, stacklevel=_CALLER, **options)
