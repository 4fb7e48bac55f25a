"""The way of one attempt: send -> decipher -> decide -> enter in the ledger.

What the session has seen of the server's health lives here: the retry budget, the run of 429s, the
outage. Each decision acted on is made by a pure function of `_core`; what is done about it is a
method of the call.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from typing import TYPE_CHECKING, cast

from leadstatus_async._engine.permit import limiter_failed
from leadstatus_async._engine.transport import Received
from leadstatus_async._state.outage import Outage, counts
from leadstatus_async._state.throttle import RetryBudget, ThrottleRun
from leadstatus_async._steps.decide import (
    Again,
    Fail,
    Rejected,
    Stop,
    decide,
    stated_pause,
)
from leadstatus_async._steps.decipher import Failure, Sort, decipher, not_believed
from leadstatus_async._steps.merge import merge, redacted
from leadstatus_async._steps.rows import Rows
from leadstatus_async.errors import LeadStatusError, LimiterError, own_copy

if TYPE_CHECKING:
    from leadstatus_async._engine.core import Engine
    from leadstatus_async._engine.job import Call
    from leadstatus_async._state.backlog import Chunk
    from leadstatus_async._steps.merge import Merged
    from leadstatus_async.policy import RetryPolicy


_LONGEST_PAUSE = 86_400.0  # seconds: a server that says more than a day is asked again, all the same
_WORTH_TELLING = 1.0  # seconds: sixteen 429s in flight extend one pause sixteen times, by milliseconds
_WEB_REQUEST = 4.5  # seconds for which an outage holds a get that waits: less than the five it is promised


class _Report:
    """What became of a request that was sent.

    Attributes:
        sent_at: when, in loop time.
        came: what the transport brought; None if it was cut off.
        answer: what that means; None if it was cut off.
        merged: the outcomes of the leads asked for; None for a failure.
        stale: a connection was lost that tells nothing of the server.
        was_probe, begins, down: it probed an outage; there was none before; there is one.
        over: seconds for which nothing but 429s has come without excuse.
        opens_pause: it is the first 429 of a pause.
    """

    __slots__ = (
        "answer",
        "begins",
        "came",
        "down",
        "merged",
        "opens_pause",
        "over",
        "sent_at",
        "stale",
        "was_probe",
    )

    def __init__(self, sent_at: float) -> None:
        self.sent_at = sent_at
        self.came: Received | Failure | None = None
        self.answer: Rows | Failure | None = None
        self.merged: Merged | None = None
        self.stale = self.was_probe = self.begins = self.down = self.opens_pause = False
        self.over = 0.0


class Attempts:
    """Sends chunks for the workers of an engine.

    Attributes:
        in_flight: requests on the wire.
        outage: whether the server is down.
    """

    def __init__(self, engine: Engine, policy: RetryPolicy) -> None:
        self.in_flight = 0
        self.outage = Outage(policy)
        self._engine = engine
        self._observer = engine.observer
        self._policy = policy
        self._budget = RetryBudget(policy.budget)
        self._throttle = ThrottleRun()
        self._patience: asyncio.TimerHandle | None = None
        self._web: asyncio.TimerHandle | None = None
        self._last_error = LeadStatusError()
        self._answers = 0
        self._served_at = -math.inf  # when the latest of the requests that were answered was sent
        self._excused = 0  # connections lost since the last answer that may have been stale ones
        self._paid = 0  # retries paid for by those who wait whether this will be an outage
        self._dice = random.Random()  # noqa: S311 - jitter, not a secret

    def close(self) -> None:
        """End an outage, if there is one: nobody will see its end any more."""
        self._end_outage(self._engine.loop.time(), answered=False)

    def rest(self) -> None:
        """Nobody waits any more: whoever comes next has the whole of `max_outage` before it."""
        for timer in (self._patience, self._web):
            if timer is not None:
                timer.cancel()
        self._patience = self._web = None

    async def send(self, call: Call, chunk: Chunk) -> None:
        """Send a chunk and tell its call what became of it.

        However the request ends, one account of it is given (`_account`), whether or not its call is
        still there: a probe that nobody tells the outage of would silence the session for good (h2).
        """
        report = _Report(call.departs(chunk))
        self.in_flight += 1
        try:
            try:
                self._note_departure(call, chunk, report.sent_at)
                report.came = await self._engine.transport.send(chunk.target)
                self._read(call, chunk, report.came, report)
            finally:
                self._account(call, chunk, report)
            self._act(call, chunk, report)
        except asyncio.CancelledError:
            if call.returned(chunk):  # nobody here cut it
                call.lost(chunk)
            raise
        except Exception as bug:  # noqa: BLE001 - a bug of ours must reach the caller, not hang it
            call.crash(bug)

    def _note_departure(self, call: Call, chunk: Chunk, now: float) -> None:
        if call.whole.answers_before is None:
            call.whole.answers_before = self._answers
        if self.outage.sent(now, chunk):
            self._observer.outage_started(type(self._last_error).__name__)
            self._budget.refund(self._paid)
            self._paid = 0
        if self.outage.stopped_at is not None:
            self._watch_gets()

    def _read(self, call: Call, chunk: Chunk, came: Received | Failure, report: _Report) -> None:
        """Find out what an answer means for the leads that were asked for."""
        if isinstance(came, Failure):
            report.answer = came
            return
        redactor = self._engine.redactor
        # Dates need the wall clock, nothing else does.
        answer = decipher(came.status, came.headers, came.body, now=time.time(), redactor=redactor)
        if isinstance(answer, Rows):
            asked = call.ledger.lead_ids[chunk.start : chunk.stop]
            merged = merge(asked, answer, attempts=chunk.attempts, waited=chunk.waited)
            if merged.foreign and merged.foreign == len(answer.items):
                answer = not_believed(answer)
            else:
                report.merged = merged if answer.plain else redacted(merged, redactor)
        if isinstance(answer, Failure) and answer.disbelieved:
            self._engine.transport.disbelieve(came)
        report.answer = answer

    def _account(self, call: Call, chunk: Chunk, report: _Report) -> None:
        """Tell the session's health and the observer how a request ended: once for each that was sent."""
        self.in_flight -= 1
        now = call.loop.time()
        try:
            self._observer.attempt_finished(
                call.endpoint, len(chunk), chunk.attempts, report.came, report.answer, now - report.sent_at
            )
        finally:
            self._account_health(call, chunk, report, now)

    def _account_health(self, call: Call, chunk: Chunk, report: _Report, now: float) -> None:
        answer = report.answer
        if answer is None:  # cut off, or a bug
            self.outage.untold(now, chunk)
        elif isinstance(answer, Rows):
            self._alive(chunk, now, report.sent_at)
            self._budget.earn()
            self._answers += 1
            self._served_at = max(self._served_at, report.sent_at)
        else:
            self._account_failure(call, chunk, answer, now, report)

    def _account_failure(
        self, call: Call, chunk: Chunk, failure: Failure, now: float, report: _Report
    ) -> None:
        chunk.failed_at = min(chunk.failed_at, now)
        report.stale = failure.early and self._may_be_stale(chunk, failure)
        if failure.stale and self._policy.max_attempts > 1:
            chunk.attempts -= 1
        elif failure.early:
            chunk.disconnects += 1
            self._charge_hidden(call, chunk, failure)
        if failure.sort is Sort.THROTTLED:
            self.outage.untold(now, chunk)
            before = self._throttle.count
            report.over = self._throttle.note(now, report.sent_at, failure.retry_after)
            report.opens_pause = self._throttle.count > before
            for tally in call.tallies:
                tally.rate_limited += 1
        elif report.stale:
            self.outage.again(now, chunk)
        elif counts(failure):
            self._count(chunk, failure, now, report)
        else:
            self._alive(chunk, now, report.sent_at)

    def _count(self, chunk: Chunk, failure: Failure, now: float, report: _Report) -> None:
        """Count a failure towards an outage.

        Others that were sent since a request first failed, and answered, show that it fails by itself.
        """
        report.begins = self.outage.stopped_at is None
        if report.begins and self._served_at > chunk.failed_at:
            return
        report.was_probe = self.outage.failed(now, chunk, chunk.origin or chunk)
        self._last_error = failure.error
        report.down = self.outage.stopped_at is not None
        if report.down and self._engine.busy:
            if self._patience is None:
                self._patience = self._engine.loop.call_later(self._policy.max_outage, self._give_up)
            self._watch_gets()

    def _act(self, call: Call, chunk: Chunk, report: _Report) -> None:
        """Do what follows from an answer: for everybody, and for its call if that is still there."""
        broken = self._tell_limiter(report)
        present = call.returned(chunk)
        if report.merged is not None:
            if present:
                for tally in call.tallies:
                    tally.foreign += report.merged.foreign
                call.answered(chunk, report.merged, cast("Rows", report.answer).trace_id)
        else:
            failure = cast("Failure", report.answer)
            if present and broken is not None:
                call.failed(chunk, broken)
            elif present:
                self._failed(call, chunk, failure, report)
            if self._out_of_patience(failure, report):
                self._engine.turn_all_away(own_copy(failure.error))
        if broken is not None:
            self._engine.turn_all_away(own_copy(broken))
        if present:
            call.advance()

    def _tell_limiter(self, report: _Report) -> LimiterError | None:
        """Let the limiter observe an answer, and close the pause gate for it; return its error, if any."""
        try:
            if isinstance(report.came, Received):
                self._observe(report.came, report.sent_at)
            if isinstance(report.answer, Failure):
                self._pause_for(report.answer, report)
        except LimiterError as broken:
            return broken
        return None

    def _observe(self, received: Received, sent_at: float) -> None:
        limiter = self._engine.limiter
        try:
            before = limiter.state
            limiter.observe(received.status, sent_at, received.headers)
            after = limiter.state
        except Exception as broken:
            raise limiter_failed(broken) from broken
        if after.rate != before.rate:
            self._observer.rate_changed(before, after)
            if (after.rate or math.inf) < (before.rate or math.inf):
                self._engine.trim()

    def _alive(self, chunk: Chunk, now: float, sent_at: float) -> None:
        """Note an answer that shows the server up and not throttling."""
        self._throttle.passed(sent_at)
        self._excused = 0
        if self.outage.probes(chunk):
            self._end_outage(now, answered=True)
        self.outage.answered(now, chunk, sent_at)
        if self.outage.stopped_at is not None:
            self._engine.permits.wake()

    def _failed(self, call: Call, chunk: Chunk, failure: Failure, report: _Report) -> None:
        """Decide what becomes of a request that failed."""
        if failure.sort is Sort.THROTTLED and report.over > self._policy.max_outage:
            call.failed(chunk, failure.error)
        elif not (report.down and self._down(call, chunk, failure, report)):
            self._decide(call, chunk, failure, stale=report.stale)

    def _out_of_patience(self, failure: Failure, report: _Report) -> bool:
        """Whether everything that waits is given up: after too many 429s, or for too long a pause."""
        if failure.sort is Sort.THROTTLED and report.over > self._policy.max_outage:
            self._throttle.end()
            return True
        status = getattr(failure.error, "status", None)
        return status in (429, 503) and (failure.retry_after or 0.0) > self._policy.max_retry_after

    def _pause_for(self, failure: Failure, report: _Report) -> None:
        """Close the pause gate for a 429, or a 503 that states how long."""
        stated, dice = failure.retry_after, self._dice.random()
        if failure.sort is Sort.THROTTLED:
            if stated:
                self._pause(stated_pause(stated, self._policy, dice), failure)
            elif report.opens_pause:
                self._pause(self._throttle.pause(report.over, self._policy, dice), failure)
        elif stated is not None:  # a 503's, as `decipher` has it
            self._pause(stated_pause(stated, self._policy, dice), failure)

    def _may_be_stale(self, chunk: Chunk, failure: Failure) -> bool:
        """Whether losing a connection tells nothing of the server (a20).

        One that served another request before was stale. Of others a request's first is taken for that,
        up to as many in a row as a pool may hold; in an outage none is.
        """
        if failure.stale:
            return True
        if (
            self.outage.stopped_at is not None
            or chunk.disconnects
            or self._excused >= self._engine.concurrency
        ):
            return False
        self._excused += 1
        return True

    def _decide(self, call: Call, chunk: Chunk, failure: Failure, *, stale: bool) -> None:
        verdict = decide(
            failure,
            self._policy,
            attempts=self._policy.max_attempts if chunk.last else chunk.attempts,
            stale=stale,
            afford=self._budget.spend,
            divisible=len(chunk) > 1 and not chunk.last and self._answers > (call.whole.answers_before or 0),
            remaining=None if call.deadline is None else call.deadline - call.loop.time(),
            dice=self._dice.random(),
        )
        self._observer.decided(call.endpoint, len(chunk), chunk.attempts, failure, verdict)
        match verdict:
            case Again(delay):
                call.later(chunk, delay)
            case Rejected():
                call.rejected(chunk, failure)
            case Fail():
                call.failed(chunk, failure.error)
            case Stop():
                call.stop(failure.error)
            case _:
                call.throttled(chunk)

    def _pause(self, seconds: float, failure: Failure) -> None:
        stated = "no Retry-After" if not failure.retry_after else f"Retry-After {failure.retry_after:g} s"
        reason = f"HTTP {getattr(failure.error, 'status', '')}, {stated}"
        seconds = min(seconds, _LONGEST_PAUSE)
        try:
            before = self._engine.limiter.state.paused_for
            self._engine.limiter.pause(seconds, reason)
        except Exception as broken:
            raise limiter_failed(broken) from broken
        if not before or seconds >= before + _WORTH_TELLING:
            self._observer.paused(seconds, reason)
        self._engine.trim()

    def _down(self, call: Call, chunk: Chunk, failure: Failure, report: _Report) -> bool:
        """Let a chunk wait for the end of an outage; False if it is to be decided upon as ever.

        What was in flight costs attempts but no budget, if it is an outage, and a probe neither; but while
        the server has never answered, probes are the attempts of one request, and when they are spent, so
        is the outage.
        """
        was_probe = report.was_probe
        if failure.sort is not Sort.PASSING or not (was_probe or self._afforded()):
            return False
        if was_probe and self.outage.ever_answered:
            chunk.attempts -= 1 + (self._engine.transport.hidden_attempts if failure.early else 0)
        if report.begins:  # whoever notices it is not to lose its leads for that
            chunk.attempts = min(chunk.attempts, self._policy.max_attempts - 1)
        if chunk.last or chunk.attempts >= self._policy.max_attempts:
            call.failed(chunk, failure.error)
            if was_probe:
                self._give_up()
            return True
        call.held(chunk, first=not self.outage.ever_answered)
        if was_probe and self.outage.announced:
            self._engine.turn_gets_away(failure.error)
        return True

    def _afforded(self) -> bool:
        """Whether a request may wait for the end: before the first probe it pays, as for any retry."""
        if self.outage.announced:
            return True
        paid = self._budget.spend()
        self._paid += paid
        return paid

    def _watch_gets(self) -> None:
        """Let no get wait long while sending is stopped: somebody's web request is behind each."""
        if self._web is None:
            self._web = self._engine.loop.call_later(_WEB_REQUEST, self._turn_gets_away)

    def _turn_gets_away(self) -> None:
        self._web = None
        self._engine.turn_gets_away(self._last_error)
        if self._engine.busy:
            self._watch_gets()

    def _give_up(self) -> None:
        """End the outage without an answer: everything that waits fails with the last error."""
        self._end_outage(asyncio.get_running_loop().time(), answered=False)
        self.outage.reset()
        self._engine.turn_all_away(own_copy(self._last_error))

    def _end_outage(self, now: float, *, answered: bool) -> None:
        if self.outage.stopped_at is None:
            return
        self._paid = 0
        if self.outage.announced:
            self._observer.outage_ended(now - self.outage.stopped_at, answered=answered)
        self.rest()
        self.outage.reset()
        self._engine.permits.wake()

    def hold(self) -> float:
        """Return the seconds for which an outage holds sending back; infinity while a probe is out."""
        if self.outage.stopped_at is None:
            return 0.0
        return self.outage.wait(asyncio.get_running_loop().time())

    def _charge_hidden(self, call: Call, chunk: Chunk, failure: Failure) -> None:
        """Count the request that aiohttp may have sent besides, on a borrowed session (a3)."""
        if hidden := self._engine.transport.hidden_attempts:
            self._observer.hidden_attempt(call.endpoint, len(chunk), chunk.attempts, failure)
        chunk.attempts += hidden
        self._engine.permits.owe(hidden)
        for tally in call.tallies:
            tally.requests += hidden
