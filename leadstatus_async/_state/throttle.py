"""What bounds retrying over a whole session: the retry budget, and the run of nothing but 429s."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leadstatus_async.policy import RetryPolicy

_LOCKED_OUT = 3.2  # times max_delay: a lock-out that each request prolongs must be waited out whole
_FIRST = 0.5  # of base_delay: who is refused at the end of a window is let in again soon
_FORGIVEN = 2  # pauses: where lock-outs or windows are long, each need not be found out from the start
_GROWTH = 1.7  # of pauses that nobody stated: with 2, a lock-out is overslept by as long as it lasts
_SAT_OUT = 0.55  # of max_outage
LOCK_OUT = 3.0  # seconds of nothing but 429s: is likely to last as long the next time; less may be a window
_OBEYED = 10  # pauses that the server stated itself, each kept: who is still refused will be refused again
_TENTHS = 10  # what a retry costs, in what a success refills: tenths do not add up in floats


class RetryBudget:
    """Tokens that retries spend and successes earn back, so that a failing server is not hit harder (d9)."""

    __slots__ = ("_left", "_size")

    def __init__(self, size: float) -> None:
        self._size = self._left = size * _TENTHS

    def spend(self) -> bool:
        """Take what one retry costs; False if it is not there."""
        if self._left < _TENTHS:
            return False
        self._left -= _TENTHS
        return True

    def earn(self) -> None:
        """Put back what one success refills."""
        self._left = min(self._size, self._left + 1)

    def refund(self, retries: int) -> None:
        """Put back what so many retries cost, which turned out to be none."""
        self._left = min(self._size, self._left + retries * _TENTHS)


class ThrottleRun:
    """A run of nothing but 429s: how long it lasts beyond the pauses that the server itself stated.

    Attributes:
        count: by how much the next pause that nobody states has grown; 0 between runs.
    """

    __slots__ = (
        "_began",
        "_excused_until",
        "_given_up_at",
        "_kept",
        "_known",
        "_obeyed",
        "_obeyed_for",
        "_opened",
        "_paused",
        "_since",
        "_stated",
        "count",
    )

    def __init__(self) -> None:
        self.count = self._kept = 0
        self._obeyed, self._obeyed_for = 0, 0.0  # pauses that the server stated and that were kept; seconds
        self._stated = 0.0  # by the server, for the present pause
        self._given_up_at = -math.inf
        self._since: float | None = None
        self._began = self._opened = 0.0
        self._paused = 0.0  # by the present pause, if nobody stated it
        self._known = 0.0, 0.0  # seconds: pauses by which a lock-out like the last should be over
        self._excused_until = 0.0

    def passed(self, sent_at: float) -> None:
        """Note any other answer, which ends the run, and how long that lasted.

        Args:
            sent_at: when its request was sent; one sent before the pause does not show that to be over.
        """
        refused = self._opened - self._began
        if self.count and refused and self._paused and sent_at >= self._opened:
            # Where asking prolongs a lock-out, it is no longer than the last pause; else than all together.
            lasted = refused + self._paused / 2
            self._known = (self._paused, lasted - self._paused) if lasted >= LOCK_OUT else (0.0, 0.0)
        self.end()

    def end(self) -> None:
        """End the run: the next one begins two below where this one has ended, or at the start."""
        if self.count:
            self._kept = max(0, self.count - _FORGIVEN)
        self.count = 0
        self._since = None
        self._excused_until = 0.0
        self._obeyed, self._obeyed_for, self._stated = 0, 0.0, 0.0

    def give_up(self, now: float) -> None:
        """End the run without an answer."""
        self.end()
        self._given_up_at = now

    def gave_up_on(self, sent_at: float) -> bool:
        """Whether a 429 of a request sent then belongs to a run that was given up, and begins no new one."""
        return sent_at < self._given_up_at

    def hopeless(self, over: float, max_outage: float) -> bool:
        """Whether nothing is to be hoped for any more: of a run that has been going on for so long.

        That is `max_outage` seconds without excuse, or ten pauses that the server stated, each of them kept,
        of as many seconds at least.
        """
        return over > max_outage or (self._obeyed >= _OBEYED and self._obeyed_for >= max_outage)

    def note(self, now: float, sent_at: float, stated: float | None) -> float:
        """Count a 429 and return for how many seconds the run has been going on without excuse.

        Args:
            now: when the 429 came.
            sent_at: when its request was sent. One sent before the present pause began opens no new one
                and tells nothing new: for it 0.0 is returned.
            stated: the pause the server states with it, in seconds; None or 0.0 states none.
        """
        over = 0.0
        opens = self._since is None or sent_at >= self._opened
        if self._since is None:
            self._since = self._began = now
            self.count = self._kept
        if opens:
            over = now - self._since
            self._obeyed += self._stated > 0
            self._obeyed_for += self._stated
            self._opened, self._paused, self._stated = now, 0.0, 0.0
            self.count += 1
        self._stated = max(self._stated, stated or 0.0)
        until = now + (stated or 0.0)
        fresh = until - max(now, self._excused_until)
        if fresh > 0:
            self._since += fresh
            self._excused_until = until
        return over

    def pause(self, over: float, policy: RetryPolicy, dice: float, first: float | None = None) -> float:
        """Return the seconds to hold back at a 429 that opened a pause and states none.

        A lock-out that was found out by asking is expected to last as long again, the next few times.

        Args:
            over: seconds for which the run has been going on.
            policy: the bounds.
            dice: a random number in [0, 1).
            first: seconds that are enough for the first pause of a run, where it is known why.
        """
        asked = self.count - self._kept - 1
        if first is not None:
            self._paused = min(
                first * _GROWTH ** min(asked, 60), unstated_pause(self.count, over, policy, 1.0)
            )
            return self._paused * (0.5 + 0.5 * dice)
        least = self._known[asked] if self._kept and asked < len(self._known) else 0.0
        self._paused = unstated_pause(self.count, over, policy, dice, least)
        return self._paused


def unstated_pause(count: int, over: float, policy: RetryPolicy, dice: float, least: float = 0.0) -> float:
    """Return the seconds to hold back at the `count`-th 429 in a row that states no pause, at least `least`.

    Half of it is fixed: full jitter would let a shared gate reopen at once, and be refused again. It
    grows beyond `max_delay`, for servers that shut a key out for half a minute at each 429. One that would
    end after a bit less than half of `max_outage`, of which `over` seconds have passed, is a bit longer
    than half: where asking prolongs a lock-out, one of half our patience is over before that is.
    """
    longest = max(policy.max_delay, min(_LOCKED_OUT * policy.max_delay, policy.max_retry_after))
    pause = (0.5 + 0.5 * dice) * min(longest, _FIRST * policy.base_delay * _GROWTH ** min(count - 1, 60))
    pause = max(pause, min(least, longest))
    if over + pause <= (1 - _SAT_OUT) * policy.max_outage:
        return pause
    return max(policy.base_delay, min(longest, _SAT_OUT * policy.max_outage, policy.max_outage - over))
