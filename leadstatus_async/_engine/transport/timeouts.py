"""How long attempts may take: one timer over all that are under way."""

from __future__ import annotations

import asyncio
import math


class Timeouts:
    """Cancels tasks that have been at one attempt for too long.

    The timer is set to the first that is due, and again when it rings; not when an attempt ends, which is
    before it is due as a rule.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: dict[asyncio.Task[object], float] = {}
        self._expired: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = math.inf

    def begin(self, task: asyncio.Task[object], seconds: float) -> None:
        """Note that a task begins an attempt that may take so long, or goes on with it after a rest."""
        if task in self._due:
            return
        at = self._due[task] = self._loop.time() + seconds
        if at < self._rings_at:
            self._set(at)

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

    def _set(self, at: float) -> None:
        self.close()
        self._rings_at = at
        self._timer = self._loop.call_at(at, self._ring) if at < math.inf else None

    def _ring(self) -> None:
        now = self._loop.time()
        for task, at in list(self._due.items()):
            if at <= now:
                del self._due[task]
                self._expired.add(task)
                task.cancel()
        self._set(min(self._due.values(), default=math.inf))
