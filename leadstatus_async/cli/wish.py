"""What `leadstatus check` is asked to do, and whether that can be done."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from leadstatus_async import WorkflowStatus
from leadstatus_async.cli.inputs import Reading  # noqa: TC001 - a field of a Struct
from leadstatus_async.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console

    from leadstatus_async.cli.inputs import Source
    from leadstatus_async.cli.output import Parts

FAILED = "failed"
"""What `--only` calls a row without a status."""

RESUMED = ("csv", "tsv", "jsonl")
"""Formats of which it can be told where a job stopped."""

_FORMS = ("table", "csv", "tsv", "jsonl", "json")
_SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json"}


class Wish(msgspec.Struct, frozen=True):
    """What the command line asks for; `session` are options of `LeadStatusSession`."""

    account: str
    campaigns: tuple[str, ...]
    ids: list[str]
    file: str | None
    reading: Reading
    session: dict[str, Any]
    deadline: float | None = None
    output: str | None = None
    form: str | None = None
    enrich: bool = False
    only: tuple[str, ...] = ()
    safe: bool = False
    resume: bool = False
    force: bool = False
    quiet: bool = False
    progress: bool = True
    command: tuple[str, ...] = ()


def checked_form(wish: Wish, words: Console) -> str:
    """Return the format of the output.

    Raises:
        ConfigurationError: there is no such format, or it does not go with other options.
    """
    form = wish.form
    if form is None and wish.output is not None:
        form = _SUFFIXES.get(Path(wish.output).suffix.lower(), "csv")
    if form is None:
        form = "table" if sys.stdout.isatty() else "csv"
        if form == "csv" and not wish.quiet:
            words.print("writing CSV, since this is no terminal; --format table, jsonl ... says otherwise")
    if form not in _FORMS:
        raise ConfigurationError(f"--format must be {', '.join(_FORMS)}, not {form}")
    if wish.resume and (wish.output is None or form not in RESUMED):
        raise ConfigurationError("--resume needs --output F, and --format csv, tsv or jsonl")
    if wish.enrich and form == "table":
        raise ConfigurationError("--enrich needs --format csv, tsv, jsonl or json")
    if wish.safe and form not in ("csv", "tsv"):
        raise ConfigurationError("--spreadsheet-safe needs --format csv or tsv")
    unknown = set(wish.only) - set(WorkflowStatus) - {FAILED}
    if unknown:
        words.print(f"{', '.join(sorted(unknown))} is no status that the API's reference has", markup=False)
    if len(set(wish.campaigns)) < len(wish.campaigns):
        raise ConfigurationError("a --campaign is given twice")
    return form


def columns_of(source: Source, form: str) -> list[str]:
    """Return the columns of the input, which go before those of a status.

    Raises:
        ConfigurationError: the input has none, or the format cannot hold them.
    """
    columns = source.columns or []
    if source.form == "text":
        raise ConfigurationError("--enrich needs rows to add to: a file of CSV, TSV or JSON lines")
    if source.form == "jsonl" and form in ("csv", "tsv"):
        raise ConfigurationError("--enrich writes JSON lines as they are: give --format jsonl or json")
    if form in ("jsonl", "json") and len(set(columns)) < len(columns):
        raise ConfigurationError(f"{source.name} has two columns of one name, which an object cannot hold")
    return columns


def require_apart(out: Parts, source: Source) -> None:
    """See that the output is not the input.

    Raises:
        ConfigurationError: it is.
    """
    for there in (out.path, out.part):
        if source.path is not None and there.exists() and there.samefile(source.path):
            raise ConfigurationError(f"{there} is the input; write to another file")
