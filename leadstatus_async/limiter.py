"""How many requests may go, and when: the `Limiter` protocol. The default one is `TokenBucketLimiter`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from leadstatus_async._pace.token_bucket import TokenBucketLimiter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leadstatus_async.results import RateLimitState

__all__ = ["Limiter", "TokenBucketLimiter", "seconds_until"]


@runtime_checkable
class Limiter(Protocol):
    """What a session asks for permission before each request; may be shared by sessions."""

    async def acquire(self, *, max_pause: float | None = None) -> None:
        """Wait for a token, first come, first served.

        Args:
            max_pause: longest pause that is waited for, in seconds; None waits for any.

        Raises:
            RateLimitError: as soon as a longer pause stands, with the seconds left as `retry_after`.
        """
        ...

    def refund(self) -> None:
        """Give back the newest token, unused: at once, before others have been granted after it."""
        ...

    def pause(self, seconds: float, reason: str) -> None:
        """Let nobody pass for so long; never shortens a pause that stands."""
        ...

    def observe(self, status: int, sent_at: float, headers: Mapping[str, str]) -> None:
        """Learn from an answer: its status, the loop time its request was sent at, its headers."""
        ...

    def wait_time(self) -> float:
        """Return the seconds until a token could be had by a caller arriving now; 0.0 if at once."""
        ...

    @property
    def state(self) -> RateLimitState:
        """A snapshot of rate and pause."""
        ...

    async def aclose(self) -> None:
        """Release what the limiter holds outside this process, if anything."""
        ...


def seconds_until(limiter: Limiter, ahead: int) -> float:
    """Return the seconds until the limiter lets the one behind `ahead` others go."""
    if isinstance(limiter, TokenBucketLimiter):
        return limiter.wait_time(ahead)
    rate = limiter.state.rate
    return max(0.0, limiter.wait_time() + (ahead / rate if rate else 0.0))
