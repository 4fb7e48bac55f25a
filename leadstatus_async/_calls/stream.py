"""The stream in the consumer's hand.

Behind it is a `Flow`, which the engine knows; the flow never refers to the stream, so that letting go
of the stream (a plain `async for` that is left early) is noticed and cancels what is in flight.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Generic, Self, TypeVar, cast

from leadstatus_async.errors import LeadStatusError, for_caller
from leadstatus_async.models import LeadFailure, LeadStatus

if TYPE_CHECKING:
    from types import TracebackType

    from leadstatus_async._calls.reading import Flow

OutcomeT_co = TypeVar("OutcomeT_co", bound=LeadStatus | LeadFailure, covariant=True)


class StatusStream(AsyncIterator[OutcomeT_co], Generic[OutcomeT_co]):
    """Outcomes as they are needed; made by `Campaign.stream`.

    Iterate it, at best inside `async with`, which cancels what is in flight the moment the block is
    left. A plain `async for` that is left early does so too, as soon as nothing refers to the stream.
    """

    def __init__(self, flow: Flow, *, on_error_raise: bool) -> None:
        self._flow = flow
        self._raise = on_error_raise

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> OutcomeT_co:
        if self._flow.awaited:  # which harms nobody but the second
            raise RuntimeError("two tasks await the next outcome of one stream; give each task its own")
        try:
            outcome = await self._flow.next()
        except asyncio.CancelledError:
            self._flow.left = LeadStatusError(
                "this stream was cancelled while it was waited for; make a new one"
            )
            await self.aclose()
            raise
        except Exception:
            await self.aclose()
            raise
        if outcome is None:
            await self.aclose()
            raise StopAsyncIteration
        if self._raise and isinstance(outcome, LeadFailure):
            await self.aclose()
            raise for_caller([outcome], None)
        return cast("OutcomeT_co", outcome)

    async def aclose(self) -> None:
        """End the stream: cancel what is in flight and close an async source. Idempotent."""
        await self._flow.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._flow.abandon()
