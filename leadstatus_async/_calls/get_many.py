"""A list of leads, from its first ID to its `BatchResult`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal

from leadstatus_async._engine.job import Call
from leadstatus_async._engine.observer import Reporter
from leadstatus_async._steps.fold import BLOCK, Folded, blocks
from leadstatus_async._steps.validate import BadId
from leadstatus_async.errors import InvalidLeadIdError, SessionClosedError
from leadstatus_async.results import BatchResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from leadstatus_async._engine.core import Engine
    from leadstatus_async._steps.chunk import Endpoint
    from leadstatus_async.results import Progress

OnError = Literal["raise", "collect"]


async def fold(lead_ids: Iterable[object], max_id_bytes: int, *, collect: bool) -> Folded:
    """Check the caller's list and fold its duplicates, block by block so that other tasks go on."""
    folded, bad = Folded(), list[BadId]()
    for block in blocks(lead_ids):
        bad += folded.add(block, max_id_bytes=max_id_bytes)
        if len(block) == BLOCK:
            await asyncio.sleep(0)
    if bad and not collect:
        raise InvalidLeadIdError(bad)
    return folded


async def ask(
    engine: Engine,
    endpoint: Endpoint,
    folded: Folded,
    *,
    started: float,
    on_error: OnError,
    deadline: float | None,
    progress: Callable[[Progress], object] | None,
) -> BatchResult[Any]:
    """Ask for what a list needs; the errors are those of `Campaign.get_many`.

    Args:
        engine: of the session.
        endpoint: of the campaign.
        folded: the list.
        started: loop time of the call, from which the deadline counts.
        on_error: as for `Campaign.get_many`.
        deadline: as for `Campaign.get_many`.
        progress: as for `Campaign.get_many`.
    """
    call = Call(
        engine.permits,
        list(folded.asked),
        endpoint,
        engine.limits,
        (engine.total,),
        started=started,
        deadline=deadline,
        weights=folded.weights,
        reporter=Reporter(progress, len(folded.positions), folded.failed) if progress else None,
    )
    if engine.closed:  # while the list was read
        call.stop(SessionClosedError("the session was closed before this lead was asked for"))
    else:
        engine.begin(call)
    await call.run()
    result = BatchResult(folded.unfold(call.ledger.outcomes), call.stats(), call.trace_ids)
    if (folded.failed or call.tally.failures) and (on_error == "raise" or call.closed):
        result.raise_for_failures()
    return result
