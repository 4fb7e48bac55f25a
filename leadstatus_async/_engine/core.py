"""What the calls of one session share, from its first use to its end."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from leadstatus_async._engine.attempt import Attempt
from leadstatus_async._engine.call import UNHEARD, Call
from leadstatus_async._engine.permit import Dispatcher
from leadstatus_async._state.health import Health
from leadstatus_async._state.patience import Patience
from leadstatus_async._state.tally import Tally
from leadstatus_async.errors import SessionClosedError, SessionLoopError
from leadstatus_async.limiter import Guarded

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from leadstatus_async._engine.cache import Cache
    from leadstatus_async._engine.job import Source
    from leadstatus_async._engine.observer import Observer
    from leadstatus_async._engine.transport import Transport
    from leadstatus_async._steps.chunk import Endpoint, Limits
    from leadstatus_async._steps.redact import Redactor
    from leadstatus_async.events import CallKind
    from leadstatus_async.limiter import Limiter
    from leadstatus_async.models import LeadStatus
    from leadstatus_async.policy import RetryPolicy


CLEAN_UP = 5.0  # seconds for which the end of a session waits for sources that are being closed


class Core:
    """What the calls of one session share.

    Attributes:
        closed: no new call may begin.
        transport, limiter, limits, concurrency, patience, observer: as the session was given them.
        total: the session's running figures.
        pending: the gets of each campaign that wait for a permit, by the prefix of its endpoint.
        cache: the statuses that are remembered, if any are.
        on_their_way: what gets travel in, by the same prefix, if any statuses are remembered.
    """

    def __init__(
        self,
        transport: Transport,
        limiter: Limiter,
        limits: Limits,
        policy: RetryPolicy,
        concurrency: int,
        timeout: float,
        cache: Cache | None,
        observer: Observer,
        redactor: Redactor,
    ) -> None:
        self.closed = False
        self.transport = transport
        self.limiter = limiter
        self.limits = limits
        self.concurrency = concurrency
        self.patience = Patience(timeout, policy.max_attempts)
        self.observer = observer
        self.total = Tally()
        self.pending: dict[str, Source] = {}
        self.cache = cache
        self.on_their_way: dict[str, dict[Any, None]] = {}
        self._policy = policy
        self._redactor = redactor
        self._closing = asyncio.Event()
        self._kept: set[asyncio.Task[None]] = set()
        self._dispatcher: Dispatcher | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the session's first use; of the running one before that."""
        return self._loop or asyncio.get_running_loop()

    @property
    def dispatcher(self) -> Dispatcher:
        """What sends; there is none before the session's first use."""
        assert self._dispatcher is not None  # noqa: S101 - callers have entered
        return self._dispatcher

    @property
    def queued(self) -> int:
        """How many callers wait for a permit."""
        return self._dispatcher.queued if self._dispatcher else 0

    @property
    def in_flight(self) -> int:
        """How many requests are on the wire."""
        return self._dispatcher.in_flight if self._dispatcher else 0

    @property
    def outage(self) -> bool:
        """Whether an outage stops sending."""
        return self._dispatcher is not None and self._dispatcher.outage

    @property
    def idle(self) -> bool:
        """Whether no call has left anything behind."""
        engine = self._dispatcher is None or self._dispatcher.idle
        return engine and not (self.pending or self.on_their_way or self._kept)

    def enter(self) -> Core:
        """Check that a call may begin here and now.

        Raises:
            SessionClosedError: the session is closed.
            SessionLoopError: the session belongs to another event loop.
        """
        if self.closed:
            raise SessionClosedError("the session is closed; make a new one")
        if self._loop is None:
            self.transport.open()
            self._open(asyncio.get_running_loop())
        self._check_loop()
        return self

    def recalling(self, campaign: str, max_age: float | None) -> Callable[[str], LeadStatus | None] | None:
        """Return what finds the status of a lead that was learned at most so many seconds ago.

        None where nothing is remembered, or nothing that old is wanted.
        """
        cache = self.cache
        if cache is None or max_age is None:
            return None
        return lambda lead_id: cache.find(campaign, lead_id, self.loop.time() - max_age)

    def call(self, kind: CallKind, where: Endpoint, leads: int | None) -> Call:
        """Return a call about so many leads, to be entered where it begins."""
        if not self.observer.listens:
            return UNHEARD
        return Call(self.observer, self.loop, kind, where, leads)

    async def sleep(self, seconds: float) -> None:
        """Sleep, but no longer than the session lives.

        Raises:
            SessionClosedError: it was closed meanwhile.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._closing.wait()
        if self.closed:
            raise SessionClosedError("the session was closed while its leads were watched")

    async def aclose(self, drain_timeout: float) -> None:
        """End all that is under way, and let go of every task and connection."""
        if self._loop is not None and self._loop.is_closed():
            self.closed = True
            await self.transport.aclose()  # nothing else is left to end
            return
        if self._loop is not None:
            self._check_loop()
        self.closed = True
        if self.cache is not None:
            self.cache.clear()
        if self._dispatcher is None:
            return
        self._closing.set()
        try:
            if drain_timeout:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(drain_timeout):
                        await self._dispatcher.drained()
        finally:
            # Whoever is cancelled while it closes waits no longer; it is closed all the same.
            await asyncio.shield(self.keep(self._end(self._dispatcher)))
        mine = asyncio.current_task()
        others = {task for task in self._kept if task is not mine}  # sources that are being closed
        if others:
            await asyncio.wait(others, timeout=CLEAN_UP)  # not for ever: one of them may be what closes us

    async def _end(self, dispatcher: Dispatcher) -> None:
        error = SessionClosedError("the session was closed before this lead was answered")
        try:
            await dispatcher.aclose(error)
        finally:
            await self.transport.aclose()

    def keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that goes on though nobody waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)
        return task

    def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # More could only wait for the lent pool, which the server would be blamed for.
        at_once = int(min(self.concurrency, self.transport.at_once))
        health, limiter = Health(self._policy, pool=at_once), Guarded(self.limiter)
        self._dispatcher = Dispatcher(
            loop,
            limiter,
            at_once,
            self._policy.max_retry_after,
            health,
            Attempt(self.transport, limiter, health, self.observer, self._redactor, self.cache, loop),
            self.observer,
        )
        self.transport.renew = self._dispatcher.renew

    def check_loop_if_running(self) -> None:
        """Check that the running event loop, if there is one, is that of the first use, if there was one.

        Raises:
            SessionLoopError: it is another.
        """
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # none is running
                self._check_loop()

    def _check_loop(self) -> None:
        if self._loop is not asyncio.get_running_loop():
            where = "closed" if self._loop is None or self._loop.is_closed() else "not the running one"
            raise SessionLoopError(
                f"this session belongs to the event loop of its first use, which is {where}; make one "
                "session per event loop: inside asyncio.run, in your framework's start-up hook, or, with "
                "pytest-asyncio, in a fixture whose loop_scope is that of the tests that use it"
            )
