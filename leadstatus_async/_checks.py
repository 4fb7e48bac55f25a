"""What an option must be: each check returns the value, or raises a `ConfigurationError` that names it.

Data only: no I/O, no clock, no randomness.
"""

from __future__ import annotations

import inspect
import math
import sys

from leadstatus_async.errors import ConfigurationError


def require_number(
    name: str, value: object, *, least: float = 0.0, most: float = math.inf, above: bool = False
) -> float:
    """Return `value` if it is a finite number in range, else raise `ConfigurationError`.

    Args:
        name: the option, for the message.
        value: what was given; bools are refused, though Python counts them as numbers.
        least: smallest value allowed, or, with `above`, the bound it must exceed.
        most: largest value allowed.
        above: whether `least` itself is refused.
    """
    sort = f"a number {'above' if above else 'of at least'} {least:g}"
    sort += f" and at most {most:g}" if most < math.inf else ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigurationError(f"{name} must be {sort}, not {value!r:.100}")
    finite = -sys.float_info.max <= value <= sys.float_info.max  # nan is not; nor is an int of 400 digits
    if not finite or not least <= value <= most or (above and value == least):
        raise ConfigurationError(f"{name} must be {sort}, not {value!r:.100}")
    return value


def require_whole(name: str, value: object, *, least: int = 1, most: float = math.inf) -> int:
    """Return `value` if it is an int in range, else raise `ConfigurationError`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        top = f" and at most {most:g}" if most < math.inf else ""
        raise ConfigurationError(
            f"{name} must be a whole number of at least {least}{top}, not {value!r:.100}"
        )
    return value


def require_callback(name: str, value: object, of: str) -> None:
    """Refuse what cannot be called back: no callable, or one whose coroutine nobody would await.

    Raises:
        ConfigurationError: naming the option and `of` what it is a function.
    """
    called = value if inspect.isroutine(value) else getattr(value, "__call__", None)  # noqa: B004
    if not callable(value) or inspect.iscoroutinefunction(called):
        raise ConfigurationError(f"{name} must be a plain function of {of}, not {value!r:.100}")
