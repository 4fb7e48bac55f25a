"""The token bucket limiter of a process: one queue, one timer, one pause gate.

The bucket's arithmetic is aiolimiter's. Around it: a queue without barging and with one timer, a rate
that can change while callers wait, several limits that hold together, a window bound that a burst
cannot break, and the pause gate that a 429 closes for everyone who shares the limiter. All times are
seconds as float, on the event loop's clock (b13).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from leadstatus_async._log import Log
from leadstatus_async._pace.bucket import Bucket
from leadstatus_async._state.rate import Controller
from leadstatus_async._state.sizes import learned_size
from leadstatus_async._state.stated import Stated, told_by_headers
from leadstatus_async._steps.headers import rate_hints, retry_after
from leadstatus_async.errors import RateLimitError, SessionLoopError
from leadstatus_async.learned import RateLimitState, Suggestion
from leadstatus_async.policy import RateLimit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

logger = Log("leadstatus_async.limiter")

_RESOLUTION = 0.001  # libuv, and so uvloop, rounds timers to milliseconds and may fire early (b7)
_REFUSED, _UNAVAILABLE = 429, 503
_WORTH_TELLING = 1.0  # sixteen 429s in flight extend one pause sixteen times, by milliseconds


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
        self._controller = None if self._configured is None else Controller(self._configured)
        self._learned: Bucket | None = None  # one more bucket, while the rate is below the configured one
        self._stated = Stated()
        # Those who wait, with their longest pause, and how many requests wait where they come from.
        self._waiters: OrderedDict[asyncio.Future[float], tuple[float | None, int]] = OrderedDict()
        self._demand = 0  # the sum of these
        self._tolerance = 0.01 * min((limit.per for limit in given), default=math.inf)  # as `sizes` has it
        self._timer: asyncio.TimerHandle | None = None  # set whenever somebody waits
        self._loop: asyncio.AbstractEventLoop | None = None
        self._paused_until = self._told_until = -math.inf
        self._reason = ""

    async def acquire(self, *, max_pause: float | None = None, waiting: int = 1) -> None:
        """Wait for a token; see `Limiter.acquire`.

        Raises:
            RateLimitError: a pause longer than `max_pause` stands.
            SessionLoopError: the limiter belongs to another event loop.
        """
        loop = self._bound()
        now = loop.time()
        self._refresh(now)
        if max_pause is not None and self._paused_until - now > max_pause:
            raise self._too_long(self._paused_until - now)
        self._stated.demand = waiting + self._demand
        if not self._waiters and self._taken(now):
            return
        granted_at = await self._turn(loop, max_pause, waiting)
        while (now := loop.time()) - granted_at > self._tolerance:
            # The loop stood still in between: what leaves now is to count in the windows from now on.
            self._give_back()
            if self._taken(now):
                return
            granted_at = await self._turn(loop, max_pause, waiting, first=True)

    def refund(self) -> None:
        """Give back the newest token, unused; the next in the queue may have it. See `Limiter.refund`."""
        self._give_back()
        if self._waiters:
            self._serve()

    def pause(self, seconds: float, reason: str) -> None:
        """Close the gate for `seconds`; it reopens through the bucket, not for all at once."""
        now = self._bound().time()
        until = now + seconds
        if not until > max(now, self._paused_until):  # which refuses nan, too
            return
        if now >= self._paused_until or until >= self._told_until + _WORTH_TELLING:
            self._told_until = until
            logger.info("paused for %.2f s: %s", seconds, reason, delay=seconds)
        self._paused_until = until
        self._reason = reason
        for bucket in self._buckets:
            bucket.reopen(until)
        # The timer stays: it rings too early, once, and is set anew for whoever still waits.
        for future, (max_pause, _) in list(self._waiters.items()):
            if max_pause is not None and seconds > max_pause:
                if not future.done():
                    future.set_exception(self._too_long(seconds))
                self._leave(future)

    def observe(self, status: int, sent_at: float, headers: Mapping[str, str]) -> None:
        """Learn from an answer; see `Limiter.observe`. Without limits there is no rate to learn."""
        controller, stated = self._controller, self._stated
        if controller is None:
            return
        now, clock = self._bound().time(), time.time()  # an epoch needs the wall clock, nothing else does
        if status == _UNAVAILABLE and retry_after(headers, now=clock):
            status = _REFUSED  # who says when to come back refuses, whatever it calls that
        before = controller.rate, stated.rate
        hint = stated.observe(now, sent_at, status, rate_hints(headers, status, now=clock))
        demand = max(1, stated.demand)
        controller.observe(now, status, sent_at, hint, demand=demand, paused_until=self._paused_until)
        if (controller.rate, stated.rate) != before:
            self._follow(controller, before)
        if stated.limits and self._waiters:
            self._serve()

    def wait_time(self, ahead: int = 0) -> float:
        """Return the seconds until a caller arriving now would get its token, at the earliest.

        A lower bound, at the present rate and pause; close for a single limit.

        Args:
            ahead: others that come before it, besides those who wait; -1 is the last of those.
        """
        if self._loop is None:  # asking is no use: it binds to no event loop
            alone = len(self._buckets) == 1
            return max([0.0, *(bucket.wait(0.0, max(0, ahead), alone=alone) for bucket in self._buckets)])
        try:
            now = self._bound().time()
        except RuntimeError:  # outside an event loop: as if nothing had been used
            return TokenBucketLimiter(self._limits).wait_time(ahead)
        self._refresh(now)
        return self._least(now, max(0, ahead + len(self._waiters)))

    @property
    def state(self) -> RateLimitState:
        """A snapshot of rate and pause."""
        paused_for = 0.0
        if self._loop is not None and not self._loop.is_closed():
            now = self._loop.time()
            paused_for = max(0.0, self._paused_until - now)
            if self._controller is not None:
                with contextlib.suppress(RuntimeError):  # outside the loop it is shown as it was last
                    self._refresh(now)
        learned = self._controller
        return RateLimitState(
            rate=self._rate,
            configured_rate=self._configured,
            ceiling=learned.ceiling if learned else None,
            paused_for=paused_for,
            reason=self._reason if paused_for else self._why,
            suggestion=self._suggestion,
            slots=learned.slots if learned else None,
            first_pause=learned.first_pause if learned else None,
        )

    @property
    def _rate(self) -> float | None:
        """Requests per second allowed now, whether that was learned or is stated."""
        return None if self._controller is None else min(self._controller.rate, self._stated.rate)

    @property
    def _slowed(self) -> bool:
        """Whether it is what headers state of a long window that slows most."""
        return self._controller is not None and self._stated.rate < self._controller.rate

    @property
    def _why(self) -> str:
        if self._slowed:
            return told_by_headers(self._stated.policy)
        return self._controller.reason if self._controller else ""

    @property
    def _suggestion(self) -> Suggestion | None:
        if self._slowed and self._stated.policy:
            return Suggestion(self._stated.policy)
        return self._controller.suggestion if self._controller else None

    async def aclose(self) -> None:
        """Release nothing: whoever shares the limiter may go on using it, and its timer ends by itself."""

    def __repr__(self) -> str:
        return f"TokenBucketLimiter({', '.join(map(repr, self._limits)) or None})"

    def _bound(self) -> asyncio.AbstractEventLoop:
        """Return the running loop, which must be that of the first use (b9)."""
        running = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = running
        elif self._loop is not running:
            raise SessionLoopError(
                "this limiter belongs to the event loop of its first use; make one for each event loop "
                "(to share a quota across loops or processes, use leadstatus_async.redis)"
            )
        return running

    def _wait(self, now: float) -> float:
        """Return the seconds until the next may go; 0.0 if now."""
        wait = self._least(now, 0)
        return max(wait, self._stated.wait(now)) if self._stated.limits else wait

    def _least(self, now: float, ahead: int) -> float:
        """Return the seconds until the one behind `ahead` others may go, at least."""
        wait = max(0.0, self._paused_until - now)
        if self._stated.limits:
            wait = max(wait, self._stated.least(now, ahead))
        for bucket in self._buckets:
            bucket.settle(now)
            wait = max(wait, bucket.wait(now, ahead, alone=len(self._buckets) == 1))
        return wait

    def _taken(self, now: float) -> bool:
        """Take a token, if there is one."""
        free = self._wait(now) <= 0.0
        if free:
            self._grant(now)
        return free

    async def _turn(
        self, loop: asyncio.AbstractEventLoop, max_pause: float | None, waiting: int, *, first: bool = False
    ) -> float:
        """Wait in the queue, or `first` in it, and return when the token was granted."""
        future: asyncio.Future[float] = loop.create_future()
        self._waiters[future] = max_pause, waiting
        self._demand += waiting
        if first:
            self._waiters.move_to_end(future, last=False)
        if self._timer is None:
            now = loop.time()
            self._arm(loop, now + self._wait(now))
        try:
            return await future
        except BaseException:  # cancelled, or its coroutine closed, or the pause became too long
            self._leave(future)
            raise

    def _give_back(self) -> None:
        self._stated.refunded()
        for bucket in self._buckets:
            bucket.refund()

    def _grant(self, now: float) -> None:
        self._stated.granted(now)
        for bucket in self._buckets:
            bucket.take(now)

    def _serve(self) -> None:
        """Let as many go as there are tokens, and set the timer for the next."""
        loop = self._bound()
        now = loop.time()
        while self._waiters:
            future, (_, waiting) = next(iter(self._waiters.items()))
            self._stated.demand = self._demand
            if not future.done():
                wait = self._wait(now)
                if wait > 0.0:
                    self._arm(loop, now + max(wait, _RESOLUTION))
                    return
                self._grant(now)
                future.set_result(now)
            del self._waiters[future]
            self._demand -= waiting
        self._disarm()

    def _arm(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        """Set the one timer; any token serves the head of the queue, whoever that is by then."""
        self._disarm()
        self._timer = loop.call_at(when, self._ring)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self._refresh(self._bound().time())
        self._serve()

    def _leave(self, future: asyncio.Future[float]) -> None:
        """Strike out who waits no more; what it was granted goes to the next."""
        if future in self._waiters:
            _, waiting = self._waiters.pop(future)
            self._demand -= waiting
            self._stated.demand = self._demand
            if not self._waiters:
                self._disarm()
            elif self._stated.limits:  # what is left may fit into what remains
                self._serve()
        elif not future.cancelled() and future.exception() is None:
            self.refund()

    def _refresh(self, now: float) -> None:
        """Forget what headers said of a window that is over."""
        controller, stated = self._controller, self._stated
        if controller is not None:
            before = controller.rate, stated.rate
            if stated.expire(now) | controller.expire(now):
                self._follow(controller, before)

    def _follow(self, controller: Controller, before: tuple[float, float]) -> None:
        """Go on as controller and headers say, which said these rates before."""
        if self._rate != min(before):
            logger.info("rate is now %.3g/s: %s", self._rate, self._why or "as configured")
        rate = controller.rate
        if rate == before[0]:
            return
        if self._learned is None:
            self._learned = Bucket(RateLimit(rate))
            self._learned.reopen(self._paused_until)
            self._buckets.append(self._learned)
        self._change_rate(self._learned, learned_size(rate), rate)
        if rate == self._configured:
            self._buckets.remove(self._learned)
            self._learned = None

    def _change_rate(self, bucket: Bucket, capacity: float, drip: float) -> None:
        """Give a bucket another size and rate, and time those who wait anew (b3)."""
        bucket.set_rate(self._bound().time(), capacity, drip)
        self._serve()

    def _too_long(self, seconds: float) -> RateLimitError:
        return RateLimitError(
            429,
            message=f"paused for another {seconds:.1f} s ({self._reason})",
            retry_after=seconds,
            advice="That is longer than max_retry_after: ask again later, or allow longer pauses",
        )
