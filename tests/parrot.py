"""A raw HTTP server that answers well, and then says more than it was asked.

`FakeLeadStatusServer` answers each request once; here a connection is told what to write besides, and
when: after an answer, before a request, with the answer in one segment. What it answers depends on the
campaign, so that an answer taken for another request's shows.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Callable

STATUSES = ("pending", "waiting", "completed", "stopped")
_TARGET = re.compile(rb"GET /v1/accounts/([^/]+)/campaigns/([^/]+)/lead-status\?leadIds=([^ ]+) ")


def status_of(campaign: str, lead_id: str) -> str:
    """Return the right status: one that differs between neighbouring campaigns."""
    return STATUSES[(int(campaign.removeprefix("c")) + len(lead_id)) % len(STATUSES)]


def reply(body: bytes, status: str = "200 OK", *, length: int | None = None) -> bytes:
    """Return an answer as it goes over the wire."""
    size = len(body) if length is None else length
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n".encode()
        + body
    )


def refusal(status: str) -> bytes:
    """Return an error of the API as it goes over the wire."""
    error = {"code": "X", "message": "said unasked", "details": ""}
    return reply(json.dumps({"success": False, "data": None, "error": error}).encode(), status)


class Parrot:
    """Answers each request, then calls `after` to say more.

    Args:
        after: called with the writer and the answer's bytes when it is written; may be a coroutine function.
        answer: called with campaign and lead IDs; returns the bytes of the answer.
        greeting: said on each connection before anything is asked.

    Attributes:
        requests: (number of the connection, campaign) of each request.
        connections: how many were accepted.
        quiet: set while it has said all it wants to.
    """

    def __init__(self, after: Callable, answer: Callable | None = None, *, greeting: bytes = b"") -> None:
        self.requests: list[tuple[int, str]] = []
        self.connections = 0
        self.quiet = asyncio.Event()
        self._greeting = greeting
        self._after = after
        self._answer = answer or self.good
        self._tasks: set[asyncio.Task] = set()

    @staticmethod
    def good(campaign: str, lead_ids: list[str]) -> bytes:
        """Return the right answer."""
        rows = [{"leadId": one, "workflowStatus": status_of(campaign, one)} for one in lead_ids]
        return reply(json.dumps({"success": True, "data": {"items": rows}, "traceId": campaign}).encode())

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        self.connections += 1
        number = self.connections
        writer.write(self._greeting)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                _, campaign, lead_ids = (unquote(part.decode()) for part in _TARGET.match(head).groups())
                self.requests.append((number, campaign))
                answer = self._answer(campaign, lead_ids.split(","))
                self.quiet.clear()
                said = self._after(writer, answer)
                if asyncio.iscoroutine(said):
                    await said
                for _ in range(2):  # uvloop writes at the end of its turn
                    await asyncio.sleep(0)
                self.quiet.set()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
