"""`leadstatus check`: rows in, the same rows with statuses out, in order, as the answers come.

A thin user of `Campaign.stream`, one stream for each campaign. Before anything is asked, what an earlier run
has written is read beside the input (`--resume`); at the end what failed then is asked once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shlex
import sys
from collections import deque
from itertools import chain, tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leadstatus_async import LeadFailure, LeadStatus, LeadStatusError, LeadStatusSession
from leadstatus_async.cli.exits import Exit
from leadstatus_async.cli.inputs import Record, Source
from leadstatus_async.cli.output import Parts, Standard
from leadstatus_async.cli.progress import Display
from leadstatus_async.cli.pump import Pump, Shared
from leadstatus_async.cli.render import TableLayout, console, counted, learned, reasons, story, summary_table
from leadstatus_async.cli.rows import Layout, refused, values_of, worth_asking
from leadstatus_async.cli.signals import BlockedError, Stop
from leadstatus_async.cli.tally import Tally
from leadstatus_async.cli.wish import FAILED, RESUMED, checked_form, columns_of, require_apart
from leadstatus_async.errors import ConfigurationError, DeadlineExceededError, InvalidLeadIdError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterable, Iterator

    from rich.console import Console

    from leadstatus_async import Campaign
    from leadstatus_async._calls.stream import StatusStream
    from leadstatus_async.cli.rows import Front, Row, Values
    from leadstatus_async.cli.wish import Wish

    Outcome = LeadStatus | LeadFailure

_AHEAD = 4  # times what can be in flight: read ahead of the first lead without an outcome
_TOGETHER = 1000  # outcomes whose rows are written together


def check(wish: Wish) -> Exit:
    """Do what is wished, and return the exit code.

    Raises:
        ConfigurationError: something cannot be done as wished; nothing was asked.
        OSError: rows cannot be written.
    """
    words = console(sys.stderr)
    form = checked_form(wish, words)
    with (
        contextlib.closing(Source(wish.ids, wish.file, wish.reading)) as source,
        contextlib.closing(_Job(wish, form, source, words)) as job,
    ):
        try:
            if job.prepare():
                asyncio.run(job.run())
        except OSError as error:
            if wish.output is None:
                raise
            print(f"leadstatus: cannot write {wish.output}: {error.strerror}", file=sys.stderr)  # noqa: T201
            job.tell_how_to_go_on()
            return Exit.FAILURE
        return job.exit


class _Job:
    """Rows on their way from the input to the output."""

    def __init__(self, wish: Wish, form: str, source: Source, words: Console) -> None:
        self._wish = wish
        self._words = words
        self._form = form
        self._source = source
        if source.guessed and not wish.quiet:
            words.print(f"lead IDs: column {source.column!r} of {source.name}", markup=False)
        several = len(wish.campaigns) > 1
        columns = columns_of(source, form) if wish.enrich else None
        self._table = TableLayout(console(sys.stdout), several=several) if form == "table" else None
        self._rows = Layout(
            form, several=several, columns=columns, column=source.column or "lead_id", safe=wish.safe
        )
        self._records: Iterator[Record] = iter(source)
        self._pending: deque[Any] = deque()
        self._tally = Tally()
        self._display = Display(words, None, quiet=True)
        self._total: int | None = None  # rows that there will be
        self._header = self._table.header if self._table else self._rows.header  # if it is not written yet
        self._session = LeadStatusSession(on_event=self._observe, **wish.session)
        self._campaigns = [self._session.campaign(wish.account, one) for one in wish.campaigns]
        self._out: Standard | Parts = Standard(text=form == "table")
        if wish.output is not None:
            path = Path(wish.output)
            self._out = Parts(path, self._asked())
            require_apart(self._out, source)
        self._place = 0  # of the next row
        self._unasked = 0  # failed rows that are there, and are to be asked for again
        self._first = True  # of the objects in an array of JSON
        self._done: list[Outcome] = []  # whose rows are to be written
        self._noted: list[tuple[int, Values]] = []  # what became of failed rows
        self._noted_any = False
        self._scheduled = False
        self._fault: ConfigurationError | None = None  # of the input
        self._broken: BaseException | None = None  # what writing has raised
        self._stop = Stop(self._out)
        self._seconds = 0.0
        self._finished = wish.output is None

    def _asked(self) -> dict[str, Any]:
        """Return what a run that goes on must have in common with the one before."""
        wish, source = self._wish, self._source
        return {
            "--account": wish.account,
            "--campaign": list(wish.campaigns),
            "--base-url": self._session.base_url,
            "--format": self._form,
            "--input-format": source.form,
            "--column": source.column,
            "--encoding": wish.reading.encoding,
            "--skip-blank": wish.reading.skip_blank,
            "--comment": wish.reading.comment,
            "--enrich": wish.enrich,
            "--only": sorted(wish.only),
            "--spreadsheet-safe": wish.safe,
        }

    # Before anything is asked

    def prepare(self) -> bool:
        """See what is there already; return whether there is anything to ask for."""
        wish, out = self._wish, self._out
        going_on = False
        if isinstance(out, Parts) and out.there(force=wish.force, resume=wish.resume):
            if out.finished and wish.only:
                raise ConfigurationError(
                    f"{out.path} is finished; made with --only, it does not tell what has failed"
                )
            size = self._catch_up(out)
            if out.finished:
                return self._goes_on_behind(out)
            going_on = self._place > 0
            if going_on:
                out.go_on(size, self._place)
        first = next(self._records, None)
        if first is None and not going_on:
            raise ConfigurationError(f"no lead IDs in {self._source.name}")
        self._records = chain([] if first is None else [first], self._records)
        self._display = self._shown()
        if not going_on and isinstance(out, Parts):
            out.begin(self._header)
            self._header = b""
        elif going_on:
            self._header = b""
        return True

    def _shown(self) -> Display:
        wish, total = self._wish, self._source.count()
        self._total = total and total * len(self._campaigns)
        return Display(
            self._words,
            self._total,
            per_request=wish.session.get("chunk_size", 100),
            live=wish.output is not None or not sys.stdout.isatty(),
            quiet=wish.quiet or not wish.progress,
        )

    def _catch_up(self, out: Parts) -> int:
        """Read what an earlier run has written beside the input; return how many bytes of it are whole.

        Raises:
            ConfigurationError: the input is another one.
        """
        layout, campaigns = self._rows, self._wish.campaigns
        stored = out.placed(layout.header)
        size = len(layout.header)
        left_out = out.left_out()
        hidden = next(left_out, -1)
        raw: bytes | None
        for record in self._records:
            first, whole, front = self._place, size, layout.front(record)
            found: list[Values] = []
            for campaign in campaigns:
                if self._place == hidden:
                    hidden = next(left_out, -1)
                else:
                    _, raw = next(stored, (0, None))
                    if raw is None:
                        self._place = first
                        self._records = chain([record], self._records)
                        return whole
                    row = layout.parse(raw)
                    if row is None or row.front != front or row.campaign not in (None, campaign):
                        raise ConfigurationError(
                            f"{out.rows} has another row where that of {record.place} of {self._source.name} "
                            "belongs: the input has changed; give --force to begin anew"
                        )
                    size += len(raw)
                    found.append(row.values)
                self._place += 1
            for values in found:
                if worth_asking(values):
                    self._unasked += 1
                else:
                    self._tally.add(values)
        if next(stored, None) is not None:
            raise ConfigurationError(
                f"{out.rows} has more rows than {self._source.name} has lines: the input has changed; "
                "give --force to begin anew"
            )
        return size

    def _goes_on_behind(self, out: Parts) -> bool:
        """Return whether a finished file, which has been read, has rows that are to be asked for again.

        Raises:
            ConfigurationError: it is not known how it was made, or that of which was made.
        """
        whole = next(self._records, None) is None and self._place > 0
        if not whole or (self._unasked and not out.known):
            raise ConfigurationError(
                f"{out.path} is there, and was not made by this job; give --force to begin anew"
            )
        if not self._unasked:
            self._finished = True
            self._say(
                f"{out.path} has every row, and none to ask for again (how it was made is not kept then)"
            )
        else:
            self._display = self._shown()
        return not self._finished

    # Asking

    async def run(self) -> None:
        """Ask for all that is not there, then for what has failed before."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        stop, task = self._stop, loop.create_task(self._ask_all())
        with contextlib.closing(stop):
            async with self._session:
                stop.begin(loop, task)
                with self._display.shown() as display:
                    display.begin(self._place)
                    heart = loop.create_task(self._beat(display))
                    await asyncio.wait([task])
                    heart.cancel()
                self._seconds = loop.time() - began
                with contextlib.suppress(BlockedError):
                    self._flush()
                    if self._broken is not None:
                        raise self._broken
                    if not task.cancelled():
                        task.result()
                    if stop.code is None:
                        self._complete()
                self._tell()
                stop.told()

    async def _beat(self, display: Display) -> None:
        while True:
            display.update(self._place, self._tally.failed, self._session)
            await asyncio.sleep(0.2)

    async def _ask_all(self) -> None:
        began = asyncio.get_running_loop().time()
        await self._ask_rest()
        out, seconds = self._out, self._wish.deadline
        if isinstance(out, Parts) and self._wish.resume:
            self._flush()
            if seconds is not None:
                seconds = max(0.001, seconds - (asyncio.get_running_loop().time() - began))
            for number in range(len(self._campaigns)):
                await self._ask_failed(out, number, seconds)

    async def _ask_rest(self) -> None:
        """Ask for the records that have no row yet."""
        most = len(self._campaigns)
        sources: Iterable[Iterator[str | None] | AsyncIterator[str | None]] = tee(self._ids(), most)
        pump: Pump[Record] | None = None
        if not self._source.regular:
            pump = Pump(self._records)
            shared = Shared(self._ids_of(pump), most)
            sources = [shared.reader(number) for number in range(most)]
        answers = [
            _Answers(self._stream(campaign, source, self._wish.deadline))
            for campaign, source in zip(self._campaigns, sources, strict=True)
        ]
        await self._merge(answers)
        if self._fault is not None:
            raise self._fault
        # No call can be made any more: what was not read gets the same error.
        if pump is None:
            for record in self._records:
                await self._refuse(record, answers)
        else:
            async for record in pump:
                await self._refuse(record, answers)

    async def _merge(self, answers: list[_Answers]) -> None:
        """Take what all campaigns say of each record, until there are no more, or none is answered."""
        pending, take = self._pending, self._done.append
        async with contextlib.AsyncExitStack() as stack:
            for one in answers:
                await stack.enter_async_context(one.stream)
            if len(answers) == 1:  # as a rule, and at half the cost
                with answers[0].ending():
                    async for outcome in answers[0].stream:
                        take(outcome)
                        if not self._scheduled or len(self._done) >= _TOGETHER:
                            self._written_soon()
            while not all(one.error for one in answers) or len(pending) * len(answers) > len(self._done):
                outcomes: list[Any] = [await one.next() for one in answers]
                if None in outcomes:
                    return
                self._done.extend(outcomes)
                self._written_soon()

    async def _refuse(self, record: Record, answers: list[_Answers]) -> None:
        self._pending.append(record)
        outcomes: list[Any] = [await one.next() for one in answers]
        try:
            self._campaigns[0].plan([record.lead_id])
        except InvalidLeadIdError as error:  # which it is, whatever became of the others
            outcomes = [LeadFailure("", error)] * len(answers)
        self._done.extend(outcomes)
        self._written_soon()

    def _ids(self) -> Iterator[str | None]:
        with self._noting_fault():
            for record in self._records:
                self._pending.append(record)
                yield None if record.wrong else record.lead_id

    async def _ids_of(self, records: AsyncIterator[Record]) -> AsyncIterator[str | None]:
        with self._noting_fault():
            async for record in records:
                self._pending.append(record)
                yield None if record.wrong else record.lead_id

    @contextlib.contextmanager
    def _noting_fault(self) -> Generator[None]:
        """Note why there are no more records, lest it be taken for the end of a stream or of the file."""
        try:
            yield
        except ConfigurationError as fault:
            self._fault = fault
            raise

    async def _ask_failed(self, out: Parts, number: int, seconds: float | None) -> None:
        """Ask once more for the failed rows of a campaign."""
        most = len(self._campaigns)
        done = -1
        for place, values in out.asked_again(number, most):  # by a run that was cut short
            self._tally.add(values)
            self._noted_any, done = True, place
        waiting: deque[tuple[int, Row]] = deque()

        def ids() -> Iterator[str]:
            for place, raw in out.placed(self._rows.header):
                if place > done and place % most == number:
                    row = self._rows.parse(raw)
                    if row is not None and worth_asking(row.values):
                        waiting.append((place, row))
                        yield self._rows.lead_id(row.front)

        asked = ids()
        answers = _Answers(self._stream(self._campaigns[number], chain(asked), seconds))
        async with answers.stream:
            while (outcome := await answers.next()) is not None and not answers.error:
                place, row = waiting.popleft()
                if isinstance(outcome, LeadFailure) and isinstance(outcome.error, DeadlineExceededError):
                    self._tally.add(row.values)  # what it failed with before says more
                else:
                    self._note(place, outcome)
        for _ in asked:  # no call can be made any more: they stay as they are
            pass
        for _, row in waiting:
            self._tally.add(row.values)

    def _stream(self, campaign: Campaign, source: Any, seconds: float | None) -> StatusStream[Outcome]:
        session = self._wish.session
        most = _AHEAD * session.get("concurrency", 16) * session.get("chunk_size", 100)
        return campaign.stream(source, on_error="collect", max_buffered=most, deadline=seconds)

    # What became of a row

    def _laid_out(self, done: list[Any]) -> bytes:
        """Return the rows of outcomes, which are those of the records that have waited longest."""
        wish, several = self._wish, len(self._campaigns)
        # Where no campaign is answered any more there may be one outcome more than records.
        records = [self._pending.popleft() for _ in range(min(len(done) // several, len(self._pending)))]
        fronts = map((self._table or self._rows).front, records)
        if several == 1 and not (wish.only or self._table) and set(map(type, done)) == {LeadStatus}:
            self._tally.add_answers(done)
            self._place += len(done)
            rows = self._rows.answers(fronts, done)  # as a rule, and at half the cost
        else:
            outcomes = iter(done)
            rows = b"".join(
                [
                    self._row(record, front, campaign, next(outcomes))
                    for record, front in zip(records, fronts, strict=True)
                    for campaign in wish.campaigns
                ]
            )
        if self._form == "json" and rows:
            rows = (b"[\n" if self._first else b",\n") + rows[:-1].replace(b"\n", b",\n")
            self._first = False
        return rows

    def _row(self, record: Record, front: Front, campaign: str, outcome: Outcome) -> bytes:
        """Return a row; nothing if it is filtered out."""
        only = self._wish.only
        values = self._failed(record, outcome) if isinstance(outcome, LeadFailure) else values_of(outcome)
        if outcome.ok:
            self._tally.add(values)
        self._place += 1
        if only and (values[0] or FAILED) not in only:
            self._out.leave_out(self._place - 1)
            return b""
        return (self._table or self._rows).row(front, campaign, values)

    def _failed(self, record: Record, failure: LeadFailure) -> Values:
        """Return the values of a failure, which is counted when it is not to be asked for once more."""
        values = values_of(failure)
        if record.wrong or isinstance(failure.error, InvalidLeadIdError):
            reason = record.wrong or LeadFailure("", failure.error).reason.partition("the ID ")[2]
            if any("\udc80" <= one <= "\udcff" for one in record.lead_id):
                reason = f"is no text in {self._wish.reading.encoding}; give --encoding if it is in another"
            values = refused(record.place, reason)
            self._tally.add(values)
        elif not self._wish.resume:
            self._tally.add(values, failure)
        return values

    def _note(self, place: int, outcome: Outcome) -> None:
        """Note what became of a failed row that was asked for once more."""
        values = values_of(outcome)
        self._tally.add(values, outcome if isinstance(outcome, LeadFailure) else None)
        self._noted.append((place, values))
        self._noted_any = True
        self._written_soon()

    def _written_soon(self) -> None:
        """See that what is there is written before this task waits for more."""
        if len(self._done) >= _TOGETHER:
            self._flush()
        elif not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush_in_time)

    def _flush_in_time(self) -> None:
        self._scheduled = False
        try:
            self._flush()
        except BaseException as error:  # noqa: BLE001 - raised where it can be
            self._broken = error
            self._stop.cancel()

    def _flush(self) -> None:
        done, noted = self._done[:], self._noted[:]
        self._done.clear()
        self._noted.clear()
        if self._broken is None:
            if done:
                self._out.write(self._begin() + self._laid_out(done))
            if noted and isinstance(self._out, Parts):
                self._out.note_again(noted)

    def _begin(self) -> bytes:
        """Return what comes before the first row, once."""
        header, self._header = self._header, b""
        return header

    # The end

    def _complete(self) -> None:
        """All has its row: let the file appear, if any of them could be asked for."""
        self._out.write(self._begin())
        if self._form == "json":
            self._out.write(b"[]\n" if self._first else b"\n]\n")
        out, only = self._out, self._wish.only
        self._finished = self._tally.asked > 0 or isinstance(out, Standard)
        if not self._finished or isinstance(out, Standard):
            return
        failed = self._tally.failed > 0 and (not only or FAILED in only) and self._form in RESUMED
        if self._noted_any:
            out.replace(self._rows, len(self._campaigns), failed=failed)
        elif not out.finished:
            out.finish(failed=failed)

    def _tell(self) -> None:
        """Say what became of it all."""
        tally, quiet = self._tally, self._wish.quiet
        code = self._stop.code
        if not quiet and code is None and tally.rows > 1:
            self._words.print(summary_table(tally.statuses, tally.failed, self._words))
        if not quiet:
            self._say(story(self._session.stats, tally.rows, self._seconds))
            if self._source.skipped:
                self._say(f"{counted(self._source.skipped, 'line')} left out, as asked")
        for sentence in reasons(tally):
            self._words.print(sentence, markup=False)
        if not quiet:
            for sentence in learned(self._session.rate_limit_state):
                self._say(sentence)
        if code is not None:
            how = "terminated" if code is Exit.TERMINATED else "interrupted"
            of = f" of {self._total:,}" if self._total else ""
            self._words.print(f"{how}: {self._place:,}{of} rows written", markup=False)
            self.tell_how_to_go_on()
        elif not self._finished and isinstance(self._out, Parts):
            self._words.print(
                f"no row has a lead ID that can be asked for; the rows are in {self._out.part}", markup=False
            )

    def tell_how_to_go_on(self) -> None:
        """Say by which command, if there is one."""
        if isinstance(self._out, Parts) and self._form in RESUMED:
            # What is before an @ in a URL, a proxy's, is as secret as the key.
            command = [re.sub(r"//[^/\s]*@", "//...@", one) for one in self._wish.command]
            again = [one for one in command if one not in ("--force", "--resume")]
            print("leadstatus", shlex.join([*again, "--resume"]), file=sys.stderr)  # noqa: T201 - it is a command

    def close(self) -> None:
        """Let go of the files."""
        self._out.close()

    @property
    def exit(self) -> Exit:
        """The exit code."""
        if self._stop.code is not None:
            return self._stop.code
        return self._tally.exit

    def _say(self, sentence: str) -> None:
        if not self._wish.quiet:
            self._words.print(sentence, markup=False)

    def _observe(self, event: Any) -> None:
        self._display.observe(event)


class _Answers:
    """The outcomes of a stream, and once it has ended by an error, that error for whoever is next."""

    def __init__(self, stream: StatusStream[Outcome]) -> None:
        self.stream = stream
        self.error: LeadStatusError | None = None

    @contextlib.contextmanager
    def ending(self) -> Generator[None]:
        """Keep the error by which it ends in this block."""
        try:
            yield
        except LeadStatusError as error:
            self.error = error

    async def next(self) -> Outcome | None:
        """Return the next outcome; None if there are no more."""
        if self.error is None:
            with self.ending():
                return await anext(self.stream, None)
        return LeadFailure("", self.error)
