"""What an option must be: each check returns the value, or raises a `ConfigurationError` that names it.

Data only: no I/O, no clock, no randomness.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import operator
import sys
from typing import SupportsFloat, SupportsIndex, cast

from leadstatus_async.errors import ConfigurationError


def require_number(
    name: str, value: object, *, least: float = 0.0, most: float = math.inf, above: bool = False
) -> float:
    """Return `value` if it is a finite number in range, else raise `ConfigurationError`.

    Args:
        name: the option, for the message.
        value: what was given, numpy's numbers too; bools are refused, though Python counts them as numbers.
        least: smallest value allowed, or, with `above`, the bound it must exceed.
        most: largest value allowed.
        above: whether `least` itself is refused.
    """
    sort = f"a number {'above' if above else 'of at least'} {least:g}"
    sort += f" and at most {most:g}" if most < math.inf else ""
    number = value if isinstance(value, int | float) and not _is_bool(value) else _as_float(value)
    # nan is in no range, and an int of 400 digits in none of float
    finite = number is not None and -sys.float_info.max <= number <= sys.float_info.max
    if number is None or not finite or not least <= number <= most or (above and number == least):
        raise ConfigurationError(f"{name} must be {sort}, not {value!r:.100}")
    return number


def require_whole(name: str, value: object, *, least: int = 1, most: float = math.inf) -> int:
    """Return `value` as an int if it is one in range, numpy's too, else raise `ConfigurationError`."""
    number = None
    if not _is_bool(value):
        with contextlib.suppress(TypeError):
            number = operator.index(cast("SupportsIndex", value))
    if number is None or not least <= number <= most:
        top = f" and at most {most:g}" if most < math.inf else ""
        raise ConfigurationError(
            f"{name} must be a whole number of at least {least}{top}, not {value!r:.100}"
        )
    return number


def _as_float(value: object) -> float | None:
    """Return any other number as a float; None if it is none."""
    if _is_bool(value) or isinstance(value, str | bytes):
        return None
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        return float(cast("SupportsFloat", value))
    return None


def _is_bool(value: object) -> bool:
    """Whether it is a bool, of Python or of numpy, which is no subclass of it."""
    return isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")


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
