"""A worker over a queue: one lead per job, tried again later, stopped by SIGTERM or Ctrl-C, nothing lost.

Jobs that wait together share requests, so single jobs cost no more than batches. On SIGTERM no new
request begins; what is under way has DRAIN seconds to finish; what it did not get done stays in the
queue. Choose DRAIN below the patience of whoever sends the SIGKILL (Kubernetes: 30 s).

    python docs/recipes/worker.py ACCOUNT CAMPAIGN < lead_ids.txt

The `asyncio.Queue`, filled from stdin, stands for a broker. Answers go to stdout as JSON lines, what
is left to stderr. The exit status is 1 if the API refused the key or the campaign.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import Counter

from leadstatus_async import Campaign, LeadFailure, LeadStatusError, LeadStatusSession, RateLimit
from leadstatus_async.errors import SessionClosedError, is_fatal

DRAIN = float(os.environ.get("DRAIN", "20.0"))
WORKERS = 200  # two full requests' worth of jobs under way
TRIES, LATER = 5, float(os.environ.get("LATER", "5.0"))  # a get gives an outage up within five seconds

Queue = asyncio.Queue[str | None]
tries = Counter[str]()


async def work(queue: Queue, campaign: Campaign, stop: asyncio.Event) -> bool:
    """Do jobs until told to stop; returns whether the API is willing to answer at all."""
    while (lead_id := await queue.get()) is not None:
        tries[lead_id] += 1
        try:
            outcome = await campaign.get(lead_id)
        except LeadStatusError as error:
            closed = isinstance(error, SessionClosedError)
            if closed or is_fatal(error):
                queue.put_nowait(lead_id)
                stop.set()
                return closed
            if error.retryable and tries[lead_id] < TRIES:
                queue.put_nowait(lead_id)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), LATER)
                continue
            print(json.dumps(LeadFailure(lead_id, error).to_dict()), flush=True)
        else:
            print(json.dumps(outcome.to_dict()), flush=True)
    return True


async def main(account: str, campaign_id: str) -> int:
    queue, stop = Queue(), asyncio.Event()
    for lead_id in sys.stdin.read().split():
        queue.put_nowait(lead_id)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with LeadStatusSession(rate_limit=RateLimit(20, per=1.0)) as session:
        campaign = session.campaign(account, campaign_id)
        workers = [asyncio.create_task(work(queue, campaign, stop)) for _ in range(WORKERS)]
        await stop.wait()
        print("stopping", file=sys.stderr, flush=True)
        # Not by cancelling them: an answer that has just come would be thrown away.
        for _ in workers:
            queue.put_nowait(None)
        await session.aclose(drain_timeout=DRAIN)
        willing = await asyncio.gather(*workers)
    while not queue.empty():
        if (lead_id := queue.get_nowait()) is not None:
            print("left", lead_id, file=sys.stderr)
    return 0 if all(willing) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:3])))
