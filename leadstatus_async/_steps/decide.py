"""Whether and when a failed request goes out again: attempts, back-off, and what the server asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from leadstatus_async._steps.decipher import Failure, Sort

if TYPE_CHECKING:
    from collections.abc import Callable

    from leadstatus_async.policy import RetryPolicy

_UPWARD_JITTER = 0.1  # of a delay the server stated: clients told the same second must not return as one (d6)
_MOST_JITTER = 1.0  # seconds: of a long pause a tenth would cost more than it spreads


class Again(msgspec.Struct, frozen=True):
    """Send the request again, `delay` seconds from now."""

    delay: float


class Split(msgspec.Struct, frozen=True):
    """The request as it is will not be accepted: it is cut in two, or, of a single lead, fails."""


class Fail(msgspec.Struct, frozen=True):
    """The leads of this request fail with its error."""


class Stop(msgspec.Struct, frozen=True):
    """The whole call fails with this error."""


class Throttled(msgspec.Struct, frozen=True):
    """Send again when the pause is over; costs neither attempts nor budget."""


Verdict = Again | Split | Fail | Stop | Throttled

_FAIL, _SPLIT, _THROTTLED = Fail(), Split(), Throttled()
_SETTLED: dict[Sort, Verdict] = {
    Sort.FATAL: Stop(),
    Sort.FINAL: _FAIL,
    Sort.REFUSED: _SPLIT,
    Sort.OVERSIZE: _SPLIT,
}


def decide(
    failure: Failure,
    policy: RetryPolicy,
    *,
    max_attempts: int,
    attempts: int,
    stale: bool,
    afford: Callable[[], bool],
    remaining: float | None,
    dice: float,
    divisible: bool = False,
) -> Verdict:
    """Choose what becomes of a request that failed.

    Args:
        failure: what the attempt ended in.
        policy: the other bounds.
        max_attempts: how often it may be sent.
        attempts: how often this request has been sent, this time included.
        stale: whether the connection it lost is taken for a stale one: the retry is immediate (a20).
        afford: spends what a retry costs from the session's budget; False if it is not there.
        remaining: seconds until the call's deadline; None without one.
        dice: a random number in [0, 1).
        divisible: whether it asks for several leads, and others have been answered since its call began
            to send: a 500 that outlasts its attempts is then bisected to the lead at fault.
    """
    settled = _SETTLED.get(failure.sort)
    if settled is not None:
        return settled
    throttled = failure.sort is Sort.THROTTLED
    exhausted = max_attempts == 1 if throttled else attempts >= max_attempts
    # With max_attempts=1 nothing is sent again, in halves neither.
    divisible = divisible and max_attempts > 1
    if exhausted and divisible and getattr(failure.error, "status", None) == 500:
        return _SPLIT if afford() else _FAIL
    if exhausted or (failure.retry_after or 0.0) > policy.max_retry_after:
        return _FAIL
    delay = 0.0 if stale and failure.early else delay_of(failure, policy, attempts, dice)
    too_late = remaining is not None and delay >= remaining
    if throttled:
        return _FAIL if too_late and failure.retry_after else _THROTTLED
    return _FAIL if too_late or not afford() else Again(delay)


def delay_of(failure: Failure, policy: RetryPolicy, attempts: int, dice: float) -> float:
    """Return the seconds to wait before the next attempt.

    What the server stated is a floor: never earlier, a little later by chance (d4, d6), and never
    pushed beyond `max_retry_after` by that chance. Our own back-off has full jitter.
    """
    if failure.retry_after is not None:
        return stated_pause(failure.retry_after, policy, dice)
    return dice * min(policy.max_delay, policy.base_delay * 2.0 ** min(attempts - 1, 60))


def stated_pause(retry_after: float, policy: RetryPolicy, dice: float) -> float:
    """Return the seconds to hold back when the server stated `retry_after` seconds."""
    floor = max(retry_after, policy.base_delay)
    jitter = min(_UPWARD_JITTER * floor, _MOST_JITTER) * dice
    return max(floor, min(floor + jitter, policy.max_retry_after))
