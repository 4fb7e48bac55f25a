"""One HTTP attempt: a request target goes out, a received answer or a typed failure comes back.

The only module that knows aiohttp. Nothing of aiohttp leaves it: its exceptions, request objects
and headers hold the API key (a2), so they are turned into our errors here, which are returned and
not raised, so that none stays on a `__context__`. No redirects, no cookies, no environment, no
second attempt behind our back; the body is capped while it streams in.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
from yarl import URL

from leadstatus_async._core.wire import Failure, Sort
from leadstatus_async.errors import (
    APIConnectionError,
    APITimeoutError,
    ResponseTooLargeError,
    SessionClosedError,
    SessionLoopError,
)

if TYPE_CHECKING:
    import ssl as ssl_module
    from collections.abc import Mapping

    from leadstatus_async._settings import Proxy, Secret

CONNECT_TIMEOUT = 10.0  # seconds of an attempt that connecting may take
_KEY_LENGTH = 8
_TLS = (aiohttp.ClientSSLError, aiohttp.ClientConnectorCertificateError, aiohttp.ServerFingerprintMismatch)


class Received(msgspec.Struct, frozen=True):
    """An answer as it came; the body is decompressed, and of a large error page only its beginning."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """Sends request targets to one base URL with one key.

    Attributes:
        hidden_attempts: requests that aiohttp may have sent besides, when a connection was lost
            before any byte of an answer (a3): 0 on a session of our own, 1 on a borrowed one.
    """

    def __init__(
        self,
        base_url: URL,
        key: Secret,
        *,
        headers: Mapping[str, str],
        timeout: float,
        max_response_bytes: int,
        http_session: aiohttp.ClientSession | None = None,
        proxy: Proxy | None = None,
        ssl: ssl_module.SSLContext | None = None,
    ) -> None:
        self._origin = str(base_url.origin())
        self._key = key
        self._headers = headers
        self._seconds = timeout
        self._max_bytes = max_response_bytes
        self._borrowed = http_session is not None
        self._session = http_session
        self._proxy = proxy
        self._ssl = ssl
        # Waiting for a lent pool is not connecting: only the socket is timed there (a7). Whole-second
        # rounding, which aiohttp does above ceil_threshold (a8), is off.
        connect = {"sock_connect" if self._borrowed else "connect": min(timeout, CONNECT_TIMEOUT)}
        self._timeout = aiohttp.ClientTimeout(total=timeout, ceil_threshold=math.inf, **connect)
        self.hidden_attempts = 1 if self._borrowed else 0

    @property
    def opened(self) -> bool:
        """Whether there is an aiohttp session of our own to close."""
        return self._session is not None and not self._borrowed

    def open(self) -> None:
        """Make the aiohttp session, inside the running loop (a17), or check the borrowed one.

        Raises:
            SessionClosedError: the borrowed session is closed.
            SessionLoopError: the borrowed session belongs to another event loop.
        """
        if self._session is None:
            self._session = self._own_session()
        elif self._borrowed and self._session.closed:
            raise SessionClosedError("the http_session lent to this session is closed; lend an open one")
        # Its public `loop` warns that it is deprecated.
        elif self._borrowed and self._session._loop is not asyncio.get_running_loop():  # noqa: SLF001
            raise SessionLoopError(
                "the http_session lent to this session belongs to another event loop; make both in one"
            )

    async def send(self, target: str) -> Received | Failure:
        """Send one request and read its answer whole.

        Args:
            target: path and query, encoded, sent as it is.
        """
        if self._session is None or self._session.closed:
            return Failure(SessionClosedError("the aiohttp session was closed under this call"), Sort.FATAL)
        way = _Way()
        try:
            return await self._exchange(self._session, target, way)
        except asyncio.CancelledError:
            pass  # raised anew below: aiohttp's frames, which this one has passed, hold the key
        except Exception as caught:  # noqa: BLE001 - hooks of a lent session may raise anything, with the key in its frames
            return _failure(caught, way, seconds=self._seconds, origin=self._origin)
        raise asyncio.CancelledError

    async def aclose(self) -> None:
        """Close our own aiohttp session; a borrowed one is left as it was."""
        if self._session is not None and not self._borrowed:
            await self._session.close()

    def _own_session(self) -> aiohttp.ClientSession:
        # No pool limit: permits bound what is in flight, and waiting for a pool would eat the timeout (a7).
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._ssl or True),
            cookie_jar=aiohttp.DummyCookieJar(),  # a13
            trace_configs=[_reuse_told()],
        )
        if hasattr(session, "_retry_connection"):
            session._retry_connection = False  # noqa: SLF001 - aiohttp has no public switch (aiohttp#10790)
        else:  # pragma: no cover - an aiohttp that no longer has it: count what it may do
            self.hidden_attempts = 1
        return session

    async def _exchange(self, session: aiohttp.ClientSession, target: str, way: _Way) -> Received | Failure:
        url = URL(self._origin + target, encoded=True)
        async with session.get(url, **self._options(way)) as response:
            way.answered = True
            status, headers = response.status, response.headers
            body, whole = await self._read(response)
        if not whole and status == 200:
            message = f"the body is larger than max_response_bytes ({self._max_bytes} bytes, decompressed)"
            return Failure(ResponseTooLargeError(message, status=status), Sort.FINAL)
        return Received(status, headers, body)

    def _options(self, way: _Way) -> dict[str, Any]:
        """Return what overrides all that a borrowed session may have set (a16); never kept, for the key."""
        options: dict[str, Any] = {
            "headers": {**self._headers, "Authorization": f"Bearer {self._key.reveal()}"},
            "timeout": self._timeout,
            "allow_redirects": False,
            "raise_for_status": False,
            "auto_decompress": True,
        }
        if not self._borrowed:  # the owner's traces have a context of their own
            options["trace_request_ctx"] = way
        if self._ssl is not None:
            options["ssl"] = self._ssl
        if self._proxy is not None:
            options["proxy"] = self._proxy.url
            if self._proxy.credentials is not None:
                user, password = self._proxy.credentials
                basic = aiohttp.encode_basic_auth(user, password.reveal())
                # aiohttp gives proxy_headers to the CONNECT of https only; plain http needs them itself.
                tunnelled = self._origin.startswith("https:")
                where = options.setdefault("proxy_headers", {}) if tunnelled else options["headers"]
                where["Proxy-Authorization"] = basic
        return options

    async def _read(self, response: aiohttp.ClientResponse) -> tuple[bytes, bool]:
        """Read the body, decompressed, up to the cap (a11): the bytes, and whether they are all."""
        if (response.content_length or 0) > self._max_bytes:
            response.close()
            return b"", False
        pieces: list[bytes] = []
        size = 0
        while piece := await response.content.readany():
            pieces.append(piece)
            size += len(piece)
            if size > self._max_bytes:
                response.close()
                return b"".join(pieces)[: self._max_bytes], False
        return b"".join(pieces), True

    def redacted(self, body: bytes) -> bytes:
        """Take the key out of a body whose text will be shown: debugging proxies echo what they were sent.

        Keys too short to be real ones stay: they would be found in innocent words.
        """
        key = self._key.reveal().encode()
        return body.replace(key, b"[redacted]") if len(key) >= _KEY_LENGTH and key in body else body


class _Way:
    """How far a request came.

    Attributes:
        reused: its connection had served another request before; never known on a borrowed session.
        answered: the head of an answer came.
    """

    __slots__ = ("answered", "reused")

    def __init__(self) -> None:
        self.reused = self.answered = False


def _reuse_told() -> aiohttp.TraceConfig:
    """Return what makes aiohttp tell a request's way that its connection is a reused one."""

    async def reused(_: aiohttp.ClientSession, context: Any, __: object) -> None:
        context.trace_request_ctx.reused = True

    config = aiohttp.TraceConfig()
    config.on_connection_reuseconn.append(reused)
    return config


def _failure(  # noqa: PLR0911 - a table of cases
    caught: Exception, way: _Way, *, seconds: float, origin: str
) -> Failure:
    """Turn what aiohttp raised into our error; a `ClientResponseError`'s status is not the server's (a4)."""
    if isinstance(caught, _TLS):
        message = f"TLS with {origin} failed: {_cause(caught)}; pass ssl= with a context that trusts it"
        return Failure(APIConnectionError(message), Sort.FATAL)  # every other request would meet it too
    if isinstance(caught, aiohttp.ConnectionTimeoutError):
        limit = min(seconds, CONNECT_TIMEOUT)
        return Failure(APITimeoutError(f"no connection to {origin} within {limit:g} s"), Sort.PASSING)
    if isinstance(caught, TimeoutError):
        what = "the answer was not complete" if way.answered else "no answer came"
        return Failure(APITimeoutError(f"{what} within timeout={seconds:g} s"), Sort.PASSING)
    if isinstance(caught, aiohttp.ClientConnectorError):
        return Failure(APIConnectionError(f"cannot connect to {origin}: {_cause(caught)}"), Sort.PASSING)
    if isinstance(caught, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError) and not way.answered:
        message = "the server closed the connection without an answer"
        return Failure(APIConnectionError(message), Sort.PASSING, early=True, stale=way.reused)
    if not isinstance(caught, aiohttp.ClientError | OSError) or isinstance(caught, aiohttp.InvalidURL):
        message = f"aiohttp, or a hook of the lent session, raised {type(caught).__name__}"
        return Failure(APIConnectionError(message), Sort.FINAL)
    what = "the answer was cut off" if way.answered else "the answer is no valid HTTP"
    return Failure(APIConnectionError(f"{what} ({type(caught).__name__})"), Sort.PASSING)


def _cause(caught: Exception) -> str:
    """Say why, from the operating system's or the TLS library's own words."""
    inner = getattr(caught, "certificate_error", None) or getattr(caught, "os_error", None) or caught
    return getattr(inner, "verify_message", None) or getattr(inner, "strerror", None) or type(inner).__name__
