"""Running figures of a call, a stream or a session."""

from __future__ import annotations

from leadstatus_async.results import BatchStats


class Tally:
    """Running figures, of a call or of a session; see `BatchStats` and `SessionStats`."""

    __slots__ = (
        "cached",
        "failures",
        "foreign",
        "leads",
        "rate_limited",
        "requests",
        "retries",
        "splits",
        "waited",
    )

    def __init__(self) -> None:
        self.requests = self.retries = self.splits = self.rate_limited = 0
        self.foreign = self.cached = self.leads = self.failures = 0
        self.waited = 0.0

    def stats(self, elapsed: float) -> BatchStats:
        """Return the figures of a call that has taken so many seconds."""
        return BatchStats(
            requests=self.requests,
            retries=self.retries,
            splits=self.splits,
            rate_limited=self.rate_limited,
            foreign=self.foreign,
            cached=self.cached,
            waited=self.waited,
            elapsed=elapsed,
        )
