"""A list of leads, from its first ID to its `BatchResult`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal

from leadstatus_async._engine.job import Job
from leadstatus_async._engine.observer import Reporter
from leadstatus_async._state.deadline import Deadline
from leadstatus_async._steps.fold import BLOCK, Folded, blocks
from leadstatus_async._steps.validate import BadId
from leadstatus_async.errors import InvalidLeadIdError, SessionClosedError
from leadstatus_async.results import BatchResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from leadstatus_async._engine.core import Core
    from leadstatus_async._steps.chunk import Endpoint
    from leadstatus_async._steps.fold import Outcome
    from leadstatus_async.results import Progress

OnError = Literal["raise", "collect"]


async def read(lead_ids: Iterable[object], max_id_bytes: int, *, collect: bool) -> Folded:
    """Check the caller's list, block by block so that other tasks go on."""
    folded, bad = Folded(), list[BadId]()
    for block in blocks(lead_ids):
        bad += folded.add(block, max_id_bytes=max_id_bytes)
        if len(block) == BLOCK:
            await asyncio.sleep(0)
    if bad and not collect:
        raise InvalidLeadIdError(bad)
    return folded


async def ask(
    core: Core,
    where: Endpoint,
    folded: Folded,
    *,
    started: float,
    on_error: OnError,
    deadline: float | None,
    progress: Callable[[Progress], object] | None,
) -> BatchResult[Any]:
    """Ask for what a list needs; the errors are those of `Campaign.get_many`.

    Args:
        core: of the session.
        where: the endpoint of the campaign.
        folded: the list.
        started: loop time of the call, from which the deadline counts.
        on_error: as for `Campaign.get_many`.
        deadline: as for `Campaign.get_many`.
        progress: as for `Campaign.get_many`.
    """
    for _ in folded.fold():
        await asyncio.sleep(0)
    asked = folded.asked
    outcomes: list[Outcome | None] = [None] * len(asked)
    reporter = progress and Reporter(progress, len(folded.positions), folded.failed, folded.weights)

    def deliver(first: int, run: Sequence[Outcome]) -> None:
        outcomes[first : first + len(run)] = run
        if reporter is not None:
            reporter.report(first, run)

    job = Job(
        where,
        core.limits,
        deliver,
        (core.total,),
        now=started,
        deadline=None if deadline is None else Deadline(deadline, started + deadline),
    )
    job.trace_ids = []
    job.backlog.add(asked, started)
    if reporter is not None:
        reporter.tally = job.tally
    if core.closed:  # while the list was read
        job.stop(SessionClosedError("the session was closed before this lead was asked for"))
    else:
        await core.dispatcher.run(job)
    stats = job.tally.stats(core.loop.time() - started)
    result = BatchResult(folded.unfold(outcomes), stats, job.trace_ids)
    failed = folded.failed or job.tally.failures
    if failed and (on_error == "raise" or isinstance(job.error, SessionClosedError)):
        result.raise_for_failures()
    return result
