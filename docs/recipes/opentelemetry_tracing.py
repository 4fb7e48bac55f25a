"""OpenTelemetry: a span for each job, and below it one for each HTTP attempt, retries included.

The spans of attempts are those of OpenTelemetry's own aiohttp instrumentation, which must be switched
on before the session is opened. They have the job's span for a parent, because `get_many` sends in
its caller's context. (The requests of `get` are shared by their waiters and belong to none of them:
their spans are roots.) What the library decides becomes events of the job's span, through `on_event`.

    python docs/recipes/opentelemetry_tracing.py ACCOUNT CAMPAIGN LEAD_ID...
"""

import asyncio
import sys

from opentelemetry import trace
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from yarl import URL

from leadstatus_async import LeadStatusSession, RateLimit
from leadstatus_async.events import AttemptFinished, Event, RetryScheduled


def one_line(span: ReadableSpan) -> str:
    return f"{span.to_json(indent=None)}\n"


def without_query(url: URL) -> str:
    return str(url.with_query(None))  # lead IDs stay out of the spans


def observe(event: Event) -> None:
    match event:
        case RetryScheduled(attempt=attempt, error=error, delay=delay):
            facts: dict[str, str | float] = {"attempt": attempt, "error": error, "delay": delay}
            trace.get_current_span().add_event("retry scheduled", facts)
        case AttemptFinished(trace_id=str() as trace_id):  # what the API's support asks for
            trace.get_current_span().add_event("answered", {"sonarly.trace_id": trace_id})
        case _:
            pass


async def main(account: str, campaign_id: str, *lead_ids: str) -> None:
    provider = TracerProvider(resource=Resource({"service.name": "leads"}))
    provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(formatter=one_line)))
    trace.set_tracer_provider(provider)
    AioHttpClientInstrumentor().instrument(url_filter=without_query)
    try:
        async with LeadStatusSession(rate_limit=RateLimit(20, per=1.0), on_event=observe) as session:
            with trace.get_tracer("leads").start_as_current_span("check leads") as span:
                result = await session.campaign(account, campaign_id).get_many(lead_ids, on_error="collect")
                span.set_attributes({"leads": len(result), "leads.failed": len(result.failures)})
    finally:
        provider.shutdown()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
