"""One request: which leads it asks for, how, and what has happened to it."""

from __future__ import annotations

import math


class Request:
    """Leads of a backlog that are asked for together, and their history, which only `Health` writes.

    Attributes:
        start: position of the first in the backlog.
        ids: the lead IDs.
        target: the request target last sent.
        attempts: how often it has been sent.
        disconnects: how often the connection was lost before any byte of an answer.
        failed_at: when this, or what it is half of, first failed, in loop time; infinity until then.
        retried: it is sent again because the last attempt failed (a 429 is no failure).
        ready_at: since when it has been waiting to be sent.
        waited: seconds it has waited in all.
        final_attempt: it is not sent again, since what else waited has been given up.
        origin: what it was before it was cut; None for itself, which would be a cycle.
        refused_with: the status that it was refused with for what it holds, if it was.
        outdone: the largest request accepted since this one, or what it is half of, was refused.
    """

    __slots__ = (
        "attempts",
        "disconnects",
        "failed_at",
        "final_attempt",
        "ids",
        "origin",
        "outdone",
        "ready_at",
        "refused_with",
        "retried",
        "start",
        "target",
        "waited",
    )

    def __init__(self, start: int, ids: list[str], ready_at: float, target: str = "") -> None:
        self.start = start
        self.ids = ids
        self.target = target
        self.failed_at = math.inf
        self.attempts = 0
        self.disconnects = 0
        self.retried = self.final_attempt = False
        self.origin: Request | None = None
        self.refused_with = self.outdone = 0
        self.ready_at = ready_at
        self.waited = 0.0

    def __len__(self) -> int:
        return len(self.ids)
