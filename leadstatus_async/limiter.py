"""How many requests may go, and when: the `Limiter` protocol and the token bucket that is the default.

The bucket's arithmetic is aiolimiter's. Around it: a queue without barging and with one timer, a rate
that can change while callers wait, several limits that hold together, a window bound that a burst
cannot break, and the pause gate that a 429 closes for everyone who shares the limiter. All times are
seconds as float, on the event loop's clock (b13).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from aiolimiter import AsyncLimiter

from leadstatus_async.errors import RateLimitError, SessionLoopError
from leadstatus_async.policy import RateLimit
from leadstatus_async.results import RateLimitState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

logger = logging.getLogger("leadstatus_async")

_JITTER = 0.005
_RESOLUTION = 0.001  # libuv, and so uvloop, rounds timers to milliseconds and may fire early (b7)


@runtime_checkable
class Limiter(Protocol):
    """What a session asks for permission before each request; may be shared by sessions."""

    async def acquire(self, *, max_pause: float | None = None) -> None:
        """Wait for a token, first come, first served.

        Args:
            max_pause: longest pause that is waited for, in seconds; None waits for any.

        Raises:
            RateLimitError: as soon as a longer pause stands, with the seconds left as `retry_after`.
        """
        ...

    def refund(self) -> None:
        """Give back a token that was not used."""
        ...

    def pause(self, seconds: float, reason: str) -> None:
        """Let nobody pass for so long; never shortens a pause that stands."""
        ...

    def observe(self, status: int, sent_at: float, headers: Mapping[str, str]) -> None:
        """Learn from an answer: its status, the loop time its request was sent at, its headers."""
        ...

    def wait_time(self) -> float:
        """Return the seconds until a token could be had by a caller arriving now; 0.0 if at once."""
        ...

    @property
    def state(self) -> RateLimitState:
        """A snapshot of rate and pause."""
        ...

    async def aclose(self) -> None:
        """Release what the limiter holds outside this process, if anything."""
        ...


class TokenBucketLimiter:
    """The limiter of a process: token buckets, one queue, one timer, one pause gate.

    Args:
        limits: a `RateLimit`, several that all hold, or None for no bucket: only pauses hold then.
    """

    def __init__(self, limits: RateLimit | Sequence[RateLimit] | None) -> None:
        given = [limits] if isinstance(limits, RateLimit) else limits or []
        self._limits = tuple(given)
        self._buckets = [Bucket(limit) for limit in given]
        self._configured = min((limit.rate for limit in given), default=None)
        self._waiters: deque[_Waiter] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._paused_until = -math.inf
        self._reason = ""

    async def acquire(self, *, max_pause: float | None = None) -> None:
        """Wait for a token; see `Limiter.acquire`.

        Raises:
            RateLimitError: a pause longer than `max_pause` stands.
            SessionLoopError: the limiter belongs to another event loop.
        """
        loop = self._bound()
        now = loop.time()
        self._refuse_long_pause(max_pause, now)
        if not self._waiters and self._wait(now) <= 0.0:
            self._grant(now)
            return
        waiter = _Waiter(loop.create_future(), max_pause)
        self._waiters.append(waiter)
        if self._timer is None:
            self._arm(now)
        try:
            await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
                self.refund()  # granted, but cancelled before it could run
            else:
                self._vanish(waiter)
            raise

    def refund(self) -> None:
        """Give back a token that was not used; the next in the queue may have it."""
        for bucket in self._buckets:
            bucket.refund()
        if self._loop is not None and self._waiters:
            self._serve()

    def pause(self, seconds: float, reason: str) -> None:
        """Close the gate for `seconds`; it reopens through the bucket, not for all at once."""
        now = self._bound().time()
        if now + seconds <= self._paused_until:
            return
        self._paused_until = now + seconds
        self._reason = reason
        logger.info("paused for %.2f s: %s", seconds, reason)
        for bucket in self._buckets:
            bucket.drain(self._paused_until)
        for waiter in [waiter for waiter in self._waiters if waiter.impatient(seconds)]:
            self._waiters.remove(waiter)
            if not waiter.future.done():
                waiter.future.set_exception(self._too_long(seconds))
        self._arm(now)

    def observe(self, status: int, sent_at: float, headers: Mapping[str, str]) -> None:
        """Learn from an answer."""

    def wait_time(self, ahead: int = 0) -> float:
        """Return the seconds until a caller arriving now would get its token.

        Args:
            ahead: others that come before it, besides those who wait already.
        """
        try:
            now = self._bound().time()
        except RuntimeError:  # planned outside an event loop: nothing has been used yet, or all is over
            return max([0.0, *(Bucket(limit).wait(0.0, ahead) for limit in self._limits)])
        behind = ahead + len(self._waiters)
        pause = max(0.0, self._paused_until - now)  # which the buckets know too: it has drained them
        return max([pause, *(bucket.wait(now, behind) for bucket in self._buckets)])

    @property
    def state(self) -> RateLimitState:
        """A snapshot of rate and pause."""
        paused_for = 0.0
        if self._loop is not None and not self._loop.is_closed():
            paused_for = max(0.0, self._paused_until - self._loop.time())
        return RateLimitState(
            rate=self._configured,
            configured_rate=self._configured,
            paused_for=paused_for,
            reason=self._reason if paused_for else "",
        )

    async def aclose(self) -> None:
        """Release nothing: whoever shares the limiter may go on using it."""

    def __repr__(self) -> str:
        return f"TokenBucketLimiter({', '.join(map(repr, self._limits)) or None})"

    def _bound(self) -> asyncio.AbstractEventLoop:
        """Return the running loop, which must be that of the first use (b9)."""
        running = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = running
        elif self._loop is not running:
            raise SessionLoopError(
                "this limiter belongs to the event loop of its first use; share it only within one loop "
                "(across processes or loops, use leadstatus_async.redis)"
            )
        return running

    def _wait(self, now: float) -> float:
        """Return the seconds until the head of the queue may go."""
        if now < self._paused_until:
            return self._paused_until - now
        wait = 0.0
        for bucket in self._buckets:
            wait = max(wait, bucket.wait(now))
        return wait

    def _grant(self, now: float) -> None:
        for bucket in self._buckets:
            bucket.take(now)

    def _serve(self) -> None:
        """Let as many go as there are tokens, and set the timer for the next."""
        now = self._bound().time()
        while self._waiters:
            if self._waiters[0].future.done():
                self._waiters.popleft()
            elif self._wait(now) <= 0.0:
                self._grant(now)
                self._waiters.popleft().future.set_result(None)
            else:
                break
        self._arm(now)

    def _arm(self, now: float) -> None:
        """Set the one timer for the head of the queue."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiters and self._loop is not None:
            wait = self._wait(now)
            self._timer = self._loop.call_at(now + max(wait, _RESOLUTION if wait > 0 else 0.0), self._ring)

    def retime(self) -> None:
        """Let those who wait know that a rate has changed."""
        if self._waiters:
            self._serve()

    def _ring(self) -> None:
        self._timer = None
        self._serve()

    def _vanish(self, waiter: _Waiter) -> None:
        head = bool(self._waiters) and self._waiters[0] is waiter
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        if head and self._loop is not None:
            self._arm(self._loop.time())

    def _refuse_long_pause(self, max_pause: float | None, now: float) -> None:
        left = self._paused_until - now
        if max_pause is not None and left > max_pause:
            raise self._too_long(left)

    def _too_long(self, seconds: float) -> RateLimitError:
        return RateLimitError(
            429,
            message=f"paused for another {seconds:.1f} s ({self._reason})",
            retry_after=seconds,
            advice="That is longer than max_retry_after: ask again later, or allow longer pauses",
        )


def seconds_until(limiter: Limiter, ahead: int) -> float:
    """Return the seconds until the limiter lets the one behind `ahead` others go."""
    if isinstance(limiter, TokenBucketLimiter):
        return limiter.wait_time(ahead)
    rate = limiter.state.rate
    return limiter.wait_time() + (ahead / rate if rate else 0.0)


class _Waiter:
    __slots__ = ("future", "max_pause")

    def __init__(self, future: asyncio.Future[None], max_pause: float | None) -> None:
        self.future = future
        self.max_pause = max_pause

    def impatient(self, pause: float) -> bool:
        """Whether this waiter will not wait for a pause of so many seconds."""
        return self.max_pause is not None and pause > self.max_pause


class Bucket:
    """One `RateLimit` as a bucket whose window bound holds.

    aiolimiter does the leaking. Its public API has no refund, no change of rate and no "when": the two
    private names used here, `_level` and `_rate_per_sec`, are pinned by `aiolimiter<2` and by a test.
    """

    def __init__(self, limit: RateLimit) -> None:
        self._window = int(limit.max_rate) if limit.burst is not None else 0
        # A little more than the window: requests arrive a little less evenly than they are sent.
        self._per = 1.01 * limit.per + _JITTER
        self._grants: deque[float] = deque()  # those of the last `per` seconds, where a burst may go
        capacity, drip = sizes(limit)
        self._bucket = AsyncLimiter(capacity, capacity / drip)

    def set_rate(self, capacity: float, drip: float) -> None:
        """Change size and rate, after settling what has been earned so far (b3)."""
        self._bucket.has_capacity(0)
        self._bucket.max_rate = capacity
        self._bucket._rate_per_sec = drip  # noqa: SLF001

    def wait(self, now: float, ahead: int = 0) -> float:
        """Return the seconds until a token is there for whoever has `ahead` others before it."""
        bucket = self._bucket
        if bucket._level:  # noqa: SLF001
            bucket.has_capacity(0)  # settles the level
        missing = bucket._level + 1 + ahead - bucket.max_rate  # noqa: SLF001
        wait = missing / bucket._rate_per_sec if missing > 1e-9 else 0.0  # noqa: SLF001
        return max(wait, self._window_wait(now, ahead)) if self._window else wait

    def take(self, now: float) -> None:
        """Use a token, which `wait` said is there."""
        self._bucket.has_capacity(0)  # settles the level
        self._bucket._level += 1  # noqa: SLF001
        if self._window:
            self._grants.append(now)
            if len(self._grants) > self._window:
                self._grants.popleft()

    def refund(self) -> None:
        """Give back a token that was not used."""
        self._bucket._level = max(0.0, self._bucket._level - 1)  # noqa: SLF001
        if self._grants:
            self._grants.pop()

    def drain(self, until: float) -> None:
        """Be all but empty at `until`, when a pause is over: one token, then the drip."""
        bucket = self._bucket
        bucket.has_capacity(0)
        kept = max(0.0, until - bucket._last_check) * bucket._rate_per_sec  # noqa: SLF001
        bucket._level = max(bucket._level, bucket.max_rate - 1) + kept  # noqa: SLF001

    def _window_wait(self, now: float, ahead: int) -> float:
        """Return the seconds until the window of `per` seconds has room again.

        Whoever is `ahead` places behind goes `ahead // window` whole windows later at least.
        """
        rounds, place = divmod(ahead, self._window)
        free = self._window - len(self._grants)
        if place < free:
            return rounds * self._per
        due = self._grants[place - free] + self._per
        # A grant exactly `per` later would fall into the same window by a rounding error.
        return max(0.0, due - now + 1e-9 * max(1.0, due)) + rounds * self._per


def sizes(limit: RateLimit) -> tuple[float, float]:
    """Return capacity and drip per second, such that no window of `per` seconds exceeds `max_rate`.

    `capacity + drip * per < max_rate + 1` is the bound. What capacity there is above 1 makes up for
    late timers, which with capacity 1 cost 8-11% of the rate (b2, b6).
    """
    if limit.burst is not None:
        return float(limit.burst), limit.rate
    if limit.max_rate < 1:
        return 1.0, limit.rate / 1.01
    whole = int(limit.max_rate)  # a window that holds at most 2.5 requests holds 2
    capacity = min(float(whole), 1 + 0.005 * limit.rate)
    return capacity, (whole + 1 - capacity) / (1.01 * limit.per)
