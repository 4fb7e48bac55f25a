"""What a session tells its `on_event` observer: frozen structs, one per thing that happened.

Data only: no I/O, no clock, no randomness. No lead IDs (only how many) and no secrets, so that an
observer may log or count whatever it gets. All times are seconds as float.

    def observe(event: Event) -> None:
        match event:
            case AttemptFinished(status=429):
                ...

    LeadStatusSession(..., on_event=observe)
"""

from __future__ import annotations

import msgspec

from leadstatus_async.results import BatchStats  # noqa: TC001 - so that type hints resolve


class AttemptFinished(msgspec.Struct, frozen=True):
    """One HTTP request is over: exactly one event for each that was sent.

    Attributes:
        account: account group ID.
        campaign: campaign ID.
        leads: how many leads it asked for.
        attempt: 1 for the first time this request was sent, 2 for its first retry...
        status: HTTP status of the answer; None where none came.
        error: class name of what it failed with, "CancelledError" if it was cut off; None for rows.
        seconds: from sending to the end of the answer.
        trace_id: the API's `traceId`, if any.
    """

    account: str
    campaign: str
    leads: int
    attempt: int
    status: int | None
    error: str | None
    seconds: float
    trace_id: str | None = None


class RetryScheduled(msgspec.Struct, frozen=True):
    """A request will be sent again, after `delay` seconds and a permit; or when a pause is over."""

    account: str
    campaign: str
    leads: int
    attempt: int
    error: str
    delay: float


class ChunkSplit(msgspec.Struct, frozen=True):
    """A request was refused for what it holds, and its leads will be asked in smaller ones."""

    account: str
    campaign: str
    leads: int
    status: int


class Paused(msgspec.Struct, frozen=True):
    """The pause gate closed for everyone who shares the limiter."""

    seconds: float
    reason: str


class RateChanged(msgspec.Struct, frozen=True):
    """The limiter changed its rate, in requests per second, for `reason`."""

    previous: float | None
    rate: float | None
    reason: str


class OutageStarted(msgspec.Struct, frozen=True):
    """The server seems down: sending has stopped, and the first probe goes out; `error` is why."""

    error: str


class OutageEnded(msgspec.Struct, frozen=True):
    """The outage is over: the server answered (`answered`), or it was given up after `seconds`."""

    seconds: float
    answered: bool


class BatchFinished(msgspec.Struct, frozen=True):
    """A call is over: `get_many`, `retry`, one poll of `watch`, a stream, or a batch that gets shared.

    Attributes:
        account: account group ID.
        campaign: campaign ID.
        leads: how many leads were asked for; of a stream, how many were read.
        failures: how many of them failed.
        stats: what it cost.
    """

    account: str
    campaign: str
    leads: int
    failures: int
    stats: BatchStats


Event = (
    AttemptFinished
    | RetryScheduled
    | ChunkSplit
    | Paused
    | RateChanged
    | OutageStarted
    | OutageEnded
    | BatchFinished
)
"""Everything an observer may be given."""
