"""How the command ends at a signal: what was answered is written, and nobody waits for who does not read."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from leadstatus_async.cli.exits import Exit, discard_output

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import FrameType

    from leadstatus_async.cli.output import Parts, Standard

_HELD_UP = 0.3  # seconds after a signal for which nobody need read what we write


class BlockedError(Exception):
    """Somebody who does not read what we write, and a signal."""


class Stop:
    """Ends the asking at the first signal, and the process at one more when all is written.

    Attributes:
        code: the exit code of the first signal; None while there was none.
        cancel: cancels what asks.
    """

    def __init__(self, out: Standard | Parts) -> None:
        self.code: Exit | None = None
        self.cancel: Callable[[], object] = bool
        self._out = out
        self._told = self._hurry = False
        self._before: dict[int, Any] = {}
        self._thread = threading.get_ident()

    def begin(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
        """Listen to signals."""
        self.cancel = task.cancel

        def heard(number: int, _: FrameType | None) -> None:
            if self.code is None:
                if self._out.blocked or not task.done():
                    self.code = Exit.INTERRUPTED if number == signal.SIGINT else Exit.TERMINATED
                    loop.call_soon_threadsafe(task.cancel)
                    threading.Thread(target=self._see_to_it, args=(number,), daemon=True).start()
            elif self._out.blocked:  # still, or somebody has no patience
                self._out.blocked = False
                discard_output()
                raise BlockedError
            else:
                self._hurry = True
                self._leave_if_told()

        with contextlib.suppress(ValueError):  # not in the main thread
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, heard)

    def told(self) -> None:
        """Note that all is written and said."""
        self._told = True
        self._leave_if_told()

    def close(self) -> None:
        """Note that there is nothing left to end but the process, which does."""
        for number, before in self._before.items():
            signal.signal(number, before if self.code is None else signal.SIG_IGN)

    def _see_to_it(self, number: int) -> None:
        """Repeat a signal as often as what is still to be written is held up by who does not read."""
        while not self._told:
            written = self._out.written
            time.sleep(_HELD_UP)
            if self._out.blocked and self._out.written == written:
                signal.pthread_kill(self._thread, number)  # any other would not be woken

    def _leave_if_told(self) -> None:
        if self._told and self._hurry:  # pragma: no cover - what measures coverage ends with it
            sys.stderr.flush()
            os._exit(int(self.code or 0))
