"""What the outside is told: events for `on_event`, and one log line per decision.

An observer that raises is logged once and then ignored: watching never breaks a call (d12, g13).
Log lines hold no lead IDs, no URL and no key; the library stays silent unless logging is set up.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING

from leadstatus_async import events
from leadstatus_async._core.retry import Again, Rejected, Throttled
from leadstatus_async._core.rows import Rows
from leadstatus_async._transport import Received

if TYPE_CHECKING:
    from collections.abc import Callable

    from leadstatus_async._call import Call
    from leadstatus_async._core.ledger import Chunk
    from leadstatus_async._core.plan import Endpoint
    from leadstatus_async._core.retry import Verdict
    from leadstatus_async._core.wire import Failure
    from leadstatus_async.events import Event
    from leadstatus_async.results import BatchStats, RateLimitState

logger = logging.getLogger("leadstatus_async")


class Observer:
    """Builds events, if anybody wants them, and log lines.

    Args:
        callback: the session's `on_event`; None if nobody watches.
    """

    def __init__(self, callback: Callable[[Event], object] | None) -> None:
        self._callback = callback
        self._complained = False

    def attempt_finished(
        self,
        call: Call,
        chunk: Chunk,
        came: Received | Failure | None,
        answer: Rows | Failure | None,
        seconds: float,
    ) -> None:
        """Tell of a request that came to its end; without an answer, by the exception being handled."""
        if self._callback is None:
            return
        status = came.status if isinstance(came, Received) else None
        if isinstance(answer, Rows):
            self._attempt(call, chunk, status, None, seconds, answer.trace_id)
        else:
            error = sys.exception() if answer is None else answer.error
            trace_id = getattr(error, "trace_id", None)
            self._attempt(call, chunk, status, type(error).__name__, seconds, trace_id)

    def hidden_attempt(self, call: Call, chunk: Chunk, failure: Failure) -> None:
        """Tell of a request that aiohttp sent besides, on a borrowed session (a3)."""
        if self._callback is not None:
            self._attempt(call, chunk, None, type(failure.error).__name__, 0.0, None)

    def decided(self, call: Call, chunk: Chunk, failure: Failure, verdict: Verdict) -> None:
        """Tell what becomes of a request that failed."""
        error = type(failure.error).__name__
        what = type(verdict).__name__.lower()
        delay = verdict.delay if isinstance(verdict, Again) else 0.0
        when = f" in {delay:.2f} s" if isinstance(verdict, Again) else ""
        logger.info("%d leads, attempt %d: %s -> %s%s", len(chunk), chunk.attempts, error, what, when)
        where = call.endpoint
        if isinstance(verdict, Again | Throttled):
            self._emit(
                events.RetryScheduled, where.account, where.campaign, len(chunk), chunk.attempts, error, delay
            )
        elif isinstance(verdict, Rejected) and len(chunk) > 1:
            status = getattr(failure.error, "status", 0)
            self._emit(events.ChunkSplit, where.account, where.campaign, len(chunk), status)

    def paused(self, seconds: float, reason: str) -> None:
        """Tell that the gate closed; the limiter logs it."""
        self._emit(events.Paused, seconds, reason)

    def rate_changed(self, before: RateLimitState, after: RateLimitState) -> None:
        """Tell that the rate is another than before; the limiter logs it."""
        self._emit(events.RateChanged, before.rate, after.rate, after.reason)

    def outage_started(self, error: str) -> None:
        """Tell that the server seems down and is probed."""
        logger.warning("the server seems down (%s): sending stops, one probe at a time goes out", error)
        self._emit(events.OutageStarted, error)

    def outage_ended(self, seconds: float, *, answered: bool) -> None:
        """Tell that the outage is over."""
        how = "the server answers again" if answered else "given up"
        logger.warning("outage over after %.1f s: %s", seconds, how)
        self._emit(events.OutageEnded, seconds, answered)

    def batch_finished(self, where: Endpoint, leads: int, failures: int, stats: BatchStats) -> None:
        """Tell what a call cost."""
        self._emit(events.BatchFinished, where.account, where.campaign, leads, failures, stats)

    def _attempt(
        self,
        call: Call,
        chunk: Chunk,
        status: int | None,
        error: str | None,
        seconds: float,
        trace_id: str | None,
    ) -> None:
        self._emit(
            events.AttemptFinished,
            call.endpoint.account,
            call.endpoint.campaign,
            len(chunk),
            chunk.attempts,
            status,
            error,
            seconds,
            trace_id,
        )

    def _emit(self, kind: type[Event], *facts: object) -> None:
        if self._callback is None:
            return
        try:
            self._callback(kind(*facts))  # type: ignore[arg-type]
        except (Exception, asyncio.CancelledError):  # whose cancellation it may be, it is not ours
            if not self._complained:
                self._complained = True
                logger.exception("the on_event callback raised; it is ignored from now on where it does")
