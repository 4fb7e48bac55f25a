"""Leads that are asked together because a permit was there: what gets and streams send.

A `Lobby` holds lead IDs that nobody has sent yet, as one entry in the permit queue. When a permit is
in hand it seals up to `chunk_size` of them into a `Batch`, a call of its own, which hands each
outcome to the places that wait for it as soon as it is known. IDs that occur twice are asked once.
"""

from __future__ import annotations

import contextvars
from abc import ABC, abstractmethod
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from leadstatus_async._engine.job import Call
from leadstatus_async._steps.chunk import fit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from leadstatus_async._engine.core import Engine
    from leadstatus_async._state.request import Request
    from leadstatus_async._state.tally import Tally
    from leadstatus_async._steps.chunk import Endpoint
    from leadstatus_async.errors import LeadStatusError
    from leadstatus_async.models import LeadFailure, LeadStatus


class Place(Protocol):
    """Where an outcome is waited for."""

    def settle(self, outcome: LeadStatus | LeadFailure) -> None:
        """Take the outcome."""
        ...

    def crash(self, bug: Exception) -> None:
        """Take an exception that is a bug of ours."""
        ...


class Batch(Call):
    """A sealed set of leads, and the places that wait for each."""

    def __init__(
        self,
        lobby: Lobby,
        waiting: dict[str, list[Place]],
        totals: Iterable[Tally],
        *,
        impatient: bool = False,
        part: bool = False,
    ) -> None:
        engine = lobby.engine
        super().__init__(
            engine.permits,
            list(waiting),
            lobby.endpoint,
            engine.limits,
            totals,
            started=engine.loop.time(),
            context=lobby.context,
            impatient=impatient,
        )
        self.waiting = waiting
        self.part = part
        self._lobby = lobby

    @property
    def deadline(self) -> float | None:
        """Loop time until which anybody waits for it; None if somebody does without end."""
        return self._lobby.deadline(self.waiting)

    @property
    def whole(self) -> Call | Lobby:
        """What the user called: gets are batches of their own, a stream's are parts of it."""
        return self._lobby if self.part else self

    def trim(self) -> None:
        """Do nothing: it is on its way, and whoever waits for it has a timer."""

    def leave(self, lead_id: str, place: Place) -> None:
        """Let go of a place; when nobody waits any more, the request is cancelled."""
        places = self.waiting.get(lead_id, [])
        if place in places:
            places.remove(place)
        if not places:
            self.waiting.pop(lead_id, None)
        if not self.waiting:
            self.end()

    def stop(self, error: LeadStatusError) -> None:
        """End the batch, and tell the lobby, whose other leads may meet the same fate."""
        super().stop(error)
        self._lobby.stopped(error)

    def crash(self, bug: Exception) -> None:
        """Hand a bug to everybody who waits."""
        waiting, self.waiting = self.waiting, {}
        for places in waiting.values():
            for place in places:
                place.crash(bug)
        self.end()

    def count(self) -> None:
        """Hand out what is settled."""
        super().count()
        for lead_id, outcome in zip(self.ledger.lead_ids, self.ledger.outcomes, strict=True):
            if outcome is not None:
                for place in self.waiting.pop(lead_id, ()):
                    place.settle(outcome)
        self._lobby.delivered()


class Lobby(ABC):
    """Leads of one campaign that wait to be sent, as one entry in the permit queue.

    Attributes:
        engine: what sends them.
        endpoint: of the campaign.
        context: the context its requests run in, not that of whoever asked first (e4).
        waiting: lead ID -> the places that wait for it, in the order asked.
    """

    late = True
    answers_before: int | None = None  # how many answers the session had had when it began to send

    def __init__(
        self, engine: Engine, endpoint: Endpoint, context: contextvars.Context | None = None
    ) -> None:
        self.engine = engine
        self.endpoint = endpoint
        self.context = contextvars.Context() if context is None else context
        self.waiting: dict[str, list[Place]] = {}

    @property
    def sendable(self) -> bool:
        """Whether anything waits."""
        return bool(self.waiting)

    def take(self) -> tuple[Call, Request] | None:
        """Seal a batch and hand out its first chunk."""
        limits = self.engine.limits
        asked = list(islice(self.waiting, limits.chunk_size))
        if not asked:
            return None
        end, _ = fit(asked, 0, len(asked), self.endpoint, limits)
        batch = self.seal({lead_id: self.waiting.pop(lead_id) for lead_id in asked[:end]})
        self.engine.begin(batch)
        return batch.take()

    @abstractmethod
    def seal(self, sealed: dict[str, list[Place]]) -> Batch:
        """Make the batch of what was taken."""

    @abstractmethod
    def deadline(self, waiting: dict[str, list[Place]]) -> float | None:
        """Return the loop time until which anybody waits for these; None if somebody does without end."""

    @abstractmethod
    def turn_away(self, error: LeadStatusError) -> None:
        """Fail everything that waits here."""

    def stopped(self, error: LeadStatusError) -> None:  # noqa: B027 - gets need not know
        """Learn that a batch was ended as a whole."""

    def delivered(self) -> None:  # noqa: B027 - gets need not know
        """Learn that outcomes have been handed out."""
