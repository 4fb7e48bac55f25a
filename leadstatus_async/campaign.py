"""The calls about the leads of one campaign.

Thin: each call is checked here, and made by a module of `_calls`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from leadstatus_async._calls.get import pending_gets
from leadstatus_async._calls.get_many import OnError, ask, read
from leadstatus_async._calls.stream import Reading, StatusStream
from leadstatus_async._calls.watch import poll, settled
from leadstatus_async._checks import require_callback, require_number, require_whole
from leadstatus_async._engine.observer import Reporter
from leadstatus_async._state.window import Window
from leadstatus_async._steps.chunk import plan_chunks
from leadstatus_async._steps.fold import Folded, Outcome, blocks, check_ids, iterator_of
from leadstatus_async._steps.validate import BadId, bad_lead_ids, is_plain
from leadstatus_async.errors import ConfigurationError, InvalidLeadIdError
from leadstatus_async.models import LeadFailure, LeadStatus
from leadstatus_async.results import BatchResult, Plan, Progress

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable

    from leadstatus_async._engine.core import Core
    from leadstatus_async._steps.chunk import Endpoint


class Campaign:
    """The leads of one campaign. Made by `LeadStatusSession.campaign`; cheap, and without state."""

    __slots__ = ("_core", "_endpoint", "_room")

    def __init__(self, core: Core, endpoint: Endpoint, room: int) -> None:
        self._core = core
        self._endpoint = endpoint
        self._room = room

    def __repr__(self) -> str:
        return f"<Campaign {self._endpoint.prefix.partition('?')[0]}>"

    @overload
    async def get_many(
        self,
        lead_ids: Iterable[str],
        *,
        on_error: Literal["raise"] = "raise",
        deadline: float | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> BatchResult[LeadStatus]: ...
    @overload
    async def get_many(
        self,
        lead_ids: Iterable[str],
        *,
        on_error: Literal["collect"],
        deadline: float | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> BatchResult[LeadStatus | LeadFailure]: ...
    async def get_many(
        self,
        lead_ids: Iterable[str],
        *,
        on_error: OnError = "raise",
        deadline: float | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> BatchResult[Any]:
        """Ask for the status of many leads; one outcome per position, in input order.

        Args:
            lead_ids: any iterable of str; duplicates are asked for once and answered at each position.
            on_error: "raise" raises once all that can still succeed has finished; "collect" returns a
                `LeadFailure` at the place of each lead without an answer.
            deadline: seconds for everything: queue, pauses, attempts and back-off. None is no deadline.
            progress: called with a `Progress` after each chunk.

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
        deadline = _checked_deadline(on_error, deadline, progress)
        started = self._core.enter().loop.time()
        folded = await read(lead_ids, self._room, collect=on_error == "collect")
        return await self._ask(folded, started, on_error, deadline, progress)

    async def get(self, lead_id: str, *, deadline: float | None = None) -> LeadStatus:
        """Ask for the status of one lead; gets of one campaign that wait together share requests.

        Args:
            lead_id: the lead.
            deadline: seconds for everything; None is no deadline.

        Raises:
            InvalidLeadIdError: the ID cannot be asked for; nothing was sent.
            DeadlineExceededError: the deadline passed.
            LeadStatusError: the lead's own failure: any error of `get_many` but `BatchError`.
        """
        if deadline is not None:
            deadline = require_number("deadline", deadline, above=True)
        core = self._core.enter()
        if not is_plain(lead_id, self._room) and (bad := bad_lead_ids([lead_id], room=self._room)):
            raise InvalidLeadIdError(bad)
        gets = pending_gets(core, self._endpoint)
        waiter = gets.join(lead_id, deadline)
        try:
            return await waiter.future
        except GeneratorExit:  # the coroutine was closed, and may not wait any more
            gets.let_go(waiter)
            raise
        except BaseException:
            await gets.leave(waiter)
            raise
        finally:
            del waiter  # which has the error, whose traceback has this frame: a cycle

    @overload
    def stream(
        self,
        lead_ids: Iterable[str] | AsyncIterable[str],
        *,
        ordered: bool = True,
        max_buffered: int | None = None,
        on_error: Literal["raise"] = "raise",
        deadline: float | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> StatusStream[LeadStatus]: ...
    @overload
    def stream(
        self,
        lead_ids: Iterable[str] | AsyncIterable[str],
        *,
        ordered: bool = True,
        max_buffered: int | None = None,
        on_error: Literal["collect"],
        deadline: float | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> StatusStream[LeadStatus | LeadFailure]: ...
    def stream(
        self,
        lead_ids: Iterable[str] | AsyncIterable[str],
        *,
        ordered: bool = True,
        max_buffered: int | None = None,
        on_error: OnError = "raise",
        deadline: float | None = None,
        progress: Callable[[Progress], object] | None = None,
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
            on_error: "raise" raises the error of the first failed lead at its place; "collect" yields it.
            deadline: seconds for everything, from the first outcome awaited.
            progress: called with a `Progress`; its `total` is None until the source has ended.

        Raises:
            TypeError: `lead_ids` is a str, or no iterable.
            ConfigurationError: a bad option.
            SessionClosedError, SessionLoopError: as for `get_many`.
        """
        deadline = _checked_deadline(on_error, deadline, progress)
        if not isinstance(ordered, bool):
            raise ConfigurationError(f"ordered must be True or False, not {ordered!r:.100}")
        core = self._core.enter()
        check_ids(lead_ids)
        source = iterator_of(lead_ids)
        buffered = 8 * core.concurrency * core.limits.chunk_size if max_buffered is None else max_buffered
        most = require_whole("max_buffered", buffered)
        reading = Reading(
            core,
            self._endpoint,
            source,
            Window(ordered=ordered, most=most, max_id_bytes=self._room),
            raising=on_error == "raise",
            deadline=deadline,
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
        self._core.enter()
        ids = self._checked(lead_ids)
        return poll(
            partial(self.get_many, on_error="collect"),
            self._core.sleep,
            ids,
            interval,
            settled if until is None else until,
        )

    @overload
    async def retry(
        self,
        result: BatchResult[Any],
        *,
        on_error: Literal["raise"] = "raise",
        deadline: float | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> BatchResult[LeadStatus]: ...
    @overload
    async def retry(
        self,
        result: BatchResult[Any],
        *,
        on_error: Literal["collect"],
        deadline: float | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> BatchResult[LeadStatus | LeadFailure]: ...
    async def retry(
        self,
        result: BatchResult[Any],
        *,
        on_error: OnError = "raise",
        deadline: float | None = None,
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
        deadline = _checked_deadline(on_error, deadline, progress)
        started = self._core.enter().loop.time()
        before = cast("BatchResult[Outcome]", result)
        folded = Folded()
        for position, outcome in enumerate(before):
            if isinstance(outcome, LeadStatus) or isinstance(outcome.error, InvalidLeadIdError):
                folded.settled[position] = outcome
            folded.positions.append(outcome.lead_id)
        return await self._ask(folded, started, on_error, deadline, progress)

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

    def _checked(self, lead_ids: Iterable[str]) -> list[str]:
        """Return the distinct IDs, all checked."""
        ids, bad = list[object](), list[BadId]()
        for block in blocks(lead_ids):
            bad += bad_lead_ids(block, first=len(ids), room=self._room)
            ids += block
        if bad:
            raise InvalidLeadIdError(bad)
        return list(dict.fromkeys(cast("list[str]", ids)))

    async def _ask(
        self,
        folded: Folded,
        started: float,
        on_error: OnError,
        deadline: float | None,
        progress: Callable[[Progress], object] | None,
    ) -> BatchResult[Any]:
        return await ask(
            self._core,
            self._endpoint,
            folded,
            started=started,
            on_error=on_error,
            deadline=deadline,
            progress=progress,
        )


def _checked_deadline(on_error: object, deadline: object, progress: object) -> float | None:
    if on_error not in ("raise", "collect"):
        raise ConfigurationError(f'on_error must be "raise" or "collect", not {on_error!r:.100}')
    seconds = None if deadline is None else require_number("deadline", deadline, above=True)
    if progress is not None:
        require_callback("progress", progress, "one Progress")
    return seconds
