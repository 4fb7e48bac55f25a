"""One connection of the fake server: heads in, replies out, each in its own way.

The only module that touches a socket. Requests on a connection are answered one after another; those
that come early wait in the buffer. What the answer is, and when, is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Literal, cast

from leadstatus_async.testing._http import read_head, write_head
from leadstatus_async.testing.faults import page

if TYPE_CHECKING:
    from collections.abc import Callable

    from leadstatus_async.testing._http import Head
    from leadstatus_async.testing.faults import Reply

MAX_HEAD = 256 * 1024  # bytes; above what real servers take, which `max_url_bytes` is for


class Connection(asyncio.Protocol):
    """A connection that was accepted.

    Args:
        number: of this connection, from 1.
        arrived: called with each head that arrives, once the one before is done with.
        gone: called when the connection has ended.

    Attributes:
        stale: the next request finds the connection closed.
        ended: done when the connection is.
    """

    def __init__(
        self,
        number: int,
        arrived: Callable[[Connection, Head], None],
        gone: Callable[[Connection], None],
    ) -> None:
        self.number = number
        self.stale = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrived = arrived
        self._gone = gone
        self._buffer = bytearray()
        self._busy = False
        self._last = False
        self._transport: asyncio.Transport
        self._made = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport, which comes a turn of the loop after the connection."""
        self._transport = cast("asyncio.Transport", transport)
        self._made = True
        if self._last:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the server, whoever ended it."""
        del exc
        self._gone(self)
        self.ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Take bytes; what comes after the last request is dropped."""
        if not self._last:
            self._buffer += data
            self.go_on()

    def go_on(self) -> None:
        """Hand over the requests that are complete, as long as each is answered at once."""
        while not self._busy and not self._last:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > MAX_HEAD:
                    self._refuse(431)
                return
            text = self._buffer[:end].decode("latin-1")
            del self._buffer[: end + 4]
            head = read_head(text)
            if head is None:
                self._refuse(400)
                return
            self._busy, self._last = True, head.closes
            self._arrived(self, head)

    def _refuse(self, status: int) -> None:
        self._last = True
        self.send(page(status))

    def send(self, reply: Reply) -> None:
        """Write a reply in its way, all but dripping ones."""
        if reply.how == "hang":
            return
        if reply.how in ("reset", "disconnect"):
            self.drop("reset" if reply.how == "reset" else "close")
            return
        body = reply.body[: len(reply.body) // 2] if reply.how == "cut" else reply.body
        self._transport.write(write_head(reply, closes=self._last) + body)
        self._finish()
        self.stale = reply.how == "stale"
        if reply.how in ("cut", "until-close", "garbage"):
            self.drop()

    async def drip(self, reply: Reply, interval: float) -> None:
        """Write a reply byte by byte, so many seconds apart."""
        for byte in write_head(reply, closes=self._last) + reply.body:
            self._transport.write(bytes([byte]))
            await asyncio.sleep(interval)
        self._finish()

    def _finish(self) -> None:
        """Let the next request in, or end: closing over unread bytes would reset the answer away."""
        self._busy = False
        if self._last:
            self._transport.write_eof()

    def drop(self, how: Literal["close", "reset", "abort"] = "close") -> None:
        """End the connection: "close" still sends what was written, the others do not."""
        self._last = True
        if not self._made:
            return
        if how == "close":
            self._transport.close()
            return
        if how == "reset":
            linger = struct.pack("ii", 1, 0)
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._transport.abort()
