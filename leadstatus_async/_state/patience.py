"""How much one request of a call may try its caller's patience."""

from __future__ import annotations

import msgspec


class Patience(msgspec.Struct, frozen=True):
    """What a call allows each of its requests.

    Attributes:
        timeout: seconds that one attempt may take.
        max_attempts: how often it may be sent.
    """

    timeout: float
    max_attempts: int

    def with_that_of(self, other: Patience) -> Patience:
        """Return the greater of both, for what travels together."""
        if self.timeout <= other.timeout and self.max_attempts <= other.max_attempts:
            return other
        return Patience(max(self.timeout, other.timeout), max(self.max_attempts, other.max_attempts))
