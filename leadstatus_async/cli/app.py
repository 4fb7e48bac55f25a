"""The command line itself: options, and how errors end.

An error is one sentence on stderr with what to do next; `--debug` shows the traceback, without
locals. The library and its dependencies are imported by the command that runs, not before.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from leadstatus_async.cli.exits import EXITS, Exit, discard_output
from leadstatus_async.cli.options import Account, Campaigns, option, session_options, source, taking
from leadstatus_async.errors import ConfigurationError, LeadStatusError

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    help=f"The campaign workflow status of Sonarly leads. {EXITS}",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_ANYWHERE = ("--debug", "--quiet", "-q", "--no-progress")
_given: list[str] = []  # of these
_arguments: list[str] = []
_finished = False


def _examples(*lines: str) -> str:
    """Return the end of a command's help."""
    return "\b\n".join(["", "Examples:\n" + "\n".join(f"  {line}" for line in lines), "\n\n" + EXITS])


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error. Anywhere.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say only what failed. Anywhere.")] = False,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="Show no progress. Anywhere.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    del debug, quiet, no_progress, version  # `run` has seen to them, wherever they stand


@app.command(epilog=_examples("leadstatus demo", "leadstatus demo --no-progress"))
def demo() -> None:
    """Check 5,000 leads against an embedded fake server: no key, no network, some seconds."""
    from leadstatus_async.cli.demo import demo as run_demo  # noqa: PLC0415
    from leadstatus_async.cli.render import console  # noqa: PLC0415

    words = console(sys.stderr)
    _finish(lambda: asyncio.run(run_demo(console(sys.stdout), words)))


@app.command(
    epilog=_examples(
        "leadstatus check --account A --campaign C --file leads.csv --enrich --output out.csv",
        "cut -f1 leads.tsv | leadstatus check --account A --campaign C --format jsonl -",
    )
)
@taking(lead_source=source, session=session_options)
def check(
    *,
    account: Account,
    campaign: Campaigns,
    output: Annotated[
        Path | None, option("Write F, all at once at the end.", "--output", "-o", metavar="F")
    ] = None,
    form: Annotated[
        str | None, option("table, csv, tsv, jsonl or json; by the suffix of F.", "--format", env="FORMAT")
    ] = None,
    enrich: Annotated[bool, option("Keep the input's own columns, and add to them.", env="ENRICH")] = False,
    only: Annotated[
        list[str] | None, option("Only rows of this status, or failed. Several times.", "--only", env="ONLY")
    ] = None,
    spreadsheet_safe: Annotated[
        bool,
        option("Put ' before what a spreadsheet would take for a formula or number.", env="SPREADSHEET_SAFE"),
    ] = False,
    resume: Annotated[bool, option("Go on with what an earlier run has written.", "--resume")] = False,
    force: Annotated[bool, option("Begin anew, whatever is there.", "--force")] = False,
    deadline: Annotated[float | None, option("Seconds for everything.", env="DEADLINE")] = None,
    lead_source: Any,
    session: Any,
) -> None:
    """Ask for the status of leads: a row for each, in their order."""
    from leadstatus_async.cli.check import check as run_check  # noqa: PLC0415
    from leadstatus_async.cli.wish import Wish  # noqa: PLC0415

    ids, file, reading = lead_source
    wish = Wish(
        account=account,
        campaigns=tuple(campaign),
        ids=ids,
        file=file,
        reading=reading,
        session=session,
        deadline=deadline,
        output=None if output is None else str(output),
        form=form,
        enrich=enrich,
        only=tuple(only or ()),
        safe=spreadsheet_safe,
        resume=resume,
        force=force,
        quiet=_quiet(),
        progress="--no-progress" not in _given,
        command=tuple(_arguments),
    )
    _finish(lambda: run_check(wish))


@app.command(
    epilog=_examples(
        "leadstatus plan --account A --campaign C --file leads.csv --rate 600/min",
        "leadstatus plan --account A --campaign C --file leads.csv --chunk-size 150",
    )
)
@taking(lead_source=source, session=session_options)
def plan(*, account: Account, campaign: Campaigns, lead_source: Any, session: Any) -> None:
    """Say what checking would cost: requests, bytes and time. Nothing is asked."""
    from leadstatus_async.cli import others  # noqa: PLC0415
    from leadstatus_async.cli.inputs import Source  # noqa: PLC0415

    with closing(Source(*lead_source)) as leads:
        _finish(lambda: others.plan(session, account, campaign, leads))


@app.command(
    epilog=_examples(
        "leadstatus watch --account A --campaign C --interval 60 507f1f77bcf86cd799439011",
        "leadstatus watch --account A --campaign C --file leads.csv --format jsonl",
    )
)
@taking(lead_source=source, session=session_options)
def watch(
    *,
    account: Account,
    campaign: Annotated[str, option("Campaign ID.", env="CAMPAIGN")],
    interval: Annotated[float, option("Seconds from poll to poll.", env="INTERVAL")] = 60.0,
    form: Annotated[str | None, option("table or jsonl.", "--format", env="FORMAT")] = None,
    lead_source: Any,
    session: Any,
) -> None:
    """Show the first status of each lead and then each change, until all are settled."""
    from leadstatus_async.cli import others  # noqa: PLC0415
    from leadstatus_async.cli.inputs import Source  # noqa: PLC0415

    with closing(Source(*lead_source)) as leads:
        watching = others.watch(session, account, campaign, leads, interval=interval, form=form)
        _finish(lambda: asyncio.run(watching))


@app.command(epilog=_examples("leadstatus report out.csv", "leadstatus report out-1.jsonl out-2.jsonl"))
def report(
    files: Annotated[list[str], typer.Argument(metavar="F...", help="Files that `check` has written.")],
) -> None:
    """Show what output files have: statuses, and why leads failed. Nothing is asked."""
    from leadstatus_async.cli import others  # noqa: PLC0415

    _finish(lambda: others.report(files))


@app.command(
    epilog=_examples(
        "leadstatus serve --port 8080 --rate 20", "leadstatus serve --latency 0.2 --fault 502-html=50"
    )
)
def serve(
    *,
    port: Annotated[int, typer.Option(help="Port of loopback; 0 takes a free one.")] = 0,
    rate: Annotated[float | None, typer.Option(help="Requests per second that are allowed.")] = None,
    latency: Annotated[float, typer.Option(help="Seconds until it answers.")] = 0.0,
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=EVERY", help="A fault for each n-th request, or a ratio."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of statuses, and of ratios.")] = 0,
) -> None:
    """Run a fake server on this machine, for development: it knows every lead, and needs no key."""
    from leadstatus_async.cli import others  # noqa: PLC0415

    faults: dict[str, float] = {}
    for text in fault or ():
        name, _, every = text.partition("=")
        try:
            faults[name] = float(every)
        except ValueError:
            raise ConfigurationError(f"--fault must be NAME=EVERY, as in 502-html=50; not {text!r}") from None
    _finish(lambda: asyncio.run(others.serve(port, rate, latency, faults, seed)))


def _quiet() -> bool:
    return "--quiet" in _given or "-q" in _given


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code."""
    global _finished  # noqa: PLW0603 - one process, one command line
    end = arguments.index("--") if "--" in arguments else len(arguments)
    _finished = False
    _given[:] = [one for one in arguments[:end] if one in _ANYWHERE]
    _arguments[:] = arguments
    if sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison] - closed by who started us
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for as long as we live
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        return _end("standard output is closed", Exit.FAILURE)
    stdout: Any = sys.stdout
    if hasattr(stdout, "reconfigure"):
        stdout.reconfigure(errors="backslashreplace")  # rather than lose answers to a terminal's encoding
    if any(argument.startswith("sk_") for argument in arguments):
        return _end(
            "an argument looks like an API key, which other users of this machine could read; "
            "set SONARLY_API_KEY or give --api-key-file",
            Exit.USAGE,
        )
    if arguments[:1] == ["--version"]:
        from leadstatus_async._version import __version__  # noqa: PLC0415

        print(__version__)  # noqa: T201 - it is a command
        return Exit.ANSWERED
    return _run([one for at, one in enumerate(arguments) if one not in _ANYWHERE or at >= end])


def _run(arguments: list[str]) -> int:  # noqa: PLR0911 - how a command may end
    try:
        code = app(arguments or ["--help"], standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except (BrokenPipeError, _ReaderGoneError):
        discard_output()
        return Exit.BROKEN_PIPE  # whoever read has read enough
    except OSError as error:
        discard_output()
        return _end(f"cannot write: {error.strerror}", Exit.FAILURE)
    except LeadStatusError as error:
        return _end(str(error), Exit.USAGE if isinstance(error, ValueError) else Exit.FAILURE)
    except Exception as error:
        # Usage errors are click's, which typer brings along under another name since 0.29.
        told = getattr(error, "format_message", None)
        if told is None:
            raise
        return _end(f"{told().rstrip('.')}; try leadstatus --help", Exit.USAGE)
    if code == Exit.INTERRUPTED and not _finished:  # typer makes this of a KeyboardInterrupt
        return _interrupted()
    return int(code or Exit.ANSWERED) if arguments else Exit.USAGE


class _ReaderGoneError(Exception):
    """Nobody reads our output any more; typer would make an exit of 1 of a BrokenPipeError."""


def _finish(command: Callable[[], Exit | None]) -> NoReturn:
    global _finished  # noqa: PLW0603 - one process, one command line
    try:
        code = command()
    except KeyboardInterrupt:  # before anything was asked, or in the demo
        code = _interrupted()
    except BrokenPipeError:
        raise _ReaderGoneError from None
    _finished = True
    raise typer.Exit(int(code or Exit.ANSWERED))


def _interrupted() -> Exit:
    return _end("interrupted; nothing was written", Exit.INTERRUPTED)


def _end(sentence: str, code: Exit) -> Exit:
    from leadstatus_async.cli.render import sentence as shown  # noqa: PLC0415
    from leadstatus_async.cli.render import visible  # noqa: PLC0415

    if "--debug" in _given:
        print(visible(traceback.format_exc()), file=sys.stderr)  # noqa: T201 - it is a command
    print(f"leadstatus: {shown(sentence)}", file=sys.stderr)  # noqa: T201 - it is a command
    return code
