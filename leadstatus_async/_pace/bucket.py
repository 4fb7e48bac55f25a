"""One `RateLimit` as a bucket: aiolimiter's arithmetic, made fit.

All times are seconds as float, on whatever clock the caller has; aiolimiter itself reads that of the
running event loop.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from aiolimiter import AsyncLimiter

from leadstatus_async._state.sizes import sizes

if TYPE_CHECKING:
    from leadstatus_async.policy import RateLimit

_JITTER = 0.005  # seconds by which requests may arrive closer together than they were sent
_LAG = 0.01  # seconds by which a server's own bucket may be behind ours after a burst
_ROUNDING = 1e-9  # of a token: less than this missing is float noise, not worth another timer


class Bucket:
    """One `RateLimit` as a bucket whose window bound holds.

    aiolimiter does the leaking. Its public API has no refund, no change of rate and no "when", and its
    `acquire` is a coroutine, which a timer cannot await. The two private names used for these, `_level`
    and `_rate_per_sec`, are pinned by `aiolimiter<2` and by a test.
    """

    def __init__(self, limit: RateLimit) -> None:
        capacity, drip = sizes(limit)
        self._tank = AsyncLimiter(capacity, capacity / drip)
        self._opens = math.inf  # when the pause that stands is over
        self._window = int(limit.max_rate) if limit.burst is not None else 0
        # When a burst has emptied the bucket, the next token comes a little later: the server's bucket began
        # to fill when the first request arrived, and those behind it may arrive a little faster. No more than
        # half a burst, or it would be due again before each token.
        burst = limit.burst or 0
        self._lag = min(max(0.5, _LAG * limit.rate), (burst - 1) / 2) if 1 < burst < limit.max_rate else 0.0
        self._lagging = False
        # A little more than the window: requests arrive a little less evenly than they are sent.
        self._per = 1.01 * limit.per + _JITTER
        self._grants: deque[float] = deque()  # those of the last `per` seconds, where a burst may go

    def settle(self, now: float) -> None:
        """Credit what has dripped so far; of what did before a pause was over, one token at most is left."""
        tank = self._tank
        tank.has_capacity(0)
        self._lagging &= tank._level >= self._lag  # noqa: SLF001
        if now >= self._opens:
            floor = tank.max_rate - 1 - (now - self._opens) * tank._rate_per_sec  # noqa: SLF001
            tank._level = max(tank._level, floor)  # noqa: SLF001
            self._opens = math.inf
            self._lagging = True

    def wait(self, now: float, ahead: int = 0, *, alone: bool = True) -> float:
        """Return the seconds until a token is there for whoever has `ahead` others before it.

        Exact if it is `alone`; with others, which may never let it be emptied, the least that it can be.
        """
        tank = self._tank
        level, gate = tank._level, 0.0  # noqa: SLF001
        if self._opens < math.inf:
            gate = self._opens - now
            level = max(level - gate * tank._rate_per_sec, tank.max_rate - 1)  # noqa: SLF001
        # Every `window` grants repeat, `per` seconds later at the earliest, those before them.
        rounds, place = divmod(ahead, self._window) if self._window else (0, ahead)
        missing = level + 1 + place - tank.max_rate
        if missing > _ROUNDING and alone and not self._lagging and self._opens == math.inf:
            missing += self._lag
        wait = gate + missing / tank._rate_per_sec if missing > _ROUNDING else gate  # noqa: SLF001
        free = self._window - len(self._grants)
        if place >= free and self._window:
            wait = max(wait, self._grants[place - free] + self._per - now)
        return wait + rounds * self._per

    def take(self, now: float) -> None:
        """Use a token, which `wait` has just said is there."""
        tank = self._tank
        tank._level += 1  # noqa: SLF001
        if tank._level > tank.max_rate - 1 and not self._lagging:  # noqa: SLF001
            tank._level += self._lag  # noqa: SLF001
            self._lagging = True
        if self._window:
            while self._grants and self._grants[0] + self._per <= now:
                self._grants.popleft()
            self._grants.append(now)

    def refund(self) -> None:
        """Give back the token taken last, unused."""
        self._tank._level = max(0.0, self._tank._level - 1)  # noqa: SLF001
        if self._grants:
            self._grants.pop()

    def reopen(self, at: float) -> None:
        """Have one token at most when a pause is over."""
        self._opens = at

    def set_rate(self, now: float, capacity: float, drip: float) -> None:
        """Change size and rate. What was earned stays, as far as it fits; nothing is given (b3)."""
        self.settle(now)
        tank = self._tank
        tank._level = max(0.0, tank._level + capacity - tank.max_rate)  # noqa: SLF001
        tank._rate_per_sec = drip  # noqa: SLF001
        tank.max_rate = capacity
