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
from typing import TYPE_CHECKING

from leadstatus_async._core.merge import merge
from leadstatus_async._core.outage import Outage, counts
from leadstatus_async._core.retry import (
    Again,
    Fail,
    Rejected,
    RetryBudget,
    Stop,
    ThrottleRun,
    decide,
    stated_pause,
)
from leadstatus_async._core.wire import Failure, Sort, decipher
from leadstatus_async._permits import limiter_failed
from leadstatus_async._transport import Received
from leadstatus_async.errors import LeadStatusError, LimiterError, own_copy

if TYPE_CHECKING:
    from leadstatus_async._call import Call
    from leadstatus_async._core.ledger import Chunk
    from leadstatus_async._engine import Engine
    from leadstatus_async.policy import RetryPolicy


_LONGEST_PAUSE = 86_400.0  # seconds: a server that says more than a day is asked again, all the same
_WORTH_TELLING = 1.0  # seconds: sixteen 429s in flight extend one pause sixteen times, by milliseconds
_WEB_REQUEST = 4.5  # seconds for which an outage holds a get that waits: less than the five it is promised


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
        """Send a chunk and tell its call what became of it."""
        sent_at = call.departs(chunk)
        if call.whole.answers_before is None:
            call.whole.answers_before = self._answers
        if self.outage.sent(sent_at, chunk):
            self._observer.outage_started(type(self._last_error).__name__)
            self._budget.refund(self._paid)
            self._paid = 0
        if self.outage.stopped_at is not None:
            self._watch_gets()
        self.in_flight += 1
        try:
            outcome = await self._engine.transport.send(chunk.target)
            if call.returned(chunk):
                self._settle(call, chunk, outcome, sent_at)
                call.advance()
        except asyncio.CancelledError:
            self.outage.untold(call.loop.time(), chunk)
            self._observer.cut_off(call, chunk, call.loop.time() - sent_at)
            if call.returned(chunk):  # nobody here cut it
                call.lost(chunk)
            raise
        except LimiterError as broken:
            call.failed(chunk, broken)
            self._engine.turn_all_away(own_copy(broken))
            call.advance()
        except Exception as bug:  # noqa: BLE001 - a bug of ours must reach the caller, not hang it
            call.crash(bug)
        finally:
            self.in_flight -= 1

    def _settle(self, call: Call, chunk: Chunk, outcome: Received | Failure, sent_at: float) -> None:
        now = call.loop.time()
        if isinstance(outcome, Received):
            self._observe(outcome, sent_at)
            clock = time.time()  # dates need the wall clock, nothing else does
            answer = decipher(outcome.status, outcome.headers, outcome.body, now=clock)
            if isinstance(answer, Failure) or not answer.clean:
                shown = self._engine.transport.redacted(outcome.body)
                answer = decipher(outcome.status, outcome.headers, shown, now=clock)
        else:
            answer = outcome
        self._observer.attempt_finished(call, chunk, outcome, answer, now - sent_at)
        if isinstance(answer, Failure):
            chunk.failed_at = min(chunk.failed_at, now)
            self._failed(call, chunk, answer, now, sent_at)
            return
        self._alive(chunk, now, sent_at)
        self._budget.earn()
        self._answers += 1
        self._served_at = max(self._served_at, sent_at)
        asked = call.ledger.lead_ids[chunk.start : chunk.stop]
        merged = merge(asked, answer, attempts=chunk.attempts, waited=chunk.waited)
        for tally in call.tallies:
            tally.foreign += merged.foreign
        call.answered(chunk, merged, answer.trace_id)

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

    def _failed(self, call: Call, chunk: Chunk, failure: Failure, now: float, sent_at: float) -> None:
        stale = failure.early and self._may_be_stale(chunk, failure)
        if failure.stale and self._policy.max_attempts > 1:
            chunk.attempts -= 1
        elif failure.early:
            chunk.disconnects += 1
            self._charge_hidden(call, chunk, failure)
        if failure.sort is Sort.THROTTLED:
            self.outage.untold(now, chunk)
            if self._throttled(call, chunk, failure, now, sent_at):
                return
        elif stale:
            self.outage.again(now, chunk)
        elif counts(failure):
            if failure.retry_after is not None and getattr(failure.error, "status", None) == 503:
                self._pause(stated_pause(failure.retry_after, self._policy, self._dice.random()), failure)
            if self._down(call, chunk, failure, now):
                return
        else:
            self._alive(chunk, now, sent_at)
        self._decide(call, chunk, failure, now, stale=stale)
        status = getattr(failure.error, "status", None)
        if status in (429, 503) and (failure.retry_after or 0.0) > self._policy.max_retry_after:
            self._engine.turn_all_away(own_copy(failure.error))  # those in back-off, too

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

    def _decide(self, call: Call, chunk: Chunk, failure: Failure, now: float, *, stale: bool) -> None:
        verdict = decide(
            failure,
            self._policy,
            attempts=self._policy.max_attempts if chunk.last else chunk.attempts,
            stale=stale,
            budget=self._budget,
            divisible=len(chunk) > 1 and not chunk.last and self._answers > (call.whole.answers_before or 0),
            remaining=None if call.deadline is None else call.deadline - now,
            dice=self._dice.random(),
        )
        self._observer.decided(call, chunk, failure, verdict)
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

    def _throttled(self, call: Call, chunk: Chunk, failure: Failure, now: float, sent_at: float) -> bool:
        """Close the pause gate for a 429.

        Returns whether nothing but 429s came for so long that all that waits, this chunk too, is given up.
        """
        for tally in call.tallies:
            tally.rate_limited += 1
        stated, dice, before = failure.retry_after, self._dice.random(), self._throttle.count
        over = self._throttle.note(now, sent_at, stated)
        if stated:
            self._pause(stated_pause(stated, self._policy, dice), failure)
        elif self._throttle.count > before:
            self._pause(self._throttle.pause(over, self._policy, dice), failure)
        if over <= self._policy.max_outage:
            return False
        self._throttle.end()
        call.failed(chunk, failure.error)
        self._engine.turn_all_away(failure.error)
        return True

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

    def _down(self, call: Call, chunk: Chunk, failure: Failure, now: float) -> bool:
        """Count a failure towards an outage; True if there is one, and the chunk waits for its end.

        Others that were sent since a request first failed, and answered, show that it fails by itself.
        What was in flight costs attempts but no budget, if it is an outage, and a probe neither; but while
        the server has never answered, probes are the attempts of one request, and when they are spent, so
        is the outage.
        """
        begins = self.outage.stopped_at is None
        if begins and self._served_at > chunk.failed_at:
            return False
        was_probe = self.outage.failed(now, chunk, chunk.origin or chunk)
        self._last_error = failure.error
        if self.outage.stopped_at is None:
            return False
        if self._patience is None:
            self._patience = call.loop.call_later(self._policy.max_outage, self._give_up)
        self._watch_gets()
        if failure.sort is not Sort.PASSING or not (was_probe or self._afforded()):
            return False
        if was_probe and self.outage.ever_answered:
            chunk.attempts -= 1 + (self._engine.transport.hidden_attempts if failure.early else 0)
        if begins:  # whoever notices it is not to lose its leads for that
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
            self._observer.hidden_attempt(call, chunk, failure)
        chunk.attempts += hidden
        self._engine.permits.owe(hidden)
        for tally in call.tallies:
            tally.requests += hidden
