"""Where the fake server runs: in the event loop of who starts it, or in one in a thread of its own.

All that touches a socket is done in that loop. Who asks for it elsewhere waits until it is done, in a
thread without a loop, or gets something to await, in a thread that has another. What is only noted down
or looked at needs the lock, and no loop. A forked child has neither loop nor thread, and is told so.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from concurrent.futures import Future

Work = Coroutine[Any, Any, None]


class Deed(Work):
    """What has been done already, and can be awaited all the same.

    It is also the type of what is still to be awaited: checkers complain of a plain coroutine that nobody
    awaits, which is right where a loop runs and wrong where none does.
    """

    def send(self, _: Any, /) -> NoReturn:
        """End at once."""
        raise StopIteration

    def throw(self, *error: Any) -> NoReturn:
        """Raise what is thrown."""
        raise error[0]

    def close(self) -> None:
        """Do nothing: it is over."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield from ()


class Home:
    """The event loop of a server, from any thread; as a context manager, the lock over its state.

    Attributes:
        lock: over what is noted down and looked at; `with home` takes it where the process is the right one.
        turn: held by whatever starts, stops or ends the server.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.turn = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._process = 0
        self._closing = False

    def __enter__(self) -> None:
        if self.forked:
            raise RuntimeError(
                f"this fake server runs in process {self._process}: a forked child can use its url only"
            )
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process that started the server."""
        return self._process not in (0, os.getpid())

    @property
    def entered(self) -> bool:
        """Whether there is a loop."""
        return self._loop is not None

    # In the loop of the caller

    def enter(self) -> bool:
        """Be in the running loop from now on, and return whether that is new.

        Raises:
            RuntimeError: the server runs in another.
        """
        loop = asyncio.get_running_loop()
        with self:
            if self._loop is loop:
                return False
            if self._loop is not None:
                raise RuntimeError("the fake server was started in another event loop, and is not closed")
            self._move_in(loop, None)
            return True

    def leave(self) -> None:
        """Be in no loop any more, unless that of a thread."""
        if self._thread is None:
            self._loop, self._process = None, 0

    # In a thread

    def open(self, first: Callable[[], Work], last: Callable[[], Work]) -> None:
        """Start a thread with a loop, and do something in it.

        Args:
            first: what to do; if it raises, so does this.
            last: what ends it.

        Raises:
            RuntimeError: the server runs already, or there are no more threads to be had.
            OSError: there are no more files to be had.
        """
        with self:
            if self._loop is not None:
                raise RuntimeError("the fake server was started already, and is not closed")
            loop = asyncio.SelectorEventLoop()  # whatever policy the tests have
            thread = threading.Thread(target=_run, args=(loop,), name="FakeLeadStatusServer", daemon=True)
            try:
                thread.start()
            except BaseException:
                loop.close()
                raise
            self._move_in(loop, thread)
        try:
            _wait(self._submit(first))
        except BaseException:
            self.close(last)
            raise

    def close(self, last: Callable[[], Work]) -> bool:
        """Do something in the loop of the thread, and end both; return whether there was a thread.

        Raises:
            RuntimeError: it is the thread itself that asks for it.
        """
        with self:
            loop, thread = self._loop, self._thread
            if loop is None or thread is None:
                return False
            if thread is threading.current_thread():
                raise RuntimeError("a callback of the fake server cannot close it")
            ended = None if self._closing else self._submit(last)
            self._closing = True
        if ended is None:  # somebody else does it
            thread.join()
            return True
        try:
            _wait(ended)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            self._thread = None
            self.leave()
            thread.join()
        return True

    # From anywhere

    def do(self, work: Callable[[], Work]) -> Deed:
        """Do something in the loop of the server: now, or when what is returned is awaited.

        Raises:
            RuntimeError: the server is not started or being closed, or this is a forked child.
        """
        here = _running_loop()
        with self:
            loop = self._loop
        if loop is None and here is None:
            raise RuntimeError("the fake server is not started, or closed")
        if loop is None or loop is here or not loop.is_running():
            return cast("Deed", work())
        if here is None:
            _wait(self._submit(work))
            return Deed()

        async def elsewhere() -> None:
            await asyncio.wrap_future(self._submit(work))

        return cast("Deed", elsewhere())

    def soon(self, act: Callable[[], object]) -> None:
        """Call something in the loop of the server."""
        loop = self._loop
        if loop is None or not loop.is_running():
            act()
            return
        with suppress(RuntimeError):  # it was closed in this very moment
            loop.call_soon_threadsafe(act)

    def _move_in(self, loop: asyncio.AbstractEventLoop, thread: threading.Thread | None) -> None:
        self._loop, self._thread, self._process = loop, thread, os.getpid()
        self.turn, self._closing = asyncio.Lock(), False

    def _submit(self, work: Callable[[], Work]) -> Future[None]:
        with self:
            if self._loop is None or self._closing:
                raise RuntimeError("the fake server is closed")
            return asyncio.run_coroutine_threadsafe(work(), self._loop)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        stopped = False
        while not stopped:
            with suppress(SystemExit, KeyboardInterrupt):  # of a callback: asyncio lets them out of the loop
                runner.get_loop().run_forever()
                stopped = True


def _wait(future: Future[None]) -> None:
    try:
        future.result()
    except BaseException:
        future.cancel()  # if it is this thread that was interrupted
        raise


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
