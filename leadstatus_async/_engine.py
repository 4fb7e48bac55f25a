"""What the calls of one session share, and the way of one attempt through it.

permit -> send -> decipher -> decide -> enter in the ledger. The engine owns the limiter's place,
the retry budget, the outage, what was learned of the server's limits, and the figures; each
decision it acts on is made by a pure function of `_core`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Any

from leadstatus_async._call import Tally
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
    unstated_pause,
)
from leadstatus_async._core.wire import Failure, Sort, decipher
from leadstatus_async._permits import Permits
from leadstatus_async._transport import Received
from leadstatus_async.errors import SessionClosedError, SessionLoopError, own_copy

if TYPE_CHECKING:
    from leadstatus_async._call import Call
    from leadstatus_async._coalesce import PendingGets
    from leadstatus_async._core.ledger import Chunk
    from leadstatus_async._core.plan import Limits
    from leadstatus_async._observe import Observer
    from leadstatus_async._transport import Transport
    from leadstatus_async.errors import LeadStatusError
    from leadstatus_async.limiter import Limiter
    from leadstatus_async.policy import RetryPolicy
    from leadstatus_async.stream import Flow


class Engine:
    """Sends what calls hand out and tells them what became of it.

    Attributes:
        closed: no new call may begin.
        calls: those under way.
        flows: streams under way.
        pending: gets that wait for a permit, by campaign.
        total: the session's running figures.
        in_flight: requests on the wire.
    """

    def __init__(
        self,
        transport: Transport,
        limiter: Limiter,
        limits: Limits,
        policy: RetryPolicy,
        concurrency: int,
        observer: Observer,
    ) -> None:
        self.closed = False
        self._closing = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.transport = transport
        self.limiter = limiter
        self.limits = limits
        self.concurrency = concurrency
        self.permits = Permits(limiter, concurrency, policy.max_retry_after, self._attempt, self._hold)
        self.calls: set[Call] = set()
        self.flows: set[Flow] = set()
        self.pending: dict[str, PendingGets] = {}
        self.total = Tally()
        self.in_flight = 0
        self.observer = observer
        self._policy = policy
        self._budget = RetryBudget(policy.budget)
        self._throttle = ThrottleRun()
        self._outage = Outage(policy)
        self._patience: asyncio.TimerHandle | None = None
        self._last_failure = ""
        self._answers = 0
        self._dice = random.Random()  # noqa: S311 - jitter, not a secret

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the session's first use; of the running one before that."""
        return self._loop or asyncio.get_running_loop()

    def enter(self) -> Engine:
        """Check that a call may begin here and now.

        Raises:
            SessionClosedError: the session is closed.
            SessionLoopError: the session belongs to another event loop.
        """
        if self.closed:
            raise SessionClosedError("the session is closed; make a new one")
        if self._loop is None:
            self.transport.open()
            self._loop = asyncio.get_running_loop()
        self._check_loop()
        return self

    def _check_loop(self) -> None:
        if self._loop is not asyncio.get_running_loop():
            raise SessionLoopError(
                "this session belongs to the event loop of its first use, which is not the running one; "
                "make one session per event loop (inside asyncio.run, or in your framework's start-up hook)"
            )

    async def wait_closed(self, seconds: float) -> None:
        """Sleep, but no longer than the session lives.

        Raises:
            SessionClosedError: it was closed meanwhile.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._closing.wait()
        if self.closed:
            raise SessionClosedError("the session was closed while its leads were watched")

    async def _drain(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while waiting := self._waited_for():
                    await asyncio.wait(waiting)

    async def aclose(self, drain_timeout: float) -> None:
        """End all that is under way, and let go of every task and connection."""
        if self._loop is not None:
            self._check_loop()
        self.closed = True
        if self._loop is None:
            return
        self._closing.set()
        if drain_timeout:
            await self._drain(drain_timeout)
        error = SessionClosedError("the session was closed before this lead was answered")
        for flow in list(self.flows):
            flow.stopped(own_copy(error))
        for gets in list(self.pending.values()):
            gets.turn_away(own_copy(error))
        for call in list(self.calls):
            call.stop(own_copy(error))
        if self._patience is not None:
            self._patience.cancel()
        await self.permits.aclose()
        await self.transport.aclose()

    def begin(self, call: Call) -> None:
        """Keep a call until its end."""
        self.calls.add(call)
        call.ended = self._over

    def forget(self, gets: PendingGets) -> None:
        """Let go of a pending set that nobody waits in."""
        if self.pending.get(gets.endpoint.prefix) is gets:
            del self.pending[gets.endpoint.prefix]

    def _waited_for(self) -> set[asyncio.Future[Any]]:
        gets = {future for pending in self.pending.values() for future in pending.futures()}
        return {call.done for call in self.calls} | gets | {flow.done for flow in self.flows}

    def _over(self, call: Call) -> None:
        self.calls.discard(call)
        if not call.part:
            self.observer.batch_finished(
                call.endpoint, len(call.ledger.lead_ids), call.ledger.failed, call.stats()
            )

    def turn_all_away(self, error: LeadStatusError) -> None:
        """Give up what waits, in every call: for a permit or in back-off; what is in flight may succeed."""
        self.permits.turn_all_away(error)
        for call in list(self.calls):
            call.turn_away(own_copy(error))

    async def _attempt(self, call: Call, chunk: Chunk) -> None:
        worker = asyncio.current_task()
        assert worker is not None  # noqa: S101 - for the type checkers: only workers call this
        sent_at = call.departs(chunk, worker)
        if chunk.answers_before is None:
            chunk.answers_before = self._answers
        if self._outage.sent(chunk):
            self.observer.outage_started(self._last_failure)
        self.in_flight += 1
        try:
            outcome = await self.transport.send(chunk.target)
            if call.returned(chunk):
                self._settle(call, chunk, outcome, sent_at)
                call.advance()
        except asyncio.CancelledError:
            self._outage.untold(call.loop.time(), chunk)
            self.observer.cut_off(call, chunk, call.loop.time() - sent_at)
            if call.returned(chunk):  # nobody here cut it
                call.lost(chunk)
            raise
        except Exception as bug:  # noqa: BLE001 - a bug of ours must reach the caller, not hang it
            call.crash(bug)
        finally:
            self.in_flight -= 1

    def _settle(self, call: Call, chunk: Chunk, outcome: Received | Failure, sent_at: float) -> None:
        now = call.loop.time()
        if isinstance(outcome, Received):
            self._observe(outcome, sent_at)
            answer = decipher(outcome.status, outcome.headers, outcome.body)
            if isinstance(answer, Failure) or not answer.clean:
                shown = self.transport.redacted(outcome.body)
                answer = decipher(outcome.status, outcome.headers, shown)
        else:
            answer = outcome
        self.observer.attempt_finished(call, chunk, outcome, answer, now - sent_at)
        if isinstance(answer, Failure):
            self._failed(call, chunk, answer, now, sent_at)
            return
        self._alive(now)
        self._budget.earn()
        self._answers += 1
        asked = call.ledger.lead_ids[chunk.start : chunk.stop]
        merged = merge(asked, answer, attempts=chunk.attempts, waited=chunk.waited)
        for tally in call.tallies:
            tally.foreign += merged.foreign
        call.answered(chunk, merged, answer.trace_id)

    def _observe(self, received: Received, sent_at: float) -> None:
        if not self.observer.watching:
            self.limiter.observe(received.status, sent_at, received.headers)
            return
        before = self.limiter.state
        self.limiter.observe(received.status, sent_at, received.headers)
        self.observer.rate_changed(before, self.limiter.state)

    def _alive(self, now: float) -> None:
        """Note an answer that shows the server up and not throttling."""
        self._throttle.end()
        self._end_outage(now, answered=True)
        self._outage.answered(now)

    def _failed(self, call: Call, chunk: Chunk, failure: Failure, now: float, sent_at: float) -> None:
        first_disconnect = failure.early and chunk.disconnects == 0
        chunk.disconnects += failure.early
        if failure.early:
            self._charge_hidden(call, chunk, failure)
        if failure.sort is Sort.THROTTLED:
            self._outage.untold(now, chunk)
            if self._throttled(call, chunk, failure, now, sent_at):
                return
        elif counts(failure, first_disconnect=first_disconnect):
            if failure.retry_after is not None and getattr(failure.error, "status", None) == 503:
                self._pause(stated_pause(failure.retry_after, self._policy, self._dice.random()), failure)
            if self._down(call, chunk, failure, now):
                return
        elif not failure.early:
            self._alive(now)
        self._decide(call, chunk, failure, now, stale=first_disconnect)

    def _decide(self, call: Call, chunk: Chunk, failure: Failure, now: float, *, stale: bool) -> None:
        verdict = decide(
            failure,
            self._policy,
            attempts=chunk.attempts,
            stale=stale,
            budget=self._budget,
            divisible=len(chunk) > 1 and self._answers > (chunk.answers_before or 0),
            remaining=None if call.deadline is None else call.deadline - now,
            dice=self._dice.random(),
        )
        self.observer.decided(call, chunk, failure, verdict)
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
            self._pause(unstated_pause(self._throttle.count, self._policy, dice), failure)
        if over <= self._policy.max_outage:
            return False
        self._throttle.end()
        call.failed(chunk, failure.error)
        self.turn_all_away(failure.error)
        return True

    def _pause(self, seconds: float, failure: Failure) -> None:
        stated = "no Retry-After" if not failure.retry_after else f"Retry-After {failure.retry_after:g} s"
        reason = f"HTTP {getattr(failure.error, 'status', '')}, {stated}"
        self.limiter.pause(seconds, reason)
        self.observer.paused(seconds, reason)
        for call in list(self.calls):
            call.trim()

    def _down(self, call: Call, chunk: Chunk, failure: Failure, now: float) -> bool:
        """Count a failure towards an outage; True if there is one, and the chunk waits for its end.

        What was in flight costs attempts but no budget, and a probe neither; but while the server has
        never answered, probes are the attempts of one request, and when they are spent, so is the outage.
        """
        was_probe = self._outage.failed(now, chunk)
        self._last_failure = type(failure.error).__name__
        if self._outage.stopped_at is None or failure.sort is not Sort.PASSING:
            return False
        if self._patience is None:
            self._patience = call.loop.call_later(self._policy.max_outage, self._give_up, failure.error)
        if was_probe and self._outage.ever_answered:
            chunk.attempts -= 1
        if chunk.attempts >= self._policy.max_attempts:
            call.failed(chunk, failure.error)
            if was_probe:
                self._give_up(failure.error)
            return True
        call.held(chunk, first=not self._outage.ever_answered)
        if was_probe:
            self._turn_gets_away(failure.error)
        return True

    def _turn_gets_away(self, error: LeadStatusError) -> None:
        impatient = [call for call in self.calls if call.impatient]
        for call in impatient:
            call.turn_away(own_copy(error))
        for gets in list(self.pending.values()):
            gets.turn_away(own_copy(error))

    def _give_up(self, error: LeadStatusError) -> None:
        """End the outage without an answer: everything that waits fails with the last error."""
        self._end_outage(asyncio.get_running_loop().time(), answered=False)
        self._outage.reset()
        self.turn_all_away(error)

    def _end_outage(self, now: float, *, answered: bool) -> None:
        if self._outage.stopped_at is None:
            return
        if self._outage.announced:
            self.observer.outage_ended(now - self._outage.stopped_at, answered=answered)
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        self._outage.reset()
        self.permits.wake()

    def _hold(self) -> float:
        if self._outage.stopped_at is None:
            return 0.0
        return self._outage.wait(asyncio.get_running_loop().time())

    def _charge_hidden(self, call: Call, chunk: Chunk, failure: Failure) -> None:
        """Count the request that aiohttp may have sent besides, on a borrowed session (a3)."""
        hidden = self.transport.hidden_attempts
        if hidden:
            self.observer.hidden_attempt(call, chunk, failure)
        chunk.attempts += hidden
        self.permits.owe(hidden)
        for tally in call.tallies:
            tally.requests += hidden
