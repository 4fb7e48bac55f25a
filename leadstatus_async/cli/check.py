"""`leadstatus check`: ask for the status of leads, print what came, and say what did not."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from leadstatus_async import (
    BatchResult,
    BatchStats,
    LeadFailure,
    LeadStatus,
    LeadStatusError,
    LeadStatusSession,
    RateLimit,
)
from leadstatus_async.cli.exits import Exit, exit_of
from leadstatus_async.cli.progress import showing_progress
from leadstatus_async.cli.render import (
    console,
    counted,
    data,
    leads_table,
    reasons,
    story,
    summary_table,
    visible,
)
from leadstatus_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Generator

    from rich.console import Console

    from leadstatus_async import Campaign


class Wish(msgspec.Struct, frozen=True):
    """What the command line asks for."""

    account: str
    campaign: str
    lead_ids: list[str | LeadFailure]
    api_key: str | None
    base_url: str | None
    form: str
    rate: float
    burst: int | None
    concurrency: int
    chunk_size: int
    deadline: float | None


async def check(wish: Wish) -> Exit:
    """Ask, print what came, be it all or not, and return the exit code."""
    words = console(sys.stderr)
    async with LeadStatusSession(
        wish.api_key,
        base_url=wish.base_url,
        rate_limit=RateLimit(wish.rate, burst=wish.burst),
        concurrency=wish.concurrency,
        chunk_size=wish.chunk_size,
    ) as session:
        campaign = session.campaign(wish.account, wish.campaign)
        started = asyncio.get_running_loop().time()
        found, ended = await _ask(campaign, wish, words)
        rows = [one if isinstance(one, LeadFailure) else found.get(one) for one in wish.lead_ids]
        total = session.stats
        stats = BatchStats(
            requests=total.requests,
            retries=total.retries,
            splits=total.splits,
            rate_limited=total.rate_limited,
            waited=total.waited,
            elapsed=asyncio.get_running_loop().time() - started,
        )
    result = BatchResult[Any]([row for row in rows if row is not None], stats)
    if found or ended is None:
        _show(result, wish.form)
    words.print(story(stats, len(result)))
    for sentence in reasons(result.failures):
        words.print(sentence, markup=False)
    if ended is None:
        return exit_of(result)
    how = "interrupted" if ended is Exit.INTERRUPTED else "terminated"
    written = len(result) if found else 0
    words.print(f"{how}: {written:,} of {counted(len(rows), 'row')} written")
    return ended


async def _ask(
    campaign: Campaign, wish: Wish, words: Console
) -> tuple[dict[str, LeadStatus | LeadFailure], Exit | None]:
    """Return the outcome of each ID, and what has ended the asking before its time, if anything."""
    asked = [one for one in wish.lead_ids if isinstance(one, str)]
    found: dict[str, LeadStatus | LeadFailure] = {}
    most = max(1, len(asked))
    with showing_progress(words, len(wish.lead_ids)) as show, _termination() as terminated:
        stream = campaign.stream(
            asked, ordered=False, max_buffered=most, on_error="collect", deadline=wish.deadline, progress=show
        )
        try:
            async with stream:
                async for outcome in stream:
                    found[outcome.lead_id] = outcome
        except asyncio.CancelledError:  # by Ctrl-C or SIGTERM: what was answered is not lost
            return found, Exit.TERMINATED if terminated.is_set() else Exit.INTERRUPTED
        except LeadStatusError as error:
            for one in asked:
                found.setdefault(one, LeadFailure(one, error))
    return found, None


@contextlib.contextmanager
def _termination() -> Generator[asyncio.Event]:
    """Let SIGTERM cancel this task; yields an event that tells whether it did."""
    told, loop, task = asyncio.Event(), asyncio.get_running_loop(), asyncio.current_task()

    def terminate() -> None:
        told.set()
        if task is not None:
            task.cancel()

    with contextlib.suppress(NotImplementedError, RuntimeError):  # Windows; or not in the main thread
        loop.add_signal_handler(signal.SIGTERM, terminate)
    try:
        yield told
    finally:
        with contextlib.suppress(NotImplementedError, RuntimeError):
            loop.remove_signal_handler(signal.SIGTERM)


def _show(result: BatchResult[Any], form: str) -> None:
    out = console(sys.stdout)
    if form == "table":
        out.print(leads_table(result))
        if len(result) > 1:
            out.print()
            out.print(summary_table(result, out))
    elif sys.stdout.isatty():
        sys.stdout.write(visible(data(result, form)))
    else:  # in UTF-8 whatever the locale, so that no answer is lost to it
        sys.stdout.buffer.write(data(result, form).encode())


def checked_form(form: str) -> str:
    """Return the output format.

    Raises:
        ConfigurationError: there is no such format.
    """
    if form not in ("table", "csv", "jsonl", "json"):
        raise ConfigurationError(f"--format must be table, csv, jsonl or json, not {form}")
    return form
