"""Sessions in virtual time: the real engine against a wire that only a model of a server is behind.

    def server(sent): return "503" if 5 <= sent.at < 13 else "ok"

    async def main():
        async with virtual_session(Wire(server)) as session: ...

    run(main)

Hours take milliseconds, nothing is random but what a seed makes so, and each request is on record.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from multidict import CIMultiDict

from leadstatus_async import APIConnectionError, APITimeoutError, LeadStatusSession
from leadstatus_async._engine.transport import Received
from leadstatus_async._steps.decipher import Failure, Sort

if TYPE_CHECKING:
    from collections.abc import Callable

START = 1000.0  # what the virtual clock shows at first


@dataclass(frozen=True)
class Sent:
    """A request on the wire.

    Attributes:
        at: seconds since the clock began.
        number: how many were sent before it.
        ids: of the leads it asks for.
    """

    at: float
    number: int
    ids: list[str]


class Wire:
    """A transport that asks a function what becomes of each request.

    Args:
        server: given what was sent, returns a word: "ok", a status ("429", "502-html", "401"), a status with
            the seconds of its Retry-After ("503 Retry-After 2"), "refused", "reset", "hang",
            or "reset twice", where aiohttp sends it once more by itself; or such a word and headers.
        latency: seconds until an answer comes.
        timeout: seconds after which a request that hangs is given up; None for the session's.
        seed: of the latency's jitter, half of it up or down.

    Attributes:
        sent: the requests, in order.
        in_flight, most_in_flight: requests without an answer yet; the most there were.
    """

    opened = False
    at_once = math.inf
    proxy = ""

    def __init__(
        self,
        server: Callable[[Sent], str | tuple[str, dict[str, str]]],
        latency: float = 0.05,
        seed: int = 0,
        timeout: float | None = None,
    ) -> None:
        self.server = server
        self.sent: list[Sent] = []
        self.in_flight = self.most_in_flight = 0
        self._latency = latency
        self._timeout = timeout
        self._dice = random.Random(seed)

    def open(self) -> None:
        """Be used from now on."""

    async def aclose(self) -> None:
        """Be used no more."""

    def hidden_of_cut(self) -> int:
        """Of what is cut off, nothing was sent twice."""
        return 0

    def disbelieve(self, received: Received) -> None:
        """There is no connection to close."""

    async def send(self, target: str, seconds: float | None = None) -> Received | Failure:
        """Answer as the server does, after a while."""
        at = asyncio.get_running_loop().time() - START
        sent = Sent(at, len(self.sent), target.partition("leadIds=")[2].split(","))
        self.sent.append(sent)
        said = self.server(sent)
        word, headers = (said, {}) if isinstance(said, str) else said
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(
                (self._timeout or seconds) if word == "hang" else self._latency * self._dice.uniform(0.5, 1.5)
            )
        finally:
            self.in_flight -= 1
        return _failures[word]() if word in _failures else _answer(word, sent, headers)


_failures = {
    "refused": lambda: Failure(APIConnectionError("cannot connect"), Sort.PASSING),
    "reset": lambda: Failure(APIConnectionError("closed without an answer"), Sort.PASSING, early=True),
    "reset twice": lambda: Failure(
        APIConnectionError("closed without an answer"), Sort.PASSING, early=True, hidden=1
    ),
    "hang": lambda: Failure(APITimeoutError("no answer came"), Sort.PASSING),
}


def _answer(word: str, sent: Sent, more: dict[str, str]) -> Received:
    status, _, after = word.partition(" Retry-After ")
    headers = CIMultiDict(({"Retry-After": after} if after else {}) | more)
    if status == "ok":
        rows = [{"leadId": lead_id, "workflowStatus": "pending"} for lead_id in sent.ids]
        body = {"success": True, "data": {"items": rows}, "traceId": f"t{sent.number}"}
        return Received(200, headers, json.dumps(body).encode())
    if status.endswith("-html"):
        return Received(int(status[:3]), headers, b"<html><h1>sorry</h1></html>")
    error = {"code": "CODE", "message": "no"}
    return Received(int(status), headers, json.dumps({"success": False, "error": error}).encode())


def virtual_session(wire: Wire, **options) -> LeadStatusSession:
    """Make a session whose requests go to a wire; the options are those of users."""
    session = LeadStatusSession("sk_live_virtual", base_url="http://127.0.0.1:9", **options)
    session._core.transport = wire
    return session
