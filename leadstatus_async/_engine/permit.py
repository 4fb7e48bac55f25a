"""Who may send next: turn, slot, outage, token.

Theory of operation. Everything that has something to send is a `Source` and stands in one queue. Sources
take turns, however much each has left, so that a single lead never waits behind a million; what a source
sends is decided when its permit is there, and not when it was asked for. A permit is four things, in this
order: a slot (there are at most `concurrency` workers), no outage (`Health.stopped_for`), a token of the
limiter, and the turn. Waiting work has no task: a worker sends one request after another for as long as
there is something to send, and at most one of them stands at the limiter (one that is being cut off there
aside), which keeps sessions that share one first come, first served.

A token is for what leaves now: one that the loop has slept on, or whose request had to wait for a
connection (`renew`, at which moment more than one may stand), is taken anew.

A worker that has its permit lets the next one stand before it sends. When its request is back, `Health` has
ruled on it, and `_dispose` (for the request itself) and `_carry_out` (for everybody) do what was ruled: they
are the one place where a ruling becomes deeds. Whatever ends a worker, its request is somebody's again
afterwards: `_gone` sees to those whose worker was cancelled by others, even before its first step.

The dispatcher owns the queue, the workers, the timers (one for each deadline, one for each request that backs
off, one for an outage) and the jobs under way. `drop` lets go of all that a job has of these; every end
of a job goes through it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import traceback
from itertools import islice
from typing import TYPE_CHECKING, cast

from leadstatus_async._engine.job import Job
from leadstatus_async._state.health import NOTHING, Held, Ruling
from leadstatus_async._steps.decide import Again, Fail, Split, Stop
from leadstatus_async.errors import (
    APIConnectionError,
    LeadStatusError,
    LimiterError,
    RateLimitError,
    own_copy,
)
from leadstatus_async.limiter import STALE

if TYPE_CHECKING:
    import contextvars

    from leadstatus_async._engine.attempt import Attempt
    from leadstatus_async._engine.job import Source
    from leadstatus_async._engine.observer import Observer
    from leadstatus_async._state.deadline import Deadline
    from leadstatus_async._state.health import Health
    from leadstatus_async._state.request import Request
    from leadstatus_async._steps.decipher import Failure
    from leadstatus_async.limiter import Guarded

    Granted = tuple[Job, Request]
    Worker = asyncio.Task[None]


_COUNTED = 64  # sources whose requests are counted for the limiter; further ones count as one each
_FAREWELL = 1.0  # seconds: a lent limiter, or a hook of a lent session, may take its time when it is cut


class Dispatcher:
    """The queue of sources, and the workers that send for them.

    Args:
        loop: the event loop of the session.
        limiter: pause gate and tokens.
        concurrency: workers, and so requests in flight, at most.
        max_pause: seconds of pause that are waited for; a longer one gives up everything that waits.
        health: how the server fares.
        attempt: sends one request.
        observer: told of rulings.

    Attributes:
        jobs: those under way.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limiter: Guarded,
        concurrency: int,
        max_pause: float,
        health: Health,
        attempt: Attempt,
        observer: Observer,
    ) -> None:
        self.jobs: set[Job] = set()
        self._loop = loop
        self._limiter = limiter
        self._concurrency = concurrency
        self._max_pause = max_pause
        self._health = health
        self._attempt = attempt
        self._observer = observer
        self._queue: dict[Source, None] = {}
        self._workers: set[Worker] = set()
        self._standing: Worker | None = None  # the one that stands at the limiter
        self._told = 0  # how many requests waited when it came there
        self._next_to_stand: Worker | None = None  # made for that, and has not begun
        self._running: dict[Request, tuple[Job, Worker]] = {}  # from the permit to the ruling
        self._free = False  # a worker is about to stand, if anybody waits: none need be made
        self._waking: asyncio.Handle | None = None
        self._unbegun: Worker | None = None  # who was handed the newest token, and has not begun
        self._granted_at = -math.inf  # when that came
        self._cut: dict[Worker, Source | None] = {}  # cancelled and not gone yet, and for whom
        self._timers: dict[Job | Request, asyncio.TimerHandle] = {}
        self._alarm: asyncio.TimerHandle | None = None  # of an outage
        self._drained = asyncio.Event()

    # What callers ask

    @property
    def queued(self) -> int:
        """How many sources wait for a permit."""
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        """How many requests are on the wire."""
        return self._attempt.in_flight

    @property
    def outage(self) -> bool:
        """Whether nothing but probes may go out."""
        return self._health.stopped

    @property
    def cutting(self) -> bool:
        """Whether any worker has been cut off and is not gone yet."""
        return bool(self._cut)

    @property
    def idle(self) -> bool:
        """Whether nothing at all is left: no job, queue entry, worker, request or timer."""
        return not (
            self.jobs
            or self._queue
            or self._workers
            or self._running
            or self._timers
            or self._alarm
            or self.in_flight
        )

    def seconds_until(self, requests: int) -> float:
        """Return the seconds until the last of so many requests could go at the earliest; 0.0 for none.

        The token that is waited for already may be the first of them.

        Raises:
            LimiterError: the limiter cannot tell.
        """
        return self._limiter.wait_time(requests - 1 - (self._standing is not None)) if requests > 0 else 0.0

    def needed(self, requests: int) -> float | None:
        """Return the same for requests never sent; None if there are none, or it is not known."""
        with contextlib.suppress(LimiterError):  # it is told of where something is to be sent
            return self.seconds_until(requests) if requests else None
        return None

    async def run(self, job: Job) -> None:
        """Send all of a job and wait for every outcome; on cancellation, leave nothing behind."""
        try:
            self.start(job)
            await job.done
        except GeneratorExit:  # its coroutine was closed, and may not wait any more
            self.drop(job)
            raise
        except BaseException:
            self.drop(job)
            await self.joined(job)
            raise
        self.drop(job)
        await self.joined(job)

    def start(self, job: Job) -> None:
        """Begin a job; what cannot be asked before its deadline fails at once.

        Raises:
            LimiterError: the limiter cannot tell.
        """
        self.jobs.add(job)
        if job.deadline is not None:
            self._timers[job] = self._loop.call_at(job.deadline.at, self._too_late, job, job.deadline)
            job.trim(self._loop.time(), self.seconds_until)
        self.go_on(job)

    def go_on(self, job: Job) -> None:
        """Let a job stand in the queue if it has something to send, or be over if it is done."""
        job.settle()
        if job.backlog.cuts:
            cuts, job.backlog.cuts = job.backlog.cuts, []
            for leads, status in cuts:
                self._observer.split(job.where, leads, status)
        if job.done.done():
            self.drop(job)
        else:
            self.offer(job)

    def offer(self, source: Source, *, first: bool = False) -> None:
        """Queue a source if it has something to send; it keeps its turn if it stands already.

        Args:
            source: what may have something to send.
            first: put it before all others, for a probe that must be a certain request.
        """
        if not source.sendable:
            return
        if first:
            self._queue = {source: None, **self._queue}
        self._queue.setdefault(source)
        self._wake()

    def withdraw(self, source: Source) -> None:
        """Take a source out of the queue; the place at the limiter goes too if nobody else waits."""
        if source in self._queue:
            del self._queue[source]
            self._ask_anew(source)
        self._rest(source)

    def stop(self, job: Job, error: LeadStatusError) -> None:
        """End a job: `error` for every lead that has no outcome."""
        self._forget_back_off(job)
        job.stop(error)
        self.drop(job)

    def drop(self, job: Job) -> None:
        """Be done with a job, whatever is open: no timer, request or place in the queue is left."""
        if job not in self.jobs:
            return
        self.jobs.discard(job)
        self._forget_back_off(job)
        self._cancel_timer(job)
        for request in job.backlog.in_flight:
            _, worker = self._running.pop(request)
            self._cancel(worker, job)
        job.backlog.in_flight.clear()
        if not job.done.done():
            job.done.set_result(None)
        elif not job.done.cancelled():
            job.done.exception()  # whoever waits for it has it; nobody else needs to be told
        self.withdraw(job)
        job.release()
        elapsed = self._loop.time() - job.started
        self._observer.learned(getattr(self._attempt.limiter_state, "suggestion", None))
        self._observer.batch_finished(
            job.where, job.backlog.size, job.tally.failures, job.tally.stats(elapsed)
        )

    def give_up(self, error: LeadStatusError, *, impatient: bool = False) -> None:
        """Fail everything that waits, each with an error object of its own; what is in flight may succeed.

        Args:
            error: what it fails with.
            impatient: only where somebody's web request waits.
        """
        for source in self._sources():
            if impatient and not source.impatient:
                continue
            self._queue.pop(source, None)
            if isinstance(source, Job):
                self._forget_back_off(source)
            source.give_up(own_copy(error))
            if isinstance(source, Job):
                self.go_on(source)
        self._rest()

    def _sources(self) -> list[Source]:
        """Return everything that waits or is under way, what has its turn next first."""
        return list(dict.fromkeys([*self._queue, *self.jobs]))

    async def joined(self, source: Source) -> None:
        """Wait until every worker that was cut off for a source is gone, but not for long."""
        cut = [worker for worker, whose in self._cut.items() if whose is source]
        if cut:
            await asyncio.wait(cut, timeout=_FAREWELL)

    async def drained(self) -> None:
        """Wait until nothing is under way any more."""
        while self.jobs or self._queue:
            self._drained.clear()
            await self._drained.wait()

    async def aclose(self, error: LeadStatusError) -> None:
        """End everything with `error`, and wait for the end of all workers."""
        for source in list(self._queue):
            if not isinstance(source, Job):
                source.give_up(own_copy(error))
        for job in list(self.jobs):
            self.stop(job, own_copy(error))
        self._queue.clear()
        self._carry_out(self._health.close(self._loop.time()))
        for worker in self._workers:  # again, if it was cut before and has swallowed that
            self._cancel(worker)
        if self._workers:
            await asyncio.wait(set(self._workers))

    # Workers

    def _wake(self) -> None:
        """Let the next in the queue stand for a permit, if there is a slot and no outage."""
        if not self._queue or self._free or self._next_to_stand is not None or self._taken:
            return
        if len(self._workers) < self._slots and not self._stopped():
            self._next_to_stand = self._spawn(next(iter(self._queue)).context)

    @property
    def _slots(self) -> float:
        """How many workers there may be: fewer than `concurrency` where the server refuses more at once."""
        return min(self._concurrency, self._attempt.slots)

    @property
    def _taken(self) -> bool:
        """Whether nobody may stand: someone does, or was handed a token that may have to be given back."""
        return self._standing is not None or self._unbegun is not None

    def _wake_now(self) -> None:
        self._waking = None
        self._wake()

    def _spawn(self, context: contextvars.Context, granted: Granted | None = None) -> Worker:
        # Not loop.create_task: an eager task factory would run it before it is known to stand.
        worker = asyncio.Task(self._work(context, granted), loop=self._loop, context=context.copy())
        self._workers.add(worker)
        worker.add_done_callback(self._gone)
        return worker

    def _cancel(self, worker: Worker, source: Source | None = None) -> None:
        worker.cancel()
        self._cut.setdefault(worker, source)
        self._leaves(worker)

    def _leaves(self, worker: Worker) -> None:
        """Free the place at the limiter, and give back a token that was handed over and not used."""
        if self._standing is worker:
            self._standing = None
        if self._next_to_stand is worker:
            self._next_to_stand = None
        if self._unbegun is worker:
            self._unbegun = None
            with contextlib.suppress(LimiterError):  # a limiter that fails is told of at the next acquire
                self._limiter.refund()

    def _gone(self, worker: Worker) -> None:
        """Note the end of a worker; what it had in hand fails, unless whoever cut it has taken it away."""
        self._leaves(worker)
        self._workers.discard(worker)
        self._cut.pop(worker, None)
        for request, (job, runner) in list(self._running.items()):
            if runner is worker:
                del self._running[request]
                if job.backlog.returned(request):
                    error = APIConnectionError("the task of this request was cancelled from outside")
                    job.failed(request, error)
                self.go_on(job)
        bug = None if worker.cancelled() else worker.exception()
        if isinstance(bug, Exception):  # else what ends the process, which has it already
            ours = LeadStatusError(f"a bug of leadstatus_async: {type(bug).__name__}; please report it")
            ours.__cause__ = _bare(bug)
            self.give_up(ours)  # rather than meet it again, and again
        self._wake()

    async def _work(self, context: contextvars.Context, granted: Granted | None) -> None:
        me = cast("Worker", asyncio.current_task())
        granted = self._begun(me, granted)
        if granted is None and not self._may_stand(me):
            return
        while granted is not None or (granted := await self._permit()) is not None:
            if self._standing is me:
                self._standing = None
            job, request = granted
            if job.context is not context:
                # From now on the request is the other worker's: whoever drops the job must find it there.
                self._unbegun = self._spawn(job.context, granted)
                self._running[request] = (job, self._unbegun)
                return
            self._running[request] = (job, me)
            if self._queue and self._waking is None and len(self._workers) < self._slots:
                # Not at once: another worker may be back by then, which need not be made.
                self._waking = self._loop.call_soon(self._wake_now)
            await self._send(job, request)
            if me.cancelling():  # aiohttp makes a cancellation in the turn of its timeout a TimeoutError
                return
            granted = None
            # Who is back goes on at once, though a new worker may have been made for that, and joins in.
            if not self._may_stand(me):
                return

    def _begun(self, me: Worker, granted: Granted | None) -> Granted | None:
        """Note that a worker begins; return what it was handed, unless the token for that has grown stale."""
        if self._next_to_stand is me:
            self._next_to_stand = None
        if self._unbegun is me:
            self._unbegun = None
            if granted is not None and self._stale():
                self._hand_back(*granted)
                return None
        return granted

    def _may_stand(self, me: Worker) -> bool:
        """Let a worker stand for a permit, unless someone else does, or nobody may."""
        if self._taken or not self._queue or self._stopped() or len(self._workers) > self._slots:
            return False
        self._standing = me
        return True

    async def _permit(self) -> Granted | None:
        """Wait for a token, then take what goes out on it; None when nothing waits any more."""
        me = cast("Worker", asyncio.current_task())
        try:
            while self._queue:
                self._told = self._waiting()
                await self._limiter.acquire(max_pause=self._max_pause, waiting=self._told)
                self._granted_at = self._loop.time()
                if self._attempt.owed:
                    self._attempt.owed -= 1
                    continue
                await self._gather()
                granted = None if self._stopped() or self._stale() else self._next()
                if granted is not None:
                    return granted
                self._limiter.refund()
                if self._stopped():  # the outage began while this one stood
                    return None
        except (RateLimitError, LimiterError) as error:
            self._leaves(me)
            self.give_up(error)
        except asyncio.CancelledError:
            if me in self._cut:
                raise
            self._leaves(me)
            self.give_up(LimiterError("the limiter's acquire was cancelled, and not by this session"))
        return None

    def _waiting(self) -> int:
        """Return about how many requests wait to be sent, the one that stands included."""
        counted = sum(source.requests for source in islice(self._queue, _COUNTED))
        return max(1, counted + max(0, len(self._queue) - _COUNTED))

    async def renew(self) -> None:
        """Take a token for a request whose own is of another window, since its connection was long in coming.

        Raises:
            RateLimitError, LimiterError: as `acquire` has it.
        """
        await self._limiter.acquire(max_pause=self._max_pause, waiting=1)

    def _stale(self) -> bool:
        """Whether the loop has stood still since the token came: what leaves now is of another window."""
        return self._loop.time() - self._granted_at > STALE

    def _hand_back(self, job: Job, request: Request) -> None:
        """Give back a token that was handed over, and put its request first in the queue again."""
        self._limiter.refund()
        del self._running[request]
        job.backlog.returned(request)
        job.backlog.again(request, first=True)
        self.offer(job, first=True)

    async def _gather(self) -> None:
        """Let what gathers have the rest of this turn of the loop."""
        if self._queue and next(iter(self._queue)).gathers:
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                self._limiter.refund()
                raise

    def _next(self) -> Granted | None:
        """Take what goes out."""
        now = self._loop.time()
        while self._queue:
            source = next(iter(self._queue))
            del self._queue[source]
            granted = source.take(now)
            if source.sendable:
                self._queue[source] = None
            if granted is not None:
                self.jobs.add(granted[0])  # gets become a job here
                return granted
        return None

    async def _send(self, job: Job, request: Request) -> None:
        """Send a request and do what follows from its answer; a bug of ours must reach the caller."""
        try:
            self._carry_out(self._attempt.depart(job, request))
            ended = await self._attempt.run(job, request)
            self._free = True
            self._running.pop(request, None)
            if ended.failure is not None and ended.wanted:
                self._dispose(job, request, ended.failure, ended.ruling, ended.broken)
            self._carry_out(ended.ruling)
            if ended.broken is not None:
                self.give_up(ended.broken)
            elif ended.slower:
                self._trim()
            self.go_on(job)
        except Exception as bug:  # noqa: BLE001 - rather than hang its caller
            self._running.pop(request, None)
            job.backlog.returned(request)
            job.crash(_bare(bug))
            self.go_on(job)
        finally:
            self._free = False

    # Rulings

    def _dispose(
        self, job: Job, request: Request, failure: Failure, ruling: Ruling, broken: LimiterError | None
    ) -> None:
        """Do with a request that failed what was ruled."""
        if broken is not None:
            job.failed(request, own_copy(broken))
            return
        match ruling.then:
            case Again(delay) if delay > 0:
                job.backlog.back_off(request)
                self._timers[request] = self._loop.call_later(delay, self._due, job, request)
            case Held(first):
                job.backlog.again(request, first=first)
                self.offer(job, first=first)
            case Split():
                job.refused(request, failure)
                if job.backlog.hopeless is not None:
                    self.stop(job, job.backlog.hopeless)
            case Fail():
                job.failed(request, failure.error)
            case Stop():
                job.backlog.again(request)  # its leads are among those that fail
                self.stop(job, failure.error)
            case _:  # at once, or when the pause is over
                job.backlog.again(request)
        # Told when it is done: an observer may call us, or end the loop.
        self._observer.decided(job.where, len(request), request.attempts, failure, ruling.then)

    def _carry_out(self, ruling: Ruling) -> None:
        """Do what a ruling means for everybody."""
        if ruling is not NOTHING:
            for event in ruling.events:
                self._observer.outage(event)
            if ruling.give_up is not None:
                self.give_up(ruling.give_up)
            elif ruling.give_up_gets is not None:
                self.give_up(ruling.give_up_gets, impatient=True)
        if self._health.stopped or self._alarm is not None:
            self._set_alarm()

    def _trim(self) -> None:
        """Let everything that waits fail now if no permit can come for it before its deadline."""
        now = self._loop.time()
        try:
            for source in self._sources():
                source.trim(now, self.seconds_until)
                if isinstance(source, Job):
                    self.go_on(source)
        except LimiterError as broken:
            self.give_up(broken)
        self._ask_anew()

    def _stopped(self) -> bool:
        """Whether an outage stops sending; if until a known time, the alarm is set for it."""
        if not self._health.stopped:
            return False
        self._set_alarm()
        return self._health.stopped_for(self._loop.time()) > 0.0

    # Timers

    def _set_alarm(self) -> None:
        """Set the one timer of an outage: the next probe, if anybody waits, or the end of patience."""
        when = self._health.alarm
        if self._queue and self._health.stopped:
            now = self._loop.time()
            seconds = self._health.stopped_for(now)
            if seconds > 0.0:
                when = min(when, now + seconds)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if when < math.inf:
            self._alarm = self._loop.call_at(when, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._carry_out(self._health.tick(self._loop.time()))
        self._wake()

    def _rest(self, source: Source | None = None) -> None:
        """Let go of what nobody waits for, now that `source` does not: the place at the limiter, clocks."""
        if self._queue:
            return
        for worker in (self._standing, self._next_to_stand):
            if worker is not None:
                self._cancel(worker, source)
        if not self.jobs:
            self._health.rest()  # whoever comes next has the whole of max_outage before it
            self._drained.set()
        if self._alarm is not None:
            self._set_alarm()

    def _ask_anew(self, source: Source | None = None) -> None:
        """Let the limiter know where much less waits than it was told: what is left may fit into a window.

        It costs the place there, so that it is not done for little.
        """
        if self._queue and self._standing is not None and self._told > 2 * self._waiting():
            self._cancel(self._standing, source)

    def _due(self, job: Job, request: Request) -> None:
        del self._timers[request]
        job.backlog.again(request)
        self.go_on(job)

    def _too_late(self, job: Job, deadline: Deadline) -> None:
        del self._timers[job]
        self.stop(job, deadline.passed(self.needed(job.backlog.requests_left)))

    def _forget_back_off(self, job: Job) -> None:
        for request in job.backlog.backing_off:
            self._cancel_timer(request)

    def _cancel_timer(self, key: Job | Request) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()


def _bare(bug: Exception) -> Exception:
    """Return a bug of ours without its frames, whose answer may echo the key; a note says where it was."""
    places = traceback.extract_tb(bug.__traceback__)
    bug.add_note(f"a bug of leadstatus_async, at {places[-1].filename}:{places[-1].lineno}; please report it")
    bug.__cause__ = bug.__context__ = None
    return bug.with_traceback(None)
