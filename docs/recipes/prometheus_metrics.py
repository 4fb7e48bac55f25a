"""Prometheus: counters fed by `on_event`, gauges that read the session when they are scraped.

`leadstatus_requests_total` counts what the server saw: each physical attempt, retries included. There
are no labels for accounts, campaigns or leads: each of their values would be a time series.

    python docs/recipes/prometheus_metrics.py ACCOUNT CAMPAIGN LEAD_ID...

watches the leads until they settle, and serves http://127.0.0.1:9100/metrics meanwhile
(METRICS_PORT, INTERVAL seconds between polls).
"""

import asyncio
import os
import sys

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from leadstatus_async import LeadStatusSession, RateLimit
from leadstatus_async.events import AttemptFinished, BatchFinished, Event, Paused, RetryScheduled

REQUESTS = Counter("leadstatus_requests", "HTTP requests sent", ["outcome"])
SECONDS = Histogram("leadstatus_request_seconds", "From sending a request to the end of its answer")
RETRIES = Counter("leadstatus_retries", "Requests to be sent again", ["error"])
LEADS = Counter("leadstatus_leads", "Leads asked for", ["outcome"])
PAUSES = Counter("leadstatus_paused_seconds", "Pauses that the server asked for")
IN_FLIGHT = Gauge("leadstatus_in_flight", "Requests on the wire")
QUEUED = Gauge("leadstatus_queued", "Calls that wait for a permit")
RATE = Gauge("leadstatus_rate", "Requests per second allowed now")


def observe(event: Event) -> None:
    match event:
        case AttemptFinished(status=status, error=error, seconds=seconds):
            REQUESTS.labels(outcome=str(status or error)).inc()
            SECONDS.observe(seconds)
        case RetryScheduled(error=error):
            RETRIES.labels(error=error).inc()
        case Paused(seconds=seconds):
            PAUSES.inc(seconds)
        case BatchFinished(leads=leads, failures=failures):
            LEADS.labels(outcome="answered").inc(leads - failures)
            LEADS.labels(outcome="failed").inc(failures)
        case _:
            pass


async def main(account: str, campaign_id: str, *lead_ids: str) -> None:
    server, thread = start_http_server(int(os.environ.get("METRICS_PORT", "9100")), addr="127.0.0.1")
    print(f"metrics on http://127.0.0.1:{server.server_port}/metrics", file=sys.stderr, flush=True)
    try:
        async with LeadStatusSession(rate_limit=RateLimit(20, per=1.0), on_event=observe) as session:
            # Read in the server's thread: both are snapshots, for which no lock is needed.
            IN_FLIGHT.set_function(lambda: session.stats.in_flight)
            QUEUED.set_function(lambda: session.stats.queued)
            RATE.set_function(lambda: session.rate_limit_state.rate or 0.0)
            interval = float(os.environ.get("INTERVAL", "60"))
            async for change in session.campaign(account, campaign_id).watch(lead_ids, interval=interval):
                print(change.to_dict(), flush=True)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
