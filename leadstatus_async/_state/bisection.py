"""What a refusal teaches: whether it was the number of leads, or one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leadstatus_async._state.request import Request


class Bisection:
    """A refused request, and what becomes of its two halves.

    Attributes:
        refused: what was cut.
        larger: leads in the larger half.
        halves: those that have not been accepted or refused yet.
        accepted: how many have been accepted.
    """

    __slots__ = ("accepted", "halves", "larger", "refused")

    def __init__(self, refused: Request, larger: int) -> None:
        self.refused = refused
        self.larger = larger
        self.halves: set[Request] = set()
        self.accepted = 0

    @property
    def count_refused(self) -> bool:
        """Whether it was the number of IDs: both halves were accepted, and nothing larger meanwhile."""
        return self.accepted == 2 and self.refused.outdone <= self.larger
