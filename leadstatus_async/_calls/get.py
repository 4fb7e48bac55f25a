"""Single gets that travel together: one pending set per campaign, one future per waiter.

There is no timer: on an idle session a get goes out at once, gets issued together travel together,
and a busy or throttled session fills its batches by itself. A waiter that is cancelled harms no
other (e1); the last one leaving cancels the request (e2); an ID that is on its way already is
asked anew for who comes later; errors are built per waiter and never kept (e5, e6).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

from leadstatus_async._engine.batch import Batch, Lobby, Place
from leadstatus_async.errors import DeadlineExceededError, for_caller
from leadstatus_async.models import LeadFailure, LeadStatus

if TYPE_CHECKING:
    import asyncio

    from leadstatus_async._engine.core import Engine
    from leadstatus_async._steps.chunk import Endpoint
    from leadstatus_async.errors import LeadStatusError


class _Waiter:
    """One `get` that is waiting."""

    __slots__ = ("due", "future", "home", "lead_id", "patience")

    def __init__(self, lead_id: str, home: PendingGets, deadline: float | None = None) -> None:
        self.lead_id = lead_id
        self.patience = deadline
        self.due = math.inf if deadline is None else home.engine.loop.time() + deadline
        self.future: asyncio.Future[LeadStatus] = home.engine.loop.create_future()
        self.home: PendingGets | Batch = home

    def settle(self, outcome: LeadStatus | LeadFailure) -> None:
        if self.future.done():
            return
        if isinstance(outcome, LeadStatus):
            self.future.set_result(outcome)
        else:
            self.future.set_exception(for_caller([outcome], None))

    def crash(self, bug: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(bug)

    def too_late(self, needed: float | None = None) -> None:
        attempts = self.home.tally.requests if isinstance(self.home, Batch) else 0
        error = DeadlineExceededError(
            f"deadline of {self.patience:g} s "
            + ("passed before this lead was answered" if needed is None else "cannot be kept any more"),
            lead_ids=[self.lead_id],
            attempts=attempts,
            needed=needed,
        )
        self.settle(LeadFailure(self.lead_id, error))


class PendingGets(Lobby):
    """The gets of one campaign that no permit has been granted for yet."""

    async def get(self, lead_id: str, deadline: float | None) -> LeadStatus:
        """Wait for the status of one lead; fail at once if no permit can come in time (b11)."""
        needed = 0.0 if deadline is None else self.engine.permits.seconds_until(1)
        if deadline is not None and needed > deadline:
            raise DeadlineExceededError(
                f"deadline={deadline:g} s is too short: the next request may go {needed:.1f} s from now",
                lead_ids=[lead_id],
                needed=needed,
            )
        waiter = _Waiter(lead_id, self, deadline)
        self.waiting.setdefault(lead_id, []).append(waiter)
        self.engine.pending[self.endpoint.prefix] = self
        loop = self.engine.loop
        alarm = None if deadline is None else loop.call_later(deadline, waiter.too_late)
        self.engine.permits.stand(self)
        try:
            return await waiter.future
        finally:
            if alarm is not None:
                alarm.cancel()
            waiter.home.leave(lead_id, waiter)
            if waiter.future.done() and not waiter.future.cancelled():
                waiter.future.exception()  # cancelled while it came: nobody else will look at it
            await self.engine.permits.swept()

    def trim(self) -> None:
        """Fail at once who can have no permit in time any more (b11)."""
        needed = self.engine.permits.seconds_until(1)
        latest = self.engine.loop.time() + needed
        waiters = [cast("_Waiter", place) for places in self.waiting.values() for place in places]
        for waiter in waiters:
            if waiter.due < latest:
                waiter.too_late(needed)

    def futures(self) -> list[asyncio.Future[LeadStatus]]:
        """Return what the waiters wait for."""
        return [cast("_Waiter", place).future for places in self.waiting.values() for place in places]

    def leave(self, lead_id: str, place: Place) -> None:
        """Let go of a waiter that has its answer, or has left before it was sent."""
        places = self.waiting.get(lead_id, [])
        if place in places:
            places.remove(place)
            if not places:
                del self.waiting[lead_id]
        if not self.waiting:
            self.engine.permits.leave(self)
            self.engine.forget(self)

    def seal(self, sealed: dict[str, list[Place]]) -> Batch:
        """Make the batch; from now on its waiters belong to it."""
        batch = Batch(self, sealed, (self.engine.total,), impatient=True)
        for places in sealed.values():
            for place in places:
                cast("_Waiter", place).home = batch
        if not self.waiting:
            self.engine.forget(self)
        return batch

    def deadline(self, waiting: dict[str, list[Place]]) -> float | None:
        """Return the latest deadline of these waiters, in loop time; None if one has none."""
        latest = max(
            (cast("_Waiter", place).due for places in waiting.values() for place in places), default=0.0
        )
        return latest if latest < math.inf else None

    def turn_away(self, error: LeadStatusError) -> None:
        """Fail every waiter that is not on its way."""
        waiting, self.waiting = self.waiting, {}
        self.engine.forget(self)
        for lead_id, places in waiting.items():
            for place in places:
                place.settle(LeadFailure(lead_id, error))


def pending_gets(engine: Engine, endpoint: Endpoint) -> PendingGets:
    """Return the pending set of a campaign: the session's, however many `Campaign` objects there are."""
    return engine.pending.get(endpoint.prefix) or PendingGets(engine, endpoint)
