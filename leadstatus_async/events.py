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

from typing import Literal

import msgspec

from leadstatus_async.results import BatchStats  # noqa: TC001 - so that type hints resolve

REQUEST_SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Bounds of a histogram of `AttemptFinished.seconds`: up to the default `timeout`."""

CALL_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
"""Bounds of a histogram of `CallFinished.seconds`: of a web request, and of a bulk job."""

CallKind = Literal["get_many", "get", "stream", "watch"]
"""What was called; `retry` is a `get_many`."""


class CallStarted(msgspec.Struct, frozen=True):
    """Somebody's call begins; sent in the caller's own task and context.

    Attributes:
        call_id: its number, unlike that of any other call in this process.
        kind: "get_many" (`retry`, too), "get", "stream" or "watch".
        account: account group ID.
        campaign: campaign ID.
        leads: how many positions it is to answer; None where that is not known.
    """

    call_id: int
    kind: CallKind
    account: str
    campaign: str
    leads: int | None


class CallFinished(msgspec.Struct, frozen=True):
    """A call is over, in whatever way: exactly one event for each that has begun.

    Attributes:
        call_id: as `CallStarted` has it.
        leads: how many leads have their outcome; of a call that was cut short, not all.
        failures: how many of them failed; of a watch, in its last poll.
        seconds: from its beginning to its end.
        stats: what it cost; of a `get`, what the requests did that it shared.
        error: class name of what it raised; None if it returned, or was left early.
    """

    call_id: int
    leads: int
    failures: int
    seconds: float
    stats: BatchStats
    error: str | None = None


class AttemptFinished(msgspec.Struct, frozen=True):
    """One HTTP request is over: exactly one event for each that was sent.

    Attributes:
        call_ids: of the calls that it served: one, or those of all gets that travelled together.
        account: account group ID.
        campaign: campaign ID.
        leads: how many leads it asked for.
        attempt: 1 for the first time this request was sent, 2 for its first retry...
        status: HTTP status of the answer; None where none came.
        error: class name of what it failed with, "CancelledError" if it was cut off; None for rows.
        started_at: when it was sent, in seconds since the epoch.
        seconds: from sending to the end of the answer.
        trace_id: the API's `traceId`, if any.
    """

    call_ids: tuple[int, ...]
    account: str
    campaign: str
    leads: int
    attempt: int
    status: int | None
    error: str | None
    started_at: float
    seconds: float
    trace_id: str | None = None


class RetryScheduled(msgspec.Struct, frozen=True):
    """A request will be sent again, after `delay` seconds and a permit, or when a pause or outage is over."""

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
        leads: how many different leads were asked for.
        failures: how many of them failed.
        stats: what it cost.
    """

    account: str
    campaign: str
    leads: int
    failures: int
    stats: BatchStats


Event = (
    CallStarted
    | CallFinished
    | AttemptFinished
    | RetryScheduled
    | ChunkSplit
    | Paused
    | RateChanged
    | OutageStarted
    | OutageEnded
    | BatchFinished
)
"""Everything an observer may be given."""
