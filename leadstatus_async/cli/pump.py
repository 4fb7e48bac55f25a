"""Records of a source that somebody else writes: read in a thread, so that nothing waits for it.

The thread is a daemon: whoever is told to stop does not wait for a pipe.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

T = TypeVar("T")

_ROOM = 4096
_PATIENCE = 5  # hundredths of a second that a whole chunk is waited for, at the beginning


class Pump(Generic[T]):
    """An async iterator over what a blocking one yields. Made in the loop that reads it.

    Args:
        source: iterated in a thread, at most some thousands ahead.
    """

    def __init__(self, source: Iterator[T]) -> None:
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._ready: deque[T] = deque()
        self._news = asyncio.Event()
        self._space = threading.Semaphore(_ROOM)
        self._fault: BaseException | None = None
        self._ended = self._begun = False
        threading.Thread(target=self._read, name="leadstatus reads", daemon=True).start()

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        if not self._begun:  # so that the first request is no small one
            self._begun = True
            for _ in range(_PATIENCE):
                if len(self._ready) >= _ROOM // 4 or self._ended:
                    break
                await asyncio.sleep(0.01)
        while not self._ready:
            if self._ended and not self._ready:
                if self._fault is not None:
                    raise self._fault
                raise StopAsyncIteration
            self._news.clear()
            if not self._ready and not self._ended:  # pragma: no branch - the thread may be quicker
                await self._news.wait()
        self._space.release()
        return self._ready.popleft()

    def _read(self) -> None:
        try:
            for one in self._source:
                self._space.acquire()
                self._ready.append(one)
                if len(self._ready) == 1:
                    self._tell()
        except BaseException as fault:  # noqa: BLE001 - handed on to the reader
            self._fault = fault
        self._ended = True
        self._tell()

    def _tell(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:  # the loop is closed: nobody reads any more
            self._ended = True


class Shared(Generic[T]):
    """An async iterator that several read, each of them all of it."""

    def __init__(self, source: AsyncIterator[T], readers: int) -> None:
        self._source = source
        self._turn = asyncio.Lock()
        self._kept: list[deque[T]] = [deque() for _ in range(readers)]

    async def reader(self, number: int) -> AsyncIterator[T]:
        """Yield all there is."""
        kept = self._kept[number]
        while True:
            if not kept:
                async with self._turn:
                    if not kept:
                        try:
                            one = await anext(self._source)
                        except StopAsyncIteration:
                            return
                        for other in self._kept:
                            other.append(one)
            yield kept.popleft()
