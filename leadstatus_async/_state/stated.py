"""How much of a long window remains, as rate-limit headers state it.

Theory of operation. "4900 remain until the reset in an hour" is no rate. Who has less than that to send
need not be slow at all; who has more spreads what remains over the time to the reset, since web requests
want some of it, too; and nobody sends more than remains.

An answer tells what remained when its request was counted, and answers overtake one another. So of answers
to requests that were in flight together the least counts, and what is in flight besides is taken off:
nobody knows whether that was counted already. When the window is over, one request asks what there is now.

Headers may lie, or be about something else. Until what remains has been seen to fall, they slow the client
to one request a second at most (d7). Only windows that take longer than two seconds are a matter of this
file: of shorter ones, a reset in whole seconds says nothing. Values in, values out: the clock is an argument.
"""

from __future__ import annotations

import math
from operator import itemgetter
from typing import TYPE_CHECKING

import msgspec

from leadstatus_async._steps.headers import tightest
from leadstatus_async.policy import RateLimit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leadstatus_async._steps.headers import RateHint

_LONG = 2.0  # seconds: a window, or the time to its reset, that is not one of a second or two
_UNPROVEN = 1.0  # seconds between requests at most, while it is not known whether headers are true
_SAME, _ROUNDED = 2.0, 1.0  # seconds by which resets differ that are one: they are told in whole seconds
_LONGEST = 5.0  # seconds that an answer takes, for all that is known before the first
_FADING = 0.9  # of the longest, at each answer
_LOST = 3.0, 1.0  # times as long as answers took lately, and seconds: who is in flight for longer is lost
_SPARE = 0.5  # of a request: so that the last one arrives before the window is over
_WOBBLE = 0.25  # smaller changes of the rate are not worth telling
_MANY = 64  # in flight: some of them are likely to be lost, then
_THROTTLED, _SERVER_ERROR = 429, 500


class StatedLimit(msgspec.Struct):
    """What headers state of one limit.

    Attributes:
        limit: requests per window; None if that is not said.
        window: its length in seconds; None likewise.
        remaining: requests that were left when one of those in flight together was counted.
        until: when the window is over.
        period: seconds that it lasts, at least.
        sent_at, came_at: of the answer that says so.
        falls: whether what remains has been seen to fall.
        slides: whether its end moves while it goes on, as that of a sliding window or a bucket does.
        rounded: seconds that are added to a reset, since it is told in whole seconds that are rounded down.
    """

    limit: float | None
    window: float | None
    remaining: float
    until: float
    period: float
    sent_at: float
    came_at: float
    falls: bool = False
    slides: bool = False
    rounded: float = 0.0

    def merged(self, later: StatedLimit) -> StatedLimit:
        """Return what is known after an answer that came later, and may have been counted before."""
        same = abs(later.until - self.until) < _SAME
        together = later.sent_at < self.came_at
        stale = together and (later.remaining >= self.remaining if same else later.until < self.until)
        slides = self.slides or _ROUNDED < later.until - self.until < _SAME
        newest = self if stale else later
        return msgspec.structs.replace(
            newest,
            rounded=later.rounded,
            until=min(self.until, later.until) if same and not slides else newest.until,
            period=max(self.period, later.period),
            falls=self.falls or (same and later.remaining < self.remaining),
            slides=slides,
        )

    def left(self, now: float) -> float:
        """Return how many may go or be in flight; when the window is over, one, to ask what there is."""
        return self.remaining if now < self.until else 1.0

    def rate(self, since: float, left: float) -> float:
        """Return requests per second at which so many last from then until the window is over."""
        rate = (max(0.0, left) + _SPARE) / max(1e-3, self.until - since)
        return rate if self.falls else max(rate, 1 / _UNPROVEN)

    def shown(self, now: float, demand: int, in_flight: int) -> float:
        """Return the same as it is told, where so many wait; of a window not begun, as far as is known."""
        if now < self.until:
            return self.rate(now, self.remaining - in_flight) if self.remaining < demand else math.inf
        return self.limit / self.period if self.limit and self.limit < demand else math.inf

    def least(self, now: float, ahead: int) -> float:
        """Return the seconds until the one behind `ahead` others may go, at least."""
        over = self.until - now
        if over <= 0.0 or ahead < self.remaining:
            return 0.0
        beyond = (ahead - self.remaining) / self.limit if self.limit else 0.0  # windows
        seconds = over + math.floor(beyond) * self.period
        if self.slides:
            seconds = min(seconds, beyond * self.period)
        return seconds if self.falls else min(seconds, ahead * _UNPROVEN)


class Stated(msgspec.Struct):
    """All that headers state of long windows, and what is in flight.

    Attributes:
        limits: those that the latest answers told of.
        demand: requests that wait to be sent.
        slowest: the limit that is spread over the time to its reset, since more waits than remains of it.
        rate: requests per second that this comes to; infinity if there is none.
        in_flight: when the requests that are unanswered were let go, in order.
        latest: when the last was.
        took: seconds that answers took lately, at most; 0.0 before the first.
    """

    limits: list[StatedLimit] = []
    demand: int = 0
    slowest: StatedLimit | None = None
    rate: float = math.inf
    in_flight: list[float] = []
    latest: float = 0.0
    took: float = 0.0

    def granted(self, now: float) -> None:
        """Note that a request may go now."""
        self.in_flight.append(now)
        self.latest = now
        self.demand -= self.demand > 0
        if len(self.in_flight) > _MANY:
            self._lose(now)

    def refunded(self) -> None:
        """Note that the one that was let go last has not gone."""
        if self.in_flight:
            self.in_flight.pop()
            self.demand += 1

    def observe(self, now: float, sent_at: float, status: int, hints: Sequence[RateHint]) -> RateHint | None:
        """Learn from an answer.

        Args:
            now: when it came, in seconds on the clock that `sent_at` is on.
            sent_at: when its request was sent.
            status: of the answer.
            hints: what its rate-limit headers say, of each limit.

        Returns:
            The tightest of those hints that are no matter of this file; None if there are none.
        """
        self.took = max(now - sent_at, _FADING * self.took)
        if self.in_flight and self.in_flight[0] <= sent_at:
            del self.in_flight[0]
        if not hints and not self.limits:
            return None
        others: list[RateHint] = []
        told: list[StatedLimit] = []
        for hint in hints:
            limit = self._read(hint, now, sent_at)
            if limit is None:
                others.append(hint)
            else:
                told.append(limit)
        if told or _THROTTLED != status < _SERVER_ERROR:
            self.limits = told
        else:  # an error page, which may have been counted
            for limit in self.limits:
                limit.remaining = max(0.0, limit.remaining - 1)
        self._publish(now)
        return tightest(others)

    def wait(self, now: float) -> float:
        """Return the seconds until the next request may go, where so many wait as `demand` says."""
        self._lose(now)
        return max([0.0, *(self._wait(limit, now) for limit in self.limits)])

    def least(self, now: float, ahead: int) -> float:
        """Return the seconds until the one behind `ahead` others may go, at least."""
        return max([0.0, *(limit.least(now, ahead) for limit in self.limits)])

    def expire(self, now: float) -> bool:
        """Let the rate follow where a window is over, or less waits; True if it is another one then."""
        before = self.rate
        if before < math.inf:
            self._publish(now)
        return self.rate != before

    @property
    def policy(self) -> RateLimit | None:
        """The limit that slows, as one states it; None if there is none, or its window is not told."""
        limit = self.slowest
        return None if limit is None else as_policy(limit.limit, limit.window)

    def _read(self, hint: RateHint, now: float, sent_at: float) -> StatedLimit | None:
        """Return what is known of a limit now; None if it is not one of a long window."""
        allowed = hint.limit if hint.limit and hint.limit >= 1 else None
        name = allowed, hint.window
        before = next((old for old in self.limits if (old.limit, old.window) == name), None)
        period = max(hint.window or 0.0, hint.reset or 0.0, before.period if before else 0.0)
        if hint.remaining is None or period <= _LONG:
            return None
        rounded = _ROUNDED if hint.reset == 0 else before.rounded if before else 0.0
        until = now + (period if hint.reset is None else hint.reset + rounded)
        limit = StatedLimit(*name, hint.remaining, until, period, sent_at, now, rounded=rounded)
        return limit if before is None else before.merged(limit)

    def _wait(self, limit: StatedLimit, now: float) -> float:
        """Return the seconds until the next request may go, or it is worth asking again."""
        remaining = limit.left(now)
        left = remaining - len(self.in_flight)
        if left >= 1 or not limit.falls:
            if remaining >= self.demand:
                return 0.0
            wait = self.latest + 1 / limit.rate(self.latest, left) - now
        else:
            wait = limit.until - now if now < limit.until else math.inf
        if self.in_flight:
            wait = min(wait, self.in_flight[0] + self._patience - now)
        return max(0.0, wait)

    def _publish(self, now: float) -> None:
        """Let `rate` follow, in steps worth telling, and not in the last seconds of a window."""
        demand, in_flight = max(1, self.demand), len(self.in_flight)
        rates = [(limit.shown(now, demand, in_flight), limit) for limit in self.limits]
        rate, slowest = min(rates, key=itemgetter(0), default=(math.inf, None))
        if rate < math.inf > self.rate and slowest is not None:
            near = abs(slowest.until - now) < _SAME
            if near or abs(rate - self.rate) < _WOBBLE * self.rate:
                return
        self.rate, self.slowest = rate, slowest if rate < math.inf else None

    @property
    def _patience(self) -> float:
        """Seconds after which what is in flight is lost: it was counted, or never will be."""
        times, besides = _LOST
        return times * (self.took or _LONGEST) + besides

    def _lose(self, now: float) -> None:
        while self.in_flight and self.in_flight[0] <= now - self._patience:
            del self.in_flight[0]


def as_policy(limit: float | None, window: float | None) -> RateLimit | None:
    """Return a limit as one states it; None if its window is not told."""
    return RateLimit(limit, per=window) if limit and window and 0 < limit / window < math.inf else None


def told_by_headers(policy: RateLimit | None) -> str:
    """Return the reason for being slow where headers ask for it."""
    if policy is None:
        return "rate-limit headers"
    return f"{policy.max_rate:g} per {policy.per:g} s (rate-limit headers)"
