"""The smaller commands: `plan`, `watch`, `report` and `serve`."""

from __future__ import annotations

import asyncio
import csv
import itertools
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leadstatus_async import LeadStatusSession
from leadstatus_async.cli.exits import Exit
from leadstatus_async.cli.inputs import object_of
from leadstatus_async.cli.output import Standard
from leadstatus_async.cli.render import TableLayout, console, counted, reasons, summary_table
from leadstatus_async.cli.rows import STATUS, Layout, refused, unsafe, values_of
from leadstatus_async.cli.tally import Tally
from leadstatus_async.errors import ConfigurationError, InvalidLeadIdError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TextIO

    from leadstatus_async import Campaign
    from leadstatus_async.cli.inputs import Record, Source
    from leadstatus_async.cli.rows import Values

_BLOCK = 1000


def plan(session: dict[str, Any], account: str, campaigns: Sequence[str], source: Source) -> Exit:
    """Say what checking would cost, without asking anything.

    Raises:
        ConfigurationError: nothing can be asked for.
    """
    client = LeadStatusSession(**session)
    asked = [client.campaign(account, one) for one in campaigns]
    rows, ids = 0, list[str]()
    for record, wrong in _checked(asked[0], source):
        rows += 1
        if wrong is None:
            ids.append(record.lead_id)
    if not ids:
        raise ConfigurationError(f"no lead IDs in {source.name} that can be asked for")
    plans = [one.plan(ids) for one in asked]
    requests = sum(one.requests for one in plans)
    told = [f"{counted(rows, 'row')}, {counted(len(set(ids)), 'different lead')}"]
    if len(ids) < rows:
        told.append(f"{counted(rows - len(ids), 'row')} that cannot be asked for")
    told.append(
        f"{counted(requests, 'request')}, {sum(one.bytes for one in plans):,} bytes of paths and queries"
    )
    told.append(f"{client.limiter.wait_time(requests - 1):,.1f} s at this rate, if nothing is refused")
    print("\n".join(told))  # noqa: T201 - it is a command
    return Exit.ANSWERED


async def watch(
    session: dict[str, Any], account: str, campaign: str, source: Source, *, interval: float, form: str | None
) -> Exit:
    """Print the first status of each lead and then each change, until all are settled.

    Raises:
        ConfigurationError: there is no such format, or nothing can be asked for.
    """
    form = form or ("table" if sys.stdout.isatty() else "jsonl")
    if form not in ("table", "jsonl"):
        raise ConfigurationError(f"--format must be table or jsonl, not {form}")
    layout = TableLayout(console(sys.stdout)) if form == "table" else Layout(form)
    out = Standard(text=form == "table")
    latest: dict[str, Values] = {}
    ids: dict[str, Record] = {}
    tally = Tally()

    def show(record: Record, values: Values) -> None:
        out.write(layout.row(layout.front(record), None, values))

    async with LeadStatusSession(**session) as client:
        watched = client.campaign(account, campaign)
        checked = list(_checked(watched, source))
        out.write(layout.header)
        for record, wrong in checked:
            if wrong is None:
                ids.setdefault(record.lead_id, record)
            else:
                tally.add(refused(record.place, wrong))
                show(record, refused(record.place, wrong))
        if ids:
            async for change in watched.watch(ids, interval=interval):
                latest[change.lead_id] = values_of(change)
                show(ids[change.lead_id], latest[change.lead_id])
        for values in latest.values():
            tally.add(values)
    return tally.exit


def _checked(campaign: Campaign, source: Source) -> Iterator[tuple[Record, str | None]]:
    """Yield each record with what keeps it from being asked for."""
    records = iter(source)
    while block := list(itertools.islice(records, _BLOCK)):
        wrong = {at: record.wrong for at, record in enumerate(block) if record.wrong}
        rest = [at for at in range(len(block)) if at not in wrong]
        try:
            campaign.plan([block[at].lead_id for at in rest])
        except InvalidLeadIdError as error:
            wrong |= {rest[index]: reason for index, _, reason in error.args[0]}
        yield from ((record, wrong.get(at)) for at, record in enumerate(block))


def report(files: Sequence[str]) -> Exit:
    """Print what files of output have, of any format.

    Raises:
        ConfigurationError: one cannot be read, or is none.
    """
    tally = Tally()
    for name in files:
        for values in _written(name):
            tally.add(values)
    out = console(sys.stdout)
    out.print(summary_table(tally.statuses, tally.failed, out))
    for sentence in [f"{counted(tally.rows, 'row')}", *reasons(tally)]:
        out.print(sentence, markup=False)
    return tally.exit if tally.rows else Exit.ANSWERED


def _written(name: str) -> Iterator[Values]:
    """Yield what stands in the columns of a status, for each row of a file."""
    try:
        with Path(name).open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            begin = file.read(1)
            file.seek(0)
            for number, row in enumerate(_objects(file) if begin in ("{", "[") else _cells(file, name), 1):
                prefix = ""
                while f"leadstatus_{prefix}error_type" in row:  # of rows that were enriched twice
                    prefix += "leadstatus_"
                try:
                    yield tuple([row[f"{prefix}{one}" if f"{prefix}{one}" in row else one] for one in STATUS])
                except KeyError:
                    raise ConfigurationError(
                        f"row {number} of {name} has no status: is it an output?"
                    ) from None
    except OSError as error:
        raise ConfigurationError(f"cannot read {name}: {error.strerror}") from None
    except csv.Error as error:
        raise ConfigurationError(f"cannot read {name}: {error}") from None


def _objects(file: TextIO) -> Iterator[dict[str, Any]]:
    """Yield the objects of JSON lines, or of an array with an object on each line."""
    for line in file:
        text = line.strip().removesuffix(",")
        if text not in ("[", "]", "[]", ""):
            yield object_of(text) or {}


def _cells(file: TextIO, name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of CSV or TSV, by their header."""
    header = file.readline()
    delimiter = "\t" if Path(name).suffix.lower() == ".tsv" or "\tworkflow_status" in header else ","
    file.seek(0)
    for row in csv.DictReader(file, delimiter=delimiter):
        yield {str(key): unsafe(value) if isinstance(value, str) else value for key, value in row.items()}


async def serve(port: int, rate: float | None, latency: float, faults: dict[str, float], seed: int) -> Exit:
    """Run the fake server until it is interrupted.

    Raises:
        ConfigurationError: an option is bad, or the port is taken.
    """
    from leadstatus_async.testing import FakeLeadStatusServer, TokenBucket  # noqa: PLC0415

    try:
        limit = None if rate is None else TokenBucket(rate, max(1, int(rate)))
        server = FakeLeadStatusServer(
            port=port, rate_limit=limit, latency=latency, faults_every=faults, seed=seed, keep_requests=False
        )
        async with server:
            print(f"{server.url}\nexport SONARLY_BASE_URL={server.url} SONARLY_API_KEY=sk_test", flush=True)  # noqa: T201
            ended, loop = asyncio.Event(), asyncio.get_running_loop()
            codes = {signal.SIGINT: Exit.INTERRUPTED, signal.SIGTERM: Exit.TERMINATED}
            heard: list[Exit] = []

            def hear(number: int, _: object) -> None:
                heard.append(codes[signal.Signals(number)])
                loop.call_soon_threadsafe(ended.set)

            for number in codes:
                signal.signal(number, hear)
            await ended.wait()
            return heard[0]
    except OSError as error:
        raise ConfigurationError(f"cannot listen on port {port}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigurationError(f"cannot serve: {error}") from None
