"""How long attempts may take: one timer over all that are under way."""

from __future__ import annotations

import asyncio


class Timeouts:
    """Cancels tasks that have been at one attempt for too long.

    Each may take as long, so that the first to begin is the first to be due, and one timer does for all; it
    is set again when it rings, and not when an attempt ends, which is before it is due as a rule.

    Args:
        seconds: that an attempt may take.
    """

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._due: dict[asyncio.Task[object], float] = {}
        self._expired: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, task: asyncio.Task[object]) -> None:
        """Note that a task begins an attempt, or goes on with it after a rest."""
        if task in self._due:
            return
        at = self._due[task] = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_at(at, self._ring)

    def rest(self, task: asyncio.Task[object]) -> None:
        """Note that a task waits for something that does not count, until it begins anew."""
        self._due.pop(task, None)

    def end(self, task: asyncio.Task[object]) -> bool:
        """Note that it has ended; return whether the task was cancelled for it."""
        self._due.pop(task, None)
        expired = task in self._expired
        self._expired.discard(task)
        return expired

    def close(self) -> None:
        """Let go of the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _ring(self) -> None:
        self._timer = None
        now = self._loop.time()
        for task, at in list(self._due.items()):
            if at > now:
                self._timer = self._loop.call_at(at, self._ring)
                return
            del self._due[task]
            self._expired.add(task)
            task.cancel()
