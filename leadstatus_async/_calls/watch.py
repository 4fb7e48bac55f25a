"""Watching leads until they settle: poll, tell what changed, ask again only for the rest.

Polls are `get_many` calls, so that pacing, retrying and outages are theirs. Which changes there are
is decided by `changes`, a pure function.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from leadstatus_async._checks import returned_by
from leadstatus_async.errors import is_fatal
from leadstatus_async.models import LeadFailure, LeadStatus

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence

    from leadstatus_async._engine.call import Call
    from leadstatus_async.results import BatchResult

Outcome = LeadStatus | LeadFailure


def settled(status: LeadStatus) -> bool:
    """Whether a lead needs no more asking: the default of `until`."""
    return status.workflow_status.is_settled


def changes(seen: dict[str, Any], outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return the outcomes that differ from what was last seen of their lead, and remember them.

    Any field counts. A failure is the same as before if its class and message are, but for the seconds to
    wait that it tells.
    """
    fresh: list[Outcome] = []
    for outcome in outcomes:
        sight = outcome if isinstance(outcome, LeadStatus) else _sight(outcome.error)
        if seen.get(outcome.lead_id) != sight:
            seen[outcome.lead_id] = sight
            fresh.append(outcome)
    return fresh


def _sight(error: Exception) -> tuple[object, ...]:
    if getattr(error, "retry_after", None) is None:
        return type(error), str(error)
    return type(error), getattr(error, "status", None), getattr(error, "code", None)


async def poll(
    begin: Callable[[], Call],
    ask: Callable[[Sequence[str], Call], Awaitable[BatchResult[Any]]],
    sleep: Callable[[float], Awaitable[None]],
    lead_ids: Sequence[str],
    interval: float,
    until: Callable[[LeadStatus], object],
) -> AsyncGenerator[Outcome, None]:
    """Yield changes until all of `lead_ids` satisfy `until`.

    Args:
        begin: makes the call that this is.
        ask: asks for some of them, as a part of that call, collecting failures.
        sleep: sleeps so many seconds, or raises if the session is closed meanwhile.
        lead_ids: as for `Campaign.watch`.
        interval: as for `Campaign.watch`.
        until: as for `Campaign.watch`.
    """
    loop, seen, open_ids = asyncio.get_running_loop(), dict[str, Any](), list(lead_ids)
    with begin() as call:
        while open_ids:
            started = loop.time()
            result = await ask(open_ids, call)
            call.leads, call.failures = len(lead_ids), len(result.failures)
            if any(is_fatal(failure.error) for failure in result.failures):
                result.raise_for_failures()
            open_ids = [
                outcome.lead_id
                for outcome in result
                if not (isinstance(outcome, LeadStatus) and returned_by("until", until(outcome)))
            ]
            for outcome in changes(seen, result):
                yield outcome
            if open_ids:
                await sleep(started + interval - loop.time())
