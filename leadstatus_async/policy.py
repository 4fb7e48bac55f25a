"""The settings that bound pace and patience: `RateLimit` and `RetryPolicy`.

Data only: no I/O, no clock, no randomness. All times are seconds as float. Bad values are a
`ConfigurationError` that names the option, the value and what is allowed.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import force_setattr

from leadstatus_async._checks import require_number, require_whole


class RateLimit(msgspec.Struct, frozen=True):
    """At most `max_rate` requests in any window of `per` seconds.

    Attributes:
        max_rate: requests per window, above 0; below 1 it means one request every `per / max_rate` seconds.
        per: length of the window in seconds, default 1.0.
        burst: how many may go at once, from 1 to `max_rate`, for a vendor whose "60 a minute" is a
            window: `RateLimit(60, per=60, burst=60)`, or for a server whose bucket is known. None
            spreads them evenly. The window bound holds either way. What follows a burst of less than
            `max_rate` keeps 1% below the rate, and its first request comes half of one late:
            requests arrive less evenly than they are sent.

    Raises:
        ConfigurationError: for a value out of range.
    """

    max_rate: float
    per: float = 1.0
    burst: int | None = None

    def __post_init__(self) -> None:
        force_setattr(self, "max_rate", require_number("RateLimit.max_rate", self.max_rate, above=True))
        force_setattr(self, "per", require_number("RateLimit.per", self.per, above=True))
        require_number("RateLimit.max_rate / per", self.rate, above=True)
        if self.burst is not None:
            burst = require_whole("RateLimit.burst", self.burst, most=max(1, self.max_rate))
            force_setattr(self, "burst", burst)

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.max_rate / self.per


class RetryPolicy(msgspec.Struct, frozen=True):
    """How patiently failed requests are sent again.

    Attributes:
        max_attempts: how often one request that fails by itself is sent, the first time included;
            1 turns retrying off, for 429 too.
        base_delay: seconds of the first back-off, and the floor of any `Retry-After`.
        max_delay: longest back-off of our own, in seconds; caps `base_delay`, too.
        max_retry_after: longest `Retry-After` that is waited for, in seconds; beyond it the error is
            raised at once, with the value.
        budget: retries the session may spend at once; a retry costs 1, a success refills 0.1.
        max_outage: seconds that an outage is waited out, or a run of nothing but 429s beyond the
            pauses that the server itself stated (of those, ten kept in vain are enough, if they last as
            long); 0 turns the outage rule off, and gives up whatever is refused by 429 again after one pause.

    Raises:
        ConfigurationError: for a value out of range.
    """

    max_attempts: int = 5
    base_delay: float = 0.5
    max_delay: float = 20.0
    max_retry_after: float = 120.0
    budget: float = 100
    max_outage: float = 60.0

    def __post_init__(self) -> None:
        attempts = require_whole("RetryPolicy.max_attempts", self.max_attempts)
        force_setattr(self, "max_attempts", attempts)
        for name in ("base_delay", "max_delay", "max_retry_after", "budget", "max_outage"):
            force_setattr(self, name, require_number(f"RetryPolicy.{name}", getattr(self, name)))
