"""Connections that are not used again once they have received what nobody asked for (h1).

aiohttp's pool does not look whether an idle connection has received something. An answer that is sent
twice would then answer the next request, whatever that asks for, and put every later one on that
connection one behind. In our own session each connection is a `Connection`, which ends when that
happens; on a borrowed one, whose connections are aiohttp's, a middleware of the request looks for it
just before sending. Bytes that arrive once the next request is on its way cannot be told from its answer.
"""

from __future__ import annotations

import asyncio
import math
import select
import sys
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler

if TYPE_CHECKING:
    import ssl as ssl_module
    from collections.abc import Awaitable, Callable

    from aiohttp.http import RawResponseMessage
    from aiohttp.streams import StreamReader


class Way:
    """How far a request came.

    Attributes:
        connection: what it was sent on.
        reused: that had served another request before; never known on a borrowed session.
        answered: the head of an answer came.
        sends: how often it was sent.
        began: when it was handed over, in loop time.
        seconds: it may take.
    """

    __slots__ = ("answered", "began", "connection", "reused", "seconds", "sends")

    def __init__(self, began: float = 0.0, seconds: float = math.inf) -> None:
        self.began = began
        self.seconds = seconds
        self.connection: ResponseHandler | None = None
        self.reused = self.answered = False
        self.sends = 0

    @property
    def hidden(self) -> int:
        """How often aiohttp sent it once more by itself."""
        return max(0, self.sends - 1)


sending: ContextVar[Way] = ContextVar("sending")


Resting = dict["Connection", float]
"""The connections that are idle, and since when."""


class UnaskedError(Exception):
    """A connection has received something before a request was sent on it."""


class Connection(ResponseHandler):
    """A connection of our own that ends when it receives what no request on it has asked for.

    While it is idle that is any byte; after an answer, more than that. Bytes that arrive once the next
    request is on its way cannot be told from its answer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, resting: Resting) -> None:
        super().__init__(loop)
        self._idle = True  # nothing is asked, or all that was is answered
        self._served = self.heard = self._stays = False
        self._resting = resting

    def set_response_params(self, **params: Any) -> None:
        """Take note that a request is about to be sent (aiohttp calls this before each)."""
        if "auto_decompress" not in params:  # CONNECT, which is the proxy's business
            self._idle = False
            super().set_response_params(**params)
            return
        way = sending.get()
        way.connection, way.reused = self, self._served
        way.sends += 1
        if not self._served and _is_plain(self) and _readable(self):
            drop(self)  # a server that speaks first; with TLS a new connection has bytes of its own to read
        self._served, self._idle, self.heard = True, False, False
        self._resting.pop(self, None)
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the server."""
        if self._idle and data:  # none: what was held back is decompressed
            drop(self)
        else:
            self.heard = True
            super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note that it is gone."""
        self._resting.pop(self, None)
        super().connection_lost(exc)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Take the head of an answer, whose end makes the connection idle."""
        if self._idle:
            self.force_close()
            return
        super().feed_data(data, size)
        message, payload = data
        if message.code >= 200:
            self._stays = not message.should_close
            payload.on_eof(self._answered)

    def is_connected(self) -> bool:
        """Whether it may be used; the pool asks before it hands it out again."""
        if not super().is_connected():
            return False
        return not self._idle or not (self.should_close or self._begun() or _readable(self))

    def _answered(self) -> None:
        self._idle = True
        if self._stays:
            self._resting[self] = self._loop.time()

    def _begun(self) -> bool:
        """Whether the beginning of another head came with the answer."""
        try:
            return self._parser is not None and self._parser.feed_eof() is not None
        except Exception:  # noqa: BLE001  # pragma: no cover - whatever it is, it is no head
            return True


def own_connector(ssl: ssl_module.SSLContext | None, resting: Resting) -> aiohttp.TCPConnector:
    """Return a connector that makes each connection a `Connection`, and lists in `resting` which are idle."""
    # No pool limit: permits bound what is in flight, and waiting for a pool would eat the timeout (a7).
    connector = aiohttp.TCPConnector(limit=0, ssl=ssl or True)
    if hasattr(connector, "_factory"):
        # aiohttp has no public way to give connections a class.
        make: partial[Any] = partial(Connection, loop=asyncio.get_running_loop(), resting=resting)
        connector._factory = make  # noqa: SLF001
        return connector
    # An aiohttp that no longer has it: rather than trust an idle connection, use none twice.
    return aiohttp.TCPConnector(limit=0, ssl=ssl or True, force_close=True)  # pragma: no cover


def looks_first(
    way: Way, waits: Callable[[aiohttp.ClientRequest], None], leaves: Callable[[], Awaitable[bool]]
) -> aiohttp.ClientMiddlewareType:
    """Return a middleware that lets a request out only on a connection that has received nothing unasked.

    Args:
        way: what it notes down in.
        waits: is called when the request begins to wait for a connection.
        leaves: is awaited before it is sent; returns whether it had to wait.
    """

    async def look_first(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        send = request.send

        async def looked(conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
            protocol = way.connection = cast("ResponseHandler", conn.protocol)
            # It has been used, by whomever, if it has had a payload. New, TLS may have left bytes to read.
            used = protocol._payload is not None  # noqa: SLF001
            if protocol.should_close or ((used or _is_plain(protocol)) and _readable(protocol)):
                raise UnaskedError
            if await leaves() and (protocol.should_close or _heard(protocol)):
                raise UnaskedError
            if not isinstance(protocol, Connection):  # which counts for itself
                way.sends += 1
            return await send(conn)

        request.send = looked  # type: ignore[method-assign] # of this one request
        waits(request)
        return await handler(request)

    return look_first


def _heard(protocol: ResponseHandler) -> bool:
    """Whether something came while a request that is not sent yet had the connection."""
    if isinstance(protocol, Connection) and protocol.heard:
        drop(protocol)
        return True
    return bool(protocol._buffer) or _readable(protocol)  # noqa: SLF001 - answers nobody has read


def drop(connection: ResponseHandler) -> None:
    """End a connection at once, whoever uses it: no farewell of TLS is waited for."""
    connection.force_close()
    if connection.transport is not None:
        connection.transport.abort()


def _is_plain(protocol: ResponseHandler) -> bool:
    return protocol.transport is not None and protocol.transport.get_extra_info("sslcontext") is None


def _readable(protocol: ResponseHandler) -> bool:
    """Whether an idle connection has bytes, or its end, that the loop has not read yet, or is closed."""
    socket = None if protocol.transport is None else protocol.transport.get_extra_info("socket")
    fileno = -1 if socket is None else socket.fileno()
    if fileno < 0:
        return True
    if sys.platform == "win32":  # pragma: no cover - no poll there
        return bool(select.select([fileno], [], [], 0)[0])
    poll = select.poll()
    poll.register(fileno, select.POLLIN)
    return bool(poll.poll(0))
