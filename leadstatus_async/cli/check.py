"""`leadstatus check`: ask for the status of leads, print what came, and say what did not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec

from leadstatus_async import BatchResult, LeadStatusError, LeadStatusSession, RateLimit
from leadstatus_async.cli.exits import Exit, exit_of
from leadstatus_async.cli.progress import showing_progress
from leadstatus_async.cli.render import console, data, leads_table, story, summary_table
from leadstatus_async.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console


class Wish(msgspec.Struct, frozen=True):
    """What the command line asks for."""

    account: str
    campaign: str
    lead_ids: list[str]
    api_key: str | None
    base_url: str | None
    form: str
    rate: float
    burst: int | None
    concurrency: int
    chunk_size: int
    deadline: float | None


async def check(wish: Wish) -> Exit:
    """Ask, print and return the exit code."""
    words = console(sys.stderr)
    async with LeadStatusSession(
        wish.api_key,
        base_url=wish.base_url,
        rate_limit=RateLimit(wish.rate, burst=wish.burst),
        concurrency=wish.concurrency,
        chunk_size=wish.chunk_size,
    ) as session:
        campaign = session.campaign(wish.account, wish.campaign)
        with showing_progress(words, len(wish.lead_ids)) as show:
            result = await campaign.get_many(
                wish.lead_ids, on_error="collect", deadline=wish.deadline, progress=show
            )
    _show(result, wish.form)
    _tell(result, words)
    return exit_of(result)


def _show(result: BatchResult[Any], form: str) -> None:
    if form != "table":
        sys.stdout.write(data(result, form))
        return
    out = console(sys.stdout)
    out.print(leads_table(result))
    if len(result) > 1:
        out.print()
        out.print(summary_table(result, out.width))


def _tell(result: BatchResult[Any], words: Console) -> None:
    words.print(story(result.stats, len(result)))
    try:
        result.raise_for_failures()
    except LeadStatusError as error:
        for reason in getattr(error, "exceptions", [error]):
            leads = len(getattr(reason, "lead_ids", ()))
            words.print(f"{leads:,} failed, {type(reason).__name__}: {reason}", markup=False)


def checked_form(form: str) -> str:
    """Return the output format.

    Raises:
        ConfigurationError: there is no such format.
    """
    if form not in ("table", "csv", "jsonl", "json"):
        raise ConfigurationError(f"--format must be table, csv, jsonl or json, not {form}")
    return form
