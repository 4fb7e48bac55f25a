"""A list of leads, from its first ID to its `BatchResult`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from leadstatus_async._engine.job import Job
from leadstatus_async._engine.observer import Reporter
from leadstatus_async._state.deadline import Deadline
from leadstatus_async._steps.fold import BLOCK, Folded, blocks
from leadstatus_async._steps.validate import BadId
from leadstatus_async.errors import InvalidLeadIdError, SessionClosedError
from leadstatus_async.results import BatchResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from leadstatus_async._calls.options import CallOptions
    from leadstatus_async._engine.call import Call
    from leadstatus_async._engine.core import Core
    from leadstatus_async._steps.chunk import Endpoint
    from leadstatus_async._steps.fold import Outcome
    from leadstatus_async.results import Progress


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
    call: Call,
    started: float,
    options: CallOptions,
    progress: Callable[[Progress], object] | None,
) -> BatchResult[Any]:
    """Ask for what a list needs; the errors are those of `Campaign.get_many`.

    Args:
        core: of the session.
        where: the endpoint of the campaign.
        folded: the list.
        call: of which it is all, or a part.
        started: loop time of the call, from which the deadline counts.
        options: of the call.
        progress: as for `Campaign.get_many`.
    """
    unanswered = folded.unanswered
    recall = core.recalling(where.prefix, options.max_age)
    if recall is not None:
        for _ in folded.recall(recall):
            await asyncio.sleep(0)
    for _ in folded.fold():
        await asyncio.sleep(0)
    asked = folded.asked
    outcomes: list[Outcome | None] = [None] * len(asked)
    reporter = progress and Reporter(
        progress, len(folded.positions), len(folded.settled), folded.failed, folded.weights
    )

    def deliver(first: int, run: Sequence[Outcome]) -> None:
        outcomes[first : first + len(run)] = run
        if reporter is not None:
            reporter.report(first, run)

    seconds = options.deadline
    job = Job(
        where,
        core.limits,
        options.patience,
        deliver,
        (core.total,),
        lambda _: (call.id,),
        now=started,
        deadline=None if seconds is None else Deadline(seconds, started + seconds),
    )
    job.trace_ids = []
    job.tally.cached = folded.recalled
    job.backlog.add(asked, started)
    if reporter is not None:
        reporter.tally = job.tally
        if not asked and folded.settled:
            reporter.tell()
    try:
        if core.closed:  # while the list was read
            job.stop(SessionClosedError("the session was closed before this lead was asked for"))
        else:
            await core.dispatcher.run(job)
    finally:
        stats = job.tally.stats(core.loop.time() - started)
        call.cost(stats)
        failures = folded.failed + job.tally.failures
        call.so_far(folded.recalled + job.tally.leads + failures, failures)
    result = BatchResult(folded.unfold(outcomes), stats, job.trace_ids)
    failed = folded.failed or job.tally.failures
    call.so_far(unanswered, len(result.failures) if failed else 0)
    if failed and (options.on_error == "raise" or isinstance(job.error, SessionClosedError)):
        result.raise_for_failures()
    return result
