"""OpenTelemetry by its own SDK: whose child each span is, what it links, and what is measured."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from leadstatus_async import AuthenticationError, RateLimit, RetryPolicy
from leadstatus_async.events import OutageEnded, OutageStarted, Paused, RateChanged
from leadstatus_async.otel import OpenTelemetry
from tests.conftest import KEY


class Backend:
    """Keeps what is exported."""

    def __init__(self):
        self._spans, self._metrics = InMemorySpanExporter(), InMemoryMetricReader()
        traces = TracerProvider()
        traces.add_span_processor(SimpleSpanProcessor(self._spans))
        self.observe = OpenTelemetry(traces, MeterProvider([self._metrics]))
        self.tracer = traces.get_tracer("app")

    def spans(self, name):
        return [span for span in self._spans.get_finished_spans() if span.name == name]

    def points(self, name):
        """Return the points of a metric, by the values of their attributes."""
        data = self._metrics.get_metrics_data()
        found = [
            metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
        ]
        return {
            tuple(point.attributes.values()): point for metric in found for point in metric.data.data_points
        }

    def values(self, name):
        return {key: point.value for key, point in self.points(name).items()}

    def everything(self):
        return "".join(span.to_json() for span in self._spans.get_finished_spans())


@pytest.fixture
def backend():
    """Give an exporter in memory."""
    return Backend()


async def test_a_calls_span_is_a_child_of_its_callers(server, make_session, backend):
    """Of whatever kind, and in whichever of many tasks; a root where nothing is traced."""
    campaign = make_session(on_event=backend.observe).campaign("acc", "camp")
    server.set_status("d", "completed")

    async def handler(name):
        with backend.tracer.start_as_current_span(name):
            match name:
                case "get_many":
                    await campaign.get_many(["a", "b"])
                case "get":
                    await campaign.get("c")
                case "stream":
                    [_ async for _ in campaign.stream(["c"])]
                case "watch":
                    [_ async for _ in campaign.watch(["d"], interval=1)]

    kinds = ["get_many", "get", "stream", "watch"]
    await asyncio.gather(*map(handler, kinds))
    await campaign.get("e")
    for kind in kinds:
        (caller,) = backend.spans(kind)
        spans = backend.spans(f"leadstatus.{kind}")
        assert spans[0].parent.span_id == caller.context.span_id
        assert spans[0].attributes["leadstatus.campaign"] == "camp"
        assert spans[0].attributes["leadstatus.leads"] == (2 if kind == "get_many" else 1)
        assert spans[0].attributes["leadstatus.failures"] == 0
    assert backend.spans("leadstatus.get")[1].parent is None


async def test_a_requests_span_links_every_call_that_it_served(server, make_session, backend):
    """All gets that travelled together; it is a child of the one if there is one only."""
    campaign = make_session(on_event=backend.observe).campaign("a", "c")
    before = time.time_ns()
    await asyncio.gather(*(campaign.get(f"lead-{number}") for number in range(5)))
    await campaign.get_many(["lead-9"])
    shared, own = backend.spans("GET")
    gets, (many,) = backend.spans("leadstatus.get"), backend.spans("leadstatus.get_many")
    assert {link.context.span_id for link in shared.links} == {span.context.span_id for span in gets}
    assert shared.parent is None
    assert shared.attributes["leadstatus.leads"] == 5
    assert own.parent.span_id == many.context.span_id
    assert [link.context.span_id for link in own.links] == [many.context.span_id]
    assert before <= shared.start_time < shared.end_time <= own.start_time < own.end_time
    assert shared.end_time <= max(span.end_time for span in gets)
    assert "lead-" not in backend.everything()
    assert KEY not in backend.everything()


async def test_retries_and_failures_are_told(server, make_session, backend):
    """Each attempt has a span, with its status, error and number; a call that raises is an error."""
    campaign = make_session(on_event=backend.observe).campaign("a", "c")
    server.script("500", "reset", "ok", "401")
    await campaign.get_many(["x"])
    with pytest.raises(AuthenticationError):
        await campaign.get("y")
    failed, cut, good, refused = backend.spans("GET")
    assert failed.attributes["http.response.status_code"] == 500
    assert failed.attributes["error.type"] == "ServerError"
    assert failed.attributes["leadstatus.trace_id"].startswith("trace-")
    assert failed.status.status_code is refused.status.status_code is StatusCode.ERROR
    assert "http.response.status_code" not in cut.attributes
    assert cut.attributes["error.type"] == "APIConnectionError"
    assert good.attributes["http.request.resend_count"] == 1
    assert good.attributes["http.response.status_code"] == 200
    assert good.status.status_code is StatusCode.UNSET
    (many,), (get,) = backend.spans("leadstatus.get_many"), backend.spans("leadstatus.get")
    assert many.status.status_code is StatusCode.UNSET
    assert many.attributes["leadstatus.requests"] == 3
    assert (get.status.status_code, get.status.description) == (StatusCode.ERROR, "AuthenticationError")
    assert get.attributes["leadstatus.failures"] == 1


async def test_metrics_add_up(server, make_session, backend):
    """Requests by status, retries, seconds waited, leads, calls under way and their durations."""
    session = make_session(
        on_event=backend.observe, rate_limit=RateLimit(50), retry=RetryPolicy(base_delay=0.01, max_delay=0.02)
    )
    campaign = session.campaign("a", "c")
    server.bad_ids.add("bad")
    server.script("500")
    result = await campaign.get_many(["a", "b", "bad"], on_error="collect")
    server.hold()
    asking = asyncio.create_task(campaign.get("x"))
    await server.wait_for_requests(server.count + 1)
    assert backend.values("leadstatus.calls.active") == {("get_many",): 0, ("get",): 1}
    server.release()
    await asking
    requests = backend.points("leadstatus.request.duration")
    counts = {key: point.count for key, point in requests.items()}
    assert sum(counts.values()) == server.count == session.stats.requests
    assert counts["GET", 500, "ServerError"] == 1
    assert counts["GET", 200] == server.count - counts["GET", 400, "BadRequestError"] - 1
    assert backend.values("leadstatus.leads") == {("answered",): 3, ("failed",): 1}
    assert backend.values("leadstatus.retries") == {("ServerError",): result.stats.retries}
    assert backend.values("leadstatus.waited") == {(): pytest.approx(session.stats.waited)}
    assert backend.values("leadstatus.calls.active") == {("get_many",): 0, ("get",): 0}
    calls = {key: point.count for key, point in backend.points("leadstatus.call.duration").items()}
    assert calls == {("get_many",): 1, ("get",): 1}


def test_gauges_tell_what_is_known(backend):
    """The rate once it was learned, the rest of a pause, and whether there is an outage."""
    assert backend.values("leadstatus.rate") == {}
    assert backend.values("leadstatus.paused") == {(): 0.0}
    assert backend.values("leadstatus.outage") == {}
    for event in (RateChanged(20.0, 7.5, "429"), Paused(30.0, "429"), Paused(1.0, "429"), OutageStarted("x")):
        backend.observe(event)
    assert backend.values("leadstatus.rate") == {(): 7.5}
    assert backend.values("leadstatus.paused") == {(): pytest.approx(30, abs=5)}
    assert backend.values("leadstatus.outage") == {(): 1}
    backend.observe(OutageEnded(3.0, answered=True))
    assert backend.values("leadstatus.outage") == {(): 0}


async def test_it_uses_the_global_providers_by_default(server, make_session, monkeypatch):
    """So that an application that has set up OpenTelemetry gives it nothing."""
    backend = Backend()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: backend.tracer_provider)
    backend.tracer_provider = TracerProvider()
    seen = InMemorySpanExporter()
    backend.tracer_provider.add_span_processor(SimpleSpanProcessor(seen))
    campaign = make_session(on_event=OpenTelemetry()).campaign("a", "c")
    await campaign.get("x")
    assert {span.name for span in seen.get_finished_spans()} == {"GET", "leadstatus.get"}


@pytest.mark.parametrize("name", ["otel", "prometheus"])
def test_an_absent_package_is_named(name):
    """The import says what to install."""
    code = (
        "import sys; sys.modules.update({'opentelemetry.context': None, 'prometheus_client': None})\n"
        f"import leadstatus_async.{name}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"pip install 'leadstatus-async[{name}]'" in done.stderr
