"""Asyncio batch client for the campaign workflow status of Sonarly leads.

    async with LeadStatusSession("sk_live_...") as session:
        result = await session.campaign("account", "campaign").get_many(lead_ids)

Names are loaded when first used, so that `leadstatus_async.models` and `.errors` come without
aiohttp, and the pytest plugin costs nothing to those who do not use it.

A map, from the top down; each line may import those below it:

    cli testing                         surfaces: the command, the fake server for tests
    otel prometheus                     observers for packages that may be there
    session campaign _options           the face: options are checked once, calls are made
    _calls      get get_many stream watch                   what users call, each one Source or one Job
    _engine     permit attempt job transport observer core  what waits: the dispatcher and what it moves
    limiter     _pace: token_bucket bucket                  who may go when
    _state      backlog bisection request health rate ...   what was seen and learned, without a clock
    _steps      validate fold chunk decipher decide merge   the way of a lead, in pure functions
    events errors results learned models policy             data
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leadstatus_async._calls.stream import StatusStream
    from leadstatus_async._version import __version__
    from leadstatus_async.campaign import Campaign
    from leadstatus_async.errors import (
        APIConnectionError,
        APIStatusError,
        APITimeoutError,
        AuthenticationError,
        BadRequestError,
        BatchError,
        ConfigurationError,
        DeadlineExceededError,
        InvalidLeadIdError,
        LeadStatusError,
        LimiterError,
        MissingLeadError,
        NotFoundError,
        PermissionDeniedError,
        RateLimitError,
        RequestTooLargeError,
        ResponseDecodeError,
        ResponseError,
        ResponseTooLargeError,
        ServerError,
        SessionClosedError,
        SessionLoopError,
        UnexpectedStatusError,
        UpstreamError,
    )
    from leadstatus_async.learned import RateLimitState, Suggestion
    from leadstatus_async.limiter import Limiter
    from leadstatus_async.models import LeadFailure, LeadStatus, WorkflowStatus
    from leadstatus_async.policy import RateLimit, RetryPolicy
    from leadstatus_async.results import (
        BatchResult,
        BatchStats,
        Plan,
        Progress,
        SessionStats,
    )
    from leadstatus_async.session import LeadStatusSession

__all__ = [
    "APIConnectionError",
    "APIStatusError",
    "APITimeoutError",
    "AuthenticationError",
    "BadRequestError",
    "BatchError",
    "BatchResult",
    "BatchStats",
    "Campaign",
    "ConfigurationError",
    "DeadlineExceededError",
    "InvalidLeadIdError",
    "LeadFailure",
    "LeadStatus",
    "LeadStatusError",
    "LeadStatusSession",
    "Limiter",
    "LimiterError",
    "MissingLeadError",
    "NotFoundError",
    "PermissionDeniedError",
    "Plan",
    "Progress",
    "RateLimit",
    "RateLimitError",
    "RateLimitState",
    "RequestTooLargeError",
    "ResponseDecodeError",
    "ResponseError",
    "ResponseTooLargeError",
    "RetryPolicy",
    "ServerError",
    "SessionClosedError",
    "SessionLoopError",
    "SessionStats",
    "StatusStream",
    "Suggestion",
    "UnexpectedStatusError",
    "UpstreamError",
    "WorkflowStatus",
    "__version__",
]

_PUBLIC = ("errors", "models", "policy", "learned", "results", "limiter", "campaign", "session")
_MODULES = ("_version", *_PUBLIC, "_calls.stream")

logging.getLogger("leadstatus_async").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'leadstatus_async' has no attribute {name!r}")
    modules = (importlib.import_module(f"leadstatus_async.{module}") for module in _MODULES)
    found = next(getattr(module, name) for module in modules if hasattr(module, name))
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
