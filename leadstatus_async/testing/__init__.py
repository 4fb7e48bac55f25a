"""What tests of code that uses this library need: a real fake server, and pytest fixtures.

    async with FakeLeadStatusServer() as server:
        server.fault("429-retry-after")
        async with LeadStatusSession("sk_test", base_url=server.url) as session: ...

Names are loaded when first used: the pytest plugin beside them must cost nothing to who does not
use it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leadstatus_async.testing._log import ReceivedRequest
    from leadstatus_async.testing.faults import FAULTS, Fault
    from leadstatus_async.testing.quota import ConcurrencyLimit, FixedWindow, SlidingWindow, TokenBucket
    from leadstatus_async.testing.server import FakeLeadStatusServer

__all__ = [
    "FAULTS",
    "ConcurrencyLimit",
    "FakeLeadStatusServer",
    "Fault",
    "FixedWindow",
    "ReceivedRequest",
    "SlidingWindow",
    "TokenBucket",
]

_HOME = {
    "ConcurrencyLimit": "quota",
    "FAULTS": "faults",
    "FakeLeadStatusServer": "server",
    "Fault": "faults",
    "FixedWindow": "quota",
    "ReceivedRequest": "_log",
    "SlidingWindow": "quota",
    "TokenBucket": "quota",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
