"""Rate limits as servers really have them: decided from the time alone, without a clock or a socket.

Each kind has `admit(now) -> Decision`, and is told by `ended()` when a request that it admitted is over,
so a simulation in virtual time may use it as well as the server. All times are seconds as float, on any
clock that does not go back. A lock-out refuses everything for a while after each 429, as some vendors do.
What the headers say of a decision is made here too; nothing here knows who asked.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from datetime import datetime

Dialect = Literal["seconds", "ms", "date"]


@dataclass(frozen=True)
class Decision:
    """What a limit says to one request.

    Attributes:
        admitted: whether it passes.
        retry_after: seconds until it would, if not.
        limit: the most requests at once, or in a window.
        remaining: how many more would pass now.
        reset: seconds until the limit is whole again, or admits the next one.
    """

    admitted: bool
    retry_after: float = 0.0
    limit: int = 0
    remaining: int = 0
    reset: float = 0.0


@dataclass
class Limit:
    """What all kinds share. Use `SlidingWindow`, `FixedWindow`, `TokenBucket` or `ConcurrencyLimit`.

    Attributes:
        retry_after: how a 429 states its pause: "seconds" (whole ones), "ms", "date"; None if it does not.
        lockout: seconds for which everything is refused after each 429; 0.0 for none.
        headers: rate-limit headers on every answer: "ietf", "x-ratelimit" or None.
    """

    retry_after: Dialect | None = field(default=None, kw_only=True)
    lockout: float = field(default=0.0, kw_only=True)
    headers: Literal["ietf", "x-ratelimit"] | None = field(default=None, kw_only=True)
    _locked_until: float = field(default=-math.inf, init=False, repr=False)

    @property
    def size(self) -> int:
        """The most requests at once, or in a window."""
        raise NotImplementedError

    @property
    def span(self) -> float:
        """Seconds until a limit that was used up is whole again."""
        raise NotImplementedError

    def admit(self, now: float) -> Decision:
        """Decide about a request that comes at `now`, and count it if it passes.

        Args:
            now: seconds on a clock that does not go back.
        """
        if now < self._locked_until:
            return self._refuse(now, 0.0)
        wait, remaining, reset = self._take(now)
        if wait > 0:
            return self._refuse(now, wait)
        return Decision(True, 0.0, self.size, remaining, reset)

    def ended(self) -> None:
        """Take note that a request which was admitted is answered, or has lost its connection."""

    def _refuse(self, now: float, wait: float) -> Decision:
        if self.lockout:
            self._locked_until = now + self.lockout
        wait = max(wait, self.lockout)
        return Decision(False, wait, self.size, 0, wait)

    def _take(self, now: float) -> tuple[float, int, float]:
        """Return seconds to wait (0.0: taken), what remains, and seconds until all is whole again."""
        raise NotImplementedError


def _check(**given: float) -> None:
    for name, value in given.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, not {value!r}")


@dataclass
class SlidingWindow(Limit):
    """At most `max_rate` requests in any window of `per` seconds."""

    max_rate: int
    per: float = 1.0
    _times: deque[float] = field(default_factory=deque[float], init=False, repr=False)

    def __post_init__(self) -> None:
        _check(max_rate=self.max_rate, per=self.per)

    @property
    def size(self) -> int:
        """The most requests in a window."""
        return self.max_rate

    @property
    def span(self) -> float:
        """The seconds of a window."""
        return self.per

    def _take(self, now: float) -> tuple[float, int, float]:
        while self._times and self._times[0] + self.per <= now:
            self._times.popleft()
        if len(self._times) >= self.max_rate:
            return self._times[0] + self.per - now, 0, 0.0
        self._times.append(now)
        return 0.0, self.max_rate - len(self._times), self._times[0] + self.per - now


@dataclass
class FixedWindow(Limit):
    """At most `max_rate` requests in each window; windows begin at whole multiples of `per` seconds."""

    max_rate: int
    per: float = 1.0
    _window: float = field(default=-math.inf, init=False, repr=False)
    _count: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        _check(max_rate=self.max_rate, per=self.per)

    @property
    def size(self) -> int:
        """The most requests in a window."""
        return self.max_rate

    @property
    def span(self) -> float:
        """The seconds of a window."""
        return self.per

    def _take(self, now: float) -> tuple[float, int, float]:
        window = now // self.per
        if window != self._window:
            self._window, self._count = window, 0
        reset = (window + 1) * self.per - now
        if self._count >= self.max_rate:
            return reset, 0, reset
        self._count += 1
        return 0.0, self.max_rate - self._count, reset


@dataclass
class TokenBucket(Limit):
    """A bucket of `burst` tokens, refilled at `rate` per second; it starts full."""

    rate: float
    burst: int = 1
    _tokens: float = field(default=math.inf, init=False, repr=False)
    _at: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        _check(rate=self.rate, burst=self.burst)

    @property
    def size(self) -> int:
        """The most requests at once."""
        return self.burst

    @property
    def span(self) -> float:
        """Seconds in which an empty bucket fills."""
        return self.burst / self.rate

    def _take(self, now: float) -> tuple[float, int, float]:
        self._tokens = min(float(self.burst), self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens < 1:
            return (1 - self._tokens) / self.rate, 0, 0.0
        self._tokens -= 1
        return 0.0, int(self._tokens), (self.burst - self._tokens) / self.rate


@dataclass
class ConcurrencyLimit(Limit):
    """At most `most` requests at once; others are told to come back after `wait` seconds."""

    most: int
    wait: float = 1.0
    _running: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        _check(most=self.most, wait=self.wait)

    @property
    def size(self) -> int:
        """The most requests at once."""
        return self.most

    @property
    def span(self) -> float:
        """The seconds that a refusal states: when a request will end is not known."""
        return self.wait

    def ended(self) -> None:
        """Let another one in."""
        self._running -= 1

    def _take(self, now: float) -> tuple[float, int, float]:
        del now
        if self._running >= self.most:
            return self.wait, 0, self.wait
        self._running += 1
        return 0.0, self.most - self._running, self.wait


def http_date(now: datetime, seconds: float = 0.0) -> str:
    """Return the HTTP-date so many seconds after `now`, which is in UTC."""
    return format_datetime(now + timedelta(seconds=seconds), usegmt=True)


def headers_of(limit: Limit, decision: Decision, now: datetime) -> dict[str, str]:
    """Return the headers that tell of a decision, as the limit says they are told.

    Whole seconds are rounded up: whoever waits as long as told is admitted.

    Args:
        limit: the limit that decided.
        decision: its decision.
        now: the time in UTC, for dates.
    """
    headers: dict[str, str] = {}
    if not decision.admitted and limit.retry_after is not None:
        headers |= _pause(limit.retry_after, decision.retry_after, now)
    reset = math.ceil(decision.reset)
    if limit.headers == "ietf":
        headers["RateLimit-Policy"] = f'"default";q={decision.limit};w={math.ceil(limit.span)}'
        headers["RateLimit"] = f'"default";r={decision.remaining};t={reset}'
    elif limit.headers == "x-ratelimit":
        headers["X-RateLimit-Limit"] = str(decision.limit)
        headers["X-RateLimit-Remaining"] = str(decision.remaining)
        headers["X-RateLimit-Reset"] = str(reset)
    return headers


def _pause(dialect: Dialect, seconds: float, now: datetime) -> dict[str, str]:
    if dialect == "ms":
        return {"Retry-After-Ms": str(math.ceil(seconds * 1000))}
    whole = math.ceil(seconds)
    if dialect == "date":
        return {"Retry-After": http_date(now, whole), "Date": http_date(now)}
    return {"Retry-After": str(whole)}
