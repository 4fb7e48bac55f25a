"""What a user opens: options in, calls out.

It checks its options before any I/O, binds to the event loop of its first use, makes campaigns,
and ends promptly: whoever still waits when it is closed learns so by `SessionClosedError`.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Self, cast

import aiohttp

from leadstatus_async._calls.options import CallOptions
from leadstatus_async._checks import require_callback, require_number, require_whole
from leadstatus_async._engine.cache import Cache
from leadstatus_async._engine.core import Core
from leadstatus_async._engine.observer import Observer
from leadstatus_async._engine.transport import Transport
from leadstatus_async._options import (
    checked_base_url,
    checked_format,
    checked_headers,
    checked_key,
    checked_proxy,
    checked_ssl,
    redactor_of,
)
from leadstatus_async._steps.chunk import Limits, endpoint
from leadstatus_async._steps.validate import checked_path_id
from leadstatus_async.campaign import Campaign
from leadstatus_async.errors import ConfigurationError
from leadstatus_async.learned import RateLimitState  # noqa: TC001 - so that type hints resolve
from leadstatus_async.limiter import Limiter, TokenBucketLimiter
from leadstatus_async.policy import RateLimit, RetryPolicy
from leadstatus_async.results import SessionStats

if TYPE_CHECKING:
    import ssl as ssl_module
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from leadstatus_async._steps.chunk import LeadIdsFormat
    from leadstatus_async.events import Event

_DEFAULT_RATE = RateLimit(10, per=1.0)


class LeadStatusSession:
    """Asks Sonarly for the workflow status of leads: one session per key and event loop, shared by all tasks.

        async with LeadStatusSession("sk_live_...", rate_limit=RateLimit(20, per=1.0)) as session:
            result = await session.campaign("account", "campaign").get_many(lead_ids)

    All times are seconds as float. Without `async with`, call `aclose()`.

    Args:
        api_key: the bare key; None reads `SONARLY_API_KEY`.
        base_url: None reads `SONARLY_BASE_URL`, else `https://api.sonarly.io`. Plain http only to loopback
            hosts, unless `allow_insecure`.
        rate_limit: a `RateLimit` (default 10 per second), a list of them that all hold, a `Limiter` shared
            with others, or None for no bucket; pauses that the server asks for hold in any case.
        concurrency: requests in flight at most, over all calls (default 16).
        chunk_size: lead IDs per request at most (default 100).
        max_url_bytes: bytes of a request target (path and query) at most, default 4000, at least 256.
        lead_ids_format: "comma" sends `leadIds=a,b`, "repeat" sends `leadIds=a&leadIds=b`.
        retry: how patiently failed requests are sent again.
        timeout: seconds one attempt may take, from the moment it is sent (default 30.0).
        max_response_bytes: largest body that is read, after decompression (default 8 MiB).
        http_session: an `aiohttp.ClientSession` to borrow; it is neither closed nor changed.
        proxy: URL of a proxy; credentials in it are kept as secret as the key.
        proxy_from_env: take the proxy from the environment, once, at construction.
        ssl: an `ssl.SSLContext`, for a CA of your own.
        headers: added to each request; a `User-Agent` here replaces ours.
        allow_insecure: allow plain http to any host.
        on_event: called with each event of `leadstatus_async.events`, or a list of such callables, each of
            them guarded by itself; must be quick, and not a coroutine.
        cache_size: how many statuses are remembered for calls with `max_age=`, those used last; 0, the
            default, remembers nothing and costs nothing.

    Raises:
        ConfigurationError: for any bad value, before any I/O, and without echoing the key.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        rate_limit: RateLimit | Sequence[RateLimit] | Limiter | None = _DEFAULT_RATE,
        concurrency: int = 16,
        chunk_size: int = 100,
        max_url_bytes: int = 4000,
        lead_ids_format: LeadIdsFormat = "comma",
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
        timeout: float = 30.0,
        max_response_bytes: int = 8 * 2**20,
        http_session: aiohttp.ClientSession | None = None,
        proxy: str | None = None,
        proxy_from_env: bool = False,
        ssl: ssl_module.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
        allow_insecure: bool = False,
        on_event: Callable[[Event], object] | Sequence[Callable[[Event], object]] | None = None,
        cache_size: int = 0,
    ) -> None:
        key = checked_key(api_key)
        whole, seconds = (
            require_whole("concurrency", concurrency),
            require_number("timeout", timeout, above=True),
        )
        observer = Observer(_callbacks(on_event))
        self._base_url = checked_base_url(
            base_url, allow_insecure=_checked_flag("allow_insecure", allow_insecure)
        )
        from_env = _checked_flag("proxy_from_env", proxy_from_env)
        self._format: LeadIdsFormat = checked_format(lead_ids_format)
        self._max_url_bytes = require_whole("max_url_bytes", max_url_bytes, least=256)
        limits = Limits(require_whole("chunk_size", chunk_size), self._max_url_bytes)
        if not isinstance(retry, RetryPolicy):
            raise ConfigurationError(f"retry must be a RetryPolicy, not {type(retry).__name__}")
        way = checked_proxy(proxy, from_env=from_env, base_url=self._base_url)
        transport = Transport(
            self._base_url,
            key,
            headers=checked_headers(headers),
            timeout=seconds,
            max_response_bytes=require_whole("max_response_bytes", max_response_bytes),
            http_session=_checked_http_session(http_session),
            proxy=way,
            ssl=checked_ssl(ssl),
        )
        size = require_whole("cache_size", cache_size, least=0)
        self._core = Core(
            transport,
            _limiter(rate_limit),
            limits,
            retry,
            whole,
            seconds,
            Cache(size) if size else None,
            observer,
            redactor_of(key, way),
        )
        self._settings = f"concurrency={whole}, chunk_size={limits.chunk_size}, timeout={seconds:g}"

    def campaign(self, account_group_id: str, campaign_id: str) -> Campaign:
        """Return the campaign to ask about; no I/O.

        Raises:
            ConfigurationError: for an ID that would bend the URL: empty, `..`, with `/`, `?`, `#`, `%`,
                comma, whitespace or control characters.
        """
        account = checked_path_id("account_group_id", account_group_id)
        campaign = checked_path_id("campaign_id", campaign_id)
        where = endpoint(self._base_url.raw_path.rstrip("/"), account, campaign, self._format)
        room = self._max_url_bytes - len(where.prefix)
        if room < 1:
            raise ConfigurationError(
                f"max_url_bytes={self._max_url_bytes} leaves no room for a lead ID after {len(where.prefix)} "
                "bytes of path; raise it"
            )
        return Campaign(
            self._core, where, room, CallOptions(self._core.patience, self._core.cache is not None)
        )

    @property
    def limiter(self) -> Limiter:
        """The limiter in use; give it to another session as its `rate_limit` to share quota and pauses."""
        return self._core.limiter

    @property
    def rate_limit_state(self) -> RateLimitState:
        """A snapshot of the limiter: rates, pause and why."""
        return self._core.limiter.state

    @property
    def stats(self) -> SessionStats:
        """A snapshot of what the session has done so far."""
        total = self._core.total
        return SessionStats(
            requests=total.requests,
            retries=total.retries,
            splits=total.splits,
            rate_limited=total.rate_limited,
            leads=total.leads,
            failures=total.failures,
            waited=total.waited,
            in_flight=self._core.in_flight,
            queued=self._core.queued,
        )

    @property
    def base_url(self) -> str:
        """Where requests go, without a slash at its end."""
        return str(self._base_url).rstrip("/")

    @property
    def outage(self) -> bool:
        """Whether the API is held to be down now: nothing but probes is sent. For health checks."""
        return self._core.outage

    @property
    def closed(self) -> bool:
        """Whether `aclose` was called."""
        return self._core.closed

    async def aclose(self, drain_timeout: float = 0.0) -> None:
        """Close the session; calls in flight end with `SessionClosedError` and its `.result`. Idempotent.

        Args:
            drain_timeout: seconds within which queued work is still sent; new calls are refused at once.

        Raises:
            ConfigurationError: if `drain_timeout` is no number of at least 0.
            SessionLoopError: from another event loop than that of the session's first use.
        """
        await self._core.aclose(require_number("drain_timeout", drain_timeout))

    async def __aenter__(self) -> Self:
        self._core.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        where = self.base_url
        return f"<LeadStatusSession{state} {where} {self._settings}, limiter={self.limiter!r}>"

    def __reduce__(self) -> Any:
        raise TypeError(
            "a LeadStatusSession cannot be pickled or copied: make one per process and event loop"
        )

    def __del__(self) -> None:
        core = getattr(self, "_core", None)  # None when the constructor raised
        if core is not None and core.transport.opened and not core.closed:
            warnings.warn(
                f"unclosed {self!r}; use `async with` or await aclose()",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )


def _callbacks(value: object) -> list[Callable[[Event], object]]:
    given = cast("Sequence[object]", value) if isinstance(value, list | tuple) else [value]
    callbacks = [] if value is None else list(given)
    for callback in callbacks:
        require_callback("on_event", callback, "one event")
    return cast("list[Callable[[Event], object]]", callbacks)


def _limiter(value: object) -> Limiter:
    if isinstance(value, Limiter):
        return value
    if value is None:
        return TokenBucketLimiter(None)
    limits = cast("Sequence[object]", value) if isinstance(value, list | tuple) else [value]
    for limit in limits:
        if not isinstance(limit, RateLimit):
            raise ConfigurationError(
                "rate_limit must be a RateLimit, a list of them, an object with the Limiter protocol, or "
                f"None, not {limit!r:.100}"
            )
    if not limits:
        raise ConfigurationError("rate_limit must not be an empty list; None means no limit")
    return TokenBucketLimiter(cast("Sequence[RateLimit]", limits))


def _checked_flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False, not {value!r:.100}")
    return value


def _checked_http_session(value: object) -> aiohttp.ClientSession | None:
    if value is None:
        return None
    if not isinstance(value, aiohttp.ClientSession):
        raise ConfigurationError(f"http_session must be an aiohttp.ClientSession, not {type(value).__name__}")
    if value.auth is not None:
        raise ConfigurationError(
            "http_session has auth= of its own, which aiohttp will not combine with our key"
        )
    return value
