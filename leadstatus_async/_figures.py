"""Running figures of a call, a stream or a session, and who is told of them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from leadstatus_async.results import BatchStats, Progress

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("leadstatus_async")


class Tally:
    """Running figures, of a call or of a session; see `BatchStats` and `SessionStats`."""

    __slots__ = (
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
        self.foreign = self.leads = self.failures = 0
        self.waited = 0.0

    def stats(self, elapsed: float) -> BatchStats:
        """Return the figures of a call that has taken so many seconds."""
        return BatchStats(
            requests=self.requests,
            retries=self.retries,
            splits=self.splits,
            rate_limited=self.rate_limited,
            foreign=self.foreign,
            waited=self.waited,
            elapsed=elapsed,
        )


class Reporter:
    """Tells a `progress` callback how far a call is, in positions as the caller counts them.

    Args:
        callback: what the caller gave. If it raises, that is logged once and ignored.
        positions: how many the caller asked for; None while that is not known.
        settled: positions that failed before the call began: IDs that cannot be asked for.
    """

    def __init__(
        self, callback: Callable[[Progress], object], positions: int | None = None, settled: int = 0
    ) -> None:
        self.positions = positions
        self._callback = callback
        self._settled = settled
        self._complained = False

    def report(self, done: int, failed: int, tally: Tally) -> None:
        """Call back with the present figures, the positions settled beforehand added."""
        progress = Progress(
            done + self._settled, self.positions, failed + self._settled, tally.requests, tally.retries
        )
        try:
            self._callback(progress)
        except (Exception, asyncio.CancelledError):  # whose cancellation it may be, it is not ours
            if not self._complained:
                self._complained = True
                logger.exception("a progress callback raised; the call goes on")
