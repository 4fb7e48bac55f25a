"""What a limiter knows: its state, and what to state next time.

Data only: no I/O, no clock, no randomness. All times are seconds as float.
"""

from __future__ import annotations

from leadstatus_async._figures import Figures
from leadstatus_async.policy import RateLimit  # noqa: TC001 - so that type hints resolve


class Suggestion(Figures, frozen=True):
    """What to state next time, as learned from refusals: whoever states it is refused no more.

    Attributes:
        rate_limit: for `rate_limit=`; None if that is not what was refused.
        concurrency: for `concurrency=`; None likewise.
    """

    rate_limit: RateLimit | None = None
    concurrency: int | None = None

    def __str__(self) -> str:
        """Return the options as one writes them."""
        options: list[str] = []
        if self.rate_limit is not None:
            limit = self.rate_limit
            per = "" if limit.per == 1 else f", per={limit.per:g}"
            options.append(f"rate_limit=RateLimit({limit.max_rate:g}{per})")
        if self.concurrency is not None:
            options.append(f"concurrency={self.concurrency}")
        return ", ".join(options)


class RateLimitState(Figures, frozen=True):
    """A snapshot of a limiter.

    Attributes:
        rate: requests per second allowed now; None without a bucket.
        configured_rate: requests per second as configured; None without a bucket.
        ceiling: the rate at which the server last said 429, or what it admitted then if that was less, in
            requests per second; None if never, or if the configured rate has passed since.
        paused_for: seconds until the pause gate reopens; 0.0 when open.
        reason: why requests are refused, as far as that is known ("60 per 60 s", "4 at once", "by chance"),
            or why the rate is below the configured one, or the gate closed; "" if neither.
        suggestion: what to state next time; None while nothing can be told.
        slots: how many requests may be in flight at once; None for as many as one likes.
        first_pause: seconds that a pause which nobody states need last at first; None if that is not known.
    """

    rate: float | None = None
    configured_rate: float | None = None
    ceiling: float | None = None
    paused_for: float = 0.0
    reason: str = ""
    suggestion: Suggestion | None = None
    slots: int | None = None
    first_pause: float | None = None
