"""Prometheus: what a dashboard needs to know of sessions (extra `prometheus`).

    observe = PrometheusMetrics()  # the default registry
    async with LeadStatusSession(on_event=observe) as session: ...

One object serves any number of sessions. There are no labels for accounts, campaigns or leads: each of their
values would be a time series of its own.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from leadstatus_async.events import (
    CALL_SECONDS,
    REQUEST_SECONDS,
    AttemptFinished,
    BatchFinished,
    CallFinished,
    CallStarted,
    OutageEnded,
    OutageStarted,
    Paused,
    RateChanged,
    RetryScheduled,
)

try:
    from prometheus_client import REGISTRY, Counter, Gauge, Histogram
except ImportError as missing:
    message = (
        "leadstatus_async.prometheus needs prometheus-client: pip install 'leadstatus-async[prometheus]'"
    )
    raise ImportError(message, name=missing.name) from missing

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from leadstatus_async.events import CallKind, Event


class PrometheusMetrics:
    """An observer for `on_event` that counts.

    | metric | labels |
    |---|---|
    | `leadstatus_requests_total` | `status` ("" if no answer came), `error` ("" if it brought rows) |
    | `leadstatus_request_duration_seconds` | |
    | `leadstatus_retries_total`: requests to be sent again | `error` |
    | `leadstatus_waited_seconds_total`: in the queue, in pauses and in back-off | |
    | `leadstatus_leads_total`: of calls that are over | `outcome` ("answered", "failed") |
    | `leadstatus_call_duration_seconds` | `call` ("get_many", "get", "stream", "watch") |
    | `leadstatus_calls_in_flight` | `call` |
    | `leadstatus_rate`: requests per second, as the last session learned; NaN while nothing was | |
    | `leadstatus_pauses_total`, `leadstatus_paused_seconds`: until the gate opens again | |
    | `leadstatus_outage`: sessions whose server seems down | |

    Args:
        registry: that they are registered with, once; None for prometheus_client's own.

    Raises:
        ImportError: on import, without prometheus-client.
        ValueError: the registry has them already; give sessions the same object.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        home = REGISTRY if registry is None else registry
        self._kinds: dict[int, CallKind] = {}  # of calls under way
        self._paused_until = 0.0
        self._requests = Counter(
            "leadstatus_requests", "HTTP requests sent", ["status", "error"], registry=home
        )
        self._durations = Histogram(
            "leadstatus_request_duration_seconds",
            "From sending a request to the end of its answer",
            buckets=REQUEST_SECONDS,
            registry=home,
        )
        self._retries = Counter("leadstatus_retries", "Requests to be sent again", ["error"], registry=home)
        self._waited = Counter(
            "leadstatus_waited_seconds", "Seconds in the queue, in pauses and in back-off", registry=home
        )
        self._leads = Counter("leadstatus_leads", "Leads of calls that are over", ["outcome"], registry=home)
        self._calls = Histogram(
            "leadstatus_call_duration_seconds",
            "From the beginning of a call to its end",
            ["call"],
            buckets=CALL_SECONDS,
            registry=home,
        )
        self._in_flight = Gauge("leadstatus_calls_in_flight", "Calls under way", ["call"], registry=home)
        self._rate = Gauge("leadstatus_rate", "Requests per second, as learned", registry=home)
        self._rate.set(float("nan"))
        self._pauses = Counter("leadstatus_pauses", "Times that the pause gate closed", registry=home)
        paused = Gauge("leadstatus_paused_seconds", "Until the pause gate opens again", registry=home)
        paused.set_function(lambda: max(0.0, self._paused_until - time.monotonic()))
        self._outage = Gauge("leadstatus_outage", "Sessions whose server seems down", registry=home)

    def __call__(self, event: Event) -> None:
        """Count an event."""
        match event:
            case AttemptFinished(status=status, error=error, seconds=seconds):
                self._requests.labels("" if status is None else str(status), error or "").inc()
                self._durations.observe(seconds)
            case CallStarted(call_id=call_id, kind=kind):
                self._kinds[call_id] = kind
                self._in_flight.labels(kind).inc()
            case CallFinished(call_id=call_id):
                kind = self._kinds.pop(call_id)
                self._in_flight.labels(kind).dec()
                self._calls.labels(kind).observe(event.seconds)
                self._leads.labels("answered").inc(event.leads - event.failures)
                self._leads.labels("failed").inc(event.failures)
            case BatchFinished(stats=stats):
                self._waited.inc(stats.waited)
            case RetryScheduled(error=error):
                self._retries.labels(error).inc()
            case RateChanged(rate=rate):
                self._rate.set(float("nan") if rate is None else rate)
            case Paused(seconds=seconds):
                self._pauses.inc()
                self._paused_until = max(self._paused_until, time.monotonic() + seconds)
            case OutageStarted() | OutageEnded():
                self._outage.inc(1 if isinstance(event, OutageStarted) else -1)
            case _:
                pass
