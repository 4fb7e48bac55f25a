"""Rate limits as servers really have them: decided from the time alone, without a clock or a socket.

Each kind has `admit(now) -> Decision`. All times are seconds as float on any clock that does not
go back. A lock-out refuses everything for a while after each 429, as some vendors do.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

Dialect = Literal["seconds", "ms", "date"]


@dataclass(frozen=True)
class Decision:
    """What a limit says to one request.

    Attributes:
        admitted: whether it passes.
        retry_after: seconds until it would, if not.
        limit, remaining, reset: what a rate-limit header would say.
    """

    admitted: bool
    retry_after: float = 0.0
    limit: int = 0
    remaining: int = 0
    reset: float = 0.0


@dataclass
class _Limit:
    """What all kinds share.

    Attributes:
        retry_after: how a 429 states its pause; None if it does not.
        lockout: seconds for which everything is refused after a 429.
        headers: rate-limit headers on every answer: "ietf", "x-ratelimit" or None.
    """

    retry_after: Dialect | None = field(default=None, kw_only=True)
    lockout: float = field(default=0.0, kw_only=True)
    headers: Literal["ietf", "x-ratelimit"] | None = field(default=None, kw_only=True)
    _locked_until: float = field(default=float("-inf"), init=False, repr=False)

    def admit(self, now: float) -> Decision:
        """Decide about a request that comes now, and count it."""
        if now < self._locked_until:
            self._locked_until = now + self.lockout
            return Decision(admitted=False, retry_after=self.lockout)
        decision = self._decide(now)
        if not decision.admitted and self.lockout:
            self._locked_until = now + self.lockout
        return decision

    def _decide(self, now: float) -> Decision:
        raise NotImplementedError


@dataclass
class SlidingWindow(_Limit):
    """At most `max_rate` requests in any window of `per` seconds."""

    max_rate: int
    per: float = 1.0
    _times: deque[float] = field(default_factory=deque[float], init=False, repr=False)

    def _decide(self, now: float) -> Decision:
        while self._times and now - self._times[0] >= self.per:
            self._times.popleft()
        if len(self._times) >= self.max_rate:
            wait = self._times[0] + self.per - now
            return Decision(False, wait, self.max_rate, 0, wait)
        self._times.append(now)
        reset = self._times[0] + self.per - now
        return Decision(True, 0.0, self.max_rate, self.max_rate - len(self._times), reset)


@dataclass
class FixedWindow(_Limit):
    """At most `max_rate` requests in each window, which begin at whole multiples of `per` seconds."""

    max_rate: int
    per: float = 1.0
    _window: float = field(default=-1.0, init=False, repr=False)
    _count: int = field(default=0, init=False, repr=False)

    def _decide(self, now: float) -> Decision:
        window = now // self.per
        if window != self._window:
            self._window, self._count = window, 0
        reset = (window + 1) * self.per - now
        if self._count >= self.max_rate:
            return Decision(False, reset, self.max_rate, 0, reset)
        self._count += 1
        return Decision(True, 0.0, self.max_rate, self.max_rate - self._count, reset)


@dataclass
class TokenBucket(_Limit):
    """A bucket of `burst` tokens, refilled at `rate` per second."""

    rate: float
    burst: int = 1
    _tokens: float | None = field(default=None, init=False, repr=False)
    _at: float = field(default=0.0, init=False, repr=False)

    def _decide(self, now: float) -> Decision:
        tokens = float(self.burst) if self._tokens is None else self._tokens
        self._tokens = min(float(self.burst), tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens < 1:
            wait = (1 - self._tokens) / self.rate
            return Decision(False, wait, self.burst, 0, wait)
        self._tokens -= 1
        return Decision(True, 0.0, self.burst, int(self._tokens), (self.burst - self._tokens) / self.rate)
