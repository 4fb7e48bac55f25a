"""Until when a call may take, in words for its caller."""

from __future__ import annotations

import msgspec

from leadstatus_async.errors import DeadlineExceededError


class Deadline(msgspec.Struct, frozen=True):
    """What a caller allows for everything.

    Attributes:
        seconds: as the caller said it.
        at: the time at which it passes, on the event loop's clock.
    """

    seconds: float
    at: float

    def too_short(self, now: float, needed: float) -> DeadlineExceededError | None:
        """Return what to say if what takes another `needed` seconds cannot be had in time; None if it can."""
        if needed <= self.at - now:
            return None
        return DeadlineExceededError(
            f"deadline={self.seconds:g} s is too short: at the present rate the last request that is needed "
            f"could go {needed:.1f} s from now",
            needed=needed,
        )

    def passed(self, unanswered: int, leads: int) -> DeadlineExceededError:
        """Return what to say when it has passed with so many of the leads unanswered."""
        return DeadlineExceededError(
            f"deadline of {self.seconds:g} s passed with {unanswered} of {leads} leads unanswered"
        )
