"""One HTTP attempt: a request target goes out, a received answer or a typed failure comes back.

The only folder that knows aiohttp. Nothing of aiohttp leaves it: its exceptions, request objects
and headers hold the API key (a2), so they are turned into our errors here, which are returned and
not raised, so that none stays on a `__context__`. No redirects, no cookies, no environment, no
second attempt behind our back; the body is capped while it streams in.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import msgspec
from yarl import URL

from leadstatus_async._engine.transport.bodies import ASKED_FOR, UndecodableError, read
from leadstatus_async._engine.transport.connections import (
    Resting,
    UnaskedError,
    Way,
    drop,
    looks_first,
    own_connector,
    sending,
)
from leadstatus_async._engine.transport.failures import (
    CONNECT_TIMEOUT,
    NO_FILES_LEFT,
    POOL_TIMEOUT,
    failure_of,
)
from leadstatus_async._engine.transport.timeouts import Timeouts
from leadstatus_async._steps.decipher import Failure, Sort
from leadstatus_async.errors import (
    APIConnectionError,
    LeadStatusError,
    ResponseDecodeError,
    ResponseError,
    ResponseTooLargeError,
    SessionClosedError,
    SessionLoopError,
)
from leadstatus_async.limiter import STALE

if TYPE_CHECKING:
    import ssl as ssl_module
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp.client_proto import ResponseHandler

    from leadstatus_async._engine.transport.credentials import Proxy, Secret

_ERROR_BYTES = 64 * 2**10  # what is kept of an error's body: enough for any envelope
_PIECE = 2**16  # bytes that aiohttp decompresses ahead of us; up to thrice as many, twice
_SURELY_ALIVE = 10.0  # seconds: aiohttp keeps idle connections for 15
_TRIES = 20  # on a borrowed session, to find a connection that has received nothing unasked


class Received(msgspec.Struct, frozen=True):
    """An answer as it came.

    Attributes:
        status: HTTP status.
        headers: case-insensitive.
        body: decompressed; of an error's, the first 64 KiB.
        connection: what it came on, for `Transport.disbelieve`.
        hidden: requests that aiohttp sent besides, by itself (a3).
    """

    status: int
    headers: Mapping[str, str]
    body: bytes | bytearray
    connection: ResponseHandler | None = None
    hidden: int = 0

    def __repr__(self) -> str:
        return (
            f"<Received {self.status}>"  # headers and body may echo the key, and crash reporters show locals
        )


class Transport:
    """Sends request targets to one base URL with one key.

    Attributes:
        renew: takes a token anew for a request whose connection was long in coming.
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
        self._goes_to = f"the proxy {proxy.url}" if proxy else self._origin
        self._scheme, self._authority = base_url.scheme, base_url.raw_authority
        self._key = key
        self._headers = {"Accept-Encoding": ASKED_FOR, **headers}
        self._seconds = timeout
        self._max_bytes = max_response_bytes
        self._borrowed = http_session is not None
        self._session = http_session
        self.renew: Callable[[], Awaitable[None]] | None = None
        self._resting: Resting = {}
        self._hidden_of_cut = 0
        self._under_way = 0  # requests that wait neither for a connection nor for a file descriptor
        self._without_file: deque[asyncio.Future[None]] = deque()
        self._proxy = proxy
        self._ssl = ssl
        self._timeout = self._client_timeout(timeout)

    @property
    def at_once(self) -> float:
        """How many requests a lent pool lets be in flight at once; infinity where there is no such bound."""
        connector = self._session.connector if self._borrowed and self._session is not None else None
        if connector is None:
            return math.inf
        return min(connector.limit or math.inf, connector.limit_per_host or math.inf)

    @property
    def proxy(self) -> str:
        """The proxy that sees plain http, and so may answer itself; "" if there is none."""
        return self._goes_to if self._proxy is not None and self._scheme == "http" else ""

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
        self._timeouts = Timeouts()
        if self._session is None:
            self._session = self._own_session()
        elif self._borrowed and self._session.closed:
            raise SessionClosedError("the http_session lent to this session is closed; lend an open one")
        # Its public `loop` warns that it is deprecated.
        elif self._borrowed and self._session._loop is not asyncio.get_running_loop():  # noqa: SLF001
            raise SessionLoopError(
                "the http_session lent to this session belongs to another event loop; make both in one"
            )

    async def send(self, target: str, seconds: float | None = None) -> Received | Failure:
        """Send one request and read its answer whole.

        Args:
            target: path and query, encoded, sent as it is.
            seconds: it may take; None for the session's `timeout`.
        """
        if self._session is None or self._session.closed:
            return Failure(SessionClosedError("the aiohttp session was closed under this call"), Sort.FATAL)
        task, expired = cast("asyncio.Task[object]", asyncio.current_task()), False
        way = Way(task.get_loop().time(), self._seconds if seconds is None else seconds)
        self._timeouts.begin(task, way.seconds)
        self._under_way += 1
        try:
            try:
                return await self._exchange(self._session, target, way, task)
            finally:
                self._under_way -= 1
                self._pass_file_on()
                expired = self._timeouts.end(task)
                if expired:  # told by an error even if somebody cuts it in this turn: the server is slow
                    task.uncancel()
        except LeadStatusError as ours:  # of `renew`; its frames are aiohttp's
            ours.__context__ = None
            return Failure(ours.with_traceback(None), Sort.FINAL, hidden=-1)  # it was not sent
        except Exception as caught:  # noqa: BLE001 - hooks of a lent session may raise anything, with the key in its frames
            return self._failed(caught, way)
        except BaseException as caught:  # noqa: BLE001 - raised again below
            if expired and isinstance(caught, asyncio.CancelledError):
                return self._failed(TimeoutError(), way)
            ended = caught
            # What was cut off while it waited for a lent pool was not sent even once.
            self._hidden_of_cut = way.sends - 1 if self._borrowed else way.hidden
        # The frames that it has passed, aiohttp's, hold the key: it starts anew, from here.
        ended.__cause__ = ended.__context__ = None
        try:
            raise ended.with_traceback(None)
        finally:
            del ended

    def _failed(self, caught: Exception, way: Way) -> Failure:
        failure = failure_of(
            caught,
            way,
            seconds=way.seconds,
            origin=self._origin,
            goes_to=self._goes_to,
            borrowed=self._borrowed,
        )
        return msgspec.structs.replace(failure, hidden=way.hidden) if way.hidden else failure

    def hidden_of_cut(self) -> int:
        """Return how often aiohttp sent again by itself what was cut off last, once; -1 if never sent."""
        hidden, self._hidden_of_cut = self._hidden_of_cut, 0
        return hidden

    def disbelieve(self, received: Received) -> None:
        """Close the connection that an answer came on, since it may have been another request's."""
        if received.connection is not None:
            drop(received.connection)

    async def aclose(self) -> None:
        """Close our own aiohttp session; a borrowed one is left as it was."""
        self._timeouts.close()
        if self._session is not None and not self._borrowed:
            await self._session.close()

    def _own_session(self) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=own_connector(self._ssl, self._resting),
            cookie_jar=aiohttp.DummyCookieJar(),  # a13
        )
        # aiohttp has no public switch for its second attempt (aiohttp#10790); without this, it is counted.
        session._retry_connection = False  # noqa: SLF001
        return session

    def _client_timeout(self, seconds: float) -> aiohttp.ClientTimeout:
        """Return what aiohttp is told of an attempt that may take so long: the time for connecting.

        Waiting for a lent pool is not connecting: that is timed by the socket there (a7). Whole-second
        rounding, which aiohttp does above ceil_threshold (a8), is off.
        """
        connecting = min(seconds, CONNECT_TIMEOUT)
        connect = {"sock_connect": connecting, "connect": POOL_TIMEOUT}
        return aiohttp.ClientTimeout(
            total=None, ceil_threshold=math.inf, **(connect if self._borrowed else {"connect": connecting})
        )

    async def _exchange(
        self, session: aiohttp.ClientSession, target: str, way: Way, task: asyncio.Task[object]
    ) -> Received | Failure:
        path, _, query = target.partition("?")
        url = URL.build(  # half the time of parsing it
            scheme=self._scheme, authority=self._authority, path=path, query_string=query, encoded=True
        )
        options = self._options(way.seconds)
        if self._borrowed:
            # Who waits for the pool has its turn: aiohttp gives a connection to whoever asks first.
            await asyncio.sleep(0)
        if self._borrowed or not self._has_connection(way.began):
            look_first = looks_first(way, partial(self._waits, task), partial(self._leaves, task, way))
            # A request's own middlewares replace the session's, which its owner wants to run as well.
            options["middlewares"] = (*session._middlewares, look_first)  # noqa: SLF001
        sending.set(way)
        tries = _TRIES
        while tries:
            try:
                async with session.get(url, **options) as response:
                    way.answered = True
                    return await self._received(response, way)
            except UnaskedError:
                tries -= 1
                way.sends -= not self._borrowed  # ours counts before it looks
            except aiohttp.ClientConnectorError as refused:
                if refused.os_error.errno not in NO_FILES_LEFT or self._under_way == 1:
                    raise
                await self._file(task, way)  # the process can open no more, but others have theirs
        message = f"{self._origin} sends answers that nobody asked for; the request was not sent"
        return Failure(APIConnectionError(message), Sort.PASSING)

    def _has_connection(self, now: float) -> bool:
        """Whether an own connection is surely there, so that nothing has to be waited for."""
        return any(now - since < _SURELY_ALIVE for since in self._resting.values())

    def _waits(self, task: asyncio.Task[object], request: aiohttp.ClientRequest) -> None:
        """Stop the clock of an attempt that has to wait for a lent pool; connecting is part of it."""
        connector = self._session.connector if self._session is not None else None
        left = getattr(connector, "_available_connections", None)  # aiohttp has no public way to ask
        if self._borrowed and (left is None or left(request.connection_key) < 1):
            self._timeouts.rest(task)

    async def _leaves(self, task: asyncio.Task[object], way: Way) -> bool:
        """Begin an attempt where it is sent; its token is of another window if that took long."""
        late = self.renew is not None and task.get_loop().time() - way.began > STALE
        if self.renew is not None and late:
            self._timeouts.rest(task)
            await self.renew()
        self._timeouts.begin(task, way.seconds)
        return late

    async def _file(self, task: asyncio.Task[object], way: Way) -> None:
        """Wait for the end of another request, whose connection can be used; it is no part of the attempt."""
        freed = asyncio.get_running_loop().create_future()
        self._without_file.append(freed)
        self._under_way -= 1
        self._timeouts.rest(task)
        try:
            await freed
        finally:
            self._under_way += 1
        self._timeouts.begin(task, way.seconds)

    def _pass_file_on(self) -> None:
        while self._without_file:
            freed = self._without_file.popleft()
            if not freed.done():  # it is, if whoever waited was cut off
                freed.set_result(None)
                return

    def _options(self, seconds: float) -> dict[str, Any]:
        """Return what overrides all that a borrowed session may have set (a16); never kept, for the key."""
        options: dict[str, Any] = {
            "headers": {**self._headers, "Authorization": f"Bearer {self._key.reveal()}"},
            "timeout": self._timeout if seconds == self._seconds else self._client_timeout(seconds),
            "allow_redirects": False,
            "raise_for_status": False,
            "auto_decompress": False,
            "read_bufsize": _PIECE,
        }
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

    async def _received(self, response: aiohttp.ClientResponse, way: Way) -> Received | Failure:
        """Read an answer to its end, or to the cap."""
        status, most = response.status, self._max_bytes
        body: bytes | bytearray = b""
        complete = False
        error: ResponseError | None = None
        try:
            keep = most if status == 200 else min(most, _ERROR_BYTES)
            body, complete = await read(response, most=most, keep=keep)
            if not complete:
                message = f"the body is larger than max_response_bytes ({most} bytes, decompressed)"
                error = ResponseTooLargeError(message, status=status)
        except UndecodableError as wrong:
            error = ResponseDecodeError(f"HTTP {status}, but {wrong}", status=status)
        if not complete:
            response.close()
        if error is None or status != 200:  # that one failed is told by its status
            return Received(status, response.headers, body, way.connection, way.hidden)
        return Failure(error, Sort.PASSING if isinstance(error, ResponseDecodeError) else Sort.FINAL)
