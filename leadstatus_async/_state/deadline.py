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
            f"deadline={self.seconds:g} s is too short: {_outlook(needed)}", needed=needed
        )

    def passed(self, needed: float | None = None) -> DeadlineExceededError:
        """Return what to say when it has passed; what was never asked would take `needed` seconds more."""
        outlook = "" if needed is None else f": {_outlook(needed)}"
        return DeadlineExceededError(f"deadline of {self.seconds:g} s passed{outlook}", needed=needed)


def _outlook(needed: float) -> str:
    return f"at the present rate the last request that is needed could go {needed:.1f} s from now"
