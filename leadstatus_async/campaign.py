"""The calls about the leads of one campaign.

Thin: each call is checked here, and made by a module of `_calls`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast, overload

from leadstatus_async._calls.get import pending_gets
from leadstatus_async._calls.get_many import ask, read
from leadstatus_async._calls.options import UNSET, CallOptions, OnError, Unset
from leadstatus_async._calls.stream import Reading, StatusStream
from leadstatus_async._calls.watch import poll, settled
from leadstatus_async._checks import require_callback, require_number, require_whole
from leadstatus_async._engine.call import UNHEARD
from leadstatus_async._engine.observer import Reporter
from leadstatus_async._state.window import Window
from leadstatus_async._steps.chunk import plan_chunks
from leadstatus_async._steps.fold import Folded, Outcome, blocks, check_ids, iterator_of
from leadstatus_async._steps.validate import BadId, bad_lead_ids, is_plain
from leadstatus_async.errors import ConfigurationError, InvalidLeadIdError
from leadstatus_async.models import LeadFailure, LeadStatus
from leadstatus_async.results import BatchResult, BatchStats, Plan, Progress

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence

    from leadstatus_async._engine.call import Call
    from leadstatus_async._engine.core import Core
    from leadstatus_async._steps.chunk import Endpoint


if TYPE_CHECKING:
    import typing_extensions as newer

    OutcomeT_co = newer.TypeVar(
        "OutcomeT_co", bound=LeadStatus | LeadFailure, covariant=True, default=LeadStatus
    )
else:  # which before Python 3.13 has no default
    OutcomeT_co = TypeVar("OutcomeT_co", bound=LeadStatus | LeadFailure, covariant=True)


class Campaign(Generic[OutcomeT_co]):
    """The leads of one campaign. Made by `LeadStatusSession.campaign`; cheap, and without state.

    For type checkers it is generic in what its calls give by default: a `Campaign` gives `LeadStatus`, with
    `with_options(on_error="collect")` it is a `Campaign[LeadStatus | LeadFailure]`.
    """

    __slots__ = ("_core", "_endpoint", "_options", "_room")

    def __init__(self, core: Core, endpoint: Endpoint, room: int, options: CallOptions) -> None:
        self._core = core
        self._endpoint = endpoint
        self._room = room
        self._options = options

    def __repr__(self) -> str:
        return f"<Campaign {self._endpoint.prefix.partition('?')[0]}>"

    @overload
    def with_options(
        self,
        *,
        timeout: float = ...,
        max_attempts: int = ...,
        deadline: float | None = ...,
        max_age: float | None = ...,
    ) -> Campaign[OutcomeT_co]: ...
    @overload
    def with_options(
        self,
        *,
        timeout: float = ...,
        max_attempts: int = ...,
        deadline: float | None = ...,
        on_error: Literal["raise"],
        max_age: float | None = ...,
    ) -> Campaign[LeadStatus]: ...
    @overload
    def with_options(
        self,
        *,
        timeout: float = ...,
        max_attempts: int = ...,
        deadline: float | None = ...,
        on_error: Literal["collect"],
        max_age: float | None = ...,
    ) -> Campaign[LeadStatus | LeadFailure]: ...
    def with_options(
        self,
        *,
        timeout: float | Unset = UNSET,
        max_attempts: int | Unset = UNSET,
        deadline: float | Unset | None = UNSET,
        on_error: OnError | Unset = UNSET,
        max_age: float | Unset | None = UNSET,
    ) -> Campaign[Any]:
        """Return the same campaign with other defaults, at no cost; what is not given stays as it is.

        A web handler and a bulk job so share one session, its limiter and its gets: gets with different
        options still travel together, in a request as patient as the most patient of them, and each of them
        has its own deadline. A call's own argument wins.

        Args:
            timeout: seconds one attempt may take; the session's `timeout` by default.
            max_attempts: how often one request that fails by itself is sent; 1 retries nothing, and waits for
                the end of no outage.
            deadline: seconds for everything, of each `get`, `get_many`, `stream` and `retry`; None for none.
            on_error: "raise" or "collect", of each `get_many`, `stream` and `retry`.
            max_age: seconds, of each `get`, `get_many` and `stream`; None asks always.

        Raises:
            ConfigurationError: for a bad value.
        """
        options = self._options.but(
            timeout=timeout, max_attempts=max_attempts, deadline=deadline, on_error=on_error, max_age=max_age
        )
        return Campaign(self._core, self._endpoint, self._room, options)

    @overload
    async def get_many(
        self,
        lead_ids: Iterable[str],
        *,
        deadline: float | None = ...,
        progress: Callable[[Progress], object] | None = None,
        max_age: float | None = ...,
    ) -> BatchResult[OutcomeT_co]: ...
    @overload
    async def get_many(
        self,
        lead_ids: Iterable[str],
        *,
        on_error: Literal["raise"],
        deadline: float | None = ...,
        progress: Callable[[Progress], object] | None = None,
        max_age: float | None = ...,
    ) -> BatchResult[LeadStatus]: ...
    @overload
    async def get_many(
        self,
        lead_ids: Iterable[str],
        *,
        on_error: Literal["collect"],
        deadline: float | None = ...,
        progress: Callable[[Progress], object] | None = None,
        max_age: float | None = ...,
    ) -> BatchResult[LeadStatus | LeadFailure]: ...
    async def get_many(
        self,
        lead_ids: Iterable[str],
        *,
        on_error: OnError | Unset = UNSET,
        deadline: float | Unset | None = UNSET,
        progress: Callable[[Progress], object] | None = None,
        max_age: float | Unset | None = UNSET,
    ) -> BatchResult[Any]:
        """Ask for the status of many leads; one outcome per position, in input order.

        Args:
            lead_ids: any iterable of str; duplicates are asked for once and answered at each position.
            on_error: "raise" (default) raises once all that can still succeed has finished; "collect" returns
                a `LeadFailure` at the place of each lead without an answer.
            deadline: seconds for everything: queue, pauses, attempts and back-off. None, the default, is no
                deadline.
            progress: called with a `Progress` after each chunk.
            max_age: leads whose status the session learned at most so many seconds ago are answered from
                memory; None, the default, asks for all. It needs `cache_size`.

        Raises:
            TypeError: `lead_ids` is a str, or no iterable.
            InvalidLeadIdError: with "raise": IDs that cannot be asked for, all at once, before any I/O.
            AuthenticationError, PermissionDeniedError, NotFoundError, UnexpectedStatusError: with "raise":
                a fatal answer; the other chunks are not sent.
            DeadlineExceededError: with "raise": any lead ran out of time.
            BatchError: with "raise": leads failed otherwise.
            SessionClosedError: the session was closed, before or during the call.
            SessionLoopError: the session belongs to another event loop.
            ConfigurationError: a bad option.

        Every error raised after sending has `.result`, with what was answered until then.
        """
        options = self._options.but(on_error=on_error, deadline=deadline, max_age=max_age)
        _check_progress(progress)
        started = self._core.enter().loop.time()
        folded = await read(lead_ids, self._room, collect=options.on_error == "collect")
        return await self._ask(folded, started, options, progress)

    async def get(
        self,
        lead_id: str,
        *,
        deadline: float | Unset | None = UNSET,
        max_age: float | Unset | None = UNSET,
    ) -> LeadStatus:
        """Ask for the status of one lead; gets of one campaign that wait together share requests.

        Args:
            lead_id: the lead.
            deadline: seconds for everything; None, the default, is no deadline.
            max_age: as for `get_many`.

        Raises:
            InvalidLeadIdError: the ID cannot be asked for; nothing was sent.
            DeadlineExceededError: the deadline passed.
            LeadStatusError: the lead's own failure: any error of `get_many` but `BatchError`.
        """
        options = self._options
        if deadline is not UNSET or max_age is not UNSET:
            options = options.but(deadline=deadline, max_age=max_age)
        core = self._core.enter()
        if not is_plain(lead_id, self._room) and (bad := bad_lead_ids([lead_id], room=self._room)):
            raise InvalidLeadIdError(bad)
        with core.call("get", self._endpoint, 1) as call:
            recall = options.max_age is not None and core.recalling(self._endpoint.prefix, options.max_age)
            if recall and (known := recall(lead_id)) is not None:
                call.leads = 1
                call.cost(BatchStats(cached=1))
                return known
            gets = pending_gets(core, self._endpoint)
            call.leads = call.failures = 1  # if it cannot even join
            waiter = gets.join(lead_id, options, call.id)
            try:
                return await waiter.future
            except GeneratorExit:  # the coroutine was closed, and may not wait any more
                gets.let_go(waiter)
                raise
            except BaseException:
                await gets.leave(waiter)
                raise
            finally:
                if call is not UNHEARD:
                    waiter.account(call, core.loop.time())
                del waiter  # which has the error, whose traceback has this frame: a cycle

    @overload
    def stream(
        self,
        lead_ids: Iterable[str] | AsyncIterable[str],
        *,
        ordered: bool = True,
        max_buffered: int | None = None,
        deadline: float | None = ...,
        progress: Callable[[Progress], object] | None = None,
        max_age: float | None = ...,
    ) -> StatusStream[OutcomeT_co]: ...
    @overload
    def stream(
        self,
        lead_ids: Iterable[str] | AsyncIterable[str],
        *,
        ordered: bool = True,
        max_buffered: int | None = None,
        on_error: Literal["raise"],
        deadline: float | None = ...,
        progress: Callable[[Progress], object] | None = None,
        max_age: float | None = ...,
    ) -> StatusStream[LeadStatus]: ...
    @overload
    def stream(
        self,
        lead_ids: Iterable[str] | AsyncIterable[str],
        *,
        ordered: bool = True,
        max_buffered: int | None = None,
        on_error: Literal["collect"],
        deadline: float | None = ...,
        progress: Callable[[Progress], object] | None = None,
        max_age: float | None = ...,
    ) -> StatusStream[LeadStatus | LeadFailure]: ...
    def stream(
        self,
        lead_ids: Iterable[str] | AsyncIterable[str],
        *,
        ordered: bool = True,
        max_buffered: int | None = None,
        on_error: OnError | Unset = UNSET,
        deadline: float | Unset | None = UNSET,
        progress: Callable[[Progress], object] | None = None,
        max_age: float | Unset | None = UNSET,
    ) -> StatusStream[Any]:
        """Ask for any number of leads in bounded memory; nothing happens before the first outcome is awaited.

            async with campaign.stream(ids) as stream:
                async for status in stream: ...

        Args:
            lead_ids: an iterable or async iterable; what it is read by is closed when the stream is left, if
                it has a `close` or an `aclose`. What was read before it raised is answered first.
            ordered: yield in input order; False yields each outcome as it comes.
            max_buffered: leads read ahead of what was yielded, at most; None is 8 x concurrency x
                chunk_size, so that one request in back-off does not stop the others.
            on_error: "raise" (default) raises the error of the first failed lead at its place; "collect"
                yields it.
            deadline: seconds for everything, from the first outcome awaited.
            progress: called with a `Progress`; its `total` is None until the source has ended.
            max_age: as for `get_many`.

        Raises:
            TypeError: `lead_ids` is a str, or no iterable.
            ConfigurationError: a bad option.
            SessionClosedError, SessionLoopError: as for `get_many`.
        """
        options = self._options.but(on_error=on_error, deadline=deadline, max_age=max_age)
        _check_progress(progress)
        if not isinstance(ordered, bool):
            raise ConfigurationError(f"ordered must be True or False, not {ordered!r:.100}")
        core = self._core.enter()
        check_ids(lead_ids)
        source = iterator_of(lead_ids)
        buffered = 8 * core.concurrency * core.limits.chunk_size if max_buffered is None else max_buffered
        most = require_whole("max_buffered", buffered)
        recall = core.recalling(self._endpoint.prefix, options.max_age)
        reading = Reading(
            core,
            self._endpoint,
            source,
            Window(ordered=ordered, most=most, max_id_bytes=self._room, recall=recall),
            options=options,
            reporter=Reporter(progress) if progress else None,
        )
        return StatusStream(reading)

    def watch(
        self,
        lead_ids: Iterable[str],
        *,
        interval: float,
        until: Callable[[LeadStatus], object] | None = None,
    ) -> AsyncGenerator[LeadStatus | LeadFailure, None]:
        """Yield the first status of each lead, then each change of any field, until all are settled.

        A lead whose poll failed is yielded as `LeadFailure`, once per change, and asked again; a fatal
        answer (401, 403, 404, redirect) is raised.

        Args:
            lead_ids: as for `get_many`; duplicates are watched once.
            interval: seconds from one poll's start to the next one's; a poll that takes longer is
                followed at once by the next.
            until: whether a status needs no more asking; default: `workflow_status.is_settled`.

        Raises:
            TypeError, InvalidLeadIdError: as `get_many`.
            ConfigurationError: a bad option.
            SessionClosedError, SessionLoopError: as `get_many`.
        """
        interval = require_number("interval", interval, above=True)
        if until is not None:
            require_callback("until", until, "one LeadStatus")
        core = self._core.enter()
        ids = self._checked(lead_ids)
        return poll(
            partial(core.call, "watch", self._endpoint, len(ids)),
            self._poll,
            core.sleep,
            ids,
            interval,
            settled if until is None else until,
        )

    @overload
    async def retry(
        self,
        result: BatchResult[Any],
        *,
        deadline: float | None = ...,
        progress: Callable[[Progress], object] | None = None,
    ) -> BatchResult[OutcomeT_co]: ...
    @overload
    async def retry(
        self,
        result: BatchResult[Any],
        *,
        on_error: Literal["raise"],
        deadline: float | None = ...,
        progress: Callable[[Progress], object] | None = None,
    ) -> BatchResult[LeadStatus]: ...
    @overload
    async def retry(
        self,
        result: BatchResult[Any],
        *,
        on_error: Literal["collect"],
        deadline: float | None = ...,
        progress: Callable[[Progress], object] | None = None,
    ) -> BatchResult[LeadStatus | LeadFailure]: ...
    async def retry(
        self,
        result: BatchResult[Any],
        *,
        on_error: OnError | Unset = UNSET,
        deadline: float | Unset | None = UNSET,
        progress: Callable[[Progress], object] | None = None,
    ) -> BatchResult[Any]:
        """Ask again for the failures of `result` only; returns all positions, in the same order.

        Leads whose ID cannot be asked for at all stay the failures they are. Arguments and errors are
        those of `get_many`; the figures are those of this call.

        Args:
            result: of an earlier call about this campaign (an error's `.result`, too).
            on_error: as for `get_many`.
            deadline: as for `get_many`.
            progress: as for `get_many`.
        """
        if not isinstance(result, BatchResult):
            raise TypeError(
                f"retry takes a BatchResult (an error's .result, too), not {type(result).__name__}"
            )
        options = self._options.but(on_error=on_error, deadline=deadline, max_age=None)
        _check_progress(progress)
        started = self._core.enter().loop.time()
        before = cast("BatchResult[Outcome]", result)
        folded = Folded()
        for position, outcome in enumerate(before):
            if isinstance(outcome, LeadStatus) or isinstance(outcome.error, InvalidLeadIdError):
                folded.settled[position] = outcome
            folded.positions.append(outcome.lead_id)
        return await self._ask(folded, started, options, progress)

    def plan(self, lead_ids: Iterable[str]) -> Plan:
        """Say what `get_many` would cost if nothing fails, without any I/O.

        Args:
            lead_ids: as for `get_many`; it is read to its end.

        Raises:
            TypeError, InvalidLeadIdError: as `get_many`.
        """
        distinct = self._checked(lead_ids)
        core = self._core
        core.check_loop_if_running()
        sizes = [len(target) for _, _, target in plan_chunks(distinct, self._endpoint, core.limits)]
        seconds = core.limiter.wait_time(len(sizes) - 1) if sizes else 0.0
        return Plan(requests=len(sizes), bytes=sum(sizes), seconds=seconds)

    async def _ask(
        self,
        folded: Folded,
        started: float,
        options: CallOptions,
        progress: Callable[[Progress], object] | None,
    ) -> BatchResult[Any]:
        with self._core.call("get_many", self._endpoint, folded.unanswered) as call:
            return await ask(self._core, self._endpoint, folded, call, started, options, progress)

    async def _poll(self, lead_ids: Sequence[str], call: Call) -> BatchResult[Any]:
        """Ask for leads that are watched, which are checked; collect their failures."""
        options = self._options.but(on_error="collect", deadline=None, max_age=None)
        started = self._core.enter().loop.time()
        folded = await read(lead_ids, self._room, collect=True)
        return await ask(self._core, self._endpoint, folded, call, started, options, None)

    def _checked(self, lead_ids: Iterable[str]) -> list[str]:
        """Return the distinct IDs, all checked."""
        ids, bad = list[object](), list[BadId]()
        for block in blocks(lead_ids):
            bad += bad_lead_ids(block, first=len(ids), room=self._room)
            ids += block
        if bad:
            raise InvalidLeadIdError(bad)
        return list(dict.fromkeys(cast("list[str]", ids)))


def _check_progress(progress: object) -> None:
    if progress is not None:
        require_callback("progress", progress, "one Progress")
