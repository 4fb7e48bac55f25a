"""A real HTTP server on port 0 that follows `openapi.yaml`, for tests and demos without the vendor.

Here is decided what each request is answered, and when. Raw sockets under it, because the faults are
those of sockets: resets, cut bodies, stale connections. It imports nothing of the package but the
models: a bug shared with the client's decoder must not agree with itself. All times are seconds as
float.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Self

from leadstatus_async.testing._faulting import Faulting
from leadstatus_async.testing._http import read_target
from leadstatus_async.testing._leads import Leads
from leadstatus_async.testing._listener import Listener
from leadstatus_async.testing._log import Log, ReceivedRequest
from leadstatus_async.testing._thread import Deed, Home
from leadstatus_async.testing.faults import Asked, Fault, Reply, fault, page, refusal
from leadstatus_async.testing.quota import headers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from leadstatus_async.models import LeadStatus
    from leadstatus_async.testing._connection import Connection
    from leadstatus_async.testing._http import Head
    from leadstatus_async.testing.quota import Limit

_NO_STATUS = ("reset", "disconnect", "garbage")  # ways of answering without one


class FakeLeadStatusServer:
    """The endpoint, on loopback: in the running event loop by `async with`, in a thread of its own by `with`.

        async with FakeLeadStatusServer() as server:
            session = LeadStatusSession("sk_test", base_url=server.url)

        with FakeLeadStatusServer() as server:
            subprocess.run([...], env={"SONARLY_BASE_URL": server.url, ...})

    All methods may be called from any thread. Those that take time are awaited where an event loop runs,
    whether it is the server's or another, and have done it when they return where none does. Only `url`
    may be used in other processes.

    Statuses are a fixed function of the lead ID unless set. What a request is answered is decided when
    it arrives: first by the rate limit, then by the faults, then by what is asked. The options from
    `api_key` to `rate_limit` are attributes too, and may be changed at any time.

    Args:
        api_key: the only key accepted; None accepts any.
        revoked_keys: keys that are answered 401 in any case.
        unknown, forbidden: IDs of accounts and campaigns that are answered 404, or 403; all others exist.
        max_ids: an enveloped 400 beyond so many lead IDs in a request; None for no limit.
        max_url_bytes: `too_long` for longer request targets; None for no limit.
        too_long: a status, said in an HTML page (414, 413, 431, 400); or a fault.
        bad_ids: lead IDs that the server answers with an enveloped 400.
        latency: seconds before each answer.
        rate_limit: a `SlidingWindow`, `FixedWindow`, `TokenBucket` or `ConcurrencyLimit`; None for none.
        status_of: lead ID -> its status, or None for the derived one; what was set comes first.
        faults_every: fault name -> n, each n-th request meets it; or a ratio below 1.
        path_prefix: what comes before `/v1`.
        drip_interval: seconds between two bytes of "slow-drip".
        keep_requests: keep the log of requests; off for millions.
        port: of loopback; 0 takes a free one.
        seed: of derived statuses, and of the dice for ratios in `faults_every`.
        strict: `check()` at the end of the block, unless it raised; an attribute, too.

    Attributes:
        in_flight: requests that have arrived and are not answered.
        max_in_flight: the most there have been at once.

    Raises:
        ValueError: for an unknown fault in `faults_every`, or a bad number of times.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        revoked_keys: Collection[str] = (),
        unknown: Collection[str] = (),
        forbidden: Collection[str] = (),
        max_ids: int | None = None,
        max_url_bytes: int | None = None,
        too_long: int | str | Fault = 414,
        bad_ids: Collection[str] = (),
        latency: float = 0.0,
        rate_limit: Limit | None = None,
        status_of: Callable[[str], LeadStatus | str | None] | None = None,
        faults_every: Mapping[str, float] | None = None,
        path_prefix: str = "",
        drip_interval: float = 0.01,
        keep_requests: bool = True,
        strict: bool = False,
        port: int = 0,
        seed: int = 0,
    ) -> None:
        self.api_key = api_key
        self.revoked_keys, self.bad_ids = set(revoked_keys), set(bad_ids)
        self.unknown, self.forbidden = set(unknown), set(forbidden)
        self.max_ids = max_ids
        self.max_url_bytes = max_url_bytes
        self.too_long = too_long
        self.latency, self.drip_interval = latency, drip_interval
        self.rate_limit = rate_limit
        self.strict = strict
        self.in_flight = self.max_in_flight = 0
        self._prefix = path_prefix.rstrip("/")
        self._leads = Leads(status_of, seed)
        self._faulting = Faulting(faults_every or {}, seed)
        self._log = Log(keep=keep_requests)
        self._listener = Listener(self._arrive, self._forget, port)
        self._home = Home()
        self._open: dict[Connection, asyncio.Task[None] | None] = {}  # where a request is in flight
        self._admitted: dict[Connection, Limit] = {}  # by which limit
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: asyncio.Event | None = None

    # Life

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end.

        Raises:
            RuntimeError: the server has not been started.
        """
        if not self._listener.port:
            raise RuntimeError("the server has no URL before it is started: use `with` or `async with`")
        return f"http://127.0.0.1:{self._listener.port}{self._prefix}"

    async def start(self) -> Self:
        """Listen on a free port in the running event loop, and return the server.

        Raises:
            RuntimeError: it was started in another event loop, and is not closed.
        """
        await self._start()
        return self

    def start_listening(self) -> Deed:
        """Listen again, on the same port as before. Does nothing if it listens."""
        return self._home.do(self._start)

    def stop_listening(self) -> Deed:
        """Refuse new connections and drop those there are, as a server does that goes down."""
        return self._home.do(self._stop) if self._home.entered else Deed()

    def aclose(self) -> Deed:
        """Close the server and every connection; in a thread of its own, that too. Idempotent."""
        if self._home.close(self._close):  # a thread: a matter of a millisecond, in an event loop too
            return Deed()
        return self._home.do(self._close) if self._home.entered else Deed()

    async def _start(self) -> None:
        new = self._home.enter()
        try:
            async with self._home.turn:
                await self._listener.start()
        except BaseException:
            if new:
                self._home.leave()
            raise

    async def _stop(self) -> None:
        async with self._home.turn:
            await self._listener.stop()
            await self._settle()

    async def _close(self) -> None:
        async with self._home.turn:
            await self._listener.close()
            await self._settle()
        self._log.close()
        self._home.leave()

    async def _settle(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)  # cancelled, but not yet gone

    def __enter__(self) -> Self:
        self._home.open(self._start, self._close)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._home.forked:
            self._home.close(self._close)
            self._check_at_end(kind)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._home.forked:
            await self._close()
            self._check_at_end(kind)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a FakeLeadStatusServer cannot be pickled or copied: hand its url to other processes")

    # What it answers

    @property
    def statuses(self) -> dict[str, LeadStatus | str]:
        """Lead ID -> what was set for it: a `LeadStatus`, or a text that leaves the other fields derived."""
        return self._leads.statuses

    def set_status(self, lead_id: str, status: str, **fields: Any) -> None:
        """Fix the status of a lead.

        Args:
            lead_id: of the lead.
            status: a `WorkflowStatus`, or any text.
            **fields: the API's optional ones, in camelCase or as `LeadStatus` has them.

        Raises:
            ValueError: for an unknown field.
        """
        self._leads.set(lead_id, status, fields)

    def expected(self, lead_id: str) -> LeadStatus:
        """Return the status that the server tells of a lead now."""
        return self._leads.told(lead_id)

    def script(self, *faults: str | Fault | None) -> None:
        """Let the next requests meet these faults, in this order; None or "ok" is a good answer.

        Raises:
            ValueError: for an unknown name.
        """
        with self._home:
            self._faulting.script(*faults)

    def fault(
        self,
        name: str | Fault,
        *,
        times: int | None = 1,
        when: Callable[[ReceivedRequest], bool] | None = None,
    ) -> None:
        """Let requests meet a fault.

        Args:
            name: of the fault (see `FAULTS`), or a `Fault` of your own.
            times: how many requests; None for all until `clear_faults`.
            when: which requests; None for any.

        Raises:
            ValueError: for an unknown name.
        """
        with self._home:
            self._faulting.add(name, times, when)

    def clear_faults(self) -> None:
        """Answer well from now on, and let `check` forget what was left. What hangs goes on hanging."""
        with self._home:
            self._faulting.clear()

    def check(self) -> None:
        """Check that all that was scripted was met: by `script`, good answers too, and by `fault`.

        Raises:
            AssertionError: something was not; the message says what, and how much of it.
        """
        with self._home:
            unmet = self._faulting.unmet()
        if unmet:
            lines = "\n  ".join(unmet)
            raise AssertionError(f"faults that no request met, after {self.count} requests:\n  {lines}")

    def _check_at_end(self, kind: type[BaseException] | None) -> None:
        if self.strict and kind is None:
            self.check()

    def hold(self) -> None:
        """Answer nothing that arrives from now on until `release`, so that requests stay in flight."""
        with self._home:
            self._held = self._held or asyncio.Event()

    def release(self) -> None:
        """Answer what is held, and go on."""
        with self._home:
            held, self._held = self._held, None
        if held is not None:
            self._home.soon(held.set)

    # What it has seen

    @property
    def requests(self) -> list[ReceivedRequest]:
        """The requests that have arrived until now, in order; none with `keep_requests=False`."""
        with self._home:
            return self._log.requests.copy()

    @property
    def count(self) -> int:
        """How many requests have arrived since the server was made."""
        with self._home:
            return self._log.count

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._listener.connections)

    def wait_for_requests(self, count: int, *, timeout: float | None = None) -> Deed:
        """Wait until so many requests have arrived since the server was made.

        Args:
            count: how many.
            timeout: seconds after which to give up; None for never.

        Raises:
            TimeoutError: they have not come in time.
            RuntimeError: the server was closed meanwhile.
        """
        return self._home.do(partial(self._log.wait, count, timeout))

    def peak_rate(self, per: float = 1.0) -> int:
        """Return the most requests that arrived within any window of `per` seconds."""
        return self._log.peak(per)

    # One request

    def _arrive(self, connection: Connection, head: Head) -> None:
        request = self._received(connection, head)
        with self._home.lock:  # whoever sees the request knows its fault
            self._log.add(request)
            self._open[connection] = None
            self.in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self.in_flight)
            if connection.stale:
                request.fault, reply = "stale-keep-alive", Reply(how="disconnect")
            else:
                reply = self._reply(connection, request)
            held = self._held
        if not connection.stale and (self.latency or held is not None or reply.how == "drip"):
            task = asyncio.create_task(self._answer_later(connection, request, reply, held))
            self._open[connection] = task
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._answer(connection, request, reply)

    def _received(self, connection: Connection, head: Head) -> ReceivedRequest:
        asked = read_target(head.target, self._prefix)
        return ReceivedRequest(
            at=asyncio.get_running_loop().time(),
            method=head.method,
            target=head.target,
            account=asked.account,
            campaign=asked.campaign,
            lead_ids=asked.lead_ids,
            headers=head.headers,
            connection=connection.number,
        )

    async def _answer_later(
        self, connection: Connection, request: ReceivedRequest, reply: Reply, held: asyncio.Event | None
    ) -> None:
        if self.latency:
            await asyncio.sleep(self.latency)
        if held is not None:
            await held.wait()
        if reply.how == "drip":
            request.status = reply.status
            await connection.drip(reply, self.drip_interval)
            self._end(connection)
        else:
            self._answer(connection, request, reply)
        connection.go_on()

    def _answer(self, connection: Connection, request: ReceivedRequest, reply: Reply) -> None:
        # Noted down first: who gets the answer in another thread may look at once.
        if reply.how != "hang":
            self._end(connection)
            request.status = None if reply.how in _NO_STATUS else reply.status
        connection.send(reply)

    def _end(self, connection: Connection) -> None:
        del self._open[connection]
        self.in_flight -= 1
        limit = self._admitted.pop(connection, None)
        if limit is not None:
            limit.ended()

    def _forget(self, connection: Connection) -> None:
        """Drop what a lost connection was still to be answered."""
        if connection in self._open:
            task = self._open[connection]
            if task is not None:
                task.cancel()
            self._end(connection)

    # One answer

    def _reply(self, connection: Connection, request: ReceivedRequest) -> Reply:
        limit = self.rate_limit
        if limit is None:
            return self._unlimited(request)
        decision = limit.admit(request.at)
        if decision.admitted:
            self._admitted[connection] = limit
        reply = self._unlimited(request) if decision.admitted else refusal(429, self._trace_id)
        return replace(reply, headers={**headers_of(limit, decision, datetime.now(UTC)), **reply.headers})

    def _unlimited(self, request: ReceivedRequest) -> Reply:
        met = self._faulting.meet(request, self._log.count)
        if met is not None:
            request.fault, make = met
            return make(self._asked(request))
        if self.max_url_bytes is not None and len(request.target) > self.max_url_bytes:
            too_long = self.too_long
            return page(too_long) if isinstance(too_long, int) else fault(too_long)(self._asked(request))
        status = self._refused(request)
        if status is not None:
            return refusal(status, self._trace_id)
        rows = self._leads.encoded(request.lead_ids)
        end = f', "error": null, "traceId": "{self._trace_id}"}}'.encode()
        return Reply(body=b'{"success": true, "data": {"items": [' + rows + b"]}" + end)

    @property
    def _trace_id(self) -> str:
        return f"trace-{self._log.count}"

    def _asked(self, request: ReceivedRequest) -> Asked:
        authorization = request.headers.get("authorization", "")
        rows = self._leads.rows(request.lead_ids)
        return Asked(rows, self._trace_id, authorization, datetime.now(UTC))

    def _refused(self, request: ReceivedRequest) -> int | None:
        if request.method != "GET":
            return 405
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or not key or key in self.revoked_keys or self.api_key not in (None, key):
            return 401
        named = {request.account, request.campaign}
        if named & self.forbidden:
            return 403
        if not request.account or named & self.unknown:
            return 404
        too_many = self.max_ids is not None and len(request.lead_ids) > self.max_ids
        missing = not request.lead_ids or "" in request.lead_ids
        return 400 if too_many or missing or self.bad_ids.intersection(request.lead_ids) else None
