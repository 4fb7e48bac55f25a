"""`leadstatus demo`: the library against its own fake server, with a rate limit and some faults.

No key and no network: the server listens on loopback in this process, and the environment's
settings are left alone.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from leadstatus_async import BatchResult, LeadStatus, LeadStatusSession, Progress, RateLimit
from leadstatus_async.cli.progress import Display
from leadstatus_async.cli.render import story, summary_table
from leadstatus_async.testing import FakeLeadStatusServer, SlidingWindow

if TYPE_CHECKING:
    from rich.console import Console

LEADS = 5_000
_LIMIT = 12  # requests a second
_FAULTS = {"429-retry-after-ms": 17, "502-html": 13}


async def demo(out: Console, words: Console) -> None:
    """Check 5,000 leads of a campaign, show the summary on `out` and say what happened on `words`."""
    words.print(
        f"A fake server that allows {_LIMIT} requests/s answers some of them with 429 and 502. "
        f"Checking {LEADS:,} leads of one campaign."
    )
    with Display(words, LEADS).shown() as display:
        result, paused = await _check(display)
    out.print(summary_table(Counter(map(str, result.counts.elements())), len(result.failures), out))
    words.print(story(result.stats, len(result), result.stats.elapsed))
    words.print(f"Every lead answered, in the order asked; {paused:.1f} s paused because the server said so.")


async def _check(display: Display) -> tuple[BatchResult[LeadStatus], float]:
    paused = 0.0

    def observe(event: object) -> None:
        nonlocal paused
        paused += getattr(event, "seconds", 0.0) if type(event).__name__ == "Paused" else 0.0

    lead_ids = [f"{number:024x}" for number in range(LEADS)]

    def show(progress: Progress) -> None:
        display.update(progress.done, progress.failed, session)

    async with (
        FakeLeadStatusServer(
            rate_limit=SlidingWindow(_LIMIT), faults_every=_FAULTS, latency=0.1, keep_requests=False
        ) as server,
        LeadStatusSession(
            "sk_test_demo", base_url=server.url, rate_limit=RateLimit(_LIMIT), on_event=observe
        ) as session,
    ):
        result = await session.campaign("demo-account", "demo-campaign").get_many(lead_ids, progress=show)
    return result, paused
