"""One attempt at a request: read `Attempt.run` from top to bottom, it is the flow of every call.

What an answer means is decided by `Health`, as a value. What has to be done for it is the dispatcher's.
"""

from __future__ import annotations

import math
import random
import time
from typing import TYPE_CHECKING

import msgspec

from leadstatus_async._engine.transport import Received
from leadstatus_async._steps.decipher import Asked, Failure, decipher, not_believed
from leadstatus_async._steps.merge import Merged, merge
from leadstatus_async._steps.rows import Rows
from leadstatus_async.errors import LimiterError

if TYPE_CHECKING:
    import asyncio

    from leadstatus_async._engine.cache import Cache
    from leadstatus_async._engine.job import Job
    from leadstatus_async._engine.observer import Observer
    from leadstatus_async._engine.transport import Transport
    from leadstatus_async._state.health import Health, Ruling
    from leadstatus_async._state.request import Request
    from leadstatus_async._steps.redact import Redactor
    from leadstatus_async.learned import RateLimitState
    from leadstatus_async.limiter import Guarded

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


class Ended(msgspec.Struct, frozen=True):
    """What is left to do for a request that has ended.

    Attributes:
        ruling: what its end means.
        wanted: whether anybody still waited for it.
        failure: in what it ended; None if its rows were delivered.
        broken: the fault of a limiter that was told of it, if any.
        slower: whether what waits has to wait longer now.
    """

    ruling: Ruling
    wanted: bool
    failure: Failure | None
    broken: LimiterError | None
    slower: bool


class Attempt:
    """Sends requests, for the workers of a dispatcher.

    Attributes:
        in_flight: requests on the wire.
        limiter_state: the limiter's, as of the last answer; None before.
        slots: requests that may be in flight, as far as the limiter knows; infinity for any number.
        owed: tokens, for requests that aiohttp sent besides by itself (a3): the next ones wait for these too.
    """

    def __init__(
        self,
        transport: Transport,
        limiter: Guarded,
        health: Health,
        observer: Observer,
        redactor: Redactor,
        cache: Cache | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.in_flight = self.owed = 0
        self._transport = transport
        self._limiter = limiter
        self._health = health
        self._observer = observer
        self._redactor = redactor
        self._cache = cache
        self._loop = loop
        self.limiter_state: RateLimitState | None = None
        self.slots = math.inf
        self._dice = random.SystemRandom()  # which forked workers do not share, as they would a generator

    def depart(self, job: Job, request: Request) -> Ruling:
        """Note that a request goes out now."""
        now = self._loop.time()
        job.departs(request, now)
        if job.answers_before is None:
            job.answers_before = self._health.answers
        return self._health.departed(now, request)

    async def run(self, job: Job, request: Request) -> Ended:
        """Send a request that has departed, find out what its answer means, and deliver its rows.

        However it ends, one account of it is given (`_account`), whether or not its job is still there:
        a probe that nobody tells the health of would silence the session for good.
        """
        sent_at = self._loop.time()
        came: Received | Failure | None = None
        answer: Answer | None = None
        self.in_flight += 1
        try:
            received = came = await self._transport.send(request.target, job.patience.timeout)
            read = answer = self._read(job, request, received)
        finally:
            ruling = self._account(job, request, sent_at, came, answer)
        outcome = read.outcome
        if self._cache is not None and isinstance(outcome, Merged):
            self._cache.learn(job.where.prefix, outcome.outcomes, sent_at, self._loop.time())
        broken, slower = self._tell_limiter(received, outcome, ruling, sent_at)
        wanted = job.backlog.returned(request)
        failure = outcome if isinstance(outcome, Failure) else None
        job.count(failure)
        if wanted and not isinstance(outcome, Failure):
            job.answered(request, outcome, read.trace_id)
        return Ended(ruling, wanted, failure, broken, slower)

    def _read(self, job: Job, request: Request, came: Received | Failure) -> Answer:
        """Find out what an answer means for the leads that were asked for."""
        if isinstance(came, Failure):
            return Answer(None, came)
        redactor = self._redactor
        accepted = job.backlog.limits.accepted
        asked = Asked(request.target, self._health.answers > 0, self._transport.proxy, accepted)
        # Dates need the wall clock, nothing else does.
        told = decipher(came.status, came.headers, came.body, now=time.time(), redactor=redactor, asked=asked)
        if isinstance(told, Rows):
            merged = merge(request.ids, told, redactor, attempts=request.attempts, waited=request.waited)
            if merged.respelled or not merged.foreign or merged.foreign < len(told.items):
                return Answer(came.status, merged, told.trace_id)
            told = not_believed(told)
        if told.disbelieved:
            self._transport.disbelieve(came)
        return Answer(came.status, told, getattr(told.error, "trace_id", None))

    def _account(
        self,
        job: Job,
        request: Request,
        sent_at: float,
        came: Received | Failure | None,
        answer: Answer | None,
    ) -> Ruling:
        """Tell observers and the session's health how a request ended: once for each that was sent."""
        self.in_flight -= 1
        now = self._loop.time()
        status = came.status if isinstance(came, Received) else None
        hidden = self._transport.hidden_of_cut() if came is None else came.hidden
        self.owed += max(0, hidden)
        job.count_hidden(hidden)
        outcome = None if answer is None else answer.outcome
        if hidden < 0:  # cut off before it was sent
            return self._judge(job, request, outcome, 0, now, sent_at)
        try:
            for _ in range(hidden):
                self._observer.hidden_attempt(job.calls, job.where, request.ids, request.attempts)
            self._observer.attempt_finished(
                job.calls,
                job.where,
                request.ids,
                request.attempts,
                status,
                outcome.error if isinstance(outcome, Failure) else None,
                now - sent_at,
                None if answer is None else answer.trace_id,
            )
        finally:
            ruling = self._judge(job, request, outcome, hidden, now, sent_at)
        return ruling

    def _judge(
        self,
        job: Job,
        request: Request,
        outcome: Merged | Failure | None,
        hidden: int,
        now: float,
        sent_at: float,
    ) -> Ruling:
        if outcome is None:  # cut off, or a bug
            return self._health.untold(now, request)
        if isinstance(outcome, Merged):
            return self._health.answered(now, request, sent_at)
        until = job.until
        return self._health.failed(
            now,
            request,
            outcome,
            sent_at,
            dice=self._dice.random(),
            max_attempts=job.patience.max_attempts,
            wanted=request in job.backlog.in_flight,
            hidden=hidden,
            remaining=None if until is None else until - now,
            first_pause=getattr(self.limiter_state, "first_pause", None),
            divisible=len(request) > 1 and self._health.answers > (job.answers_before or 0),
        )

    def _tell_limiter(
        self, came: Received | Failure, outcome: Merged | Failure, ruling: Ruling, sent_at: float
    ) -> tuple[LimiterError | None, bool]:
        """Let the limiter observe an answer, and close the pause gate for it.

        Returns:
            The fault of the limiter, if any, and whether what waits has to wait longer now.
        """
        slower = False
        try:
            if isinstance(came, Received):
                slower = self._observe(came, sent_at)
            if ruling.pause and isinstance(outcome, Failure):
                self._pause(ruling.pause, outcome)
                slower = True
        except LimiterError as broken:
            return broken, slower
        return None, slower

    def _observe(self, received: Received, sent_at: float) -> bool:
        before = self.limiter_state or self._limiter.state
        after = self.limiter_state = self._limiter.observe(received, sent_at)
        self.slots = max(1, getattr(after, "slots", None) or math.inf)  # a lent limiter may not tell
        if after.rate == before.rate:
            return False
        self._observer.rate_changed(before, after)
        return (after.rate or math.inf) < (before.rate or math.inf)

    def _pause(self, seconds: float, failure: Failure) -> None:
        stated = "no Retry-After" if not failure.retry_after else f"Retry-After {failure.retry_after:g} s"
        reason = f"HTTP {getattr(failure.error, 'status', '')}, {stated}"
        before = self._limiter.state.paused_for
        self._limiter.pause(seconds, reason)
        if not before or seconds >= before + _WORTH_TELLING:
            self._observer.paused(seconds, reason)
