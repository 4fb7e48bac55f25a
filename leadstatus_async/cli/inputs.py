"""Where lead IDs come from: arguments, files and standard input, one `Record` for each line.

A file is read as it goes, never whole. No line is left out unasked: what cannot be read is a record that
says why. Bytes that are no text of the encoding are kept as lone surrogates, so that they can be written
again as they were.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
import stat
import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from leadstatus_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STDIN = "-"
FORMS = ("text", "csv", "tsv", "jsonl")
_SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_LONGEST_CELL = 2**22  # characters: what is longer has lost a quote
csv.field_size_limit(_LONGEST_CELL)
_HEAD = 2**13  # bytes that are looked at to tell text from anything else
_EARLY = 1000  # lines without an object at the beginning of JSON lines
_OPEN = "cannot be read: a quote on this line is not closed, or its cell is longer than 4 MiB"
_ID_COLUMNS = ("leadid", "leadids")


class Record(msgspec.Struct):
    """What stands on one line, or on several where a cell has line ends.

    Attributes:
        line: of the file, on which it begins; the first is 1. Of an argument, its number, negative.
        lead_id: without the white space around it; the line itself where it cannot be read.
        wrong: why it cannot be asked for, as far as that is known.
        own: the cells of CSV and TSV, the text of a JSON object; else None.
    """

    line: int
    lead_id: str
    wrong: str | None = None
    own: list[str] | str | None = None

    @property
    def place(self) -> str:
        """Where it stands, for people."""
        return f"line {self.line}" if self.line > 0 else f"argument {-self.line}"


class Reading(msgspec.Struct, frozen=True):
    """How a file is read.

    Attributes:
        form: "auto" (by the file's suffix, text for standard input), or one of `FORMS`.
        column: header or key of the IDs; None takes the one that is called so.
        encoding: of text; UTF-8 with or without a BOM by default.
        skip_blank: leave out blank lines, which else are failures.
        comment: leave out lines that begin with this; in text those that begin with `#` else are failures.
    """

    form: str = "auto"
    column: str | None = None
    encoding: str = "utf-8"
    skip_blank: bool = False
    comment: str | None = None


class Source:
    """Lead IDs, given one after another; iterate it once.

    Args:
        file: a path, `-` for standard input, or None.
        arguments: IDs as they are; `-` stands for standard input. They come first.
        reading: how the file is read.

    Attributes:
        form: of the file: one of `FORMS`.
        name: of the file, for people.
        path: of the file; None for standard input and arguments.
        columns: the header of CSV or TSV, or the keys of the first JSON object; None for text.
        column: which of them has the IDs.
        guessed: whether nobody said so.
        skipped: lines that were left out so far.
        regular: whether reading it never waits for somebody who writes.

    Raises, when it is made or iterated:
        ConfigurationError: nothing is given, the file cannot be read, is no text, or has no column of IDs.
    """

    def __init__(self, arguments: list[str], file: str | None, reading: Reading = Reading()) -> None:  # noqa: B008
        stdin = [*arguments, file].count(STDIN)
        if stdin > 1:
            raise ConfigurationError("standard input is given twice; it can be read once")
        if stdin and file not in (None, STDIN):
            raise ConfigurationError("--file F or - for standard input: one of them can be read")
        if not arguments and file is None:
            raise ConfigurationError("no lead IDs: give them as arguments, with --file F, or - for stdin")
        self.file = STDIN if stdin else file
        self.path = Path(self.file) if self.file not in (None, STDIN) else None
        self.name = "standard input" if self.file == STDIN else str(self.file)
        self.form = _form_of(self.file, reading)
        self.columns: list[str] | None = None
        self.column: str | None = None
        self.guessed = False
        self.skipped = 0
        self._given = len(arguments)
        self._reading = reading
        given = [Record(-number, one) for number, one in enumerate(arguments, 1) if one != STDIN]
        if given and self.form != "text":
            raise ConfigurationError(f"IDs as arguments do not go with a file of {self.form.upper()}")
        self._lines = None if self.file is None else _opened(self.file, reading.encoding)
        self.regular = self._lines is None or stat.S_ISREG(os.fstat(self._lines.fileno()).st_mode)
        self._all: Iterator[Record] = chain(given, self._records())
        if self.form != "text":  # so that what is wrong with its columns is known before anything is done
            try:
                first = next(self._all, None)
            except ConfigurationError:
                self.close()
                raise
            self._all = chain([] if first is None else [first], self._all)

    def __iter__(self) -> Iterator[Record]:
        return self._all

    def close(self) -> None:
        """Let go of the file; one that somebody else writes may just be read, and is left alone."""
        if self._lines is not None and self.regular:
            self._lines.close()

    def count(self) -> int | None:
        """Count the records, quickly and nearly; None where that would use them up."""
        if self.file is None:
            return self._given
        if self.path is None or not self.regular:
            return None
        with self.path.open("rb") as file:
            lines = sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
        return lines - (self.form in ("csv", "tsv"))

    def _records(self) -> Iterator[Record]:
        if self._lines is None:
            return
        readers = {"text": self._text, "jsonl": self._objects}
        try:
            yield from readers.get(self.form, self._tables)(self._lines)
            if self.path is not None:
                self._lines.close()
        except UnicodeError:
            raise ConfigurationError(f"{self.name} is no text in {self._reading.encoding}") from None
        except OSError as error:
            raise ConfigurationError(f"cannot read {self.name}: {error.strerror}") from None

    def _left_out(self, line: str, *, blank: bool) -> bool:
        """Whether a line is to be left out."""
        reading = self._reading
        left = blank and reading.skip_blank
        left = left or bool(reading.comment and line.lstrip().startswith(reading.comment))
        self.skipped += left
        return left

    def _text(self, lines: Iterator[str]) -> Iterator[Record]:
        for number, raw in enumerate(lines, 1):
            line = raw.strip()
            if not self._left_out(line, blank=not line):
                wrong = (
                    "begins with #: give --comment '#' to leave such lines out" if line[:1] == "#" else None
                )
                yield Record(number, line, wrong)

    def _tables(self, lines: Iterator[str]) -> Iterator[Record]:
        """Yield the records of CSV or TSV.

        A quote that is not closed where it should be would take the lines that follow for one cell: its line
        fails, and those that follow are read as they stand.
        """
        delimiter = "\t" if self.form == "tsv" else ","
        taken: list[str] = []  # lines of the record that is read
        ended = False

        def kept(lines: Iterator[str]) -> Iterator[str]:
            nonlocal ended
            for line in lines:
                taken.append(line)
                yield line
            ended = True

        reader = csv.reader(kept(lines), delimiter=delimiter)
        leaves_out = self._reading.skip_blank or self._reading.comment
        number, at, width = 1, -1, 0
        while True:
            number += len(taken)
            taken.clear()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error:
                cells, ended = [], True
            if ended or (len(taken) > 1 and _torn(taken, cells, at, delimiter)):
                lines = chain(taken[1:], lines)
                reader, ended = csv.reader(kept(lines), delimiter=delimiter), False
                del taken[1:]
                yield Record(number, taken[0].strip(), _OPEN, [taken[0].rstrip("\r\n")])
            elif leaves_out and self._left_out(taken[0], blank=len(cells) < 2 and not "".join(cells).strip()):
                pass
            elif self.columns is None:
                self.columns = cells
                self.column = self._chosen(cells)
                at, width = cells.index(self.column), len(cells)
            elif len(cells) > width:
                wrong = f"stands in a row of {len(cells)} cells under a header of {width}"
                yield Record(number, cells[at].strip(), wrong, cells)
            else:
                yield Record(number, cells[at].strip() if at < len(cells) else "", None, cells)

    def _objects(self, lines: Iterator[str]) -> Iterator[Record]:
        early, waiting = list[Record](), True  # until the first object tells the key
        for number, raw in enumerate(lines, 1):
            text = raw.strip()
            if self._left_out(text, blank=not text):
                continue
            found = object_of(text)
            if found is not None and self.columns is None:
                self.columns = list(found)
                self.column = self._reading.column or self._chosen(self.columns)
            wrong = None if found is not None or not text else "cannot be read: the line is no JSON object"
            record = Record(number, text, wrong, json.dumps({"input": text}) if text else "{}")
            if found is not None:
                record.lead_id, record.wrong = id_of(found, str(self.column))
                record.own = text
            early.append(record)
            waiting = waiting and self.columns is None and len(early) < _EARLY
            if not waiting:
                yield from early
                early.clear()
        yield from early

    def _chosen(self, names: list[str]) -> str:
        """Return which of these has the IDs.

        Raises:
            ConfigurationError: none has, or several have.
        """
        wanted = self._reading.column
        if wanted is None:
            self.guessed = True
            found = [name for name in names if re.sub("[^a-z]", "", name.lower()) in _ID_COLUMNS]
        else:
            found = [name for name in names if name == wanted] or [
                name for name in names if _plain(name) == _plain(wanted)
            ]
        if len(found) == 1:
            return found[0]
        what = "columns" if self.form != "jsonl" else "keys of the first object"
        which = "no column of lead IDs" if wanted is None else f"no column {wanted!r}"
        if found:
            which = f"{len(found)} columns that could hold the lead IDs"
        raise ConfigurationError(
            f"{self.name} has {which}; give --column with one of its {what}: {_list(names)}"
        )


def _form_of(file: str | None, reading: Reading) -> str:
    if reading.form not in ("auto", *FORMS):
        raise ConfigurationError(f"--input-format must be auto, {', '.join(FORMS)}, not {reading.form}")
    if reading.form != "auto":
        return reading.form
    return _SUFFIXES.get(Path(file or "").suffix.lower(), "text")


def _opened(name: str, encoding: str) -> io.TextIOWrapper:
    """Return the lines of a file with their ends.

    Raises:
        ConfigurationError: it cannot be read, or is no text.
    """
    plain = encoding.lower().replace("_", "-")
    codec = "utf-8-sig" if plain in ("utf-8", "utf8") else encoding
    try:
        codecs.lookup(codec)
    except LookupError:
        raise ConfigurationError(f"--encoding {encoding} is not known") from None
    if name == STDIN:
        if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] - closed by who started us
            raise ConfigurationError("standard input is closed")
        raw = io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False))
        return io.TextIOWrapper(raw, codec, "surrogateescape", newline="")
    try:
        file = Path(name).open("rb")  # noqa: SIM115 - for as long as it is read
    except OSError as error:
        raise ConfigurationError(f"cannot read {name}: {error.strerror}") from None
    if b"\0" in file.peek(_HEAD)[:_HEAD] and not plain.startswith(("utf-16", "utf-32")):
        file.close()
        raise ConfigurationError(f"{name} is no UTF-8 text; give --encoding if it is text of another")
    return io.TextIOWrapper(file, codec, "surrogateescape", newline="")


def _torn(lines: list[str], cells: list[str], at: int, delimiter: str) -> bool:
    """Whether what was read of several lines is no record, or has an ID on two lines."""
    if 0 <= at < len(cells) and len(cells[at].strip().splitlines()) > 1:
        return True
    try:
        list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error:
        return True
    return False


def object_of(text: str) -> dict[str, Any] | None:
    """Return a JSON object; None if the text is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def id_of(found: dict[str, Any], key: str) -> tuple[str, str | None]:
    """Return the lead ID of an object, and what is wrong with it."""
    if key not in found:
        key = next((name for name in found if _plain(name) == _plain(key)), key)
        if key not in found:
            return "", f"is missing: the object has no {key!r}"
    value = found[key]
    if isinstance(value, str):
        text = value.strip()
        return (text, None) if text.isascii() else _in_bytes(text)
    if value is None:
        return "", None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value), None
    return json.dumps(value), f"is {type(value).__name__}, not text"


def _in_bytes(text: str) -> tuple[str, str | None]:
    """Return a text as it can be written: JSON can have what no UTF-8 has."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode(), "contains a lone surrogate"
    return text, None


def _plain(name: str) -> str:
    return name.strip().casefold()


def _list(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"
