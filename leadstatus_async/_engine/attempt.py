"""One attempt, from its departure to what follows from its answer.

Read `Attempts.send` from top to bottom: it is the flow. What an answer means is decided by `Health`, as a
value; `_carry_out` is the one place where that becomes deeds.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
import traceback
from typing import TYPE_CHECKING

import msgspec

from leadstatus_async._engine.permit import limiter_failed
from leadstatus_async._engine.transport import Received
from leadstatus_async._state.health import NOTHING, Health, Held, Ruling
from leadstatus_async._steps.decide import Again, Fail, Split, Stop
from leadstatus_async._steps.decipher import Failure, decipher, not_believed
from leadstatus_async._steps.merge import Merged, merge
from leadstatus_async._steps.rows import Rows
from leadstatus_async.errors import LimiterError, own_copy

if TYPE_CHECKING:
    from leadstatus_async._engine.core import Engine
    from leadstatus_async._engine.job import Call
    from leadstatus_async._state.request import Request
    from leadstatus_async.policy import RetryPolicy
    from leadstatus_async.results import RateLimitState

_WORTH_TELLING = 1.0  # seconds: sixteen 429s in flight extend one pause sixteen times, by milliseconds


class Answer(msgspec.Struct, frozen=True):
    """What a request ended in.

    Attributes:
        status: HTTP status; None where no answer came.
        outcome: the outcomes of the leads asked for, or why there are none.
        trace_id: the API's `traceId`, if any.
    """

    status: int | None
    outcome: Merged | Failure
    trace_id: str | None = None


class Attempts:
    """Sends requests for the workers of an engine.

    Attributes:
        in_flight: requests on the wire.
        health: how the server fares.
    """

    def __init__(self, engine: Engine, policy: RetryPolicy) -> None:
        self.in_flight = 0
        self.health = Health(policy, pool=engine.concurrency)
        self._engine = engine
        self._observer = engine.observer
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf
        self._limiter_state: RateLimitState | None = None  # as of the last answer
        self._dice = random.Random()  # noqa: S311 - jitter, not a secret

    async def send(self, call: Call, request: Request) -> None:
        """Send a request and do what follows from its answer.

        However it ends, one account of it is given (`_account`), whether or not its call is still there:
        a probe that nobody tells the health of would silence the session for good (h2).
        """
        sent_at = self._depart(call, request)
        try:
            came, answer, ruling = await self._exchange(call, request, sent_at)
            broken = self._tell_limiter(came, answer, ruling, sent_at)
            self._deliver(call, request, answer, ruling, broken)
        except asyncio.CancelledError:
            if call.returned(request):  # nobody here cut it
                call.lost(request)
            raise
        except Exception as bug:  # noqa: BLE001 - a bug of ours must reach the caller, not hang it
            call.crash(_bare(bug))

    async def _exchange(
        self, call: Call, request: Request, sent_at: float
    ) -> tuple[Received | Failure, Answer, Ruling]:
        came: Received | Failure | None = None
        answer: Answer | None = None
        try:
            received = came = await self._engine.transport.send(request.target)
            read = answer = self._read(call, request, received)
        finally:
            ruling = self._account(call, request, sent_at, came, answer)
        return received, read, ruling

    def _depart(self, call: Call, request: Request) -> float:
        now = call.departs(request)
        if call.whole.answers_before is None:
            call.whole.answers_before = self.health.answers
        ruling = self.health.departed(now, request)
        if ruling is not NOTHING or self.health.stopped:
            self._carry_out(ruling)
        self.in_flight += 1
        return now

    def _read(self, call: Call, request: Request, came: Received | Failure) -> Answer:
        """Find out what an answer means for the leads that were asked for."""
        if isinstance(came, Failure):
            return Answer(None, came)
        redactor = self._engine.redactor
        # Dates need the wall clock, nothing else does.
        told = decipher(came.status, came.headers, came.body, now=time.time(), redactor=redactor)
        if isinstance(told, Rows):
            asked = call.ledger.lead_ids[request.start : request.stop]
            merged = merge(asked, told, redactor, attempts=request.attempts, waited=request.waited)
            if not (merged.foreign and merged.foreign == len(told.items)):
                return Answer(came.status, merged, told.trace_id)
            told = not_believed(told)
        if told.disbelieved:
            self._engine.transport.disbelieve(came)
        return Answer(came.status, told, getattr(told.error, "trace_id", None))

    def _account(
        self,
        call: Call,
        request: Request,
        sent_at: float,
        came: Received | Failure | None,
        answer: Answer | None,
    ) -> Ruling:
        """Tell observers and the session's health how a request ended: once for each that was sent."""
        self.in_flight -= 1
        now = call.loop.time()
        status = came.status if isinstance(came, Received) else None
        outcome = None if answer is None else answer.outcome
        try:
            self._observer.attempt_finished(
                call.endpoint,
                len(request),
                request.attempts,
                status,
                outcome.error if isinstance(outcome, Failure) else None,
                now - sent_at,
                None if answer is None else answer.trace_id,
            )
        finally:
            ruling = self._judge(call, request, outcome, now, sent_at)
        return ruling

    def _judge(
        self, call: Call, request: Request, outcome: Merged | Failure | None, now: float, sent_at: float
    ) -> Ruling:
        if outcome is None:  # cut off, or a bug
            return self.health.untold(now, request)
        if isinstance(outcome, Merged):
            return self.health.answered(now, request, sent_at)
        hidden = self._engine.transport.hidden_attempts if outcome.early else 0
        if hidden:
            self._observer.hidden_attempt(call.endpoint, len(request), request.attempts, outcome)
        return self.health.failed(
            now,
            request,
            outcome,
            sent_at,
            dice=self._dice.random(),
            wanted=call.waits_for(request),
            hidden=hidden,
            remaining=None if call.deadline is None else call.deadline - now,
            divisible=len(request) > 1 and self.health.answers > (call.whole.answers_before or 0),
        )

    def _tell_limiter(
        self, came: Received | Failure, answer: Answer, ruling: Ruling, sent_at: float
    ) -> LimiterError | None:
        """Let the limiter observe an answer, and close the pause gate for it; return its error, if any."""
        try:
            if isinstance(came, Received):
                self._observe(came, sent_at)
            if ruling.pause and isinstance(answer.outcome, Failure):
                self._pause(ruling.pause, answer.outcome)
        except LimiterError as broken:
            return broken
        return None

    def _observe(self, received: Received, sent_at: float) -> None:
        limiter = self._engine.limiter
        try:
            before = self._limiter_state or limiter.state
            limiter.observe(received.status, sent_at, received.headers)
            after = self._limiter_state = limiter.state
            changed, slower = after.rate != before.rate, (after.rate or math.inf) < (before.rate or math.inf)
        except Exception as broken:
            raise limiter_failed(broken) from broken
        if changed:
            self._observer.rate_changed(before, after)
        if slower:
            self._engine.trim()

    def _pause(self, seconds: float, failure: Failure) -> None:
        stated = "no Retry-After" if not failure.retry_after else f"Retry-After {failure.retry_after:g} s"
        reason = f"HTTP {getattr(failure.error, 'status', '')}, {stated}"
        try:
            before = self._engine.limiter.state.paused_for
            self._engine.limiter.pause(seconds, reason)
        except Exception as broken:
            raise limiter_failed(broken) from broken
        if not before or seconds >= before + _WORTH_TELLING:
            self._observer.paused(seconds, reason)
        self._engine.trim()

    def _deliver(
        self, call: Call, request: Request, answer: Answer, ruling: Ruling, broken: LimiterError | None
    ) -> None:
        """Do what follows for the request itself, if its call is still there; then for everybody else."""
        present = call.returned(request)
        outcome = answer.outcome
        if isinstance(outcome, Failure):
            call.count_failure(outcome, ruling.charge)
            if present and broken is not None:
                call.failed(request, broken)
            elif present:
                self._dispose(call, request, outcome, ruling)
        elif present:
            call.answered(request, outcome, answer.trace_id)
        self._carry_out(ruling)
        if broken is not None:
            self._engine.turn_all_away(own_copy(broken))
        if present:
            call.advance()

    def _dispose(self, call: Call, request: Request, failure: Failure, ruling: Ruling) -> None:
        """Do with a request that failed what was ruled."""
        self._observer.decided(call.endpoint, len(request), request.attempts, failure, ruling.then)
        match ruling.then:
            case Again(delay):
                call.later(request, delay)
            case Held(first):
                call.held(request, first=first)
            case Split():
                call.rejected(request, failure)
            case Fail():
                call.failed(request, failure.error)
            case Stop():
                call.stop(failure.error)
            case _:  # Throttled; it is not None, since somebody waits for it
                call.throttled(request)

    def _carry_out(self, ruling: Ruling) -> None:
        """Do what a ruling means for everybody: the one place where it becomes deeds."""
        if ruling is not NOTHING:
            for event in ruling.events:
                self._observer.outage(event)
            self._engine.permits.owe(ruling.charge)
            if ruling.give_up is not None:
                self._engine.turn_all_away(own_copy(ruling.give_up))
            elif ruling.give_up_gets is not None:
                self._engine.turn_gets_away(ruling.give_up_gets)
        if self.health.alarm != self._alarm_at:
            self._set_alarm()
        self._engine.permits.wake()

    # The patience of those who wait for the end of an outage

    def rest(self) -> None:
        """Nobody waits any more: whoever comes next has the whole of `max_outage` before it."""
        self._set_alarm()

    def close(self) -> None:
        """End an outage, if there is one: nobody will see its end any more."""
        self._carry_out(self.health.close(self._engine.loop.time()))

    def hold(self) -> float:
        """Return the seconds for which an outage holds sending back; infinity while a probe is out."""
        return self.health.stopped_for(self._engine.loop.time()) if self.health.stopped else 0.0

    def _set_alarm(self) -> None:
        if not self._engine.busy:
            self.health.rest()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._alarm_at = self.health.alarm
        if self._alarm_at < math.inf:
            self._alarm = self._engine.loop.call_at(self._alarm_at, self._ring)

    def _ring(self) -> None:
        self._alarm, self._alarm_at = None, math.inf
        self._carry_out(self.health.tick(self._engine.loop.time()))


def _bare(bug: Exception) -> Exception:
    """Return a bug of ours without its frames, whose answer may echo the key; a note says where it was."""
    places = traceback.extract_tb(bug.__traceback__)
    bug.add_note(f"a bug of leadstatus_async, at {places[-1].filename}:{places[-1].lineno}; please report it")
    bug.__cause__ = bug.__context__ = None
    return bug.with_traceback(None)
