"""How far one lead travels through the code: calls, functions, files, and moves between files.

    python -m benchmarks.moves

Counted with `sys.setprofile` in a warm session against the fake server in the same process, over the files
of the package alone. A move is a change of the file on top of the stack, returns included.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import leadstatus_async
from leadstatus_async import LeadStatusSession, RateLimit
from leadstatus_async.testing import FakeLeadStatusServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import FrameType

PACKAGE = str(Path(leadstatus_async.__file__).parent)


class Walk:
    """What was called.

    Attributes:
        calls: of functions, in all.
        functions, files: those there were.
        moves: changes of the file on top of the stack.
    """

    def __init__(self) -> None:
        self.calls = self.moves = 0
        self.functions: set[tuple[str, int]] = set()
        self.files: set[str] = set()
        self._top = ""

    def note(self, frame: FrameType, event: str, _arg: Any) -> None:
        """Take note of a call or a return."""
        if event not in ("call", "return"):
            return
        place: FrameType | None = frame if event == "call" else frame.f_back
        while place is not None and not self._is_ours(place):
            place = place.f_back
        if self._is_ours(frame) and event == "call":
            self.calls += 1
            self.functions.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))
            self.files.add(frame.f_code.co_filename)
        if place is not None and place.f_code.co_filename != self._top:
            self._top = place.f_code.co_filename
            self.moves += 1

    def _is_ours(self, frame: FrameType) -> bool:
        name = frame.f_code.co_filename
        return name.startswith(PACKAGE) and "testing" not in name


async def walk(call: Callable[[], Awaitable[object]]) -> Walk:
    """Make a call, and count."""
    found = Walk()
    sys.setprofile(found.note)
    try:
        await call()
    finally:
        sys.setprofile(None)
    return found


async def main() -> None:
    """Print the table."""
    print("| call | calls | functions | files | moves |\n|---|---|---|---|---|")
    async with FakeLeadStatusServer() as server:
        for limit in (None, RateLimit(1e6)):
            async with LeadStatusSession("sk_live_moves", base_url=server.url, rate_limit=limit) as session:
                campaign = session.campaign("a", "c")

                async def stream(count: int, campaign: Any = campaign) -> None:
                    async for _ in campaign.stream([f"x{number}" for number in range(count)]):
                        pass

                ways: dict[str, Callable[[], Awaitable[object]]] = {
                    "get_many, 1 lead": lambda campaign=campaign: campaign.get_many(["x"]),
                    "get_many, 100 leads": lambda campaign=campaign: campaign.get_many(
                        [f"x{number}" for number in range(100)]
                    ),
                    "get": lambda campaign=campaign: campaign.get("x"),
                    "stream, 1 lead": lambda stream=stream: stream(1),
                    "stream, 100 leads": lambda stream=stream: stream(100),
                }
                for name, way in ways.items():
                    await way()
                    found = await walk(way)
                    figures = (found.calls, len(found.functions), len(found.files), found.moves)
                    print(
                        f"| {name}{'' if limit is None else ', with a limiter'}",
                        *figures,
                        sep=" | ",
                        end=" |\n",
                    )


if __name__ == "__main__":
    asyncio.run(main())
