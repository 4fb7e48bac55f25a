"""What an answer says about waiting: `Retry-After` in its dialects, and the rate-limit headers.

Values in, seconds out. Numbers are ASCII digits only: `float()` and `isdigit()` also take `inf`, `nan`,
`1e3`, superscripts and other scripts' digits (d3). Dates count from the response's own `Date`, since
clocks differ. What is implausible is dropped (d8). Whether to obey is decided elsewhere.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_tz
from typing import TYPE_CHECKING, Any, cast

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?", re.ASCII)
_JS_DATE = re.compile(r"\w{3} (\w{3}) (\d\d) (\d{4}) (\d\d:\d\d:\d\d) GMT([+-]\d{4})")
_DAY = 86_400.0
_ITEM = re.compile(r'^\s*(?:"[^"]*"|[\w*-]+)\s*(?:;|$)')
_PARAMETER = re.compile(r"\b(limit|remaining|reset|[rtqw])\s*=\s*([0-9]+(?:\.[0-9]+)?)", re.ASCII)


class RateHint(msgspec.Struct, frozen=True):
    """What rate-limit headers say; None for what they do not, or not plausibly.

    Attributes:
        limit: requests per window.
        window: length of the window in seconds.
        remaining: requests left in it.
        reset: seconds until it is renewed.
    """

    limit: float | None = None
    window: float | None = None
    remaining: float | None = None
    reset: float | None = None

    @property
    def rate(self) -> float | None:
        """Requests per second that use up what remains just when it is renewed; never 0.

        With nothing left that is one request at the reset; a header may slow the client, not stop it (d7).
        """
        if self.remaining is not None and self.reset:
            return max(1.0, self.remaining) / self.reset
        if self.limit and self.window:
            return self.limit / self.window
        return None


def retry_after(headers: Mapping[str, str], body: Any = None) -> float | None:
    """Return the seconds the server asks to wait; None if it does not say, or not readably.

    Args:
        headers: of the response; case-insensitive.
        body: its decoded JSON, in which some put `retry_after`, at the top or inside `error`.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000.0
    stated = headers.get("Retry-After")
    if stated is not None:
        seconds = _number(stated)
        return _seconds_until(stated, headers.get("Date")) if seconds is None else seconds
    envelope = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
    error = envelope.get("error")
    inner = cast("dict[str, Any]", error) if isinstance(error, dict) else {}
    for value in (envelope.get("retry_after"), inner.get("retry_after")):
        seconds = _number(value)
        if seconds is not None:
            return seconds
    return None


def rate_hint(headers: Mapping[str, str]) -> RateHint | None:
    """Read the rate-limit headers of a response; None if there are none that are plausible.

    Understood: `RateLimit` and `RateLimit-Policy` of the IETF draft as structured fields, the draft's
    older `limit=, remaining=, reset=` and `RateLimit-*` forms, `X-RateLimit-*` and `X-Rate-Limit-*`
    with a reset in seconds, epoch seconds, epoch milliseconds or a date. Of several policies, the one
    that leaves the lowest rate counts.
    """
    combined = headers.get("RateLimit")
    if combined is not None:
        return _of_fields(combined, headers.get("RateLimit-Policy", ""))
    for prefix in ("RateLimit", "X-RateLimit", "X-Rate-Limit"):
        limit = headers.get(f"{prefix}-Limit")
        remaining = headers.get(f"{prefix}-Remaining")
        if limit is not None or remaining is not None:
            reset = headers.get(f"{prefix}-Reset")
            window = _parameters(limit or "").get("w")
            count = _number((limit or "").partition(",")[0].partition(";")[0].strip())
            return _plausible(count, window, _number(remaining), _reset(reset, headers.get("Date")))
    return None


def _of_fields(combined: str, policy: str) -> RateHint | None:
    """Read the draft's structured fields: `"name";r=50;t=30` with `"name";q=100;w=60`, or the older lists."""
    if not _ITEM.match(combined):
        old = _parameters(combined)
        return _plausible(old.get("limit"), None, old.get("remaining"), old.get("reset"))
    policies = {_name(item): _parameters(item) for item in policy.split(",")}
    hints: list[RateHint] = []
    for item in combined.split(","):
        now, fixed = _parameters(item), policies.get(_name(item), {})
        hint = _plausible(fixed.get("q"), fixed.get("w"), now.get("r"), now.get("t"))
        if hint is not None:
            hints.append(hint)
    return min(hints, key=lambda hint: math.inf if hint.rate is None else hint.rate, default=None)


def _plausible(
    limit: float | None, window: float | None, remaining: float | None, reset: float | None
) -> RateHint | None:
    hint = RateHint(
        limit=limit or None,
        window=window if window and window <= _DAY else None,
        remaining=remaining if remaining is not None and (not limit or remaining <= limit) else None,
        reset=reset if reset is not None and 0.0 <= reset <= _DAY else None,
    )
    return None if hint == RateHint() else hint


def _reset(value: str | None, date: str | None) -> float | None:
    """Read a reset in any of its units; an epoch is told from a delta by its size."""
    number = _number(value)
    if number is None:
        return None if value is None else _seconds_until(value, date)
    if number <= _DAY:
        return number
    epoch = number / 1000.0 if number > 1e11 else number
    now = _epoch(date)
    return None if now is None or epoch < now else epoch - now


def _seconds_until(stated: str, date: str | None) -> float | None:
    """Return the seconds from the response's `Date` to `stated`: 0.0 if that is past, None if unreadable."""
    then, now = _epoch(stated), _epoch(date)
    return None if then is None or now is None else max(0.0, then - now)


def _epoch(text: str | None) -> float | None:
    """Read an HTTP date (RFC 9110, 5.6.7), or a JavaScript one, whose offset `parsedate_tz` misses (d8)."""
    if text is None:
        return None
    script = _JS_DATE.match(text)
    if script:
        text = "{1} {0} {2} {3} {4}".format(*script.groups())
    try:
        parts = parsedate_tz(text)
        if parts is None:
            return None
        offset = parts[9] or 0
        return datetime(*parts[:6], tzinfo=UTC).timestamp() - offset
    except (ValueError, OverflowError, IndexError, TypeError):
        return None


def _number(value: Any) -> float | None:
    """Read a plain non-negative number; one of absurdly many digits is still "very long"."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(min(value, 1e15)) if 0 <= value < math.inf else None
    if not isinstance(value, str):
        return None
    text = value.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    return 1e15 if len(text) > 15 and text.isascii() and text.isdigit() else None


def _name(item: str) -> str:
    return item.partition(";")[0].strip().strip('"')


def _parameters(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in _PARAMETER.findall(text)}
