"""How many requests may go, and when: the `Limiter` protocol. The default one is `TokenBucketLimiter`."""

from __future__ import annotations

from asyncio import CancelledError
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from leadstatus_async._pace.token_bucket import TokenBucketLimiter
from leadstatus_async.errors import LimiterError, RateLimitError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leadstatus_async.learned import RateLimitState

__all__ = ["Limiter", "TokenBucketLimiter"]


@runtime_checkable
class Limiter(Protocol):
    """What a session asks for permission before each request; may be shared by sessions."""

    async def acquire(self, *, max_pause: float | None = None, waiting: int = 1) -> None:
        """Wait for a token, first come, first served.

        Args:
            max_pause: longest pause that is waited for, in seconds; None waits for any.
            waiting: how many requests could go now, this one included, if there were tokens and slots for
                all: a hint. What fits into what remains of a window need not be slow, and a limiter over a
                network may take several tokens in one command and hand them to the next who ask.

        Raises:
            RateLimitError: as soon as a longer pause stands, with the seconds left as `retry_after`.
        """
        ...

    def refund(self) -> None:
        """Give back the token of the last acquire, unused: once, before the next acquire.

        A limiter over a network may let it lapse rather than risk more than the rate in a window.
        """
        ...

    def pause(self, seconds: float, reason: str) -> None:
        """Let nobody pass for so long, here at once; never shortens a pause that stands."""
        ...

    def observe(self, status: int, sent_at: float, headers: Mapping[str, str]) -> None:
        """Learn from an answer: its status, the loop time its request was sent at, its headers."""
        ...

    def wait_time(self, ahead: int = 0) -> float:
        """Return the seconds until the one behind `ahead` others could go, as far as is known here.

        A lower bound; 0.0 if at once. With -1 for `ahead`, the last of those who wait already.
        """
        ...

    @property
    def state(self) -> RateLimitState:
        """A snapshot of rate and pause."""
        ...

    async def aclose(self) -> None:
        """Release what the limiter holds outside this process, if anything."""
        ...


STALE = 0.01
"""Seconds after which a token that is not used yet is taken anew: what leaves then is of another window."""


class Answer(Protocol):
    """What of an answer a limiter may see; headers may echo the key, so that no frame holds them bare."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


class Guarded:
    """A limiter, perhaps a lent one, whose faults come as `LimiterError`, with the fault as their cause.

    A `LimiterError` passes as it is, out of `acquire` a `RateLimitError`, too; and so does a cancellation.
    """

    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter

    async def acquire(self, *, max_pause: float, waiting: int) -> None:
        """See `Limiter.acquire`."""
        with _guarding_acquire:
            await self.limiter.acquire(max_pause=max_pause, waiting=waiting)

    def refund(self) -> None:
        """See `Limiter.refund`."""
        with _guarding:
            self.limiter.refund()

    def pause(self, seconds: float, reason: str) -> None:
        """See `Limiter.pause`."""
        with _guarding:
            self.limiter.pause(seconds, reason)

    def observe(self, answer: Answer, sent_at: float) -> RateLimitState:
        """Let the limiter observe an answer, and return its state after that."""
        with _guarding:
            self.limiter.observe(answer.status, sent_at, answer.headers)
            return _checked(self.limiter.state)

    def wait_time(self, ahead: int = 0) -> float:
        """See `Limiter.wait_time`."""
        with _guarding:
            return self.limiter.wait_time(ahead)

    @property
    def state(self) -> RateLimitState:
        """See `Limiter.state`."""
        with _guarding:
            return _checked(self.limiter.state)


class _Guarding:
    """Turns what a limiter must not raise into a `LimiterError`."""

    def __init__(self, *passing: type[BaseException]) -> None:
        self._passing = (LimiterError, KeyboardInterrupt, SystemExit, GeneratorExit, CancelledError, *passing)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, fault: BaseException | None, trace: object) -> None:
        if fault is not None and not isinstance(fault, self._passing):
            message = f"the limiter failed: {type(fault).__name__}; nothing is sent without it"
            raise LimiterError(message, retryable=isinstance(fault, OSError)) from fault  # not reached


_guarding = _Guarding()
_guarding_acquire = _Guarding(RateLimitError)
_parts = attrgetter("rate", "paused_for", "reason")


def _checked(state: RateLimitState) -> RateLimitState:
    """Return a state that has what is read of it; raises AttributeError if not."""
    _parts(state)
    return state
