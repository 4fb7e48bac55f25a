"""What has arrived at the fake server: each request, how many there were, and how fast they came.

A request is written down when it arrives and completed just before it is answered. All times are loop
times, seconds as float.
"""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True)
class ReceivedRequest:
    """A request as it came, and what became of it.

    Attributes:
        at: time of its arrival, by the clock of the server's event loop.
        method: "GET", or what should have been it.
        target: path and query as sent.
        account, campaign, lead_ids: as read from the target; empty where it names no such thing.
        headers: with lower-case names.
        connection: number of the connection it came on, from 1.
        status: of the answer; None while, and where, none is given.
        fault: name of the fault it met, if any.
    """

    at: float
    method: str
    target: str
    account: str
    campaign: str
    lead_ids: tuple[str, ...]
    headers: Mapping[str, str]
    connection: int
    status: int | None = None
    fault: str | None = None


class Log:
    """The requests that have arrived.

    Args:
        keep: keep the requests; their number and times are kept always.

    Attributes:
        requests: those kept, in order of arrival.
        count: how many have arrived.
    """

    def __init__(self, *, keep: bool) -> None:
        self.requests: list[ReceivedRequest] = []
        self.count = 0
        self._keep = keep
        self._times = array("d")
        self._waiting: set[tuple[int, asyncio.Future[None]]] = set()

    def add(self, request: ReceivedRequest) -> None:
        """Write down a request, and wake who waits for it."""
        self.count += 1
        self._times.append(request.at)
        if self._keep:
            self.requests.append(request)
        for count, waiter in self._waiting:
            if count <= self.count and not waiter.done():
                waiter.set_result(None)

    async def wait(self, count: int, seconds: float | None = None) -> None:
        """Wait until so many have arrived, counted from the first, but no longer than so many seconds."""
        if self.count >= count:
            return
        entry = (count, asyncio.get_running_loop().create_future())
        self._waiting.add(entry)
        try:
            async with asyncio.timeout(seconds):
                await entry[1]
        except TimeoutError:
            raise TimeoutError(f"{self.count} of {count} requests have come in {seconds:g} s") from None
        finally:
            self._waiting.discard(entry)

    def close(self) -> None:
        """Let nobody wait any longer: no more will come."""
        for count, waiter in [entry for entry in self._waiting if not entry[1].done()]:
            waiter.set_exception(
                RuntimeError(f"the fake server was closed when {self.count} of {count} requests had come")
            )

    def peak(self, per: float) -> int:
        """Return the most arrivals within any window of `per` seconds, its end not included."""
        first = most = 0
        times = self._times[:]  # others may arrive meanwhile
        for last, at in enumerate(times):
            while at - times[first] >= per:
                first += 1
            most = max(most, last - first + 1)
        return most
