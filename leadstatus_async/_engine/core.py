"""What the calls of one session share, and its life: begun, drained, closed.

The engine knows who is under way, and what was learned of the server's limits; the way of one
attempt is `attempt`, whose turn it is `permit`.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from leadstatus_async._engine.attempt import Attempts
from leadstatus_async._engine.permit import Permits
from leadstatus_async._state.tally import Tally
from leadstatus_async.errors import SessionClosedError, SessionLoopError, own_copy

if TYPE_CHECKING:
    from leadstatus_async._calls.get import PendingGets
    from leadstatus_async._calls.reading import Flow
    from leadstatus_async._engine.job import Call
    from leadstatus_async._engine.observer import Observer
    from leadstatus_async._engine.transport import Transport
    from leadstatus_async._steps.chunk import Limits
    from leadstatus_async._steps.redact import Redactor
    from leadstatus_async.errors import LeadStatusError
    from leadstatus_async.limiter import Limiter
    from leadstatus_async.policy import RetryPolicy


class Engine:
    """What the calls of one session share.

    Attributes:
        closed: no new call may begin.
        calls: those under way.
        flows: streams under way.
        pending: gets that wait for a permit, by campaign.
        total: the session's running figures.
        redactor: takes the session's secrets out of what the server sends back.
    """

    def __init__(
        self,
        transport: Transport,
        limiter: Limiter,
        limits: Limits,
        policy: RetryPolicy,
        concurrency: int,
        observer: Observer,
        redactor: Redactor,
    ) -> None:
        self.closed = False
        self._closing = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.transport = transport
        self.limiter = limiter
        self.limits = limits
        self.concurrency = concurrency
        self.observer = observer
        self.redactor = redactor
        self.attempts = Attempts(self, policy)
        self.permits = Permits(
            limiter, concurrency, policy.max_retry_after, self.attempts.send, self.attempts.hold
        )
        self.calls: set[Call] = set()
        self.flows: set[Flow] = set()
        self.pending: dict[str, PendingGets] = {}
        self.total = Tally()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the session's first use; of the running one before that."""
        return self._loop or asyncio.get_running_loop()

    @property
    def busy(self) -> bool:
        """Whether anybody waits for an answer."""
        return bool(self.calls or self.pending)

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
        self.attempts.close()
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
        if not self.busy:
            self.attempts.rest()
        if not call.part:
            self.observer.batch_finished(
                call.endpoint, len(call.ledger.lead_ids), call.ledger.failed, call.stats()
            )

    def trim(self) -> None:
        """Let every call fail at once what can no longer be asked before its deadline (b11)."""
        for call in list(self.calls):
            call.trim()
        for gets in list(self.pending.values()):
            gets.trim()

    def turn_all_away(self, error: LeadStatusError) -> None:
        """Give up what waits, in every call: for a permit or in back-off; what is in flight may succeed."""
        self.permits.turn_all_away(error)
        for call in list(self.calls):
            call.turn_away(own_copy(error))

    def turn_gets_away(self, error: LeadStatusError) -> None:
        """Give up the gets that wait: somebody's web request is behind each."""
        impatient = [call for call in self.calls if call.impatient]
        for call in impatient:
            call.turn_away(own_copy(error))
        for gets in list(self.pending.values()):
            gets.turn_away(own_copy(error))
