"""What the outside is told: events for `on_event`, and one log line per decision.

An observer that raises is logged once and then ignored: watching never breaks a call (d12, g13).
Log lines hold no lead IDs, no URL and no key.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Generic, TypeVar

from leadstatus_async import events
from leadstatus_async._checks import returned_by
from leadstatus_async._log import Log
from leadstatus_async._state.health import Held
from leadstatus_async._state.tally import Tally
from leadstatus_async._steps.decide import Again, Throttled
from leadstatus_async.errors import APIConnectionError
from leadstatus_async.results import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leadstatus_async._state.health import Then
    from leadstatus_async._steps.chunk import Endpoint
    from leadstatus_async._steps.decipher import Failure
    from leadstatus_async.events import CallKind, Event
    from leadstatus_async.learned import RateLimitState, Suggestion
    from leadstatus_async.models import LeadFailure, LeadStatus
    from leadstatus_async.results import BatchStats

    CallsOf = Callable[[Sequence[str]], tuple[int, ...]]  # the numbers of those that ask for certain leads

logger = Log("leadstatus_async")

WhatT = TypeVar("WhatT")


class Observer:
    """Builds events, if anybody wants them, and log lines.

    Args:
        callbacks: the session's `on_event`, each guarded by itself.
    """

    def __init__(self, callbacks: Sequence[Callable[[Event], object]]) -> None:
        self._callbacks = [_Told(callback, "an on_event callback") for callback in callbacks]
        self._learned: Suggestion | None = None

    @property
    def listens(self) -> bool:
        """Whether anybody wants events."""
        return bool(self._callbacks)

    def call_started(self, call_id: int, kind: CallKind, where: Endpoint, leads: int | None) -> None:
        """Tell that a call begins, in its caller's task."""
        self._emit(events.CallStarted, call_id, kind, where.account, where.campaign, leads)

    def call_finished(
        self, call_id: int, leads: int, failures: int, seconds: float, stats: BatchStats, error: str | None
    ) -> None:
        """Tell how a call has ended."""
        self._emit(events.CallFinished, call_id, leads, failures, seconds, stats, error)

    def attempt_finished(
        self,
        calls: CallsOf,
        where: Endpoint,
        ids: Sequence[str],
        attempt: int,
        status: int | None,
        error: BaseException | None,
        seconds: float,
        trace_id: str | None,
    ) -> None:
        """Tell of a request that came to its end just now; one that was cut off, by the exception handled."""
        if self._callbacks:
            ended_by = error or sys.exception()
            name = None if ended_by is None else type(ended_by).__name__
            self._attempt(calls(ids), where, len(ids), attempt, status, name, seconds, trace_id)

    def hidden_attempt(
        self,
        calls: CallsOf,
        where: Endpoint,
        ids: Sequence[str],
        attempt: int,
    ) -> None:
        """Tell of a request that aiohttp sent besides, on a borrowed session (a3)."""
        if self._callbacks:
            error = APIConnectionError.__name__
            self._attempt(calls(ids), where, len(ids), attempt, None, error, 0.0, None)

    def decided(
        self, where: Endpoint, leads: int, attempt: int, failure: Failure, verdict: Then | None
    ) -> None:
        """Tell what becomes of a request that failed."""
        error = type(failure.error).__name__
        what = type(verdict).__name__.lower()
        delay = verdict.delay if isinstance(verdict, Again) else None
        when = "" if delay is None else f" in {delay:.2f} s"
        logger.info(
            "%d leads, attempt %d: %s -> %s%s",
            leads,
            attempt,
            error,
            what,
            when,
            campaign=where.campaign,
            leads=leads,
            attempt=attempt,
            status=getattr(failure.error, "status", None),
            trace_id=getattr(failure.error, "trace_id", None),
            delay=delay,
        )
        if isinstance(verdict, Again | Held | Throttled):
            facts = (leads, attempt, error, delay or 0.0)
            self._emit(events.RetryScheduled, where.account, where.campaign, *facts)

    def split(self, where: Endpoint, leads: int, status: int) -> None:
        """Tell that a request was cut since it was refused for what it holds."""
        self._emit(events.ChunkSplit, where.account, where.campaign, leads, status)

    def paused(self, seconds: float, reason: str) -> None:
        """Tell that the gate closed; the limiter logs it."""
        self._emit(events.Paused, seconds, reason)

    def rate_changed(self, before: RateLimitState, after: RateLimitState) -> None:
        """Tell that the rate is another than before; the limiter logs it."""
        self._emit(events.RateChanged, before.rate, after.rate, after.reason)

    def learned(self, suggestion: Suggestion | None) -> None:
        """Tell what to state next time, when it is known or has changed."""
        if suggestion is not None and suggestion != self._learned:
            self._learned = suggestion
            logger.info("requests were refused; state %s next time", suggestion)

    def outage(self, event: events.OutageStarted | events.OutageEnded) -> None:
        """Tell that the server seems down and is probed, or that this is over."""
        if isinstance(event, events.OutageStarted):
            logger.warning(
                "the server seems down (%s): sending stops, one probe at a time goes out", event.error
            )
        else:
            how = "the server answers again" if event.answered else "given up"
            logger.warning("outage over after %.1f s: %s", event.seconds, how)
        self._tell(event)

    def batch_finished(self, where: Endpoint, leads: int, failures: int, stats: BatchStats) -> None:
        """Tell what a call cost."""
        self._emit(events.BatchFinished, where.account, where.campaign, leads, failures, stats)

    def _attempt(
        self,
        call_ids: tuple[int, ...],
        where: Endpoint,
        leads: int,
        attempt: int,
        status: int | None,
        error: str | None,
        seconds: float,
        trace_id: str | None,
    ) -> None:
        self._emit(
            events.AttemptFinished,
            call_ids,
            where.account,
            where.campaign,
            leads,
            attempt,
            status,
            error,
            time.time() - seconds,
            seconds,
            trace_id,
        )

    def _emit(self, kind: type[Event], *facts: object) -> None:
        if self._callbacks:
            self._tell(kind(*facts))  # type: ignore[arg-type]

    def _tell(self, event: Event) -> None:
        for callback in self._callbacks:
            callback(event)


class Reporter:
    """Tells a `progress` callback how far a call is, in positions as the caller counts them.

    Args:
        callback: what the caller gave. If it raises, that is logged once and ignored.
        total: how many positions the caller asked for; None while that is not known.
        done: positions that need not be asked: they have their outcome, or cannot be asked for.
        failed: those of them that failed.
        weights: how many positions each lead stands for; None if one each.

    Attributes:
        tally: the figures of the call.
    """

    def __init__(
        self,
        callback: Callable[[Progress], object],
        total: int | None = None,
        done: int = 0,
        failed: int = 0,
        weights: Sequence[int] | None = None,
    ) -> None:
        self.total = total
        self.tally = Tally()
        self._callback = _Told(callback, "a progress callback")
        self._done, self._failed = done, failed
        self._weights = weights

    def report(self, first: int, outcomes: Sequence[LeadStatus | LeadFailure]) -> None:
        """Count the outcomes of neighbours, the first at position `first`, and call back."""
        if self._weights is None:
            self._done += len(outcomes)
            self._failed += sum(not outcome.ok for outcome in outcomes)
        else:
            weights = self._weights[first : first + len(outcomes)]
            self._done += sum(weights)
            self._failed += sum(
                weight for weight, outcome in zip(weights, outcomes, strict=True) if not outcome.ok
            )
        self.tell()

    def tell(self) -> None:
        """Call back with the present figures."""
        figures = self.tally
        progress = Progress(self._done, self.total, self._failed, figures.requests, figures.retries)
        self._callback(progress)


class _Told(Generic[WhatT]):
    """A callback of the user's: what it raises is logged once, and ignored.

    Whatever that is, and whose cancellation it may be, it is not ours; but what ends the process does.
    """

    def __init__(self, callback: Callable[[WhatT], object], name: str) -> None:
        self._callback = callback
        self._name = name
        self._complained = False

    def __call__(self, what: WhatT) -> None:
        try:
            returned_by(self._name, self._callback(what))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            if not self._complained:
                self._complained = True
                logger.exception("%s raised; it is ignored from now on where it does", self._name)
