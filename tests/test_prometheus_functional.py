"""Prometheus: what is exposed when it is scraped."""

from __future__ import annotations

import asyncio
import math

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from leadstatus_async import RateLimit, RetryPolicy
from leadstatus_async.events import OutageEnded, OutageStarted, Paused, RateChanged
from leadstatus_async.prometheus import PrometheusMetrics


class Scraped:
    """A registry, scraped as text at each look."""

    def __init__(self):
        self.registry = CollectorRegistry()
        self.observe = PrometheusMetrics(self.registry)

    def __getitem__(self, name):
        """Return the samples of a metric by the values of their labels, in the order of these."""
        families = text_string_to_metric_families(generate_latest(self.registry).decode())
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return {tuple(value for _, value in sorted(one.labels.items())): one.value for one in samples}

    def one(self, name):
        (value,) = self[name].values()
        return value


@pytest.fixture
def scraped():
    """Give a registry of its own."""
    return Scraped()


async def test_a_dashboard_has_what_it_needs(server, make_session, scraped):
    """Requests by status and error, their durations, retries, seconds waited, leads, calls under way."""
    session = make_session(
        on_event=scraped.observe, rate_limit=RateLimit(50), retry=RetryPolicy(base_delay=0.01, max_delay=0.02)
    )
    campaign = session.campaign("acc", "camp")
    server.bad_ids.add("bad")
    server.script("500", "cut-body")
    await campaign.get_many(["lead-1", "lead-2", "bad"], on_error="collect")
    server.hold()
    asking = asyncio.create_task(campaign.get("lead-3"))
    await server.wait_for_requests(server.count + 1)
    assert scraped["leadstatus_calls_in_flight"] == {("get_many",): 0, ("get",): 1}
    server.release()
    await asking
    requests = scraped["leadstatus_requests_total"]
    assert sum(requests.values()) == server.count == session.stats.requests
    assert requests["ServerError", "500"] == 1
    assert requests["APIConnectionError", ""] == 1
    assert requests["", "200"] >= 2
    assert scraped.one("leadstatus_request_duration_seconds_count") == server.count
    assert scraped["leadstatus_retries_total"] == {("ServerError",): 1, ("APIConnectionError",): 1}
    assert scraped.one("leadstatus_waited_seconds_total") == pytest.approx(session.stats.waited)
    assert scraped["leadstatus_leads_total"] == {("answered",): 3, ("failed",): 1}
    assert scraped["leadstatus_call_duration_seconds_count"] == {("get_many",): 1, ("get",): 1}
    assert scraped["leadstatus_calls_in_flight"] == {("get_many",): 0, ("get",): 0}
    text = generate_latest(scraped.registry).decode()
    for told in ("lead-", "acc", "camp"):
        assert told not in text


def test_gauges_tell_what_is_known(scraped):
    """The rate once it was learned, the rest of a pause, and whether there is an outage."""
    assert math.isnan(scraped.one("leadstatus_rate"))
    assert scraped.one("leadstatus_paused_seconds") == 0
    for event in (RateChanged(20.0, 7.5, "429"), Paused(30.0, "429"), Paused(1.0, "429"), OutageStarted("x")):
        scraped.observe(event)
    assert scraped.one("leadstatus_rate") == 7.5
    assert 20 < scraped.one("leadstatus_paused_seconds") <= 30
    assert scraped.one("leadstatus_pauses_total") == 2
    scraped.observe(OutageStarted("of another session"))
    assert scraped.one("leadstatus_outage") == 2
    scraped.observe(OutageEnded(3.0, answered=False))
    assert scraped.one("leadstatus_outage") == 1
    scraped.observe(OutageEnded(3.0, answered=True))
    scraped.observe(RateChanged(7.5, None, "none"))
    assert scraped.one("leadstatus_outage") == 0
    assert math.isnan(scraped.one("leadstatus_rate"))


def test_names_follow_the_conventions(scraped):
    """Counters end in `_total`, times are in seconds, and every metric has a help text and our prefix."""
    families = list(text_string_to_metric_families(generate_latest(scraped.registry).decode()))
    names = {family.name: family.type for family in families if not family.name.endswith("_created")}
    assert all(name.startswith("leadstatus_") for name in names)
    assert all(family.documentation for family in families)
    assert names["leadstatus_requests"] == names["leadstatus_waited_seconds"] == "counter"
    assert names["leadstatus_request_duration_seconds"] == "histogram"
    assert len(names) == 11


async def test_one_object_serves_several_sessions(server, make_session, scraped):
    """A second one on the same registry is refused by prometheus_client, in its words."""
    for _ in range(2):
        await make_session(on_event=scraped.observe).campaign("a", "c").get("x")
    assert scraped.one("leadstatus_requests_total") == 2
    with pytest.raises(ValueError, match="leadstatus"):
        PrometheusMetrics(scraped.registry)
