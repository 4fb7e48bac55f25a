"""The command line itself: options, and how errors end.

An error is one sentence on stderr with what to do next; `--debug` shows the traceback, without
locals. The library and its dependencies are imported by the command that runs, not before.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from leadstatus_async.cli.exits import EXITS, Exit
from leadstatus_async.errors import LeadStatusError

if TYPE_CHECKING:
    from collections.abc import Coroutine

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    help=f"The campaign workflow status of Sonarly leads. {EXITS}",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_debug = _finished = False


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    del debug  # `run` has seen to it, wherever it stands


@app.command()
def demo() -> None:
    """Check 5,000 leads against an embedded fake server: no key, no network, some seconds."""
    from leadstatus_async.cli.demo import demo as run_demo  # noqa: PLC0415
    from leadstatus_async.cli.render import console  # noqa: PLC0415

    _finish(run_demo(console(sys.stdout), console(sys.stderr)))


@app.command(epilog=EXITS)
def check(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Lead IDs; - is stdin.")] = None,
    *,
    account: Annotated[str, typer.Option(help="Account group ID.")],
    campaign: Annotated[str, typer.Option(help="Campaign ID.")],
    file: Annotated[str | None, typer.Option(help="File with one ID a line; - is stdin.")] = None,
    skip_blank: Annotated[bool, typer.Option("--skip-blank", help="Leave out blank lines.")] = False,
    comment: Annotated[str | None, typer.Option(help="Leave out lines that begin with this.")] = None,
    form: Annotated[str, typer.Option("--format", help="table, csv, jsonl or json.")] = "table",
    rate: Annotated[float, typer.Option(help="Requests per second at most.")] = 10.0,
    burst: Annotated[int | None, typer.Option(help="Requests that may go at once.")] = None,
    concurrency: Annotated[int, typer.Option(help="Requests in flight at most.")] = 16,
    chunk_size: Annotated[int, typer.Option(help="Leads per request at most.")] = 100,
    deadline: Annotated[float | None, typer.Option(help="Seconds for everything.")] = None,
    api_key_file: Annotated[
        str | None, typer.Option(help="File that holds the key; else SONARLY_API_KEY.")
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="Base URL; else SONARLY_BASE_URL.")] = None,
) -> None:
    """Ask for the status of leads. Data goes to stdout, words to stderr."""
    from leadstatus_async.cli import source  # noqa: PLC0415
    from leadstatus_async.cli.check import Wish, checked_form  # noqa: PLC0415
    from leadstatus_async.cli.check import check as run_check  # noqa: PLC0415

    wish = Wish(
        account=account,
        campaign=campaign,
        form=checked_form(form),
        api_key=source.api_key(api_key_file),
        lead_ids=source.lead_ids(ids or [], file, skip_blank=skip_blank, comment=comment),
        base_url=base_url,
        rate=rate,
        burst=burst,
        concurrency=concurrency,
        chunk_size=chunk_size,
        deadline=deadline,
    )
    _finish(run_check(wish))


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code."""
    global _debug  # noqa: PLW0603 - one process, one command line
    options = arguments.index("--") if "--" in arguments else len(arguments)
    _debug = "--debug" in arguments[:options]
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
    return _run([one for at, one in enumerate(arguments) if one != "--debug" or at >= options])


def _run(arguments: list[str]) -> int:  # noqa: PLR0911 - how a command may end
    try:
        code = app(arguments or ["--help"], standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except (BrokenPipeError, _ReaderGoneError):
        _discard_output()
        return Exit.BROKEN_PIPE  # whoever read has read enough
    except OSError as error:
        _discard_output()
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


def _finish(coroutine: Coroutine[None, None, Exit | None]) -> NoReturn:
    global _finished  # noqa: PLW0603 - one process, one command line
    try:
        code = asyncio.run(coroutine)
    except KeyboardInterrupt:  # before anything was asked, or in the demo
        code = _interrupted()
    except BrokenPipeError:
        raise _ReaderGoneError from None
    _finished = True
    raise typer.Exit(int(code or Exit.ANSWERED))


def _interrupted() -> Exit:
    return _end("interrupted; nothing was written", Exit.INTERRUPTED)


def _discard_output() -> None:
    """Let go of what is still buffered: Python would complain once more when it flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(sentence: str, code: Exit) -> Exit:
    from leadstatus_async.cli.render import sentence as shown  # noqa: PLC0415
    from leadstatus_async.cli.render import visible  # noqa: PLC0415

    if _debug:
        print(visible(traceback.format_exc()), file=sys.stderr)  # noqa: T201 - it is a command
    print(f"leadstatus: {shown(sentence)}", file=sys.stderr)  # noqa: T201 - it is a command
    return code
