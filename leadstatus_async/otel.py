"""OpenTelemetry: a span for each call and each request, and metrics of both (extra `otel`).

    observe = OpenTelemetry()  # the providers that the application has set
    async with LeadStatusSession(on_event=observe) as session: ...

One object serves any number of sessions. Spans and metrics name account groups and campaigns, statuses and
errors; never a lead ID, and never the key. Names follow OpenTelemetry's conventions for HTTP clients where
there are any.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from leadstatus_async._version import __version__
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
    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, Observation, get_meter
    from opentelemetry.trace import Link, Span, SpanKind, StatusCode, get_tracer, set_span_in_context
except ImportError as missing:
    message = "leadstatus_async.otel needs opentelemetry-api: pip install 'leadstatus-async[otel]'"
    raise ImportError(message, name=missing.name) from missing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from leadstatus_async.events import Event


class OpenTelemetry:
    """An observer for `on_event` that records spans and metrics.

    A call's span (`leadstatus.get_many` ...) is a child of the span that is current where the call begins. A
    request's span (`GET`) has links to those of all calls that it served, and is a child of the one
    if it served one only.

    Args:
        tracer_provider: where spans go; None for the global one.
        meter_provider: where metrics go; None for the global one.

    Raises:
        ImportError: on import, without opentelemetry-api.
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        self._tracer = get_tracer("leadstatus_async", __version__, tracer_provider)
        meter = get_meter("leadstatus_async", __version__, meter_provider)
        self._calls: dict[int, tuple[CallStarted, Span]] = {}  # under way
        self._rate: float | None = None
        self._paused_until = 0.0
        self._requests = meter.create_histogram(
            "leadstatus.request.duration",
            "s",
            "From sending a request to the end of its answer",
            explicit_bucket_boundaries_advisory=REQUEST_SECONDS,
        )
        self._durations = meter.create_histogram(
            "leadstatus.call.duration",
            "s",
            "From the beginning of a call to its end",
            explicit_bucket_boundaries_advisory=CALL_SECONDS,
        )
        self._in_flight = meter.create_up_down_counter("leadstatus.calls.active", "{call}", "Calls under way")
        self._leads = meter.create_counter("leadstatus.leads", "{lead}", "Leads of calls that are over")
        self._retries = meter.create_counter("leadstatus.retries", "{request}", "Requests to be sent again")
        self._waited = meter.create_counter("leadstatus.waited", "s", "In the queue, in pauses, in back-off")
        meter.create_observable_gauge(
            "leadstatus.rate", [self._observe_rate], "{request}/s", "Requests per second, as learned"
        )
        meter.create_observable_gauge(
            "leadstatus.paused", [self._observe_pause], "s", "Until the pause gate opens again"
        )
        self._outage = meter.create_up_down_counter(
            "leadstatus.outage", "{session}", "Sessions whose server seems down"
        )

    def __call__(self, event: Event) -> None:
        """Record an event."""
        match event:
            case CallStarted():
                self._begin(event)
            case CallFinished():
                self._end(event)
            case AttemptFinished():
                self._attempt(event)
            case BatchFinished(stats=stats):
                self._waited.add(stats.waited)
            case RetryScheduled(error=error):
                self._retries.add(1, {"error.type": error})
            case RateChanged(rate=rate):
                self._rate = rate
            case Paused(seconds=seconds):
                self._paused_until = max(self._paused_until, time.monotonic() + seconds)
            case OutageStarted() | OutageEnded():
                self._outage.add(1 if isinstance(event, OutageStarted) else -1)
            case _:
                pass

    def _begin(self, call: CallStarted) -> None:
        attributes: dict[str, str | int] = {
            "leadstatus.account": call.account,
            "leadstatus.campaign": call.campaign,
        }
        if call.leads is not None:
            attributes["leadstatus.leads"] = call.leads
        span = self._tracer.start_span(f"leadstatus.{call.kind}", attributes=attributes)
        self._calls[call.call_id] = call, span
        self._in_flight.add(1, {"leadstatus.call": call.kind})

    def _end(self, call: CallFinished) -> None:
        begun, span = self._calls.pop(call.call_id)
        span.set_attributes(
            {
                "leadstatus.leads": call.leads,
                "leadstatus.failures": call.failures,
                "leadstatus.requests": call.stats.requests,
                "leadstatus.retries": call.stats.retries,
                "leadstatus.cached": call.stats.cached,
                "leadstatus.waited": call.stats.waited,
            }
        )
        kind: dict[str, str] = {"leadstatus.call": begun.kind}
        self._in_flight.add(-1, kind)
        self._leads.add(call.leads - call.failures, {"leadstatus.outcome": "answered"})
        self._leads.add(call.failures, {"leadstatus.outcome": "failed"})
        if call.error is not None:
            span.set_attribute("error.type", call.error)
            span.set_status(StatusCode.ERROR, call.error)
            kind["error.type"] = call.error
        self._durations.record(call.seconds, kind)
        span.end()

    def _attempt(self, request: AttemptFinished) -> None:
        outcome: dict[str, str | int] = {"http.request.method": "GET"}
        if request.status is not None:
            outcome["http.response.status_code"] = request.status
        if request.error is not None:
            outcome["error.type"] = request.error
        self._requests.record(request.seconds, outcome)
        served = [self._calls[call_id][1] for call_id in request.call_ids if call_id in self._calls]
        attributes = {
            **outcome,
            "http.request.resend_count": request.attempt - 1,
            "leadstatus.account": request.account,
            "leadstatus.campaign": request.campaign,
            "leadstatus.leads": request.leads,
        }
        if request.trace_id is not None:
            attributes["leadstatus.trace_id"] = request.trace_id
        began = int(request.started_at * 1e9)
        span = self._tracer.start_span(
            "GET",
            set_span_in_context(served[0], Context()) if len(served) == 1 else Context(),
            SpanKind.CLIENT,
            attributes,
            [Link(call.get_span_context()) for call in served],
            began,
        )
        if request.error is not None:
            span.set_status(StatusCode.ERROR, request.error)
        span.end(began + int(request.seconds * 1e9))

    def _observe_rate(self, _: CallbackOptions) -> Iterable[Observation]:
        return [] if self._rate is None else [Observation(self._rate)]

    def _observe_pause(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(max(0.0, self._paused_until - time.monotonic()))]
