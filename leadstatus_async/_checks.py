"""What an option must be: each check returns the value, or raises a `ConfigurationError` that names it.

Data only: no I/O, no clock, no randomness.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
from typing import cast

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


def returned_by(name: str, value: object) -> object:
    """Return what a callback returned, which nobody would await.

    Raises:
        ConfigurationError: it is an awaitable, though the callback looked like a plain function.
    """
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()  # else it warns that it was never awaited
        raise ConfigurationError(f"{name} must be a plain function, and has returned an awaitable")
    return value


def _returns_at_once(value: object) -> bool:
    """Whether a call would only make a coroutine or a generator, whatever the function is wrapped in."""
    while isinstance(value, functools.partial | functools.partialmethod):
        value = cast("functools.partial[object]", value).func
    called = getattr(type(value), "__call__", None)  # noqa: B004 - of an object with a method of that name
    return any(
        inspect.iscoroutinefunction(one)
        or inspect.isgeneratorfunction(one)
        or inspect.isasyncgenfunction(one)
        for one in (value, called)
    )


def require_callback(name: str, value: object, of: str) -> None:
    """Refuse what cannot be called back: no callable, or one whose coroutine nobody would await.

    Raises:
        ConfigurationError: naming the option and `of` what it is a function.
    """
    if not callable(value) or _returns_at_once(value):
        raise ConfigurationError(f"{name} must be a plain function of {of}, not {value!r:.100}")
