"""A stream of leads in bounded memory: one job that grows by blocks of its source.

The consumer pulls. What is read ahead of it is bounded by `max_buffered`, so a slow consumer stops the
reading and with it the requests. The dispatcher knows the job, and by it the `Reading`, which never refers
to the `StatusStream`: letting go of that (a plain `async for` that is left early) is noticed, and ends it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator
from functools import partial
from inspect import isawaitable
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from leadstatus_async._engine.core import CLEAN_UP
from leadstatus_async._engine.job import Job
from leadstatus_async._log import Log
from leadstatus_async._state.deadline import Deadline
from leadstatus_async._steps.fold import NOTHING, iterable_of
from leadstatus_async.errors import LeadStatusError, SessionClosedError, for_caller, own_copy
from leadstatus_async.models import LeadFailure, LeadStatus

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Iterator, Sequence
    from types import AsyncGeneratorType, TracebackType

    from leadstatus_async._calls.options import CallOptions
    from leadstatus_async._engine.call import Call
    from leadstatus_async._engine.core import Core
    from leadstatus_async._engine.observer import Reporter
    from leadstatus_async._state.window import Window
    from leadstatus_async._steps.chunk import Endpoint
    from leadstatus_async._steps.fold import Outcome

OutcomeT_co = TypeVar("OutcomeT_co", bound=LeadStatus | LeadFailure, covariant=True)

_TURN = 0.001  # seconds for which a source is read before others get their turn
_CUT = "this stream was cancelled while it was waited for; make a new one"
_NOT_OURS = "the source was cancelled, and not by its stream"

logger = Log("leadstatus_async")


class Reading:
    """A stream under way.

    Args:
        core: of the session.
        where: the endpoint of the campaign.
        source: what has `__next__` or `__anext__`.
        window: what lies between the source and the consumer.
        options: of the call; with "raise" the first failure is raised at its place, and the deadline counts
            from the first outcome awaited.
        reporter: told of progress, if any.

    Attributes:
        left: what whoever goes on after its stream was cancelled is told.
    """

    def __init__(
        self,
        core: Core,
        where: Endpoint,
        source: Iterator[str] | AsyncIterator[str],
        window: Window,
        *,
        options: CallOptions,
        reporter: Reporter | None,
    ) -> None:
        self.left: LeadStatusError | None = None
        self._core = core
        self._where = where
        self._source = source
        self._window = window
        self._options = options
        self._reporter = reporter
        self._context = contextvars.copy_context()
        self._news = asyncio.Event()  # for the consumer: outcomes, or the end
        self._space = asyncio.Event()  # for the reader
        self._job: Job | None = None
        self._reader: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._ended = self._closed = False
        self._settled = self._failed = 0  # leads that have their outcome
        self.quiet = False  # an error is on its way: what the source raises when it is closed is only logged
        self._reader_cut = False
        self._fault: BaseException | None = None  # the source's own
        self._told = False  # of what it raised when it was closed

    # The consumer's side

    async def outcomes(self) -> AsyncGenerator[Outcome, None]:
        """Yield outcomes as they are needed; however that ends, nothing is left behind."""
        with self._core.call("stream", self._where, None) as call:
            window, raising = self._window, self._options.on_error == "raise"
            try:
                job = self._begin(call)
                while not self._closed:
                    await self._fill(job)
                    outcomes = window.take()
                    if outcomes is not None:
                        for outcome in outcomes:
                            if raising and isinstance(outcome, LeadFailure):
                                raise for_caller([outcome], None)  # noqa: TRY301 - at its place
                            yield outcome
                        window.yielded(len(outcomes))
                        self._space.set()
                    elif job.done.done():
                        self._raise_ending(job)
                        return
                    else:
                        self._news.clear()
                        await self._news.wait()
            except GeneratorExit:  # left, or closed: nothing else is on its way
                raise
            except asyncio.CancelledError:
                self.left = LeadStatusError(_CUT)
                self.quiet = True
                raise
            except BaseException:
                self.quiet = True
                raise
            finally:
                self._account(call)
                await self.aclose()

    def _account(self, call: Call) -> None:
        """Tell its call what became of it."""
        if self._job is not None:
            call.leads, call.failures = self._settled, self._failed
            call.cost(self._job.tally.stats(self._core.loop.time() - self._job.started))

    async def aclose(self) -> None:
        """End at once: nothing in flight, no reader, the source closed. Idempotent."""
        self._closed = True
        self._news.set()
        if self._job is not None:
            self._core.dispatcher.drop(self._job)
        if self._closing is None and (self._reader or self._closes):
            self._closing = self._core.keep(self._close_source())
            self._closing.add_done_callback(_looked_at)
        if self._closing is not None:
            # Whoever is cancelled a second time waits no longer, and nobody does for ever: it may be the
            # source itself that asks. It is closed all the same.
            await asyncio.wait({self._closing}, timeout=CLEAN_UP)
        self._source = iter(())  # whoever still has the stream does not keep what its source refers to
        if self._job is not None:
            await self._core.dispatcher.joined(self._job)
        if self._closing is not None and self._closing.done() and not self._told:
            self._told = True
            fault = None if self._closing.cancelled() else self._closing.exception()
            if fault is not None and not self.quiet:
                raise fault
            if fault is not None:
                logger.warning("a source raised when it was closed", exc_info=fault)

    def _begin(self, call: Call) -> Job:
        core = self._core.enter()
        now = core.loop.time()
        deadline, seconds = None, self._options.deadline
        if seconds is not None:
            deadline = Deadline(seconds, now + seconds)
            error = deadline.too_short(now, core.dispatcher.seconds_until(1))
            if error is not None and self._options.max_age is None:  # else perhaps nothing need be asked
                raise error
        job = self._job = Job(
            self._where,
            core.limits,
            self._options.patience,
            self._deliver,
            (core.total,),
            lambda _: (call.id,),
            now=now,
            deadline=deadline,
            context=self._context,
            growing=True,
            gathers=hasattr(self._source, "__anext__"),
        )
        if self._reporter is not None:
            self._reporter.tally = job.tally
        job.done.add_done_callback(self._over)
        core.dispatcher.start(job)
        if job.gathers:
            self._reader = core.loop.create_task(self._read_on(job))
            self._reader.add_done_callback(partial(self._read_out, job))
        return job

    def _deliver(self, first: int, outcomes: Sequence[Outcome]) -> None:
        settled = self._window.settle(first, outcomes)
        self._settled += len(settled)
        if self._job is not None and self._job.tally.failures:
            self._failed += sum(not outcome.ok for outcome in settled)
        if self._reporter is not None:
            self._reporter.report(first, settled)
        self._news.set()

    def _over(self, _done: asyncio.Future[None]) -> None:
        self._news.set()
        self._end_reader()

    def _end_reader(self) -> None:
        """Cancel the reader, once: a second time would cut off the source's own clean-up."""
        if self._reader is not None and not self._reader_cut:
            self._reader_cut = True
            self._reader.cancel()

    def _raise_ending(self, job: Job) -> None:
        """Raise what the stream ends with, if not with its source."""
        job.done.result()  # a bug of ours
        if self._fault is not None:
            raise self._fault
        closed = isinstance(job.error, SessionClosedError)
        if job.error is not None and (closed or not self._at_end(job)):
            raise own_copy(job.error)

    # The source's side

    async def _fill(self, job: Job) -> None:
        """Read a plain source in blocks of a chunk, as far as there is space.

        What is ready meanwhile is not kept waiting by a source that is slow, or has no end.
        """
        if job.gathers or self._ended or job.done.done():
            return
        loop, window, dispatcher = self._core.loop, self._window, self._core.dispatcher
        turn = loop.time()
        size = self._block
        job.backlog.filling = True
        while not self._ended and window.space >= size and not job.done.done():
            block = self._read_block(size)
            self._admit(job, block)
            if not (block or job.backlog.open) and self._reporter is not None:
                self._reporter.tell()  # the total, which no outcome will
            if loop.time() - turn > _TURN:
                dispatcher.go_on(job)
                await asyncio.sleep(0)
                turn = loop.time()
                if window.ready:
                    break
        job.backlog.filling = not self._ended and window.space >= size
        job.backlog.growing = not self._ended and not job.done.done()
        dispatcher.go_on(job)

    @property
    def _block(self) -> int:
        """How many leads are read at once."""
        return min(self._core.limits.chunk_size, self._window.most)

    def _read_block(self, size: int) -> list[Any]:
        block: list[Any] = []
        try:
            block.extend(islice(iterable_of(self._source), size))  # keeps what came before a fault
        except (KeyboardInterrupt, SystemExit):
            raise
        except asyncio.CancelledError:
            self._end(LeadStatusError(_NOT_OURS), len(block))
        except BaseException as fault:  # noqa: BLE001 - the source's own, handed on in its place
            self._end(fault, len(block))
        else:
            if len(block) < size:
                self._end(None, len(block))
        return block

    async def _read_on(self, job: Job) -> None:
        """Read an async source for as long as there is space."""
        source = cast("AsyncIterator[Any]", self._source)
        while (lead_id := await anext(source, NOTHING)) is not NOTHING and not job.done.done():
            self._admit(job, [lead_id])
            self._core.dispatcher.go_on(job)
            while self._window.space < 1 and not job.done.done():
                self._space.clear()
                await self._space.wait()
            if self._window.read % self._block == 0:
                await asyncio.sleep(0)  # a source that never waits must not keep others waiting

    def _read_out(self, job: Job, reader: asyncio.Task[None]) -> None:
        """Note the end of the reader, in whatever way: by the source's end, its fault, or a cancellation."""
        fault = LeadStatusError(_NOT_OURS) if reader.cancelled() else reader.exception()
        if not job.done.done():
            self._end(fault, 0)
            if self._reporter is not None and not job.backlog.open:
                self._reporter.tell()  # no outcome will any more
            job.backlog.growing = False
            self._core.dispatcher.go_on(job)

    def _admit(self, job: Job, block: list[Any]) -> None:
        asked, known = self._window.admit(block)
        job.backlog.add(asked, self._core.loop.time())
        if known:
            remembered = sum(outcome.ok for outcome in known)
            job.tally.cached += remembered
            self._settled += len(known)
            self._failed += len(known) - remembered
            if self._reporter is not None:
                self._reporter.report(0, known)
            self._news.set()

    def _end(self, fault: BaseException | None, unread: int) -> None:
        """Note that the source has no more than `unread` leads in hand."""
        self._ended = True
        self._fault = fault
        if self._reporter is not None and fault is None:
            self._reporter.total = self._window.read + unread

    def _at_end(self, job: Job) -> bool:
        """Whether the source has no more, which a full window does not tell; what it has is let go."""
        if self._ended or job.gathers:
            return self._ended
        try:
            return next(cast("Iterator[Any]", self._source), NOTHING) is NOTHING
        except (Exception, asyncio.CancelledError):  # noqa: BLE001 - the stream ends with an error as it is
            return False

    @property
    def _closes(self) -> bool:
        """Whether the source can be closed; a list's iterator cannot."""
        return hasattr(self._source, "aclose") or hasattr(self._source, "close")

    async def _close_source(self) -> None:
        source: Any = self._source
        reader = self._reader
        self._end_reader()
        while reader is not None and not reader.done():
            await asyncio.wait({reader}, timeout=3 * CLEAN_UP)
            if not reader.done():  # it has swallowed its cancellation, and waits for something else
                reader.cancel()
        close = getattr(source, "aclose", None) or getattr(source, "close", None)
        closed = close() if close is not None else None
        if isawaitable(closed):
            await closed
        fault = None if reader is None or reader.cancelled() else reader.exception()
        if fault is not None and fault is not self._fault:  # raised by its clean-up
            raise fault


class StatusStream(AsyncIterator[OutcomeT_co], Generic[OutcomeT_co]):
    """Outcomes as they are needed; made by `Campaign.stream`.

    Iterate it, at best inside `async with`, which cancels what is in flight and closes the source the moment
    the block is left. A plain `async for` that is left early does so too, soon after nothing refers to the
    stream.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        # Its awaitables cost a tenth of what a coroutine for each lead would.
        self._outcomes = cast("AsyncGeneratorType[OutcomeT_co, None]", reading.outcomes())

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[OutcomeT_co]:
        if self._reading.left is not None:
            raise self._reading.left
        if self._outcomes.ag_running:
            raise RuntimeError("two tasks await the next outcome of one stream; give each task its own")
        return self._outcomes.__anext__()

    async def aclose(self) -> None:
        """End the stream: cancel what is in flight and close its source. Idempotent."""
        await self._aclose(quiet=False)

    async def _aclose(self, *, quiet: bool) -> None:
        self._reading.quiet = quiet
        if not self._outcomes.ag_running:
            await self._outcomes.aclose()
        await self._reading.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._aclose(quiet=error is not None)


def _looked_at(closing: asyncio.Task[None]) -> None:
    """Let asyncio know that what a source raised when it was closed is told, or has nobody to be told."""
    _ = closing.cancelled() or closing.exception()
