"""Where rows go: to standard output, or to a file that is never seen half written.

`--output F` writes `F.part` and renames it at the end. Beside it stands `F.part.meta`, JSON lines: how the
job was asked for, then what cannot be seen from the rows: which were filtered out, and what became of
failed ones that were asked again. A finished F keeps it, as `F.meta`, while it has failed rows.
"""

from __future__ import annotations

import os
import sys
from array import array
from typing import TYPE_CHECKING, Any

import msgspec

from leadstatus_async.cli.render import visible
from leadstatus_async.cli.rows import error_of, whole_rows
from leadstatus_async.errors import ConfigurationError

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO
    from pathlib import Path

    from leadstatus_async.cli.rows import Layout, Values


class Standard:
    """Standard output: rows as they come.

    Args:
        text: whether it is for people: in the terminal's encoding, and without what would command a terminal.

    Attributes:
        blocked: whether it is being written to; somebody who does not read lets us wait.
        written: how often it was.
    """

    def __init__(self, *, text: bool) -> None:
        self.blocked = False
        self.written = 0
        self._table = text
        self._terminal = sys.stdout.isatty()

    def write(self, rows: bytes) -> None:
        """Write rows."""
        self.blocked = True
        if self._table:
            sys.stdout.write(rows.decode())
        elif self._terminal or not hasattr(sys.stdout, "buffer"):
            sys.stdout.write(visible(rows.decode("utf-8", "surrogateescape")))
        else:  # in UTF-8 whatever the locale, so that no answer is lost to it
            sys.stdout.buffer.write(rows)
        sys.stdout.flush()
        self.blocked = False
        self.written += 1

    def leave_out(self, place: int) -> None:
        """Note that a row is filtered out: it is nowhere."""

    def close(self) -> None:
        """Be done."""


_NONE: tuple[int, Values] = (-1, ())


class Beside(msgspec.Struct, omit_defaults=True):
    """A line of the file beside the rows.

    Attributes:
        asked: of the first line: how the job was asked for.
        left_out: (place, how many) of rows that were filtered out; the first row has the place 0.
        again: (place, values) of a row that failed and was asked again.
    """

    asked: dict[str, Any] | None = None
    left_out: tuple[tuple[int, int], ...] = ()
    again: tuple[int, tuple[Any, ...]] | None = None


class Parts:
    """`F`, `F.part`, and what stands beside them.

    Args:
        path: F.
        asked: how the job is asked for; it goes on only with what was asked for in the same way.

    Attributes:
        rows: the file that has the rows: `F.part`, or F itself where that is finished.
    """

    blocked = False
    written = 0

    def __init__(self, path: Path, asked: dict[str, Any]) -> None:
        self.path = path
        self.part = self.rows = path.with_name(f"{path.name}.part")
        self._meta = path.with_name(f"{path.name}.part.meta")
        self._temporary = path.with_name(f"{path.name}.part.tmp")
        self._asked = asked
        self._open: list[FileIO] = []
        self._file: FileIO | None = None  # of rows; None while those are of F
        self._beside: FileIO | None = None
        self._left_out: list[tuple[int, int]] = []

    # Before anything is asked

    def there(self, *, force: bool, resume: bool) -> bool:
        """Return whether there are rows to go on with, and see to it that nobody else does.

        Raises:
            ConfigurationError: there is a file that must not be touched, or that another job made.
        """
        if not self.path.parent.is_dir():
            raise ConfigurationError(f"cannot write {self.path}: there is no folder {self.path.parent}")
        if not resume:
            for there, what in (
                (self.path, "is there already"),
                (self.part, "is there, of a job that did not end"),
            ):
                if there.exists() and not force:
                    raise ConfigurationError(
                        f"{there} {what}; give --force to begin anew, or --resume to go on"
                    )
            return False
        if not self.part.exists() and self.path.exists():
            finished = self.path.with_name(f"{self.path.name}.meta")
            if next(self._lines(), Beside()).asked is not None:  # killed between one rename and the next
                self._meta.replace(finished)
            self.rows, self._meta = self.path, finished
        if not self.rows.exists():
            return False
        asked = next(self._lines(), Beside()).asked
        if asked is None:
            return self.finished
        differs = [name for name in self._asked | asked if self._asked.get(name) != asked.get(name)]
        if differs:
            was = ", ".join(f"{name} {asked.get(name)!r}" for name in differs)
            now = ", ".join(f"{name} {self._asked.get(name)!r}" for name in differs)
            raise ConfigurationError(
                f"{self.rows} was made with {was}, not {now}; give --force to begin anew"
            )
        self._beside = self._locked(self._meta)
        whole = self._meta.read_bytes().rfind(b"\n") + 1
        self._beside.truncate(whole)  # what was torn would spoil the next line
        return True

    @property
    def finished(self) -> bool:
        """Whether the rows are those of F itself."""
        return self.rows is self.path

    @property
    def known(self) -> bool:
        """Whether it is known how the rows were asked for."""
        return self._beside is not None

    def stored(self, header: bytes) -> Iterator[bytes]:
        """Yield the rows that are there, whole ones only, the header among them.

        Raises:
            ConfigurationError: the header is another one.
        """
        with self.rows.open("rb") as file:
            rows = iter(whole_rows(file, cellular=bool(header)))
            if header and next(rows, header) != header:
                raise ConfigurationError(f"{self.rows} has other columns; give --force to begin anew")
            yield from rows

    def placed(self, header: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the rows that are there, with their places among all: those that were filtered out count."""
        place, left_out = 0, self.left_out()
        out = next(left_out, -1)
        for raw in self.stored(header):
            while place == out:
                place, out = place + 1, next(left_out, -1)
            yield place, raw
            place += 1

    def left_out(self) -> Iterator[int]:
        """Yield the places of rows that were filtered out."""
        runs = array("q")
        for line in self._lines():
            for run in line.left_out:
                runs.extend(run)
        for at in range(0, len(runs), 2):
            yield from range(runs[at], runs[at] + runs[at + 1])

    def asked_again(self, campaign: int, campaigns: int) -> Iterator[tuple[int, Values]]:
        """Yield place and new values of rows of a campaign that failed and were asked again, in order."""
        for line in self._lines():
            if line.again is not None and line.again[0] % campaigns == campaign:
                yield line.again

    # While it is asked

    def begin(self, header: bytes) -> None:
        """Begin anew."""
        self._beside = self._beside or self._locked(self._meta)
        self._beside.truncate(0)
        # In this order: beside an F without `F.part` it would be taken for what is known of F.
        self._file = self._kept_open(self.part.open("wb", buffering=0))
        self._append(self._beside, _line(Beside(asked=self._asked)))
        self.write(header)

    def go_on(self, size: int, place: int) -> None:
        """Go on behind so many bytes of rows, whose last one stood before this place."""
        kept = [Beside(asked=self._asked)]
        runs: list[tuple[int, int]] = []
        for left in self.left_out():
            if left < place:
                _add(runs, left)
        if runs:
            kept.append(Beside(left_out=tuple(runs)))
        kept += [line for line in self._lines() if line.again is not None]
        self._write_beside(kept)
        self._file = self._kept_open(self.rows.open("r+b", buffering=0))
        self._file.truncate(size)
        self._file.seek(size)

    def leave_out(self, place: int) -> None:
        """Note that a row is filtered out."""
        _add(self._left_out, place)

    def write(self, rows: bytes) -> None:
        """Write rows; what stands beside them first, so that no row is there whose place is not known."""
        if self._left_out:
            self._append(self._beside, _line(Beside(left_out=tuple(self._left_out))))
            self._left_out.clear()
        self._append(self._file, rows)

    def note_again(self, found: list[tuple[int, Values]]) -> None:
        """Note what became of failed rows that were asked again."""
        self._append(self._beside, b"".join(_line(Beside(again=one)) for one in found))

    # When all is asked

    def finish(self, *, failed: bool) -> None:
        """Let F appear, all at once."""
        with self.part.open("rb") as file:
            os.fsync(file.fileno())
        self.part.replace(self.path)
        self._settle_beside(failed=failed)

    def replace(self, layout: Layout, campaigns: int, *, failed: bool) -> None:
        """Let F appear, with what became of the failed rows in their places."""
        again = [self.asked_again(one, campaigns) for one in range(campaigns)]
        known = [next(one, _NONE) for one in again]
        with self._temporary.open("wb") as file:
            file.write(layout.header)
            for place, raw in self.placed(layout.header):
                one = place % campaigns
                if known[one][0] != place:
                    file.write(raw)
                    continue
                row = layout.parse(raw)
                mended = row is not None and error_of(row.values) is not None
                file.write(layout.row(row.front, row.campaign, known[one][1]) if row and mended else raw)
                known[one] = next(again[one], _NONE)
            file.flush()
            os.fsync(file.fileno())
        self._temporary.replace(self.path)
        self.part.unlink(missing_ok=True)
        self._settle_beside(failed=failed)

    def close(self) -> None:
        """Let go of the files."""
        for file in self._open:
            file.close()

    def _settle_beside(self, *, failed: bool) -> None:
        finished = self.path.with_name(f"{self.path.name}.meta")
        if failed:
            self._write_beside([Beside(asked=self._asked)])
            self._meta.replace(finished)
        else:
            self._meta.unlink(missing_ok=True)
            finished.unlink(missing_ok=True)
        if os.name == "posix":  # pragma: no branch - elsewhere folders cannot be opened
            folder = os.open(self.path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)

    def _lines(self) -> Iterator[Beside]:
        decode = msgspec.json.Decoder(Beside).decode
        try:
            with self._meta.open("rb") as file:
                for line in file:
                    if line.endswith(b"\n"):  # else torn
                        yield decode(line)
        except (FileNotFoundError, msgspec.DecodeError):
            return

    def _write_beside(self, lines: list[Beside]) -> None:
        temporary = self._meta.with_name(f"{self.path.name}.part.meta.tmp")
        beside = self._locked(temporary)
        beside.truncate(0)
        self._append(beside, b"".join(map(_line, lines)))
        os.fsync(beside.fileno())
        temporary.replace(self._meta)
        self._beside = beside

    def _kept_open(self, file: FileIO) -> FileIO:
        self._open.append(file)
        return file

    def _locked(self, path: Path) -> FileIO:
        """Open a file for as long as this process lives, and keep others from it."""
        file = self._kept_open(path.open("ab", buffering=0))
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(f"another process writes {self.path} now") from None
        return file

    @staticmethod
    def _append(file: FileIO | None, data: bytes) -> None:
        rest = memoryview(data)
        while rest and file is not None:
            rest = rest[file.write(rest) :]


def _line(beside: Beside) -> bytes:
    return msgspec.json.encode(beside) + b"\n"


def _add(runs: list[tuple[int, int]], place: int) -> None:
    """Add a place to runs of them."""
    if runs and sum(runs[-1]) == place:
        runs[-1] = (runs[-1][0], runs[-1][1] + 1)
    else:
        runs.append((place, 1))
