"""A real HTTP server on port 0 that follows `openapi.yaml`, for tests and demos without the vendor.

Raw asyncio streams, because the faults are those of sockets: resets, cut bodies, stale connections.
It imports nothing of the package but the models: a bug shared with the client's decoder must not
agree with itself. All times are seconds as float.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import zlib
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from leadstatus_async.models import LeadStatus, WorkflowStatus
from leadstatus_async.testing.faults import Asked, Fault, Reply, envelope, fault, http_date, page, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from types import TracebackType

    from leadstatus_async.testing.quota import Decision, FixedWindow, SlidingWindow, TokenBucket

_STATUSES = list(WorkflowStatus)
_STEPS = (None, "email_1", "email_2", "call")
_MAX_HEAD = 256 * 1024


@dataclass
class ReceivedRequest:
    """A request as it came, and what became of it.

    Attributes:
        at: loop time of its arrival.
        target: path and query as sent.
        account, campaign, lead_ids: as read from the target.
        headers: with lower-case names.
        connection: number of the connection it came on.
        status: of the answer; None where none was given.
        fault: name of the fault it met, if any.
    """

    at: float
    target: str
    account: str
    campaign: str
    lead_ids: tuple[str, ...]
    headers: Mapping[str, str]
    connection: int
    status: int | None = None
    fault: str | None = None


@dataclass
class _Rule:
    make: Callable[[Asked], Reply]
    name: str
    left: int | None
    when: Callable[[ReceivedRequest], bool]


@dataclass(eq=False)
class _Connection:
    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    stale: bool = False
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class FakeLeadStatusServer:
    """The endpoint, on loopback; use it as an async context manager.

        async with FakeLeadStatusServer() as server:
            session = LeadStatusSession("sk_test", base_url=server.url)

    Statuses are a fixed function of the lead ID unless `set_status` says otherwise.

    Args:
        api_key: the only key accepted; None accepts any.
        max_ids: an enveloped 400 beyond so many lead IDs in a request; None for no limit.
        max_url_bytes: a page with status `too_long` for longer request targets; None for no limit.
        too_long: 414, 413, 431 or 400.
        bad_ids: lead IDs that the server answers with an enveloped 400.
        latency: seconds before each answer.
        rate_limit: a `SlidingWindow`, `FixedWindow` or `TokenBucket`; may be replaced at any time.
        faults_every: fault name -> n: every n-th request meets it.
        path_prefix: what comes before `/v1`.
        drip_interval: seconds between two bytes of "slow-drip".
        keep_requests: keep the log of requests; off for millions.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        max_ids: int | None = None,
        max_url_bytes: int | None = None,
        too_long: int = 414,
        bad_ids: Collection[str] = (),
        latency: float = 0.0,
        rate_limit: SlidingWindow | FixedWindow | TokenBucket | None = None,
        faults_every: Mapping[str, int] | None = None,
        path_prefix: str = "",
        drip_interval: float = 0.01,
        keep_requests: bool = True,
    ) -> None:
        self.api_key = api_key
        self.max_ids = max_ids
        self.max_url_bytes = max_url_bytes
        self.too_long = too_long
        self.bad_ids = set(bad_ids)
        self.latency = latency
        self.rate_limit = rate_limit
        self.drip_interval = drip_interval
        self.requests: list[ReceivedRequest] = []
        self.count = 0
        self.in_flight = self.max_in_flight = 0
        self._every = {name: (fault(name), every) for name, every in (faults_every or {}).items()}
        self._prefix = path_prefix.rstrip("/")
        self._keep = keep_requests
        self._script: deque[tuple[str | None, Callable[[Asked], Reply] | None]] = deque()
        self._rules: list[_Rule] = []
        self._set: dict[str, dict[str, Any]] = {}
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._connected = 0
        self._port = 0
        self._gate = asyncio.Event()
        self._gate.set()
        self._arrived = asyncio.Condition()

    # Life

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end."""
        return f"http://127.0.0.1:{self._port}{self._prefix}"

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._connections)

    async def start_listening(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._server = await asyncio.start_server(
            self._connected_by, "127.0.0.1", self._port, limit=_MAX_HEAD
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop_listening(self) -> None:
        """Refuse new connections and drop those there are, as a server does that goes down."""
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = [connection.task for connection in self._connections if connection.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def aclose(self) -> None:
        """Close the server and every connection. Idempotent."""
        await self.stop_listening()

    async def __aenter__(self) -> Self:
        await self.start_listening()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # What it answers

    def set_status(self, lead_id: str, status: str, **fields: Any) -> None:
        """Fix the status of a lead; `fields` are the API's, in camelCase."""
        self._set[lead_id] = {"workflowStatus": str(status), **fields}

    def expected(self, lead_id: str) -> LeadStatus:
        """Return the status that the server tells of a lead."""
        row = self._row(lead_id)
        return LeadStatus(
            lead_id=row["leadId"],
            workflow_status=WorkflowStatus(row["workflowStatus"]),
            workflow_instance_id=row["workflowInstanceId"],
            latest_step=row["latestStep"],
            workflow_stop_reason=row["workflowStopReason"],
            has_pending_approval=row["hasPendingApproval"],
        )

    def script(self, *faults: str | Fault | None) -> None:
        """Let the next requests meet these faults, in this order; None is a good answer.

        Raises:
            ValueError: for an unknown name.
        """
        for name in faults:
            good = name is None or name == "ok"
            self._script.append((_name(name), None if name is None or good else fault(name)))

    def fault(
        self,
        name: str | Fault,
        *,
        times: int | None = 1,
        when: Callable[[ReceivedRequest], bool] = lambda _: True,
    ) -> None:
        """Let requests meet a fault.

        Args:
            name: of the fault, or a `Fault` of your own.
            times: how many requests; None for all until `clear_faults`.
            when: which requests.

        Raises:
            ValueError: for an unknown name.
        """
        self._rules.append(_Rule(fault(name), _name(name) or "", times, when))

    def clear_faults(self) -> None:
        """Answer well from now on."""
        self._script.clear()
        self._rules.clear()
        self._every.clear()

    def hold(self) -> None:
        """Answer nothing until `release`, so that requests stay in flight."""
        self._gate.clear()

    def release(self) -> None:
        """Answer what is held, and go on."""
        self._gate.set()

    # What it has seen

    async def wait_for_requests(self, count: int) -> None:
        """Wait until so many requests have arrived since the server was made."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: self.count >= count)

    def peak_rate(self, per: float = 1.0) -> int:
        """Return the most requests that arrived within any window of `per` seconds."""
        times, first, most = [request.at for request in self.requests], 0, 0
        for last, at in enumerate(times):
            while at - times[first] >= per:
                first += 1
            most = max(most, last - first + 1)
        return most

    # One connection

    async def _connected_by(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connected += 1
        connection = _Connection(self._connected, reader, writer, task=asyncio.current_task())
        self._connections.add(connection)
        try:
            while await self._exchange(connection):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        except asyncio.CancelledError:
            pass  # the server closes: nobody awaits this task but the one who cancelled it
        finally:
            self._connections.discard(connection)
            writer.close()

    async def _exchange(self, connection: _Connection) -> bool:
        """Read a request and answer it; False ends the connection."""
        head = await connection.reader.readuntil(b"\r\n\r\n")
        if connection.stale:
            return False
        request = self._received(head.decode("latin-1"), connection.number)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            reply = self._reply(request)
            await self._note(request)
            if self.latency:
                await asyncio.sleep(self.latency)
            await self._gate.wait()
            return await self._send(reply, request, connection)
        finally:
            self.in_flight -= 1

    def _received(self, head: str, connection: int) -> ReceivedRequest:
        line, *lines = head.split("\r\n")
        target = line.split(" ")[1]
        pairs = (text.partition(":") for text in lines if text)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        parts = urlsplit(target)
        steps = parts.path.removeprefix(self._prefix).split("/")
        given = [value for name, value in parse_qsl(parts.query) if name == "leadIds"]
        lead_ids = tuple(lead_id for value in given for lead_id in value.split(","))
        right = parts.path.startswith(f"{self._prefix}/v1/accounts/") and len(steps) == 7
        account, campaign = (unquote(steps[3]), unquote(steps[5])) if right else ("", "")
        now = asyncio.get_running_loop().time()
        return ReceivedRequest(now, target, account, campaign, lead_ids, headers, connection)

    async def _note(self, request: ReceivedRequest) -> None:
        self.count += 1
        if self._keep:
            self.requests.append(request)
        async with self._arrived:
            self._arrived.notify_all()

    # One answer

    def _reply(self, request: ReceivedRequest) -> Reply:
        authorization = request.headers.get("authorization", "")
        rows = [self._row(lead_id) for lead_id in request.lead_ids]
        asked = Asked(rows, f"trace-{self.count + 1}", authorization)
        decision = None
        if self.rate_limit is not None:
            decision = self.rate_limit.admit(request.at)
            if not decision.admitted:
                return refusal(429, asked, headers=self._headers(decision))
        reply = self._faulty(request, asked) or self._refused(request, asked)
        if reply is None:
            reply = Reply(body=envelope(asked))
        if decision is not None:
            reply = replace(reply, headers={**reply.headers, **self._headers(decision)})
        return reply

    def _faulty(self, request: ReceivedRequest, asked: Asked) -> Reply | None:
        if self._script:
            request.fault, make = self._script.popleft()
            return None if make is None else make(asked)
        for rule in self._rules:
            if rule.left != 0 and rule.when(request):
                rule.left = None if rule.left is None else rule.left - 1
                request.fault = rule.name
                return rule.make(asked)
        for name, (make, every) in self._every.items():
            if (self.count + 1) % every == 0:
                request.fault = name
                return make(asked)
        return None

    def _refused(self, request: ReceivedRequest, asked: Asked) -> Reply | None:
        key = asked.authorization.removeprefix("Bearer ")
        if not key or key == asked.authorization or self.api_key not in (None, key):
            return refusal(401, asked)
        if self.max_url_bytes is not None and len(request.target) > self.max_url_bytes:
            return page(self.too_long, "URI Too Long")
        if not request.account:
            return refusal(404, asked)
        too_many = self.max_ids is not None and len(request.lead_ids) > self.max_ids
        if not request.lead_ids or too_many or self.bad_ids.intersection(request.lead_ids):
            return refusal(400, asked)
        return None

    def _headers(self, decision: Decision) -> dict[str, str]:
        limit, headers = self.rate_limit, dict[str, str]()
        if limit is None:
            return headers
        if not decision.admitted and limit.retry_after is not None:
            headers = {
                "seconds": {"Retry-After": str(int(-(-decision.retry_after // 1)))},
                "ms": {"Retry-After-Ms": str(int(decision.retry_after * 1000) + 1)},
                "date": {"Retry-After": http_date(int(decision.retry_after) + 1), "Date": http_date(0)},
            }[limit.retry_after]
        if limit.headers == "ietf":
            headers["RateLimit"] = f'"default";r={decision.remaining};t={decision.reset:.0f}'
        elif limit.headers == "x-ratelimit":
            headers["X-RateLimit-Limit"] = str(decision.limit)
            headers["X-RateLimit-Remaining"] = str(decision.remaining)
            headers["X-RateLimit-Reset"] = f"{decision.reset:.0f}"
        return headers

    def _row(self, lead_id: str) -> dict[str, Any]:
        number = zlib.crc32(lead_id.encode("utf-8", "replace"))
        status = _STATUSES[number % len(_STATUSES)]
        row: dict[str, Any] = {
            "leadId": lead_id,
            "workflowStatus": status.value,
            "workflowInstanceId": None if status is WorkflowStatus.NOT_IN_CAMPAIGN else f"{number:024x}",
            "latestStep": _STEPS[number // 7 % len(_STEPS)],
            "workflowStopReason": "CONTENT_DISCARDED" if status is WorkflowStatus.STOPPED else None,
            "hasPendingApproval": number % 3 == 0,
        }
        return row | self._set.get(lead_id, {})

    # The wire

    async def _send(self, reply: Reply, request: ReceivedRequest, connection: _Connection) -> bool:
        """Write a reply in its way; False ends the connection."""
        writer = connection.writer
        if reply.how == "hang":
            await asyncio.Event().wait()
        if reply.how in ("reset", "disconnect"):
            if reply.how == "reset":
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return False
        request.status = reply.status
        head = _head(reply)
        if reply.how == "drip":
            for byte in head + reply.body:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(self.drip_interval)
        else:
            body = reply.body[: len(reply.body) // 2] if reply.how == "cut" else reply.body
            writer.write(head + body)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        connection.stale = reply.how == "stale"
        return reply.how not in ("cut", "until-close", "garbage")


def _head(reply: Reply) -> bytes:
    if reply.how == "garbage":
        return b"HELLO THERE\r\n\r\n"
    lines = [f"HTTP/1.1 {reply.status} Fake", f"Content-Type: {reply.content_type}"]
    lines += [f"{name}: {value}" for name, value in reply.headers.items()]
    if reply.how == "until-close":
        lines.append("Connection: close")
    elif reply.status != 204:
        lines.append(f"Content-Length: {len(reply.body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _name(name: str | Fault | None) -> str | None:
    return f"Fault({name.status})" if isinstance(name, Fault) else name
