"""How large a bucket must be, and how fast it fills, so that a limit holds in any window."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leadstatus_async.policy import RateLimit

_LAG_OF_ONE = 0.002  # seconds by which a server's own bucket may be behind ours where each token is a burst
_LATE = 0.005  # seconds by which timers may be late, all in all
_SLOW = 50.0  # requests per second up to which late timers cost a bucket of one token nothing


def learned_size(rate: float) -> float:
    """Return the capacity of a bucket for a rate that was learned.

    One, since whoever was refused cannot afford a burst, but for what late timers cost at high rates (b6).
    """
    return 1.0 + _LATE * max(0.0, rate - _SLOW)


def sizes(limit: RateLimit) -> tuple[float, float]:
    """Return capacity and drip per second, such that no window of `per` seconds exceeds `max_rate`.

    `capacity + drip * per < max_rate + 1` is the bound. What capacity there is above 1 makes up for
    late timers, which with capacity 1 cost 8-11% of the rate (b2, b6).
    """
    if limit.max_rate < 1:
        return 1.0, limit.rate / 1.01
    if limit.burst == 1 and limit.max_rate > 1:
        return 1.0, limit.rate / (1.01 + min(0.5, _LAG_OF_ONE * limit.rate))
    if limit.burst is not None:
        return float(limit.burst), limit.rate / (1.01 if limit.burst < limit.max_rate else 1.0)
    whole = int(limit.max_rate)  # a window that holds at most 2.5 requests holds 2
    capacity = min(float(whole), 1 + _LATE * limit.rate)
    return capacity, (whole + 1 - capacity) / (1.01 * limit.per)
