"""Where the fake server listens, and the connections that came of it.

Listening can stop and begin again on the same port; in between the port is kept without listening, so
that connections are refused and nobody else can be met there.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

from leadstatus_async.testing._connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from leadstatus_async.testing._http import Head

_HOST = "127.0.0.1"


class Listener:
    """A port of loopback.

    Args:
        arrived: called with each head that arrives, and its connection.
        gone: called with each connection that has ended.
        port: its number; 0 takes a free one.

    Attributes:
        port: its number; 0 before the first start, unless it was asked for.
        connections: those open now.
    """

    def __init__(
        self, arrived: Callable[[Connection, Head], None], gone: Callable[[Connection], None], port: int = 0
    ) -> None:
        self.port = port
        self.connections: set[Connection] = set()
        self._arrived = arrived
        self._gone = gone
        self._accepted = 0
        self._listening = False
        self._server: asyncio.Server | None = None
        self._placeholder: socket.socket | None = None

    async def start(self) -> None:
        """Listen, unless it does."""
        if self._listening:
            return
        self._listening = True
        self._give_up_port()
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(self._accept, _HOST, self.port, backlog=1024)
        except BaseException:
            self._listening = False
            raise
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse new connections and drop those there are; the port stays ours."""
        if self._server is None:
            return
        await self._close(self._server)
        self._placeholder = socket.socket()
        self._placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._placeholder.bind((_HOST, self.port))

    async def close(self) -> None:
        """Drop everything, the port too. Idempotent."""
        if self._server is not None:
            await self._close(self._server)
        self._give_up_port()

    async def _close(self, server: asyncio.Server) -> None:
        self._server, self._listening = None, False
        # What the loop has accepted becomes a connection in its next turn. If the server is closed by then
        # asyncio loses the socket (3.11 to 3.13 at least), so it accepts nothing more for a turn.
        for listening in server.sockets:
            with contextlib.suppress(NotImplementedError):  # Windows' own loop
                asyncio.get_running_loop().remove_reader(listening.fileno())
        await asyncio.sleep(0)
        server.close()
        for connection in self.connections:
            connection.drop("abort")
        if self.connections:
            await asyncio.wait([connection.ended for connection in self.connections])
        await server.wait_closed()

    def _give_up_port(self) -> None:
        if self._placeholder is not None:
            self._placeholder.close()
            self._placeholder = None

    def _accept(self) -> Connection:
        self._accepted += 1
        connection = Connection(self._accepted, self._arrived, self._lost)
        self.connections.add(connection)
        if not self._listening:  # the loop had accepted it before listening stopped
            connection.drop("abort")
        return connection

    def _lost(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self._gone(connection)
