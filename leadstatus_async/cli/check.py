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
    learned,
    reasons,
    story,
    summary_table,
    visible,
)
from leadstatus_async.errors import ConfigurationError, InvalidLeadIdError

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
        loop = asyncio.get_running_loop()
        started = loop.time()
        found: dict[str, LeadStatus | LeadFailure] = {}
        asking = loop.create_task(_ask(campaign, wish, words, found))
        with _signals(asking) as ended:
            await asyncio.wait([asking])
            if not asking.cancelled():
                asking.result()
            given = [one if isinstance(one, LeadFailure) else found.get(one) for one in wish.lead_ids]
            rows = [_placed(row, place) for place, row in enumerate(given) if row is not None]
            result = BatchResult[Any](rows)
            if found or not ended:
                _show(result, wish.form)
                sys.stdout.flush()
            told = [story(session.stats, len(result), loop.time() - started), *reasons(result.failures)]
            told += learned(session.rate_limit_state)
            if ended:
                how = "terminated" if ended[0] is Exit.TERMINATED else "interrupted"
                told.append(f"{how}: {len(rows) if found else 0:,} of {counted(len(given), 'row')} written")
            for sentence in told:
                words.print(sentence, markup=False)
    return ended[0] if ended else exit_of(result)


async def _ask(
    campaign: Campaign, wish: Wish, words: Console, found: dict[str, LeadStatus | LeadFailure]
) -> None:
    """Enter the outcome of each ID into `found` as soon as it is known."""
    asked = [one for one in wish.lead_ids if isinstance(one, str)]
    most = max(1, len(asked))
    with showing_progress(words, len(wish.lead_ids)) as show:
        stream = campaign.stream(
            asked, ordered=False, max_buffered=most, on_error="collect", deadline=wish.deadline, progress=show
        )
        try:
            async with stream:
                async for outcome in stream:
                    found[outcome.lead_id] = outcome
        except LeadStatusError as error:
            for one in asked:
                found.setdefault(one, LeadFailure(one, error))


def _placed(row: LeadStatus | LeadFailure, place: int) -> LeadStatus | LeadFailure:
    """Return a row whose error, if it tells an index, tells that of the row."""
    error = None if isinstance(row, LeadStatus) else row.error
    if not isinstance(error, InvalidLeadIdError):
        return row
    _, value, reason = error.args[0][0]
    return LeadFailure(row.lead_id, InvalidLeadIdError([(place, value, reason)]))


@contextlib.contextmanager
def _signals(asking: asyncio.Task[None]) -> Generator[list[Exit]]:
    """Let Ctrl-C and SIGTERM end the asking, and nothing else: what was answered is still written.

    Yields a list that has the exit code of the first of them, if any came.
    """
    loop, ended = asyncio.get_running_loop(), list[Exit]()

    def end(code: Exit) -> None:
        ended.append(code)
        asking.cancel()

    codes = {signal.SIGINT: Exit.INTERRUPTED, signal.SIGTERM: Exit.TERMINATED}
    with contextlib.suppress(NotImplementedError, RuntimeError):  # Windows; or not in the main thread
        for number, code in codes.items():
            loop.add_signal_handler(number, end, code)
    try:
        yield ended
    finally:
        with contextlib.suppress(NotImplementedError, RuntimeError):
            for number in codes:
                loop.remove_signal_handler(number)
                if ended:  # all that is left to do is to close
                    signal.signal(number, signal.SIG_IGN)


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
