"""The fake server as a plain socket sees it: its answers, each fault on the wire, its limits and its life."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import re
import socket
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
import pytest

from leadstatus_async import testing
from leadstatus_async.models import LeadStatus, WorkflowStatus
from leadstatus_async.testing import (
    FAULTS,
    ConcurrencyLimit,
    FakeLeadStatusServer,
    Fault,
    FixedWindow,
    SlidingWindow,
    TokenBucket,
)
from leadstatus_async.testing._connection import MAX_HEAD, Connection
from leadstatus_async.testing._leads import derived, encode_derived, row_of
from leadstatus_async.testing._listener import Listener
from leadstatus_async.testing._log import Log, ReceivedRequest
from leadstatus_async.testing.quota import Decision, Limit, headers_of

PATH = "/v1/accounts/acc/campaigns/camp/lead-status"
IDS = ("12", "b", "c")
OPTIONAL = {"workflowInstanceId", "latestStep", "workflowStopReason", "hasPendingApproval"}
PATIENCE = 10.0  # seconds until a test that hangs fails


@dataclass
class Answer:
    """What came back: status None for nothing that is HTTP; `end` says what the connection did then."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    end: str = "kept"
    chunks: int = 0

    @property
    def json(self):
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def items(self):
        """The rows of a good answer."""
        return self.json["data"]["items"]


class Wire(asyncio.Protocol):
    """A client that is a socket and little else: it keeps the bytes as they come."""

    def __init__(self):
        self.data = b""
        self.chunks = 0
        self.end = "kept"
        self._news = asyncio.Event()

    @classmethod
    async def to(cls, server):
        """Connect to a server."""
        port = int(re.search(r":(\d+)", server.url)[1])
        _, wire = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return wire

    def connection_made(self, transport):
        """Take the transport."""
        self.transport = transport

    def data_received(self, data):
        """Keep the bytes, and count in how many pieces they came."""
        self.data += data
        self.chunks += 1
        self._news.set()

    def connection_lost(self, exc):
        """Keep how it ended."""
        self.end = "closed" if exc is None else type(exc).__name__
        self._news.set()

    def send(self, target=None, *, method="GET", version="1.1", **headers):
        """Write a request, for `IDS` if not told otherwise."""
        target = target or f"{PATH}?leadIds={','.join(IDS)}"
        headers = {"Host": "x", "Authorization": "Bearer sk_test"} | headers
        lines = [f"{method} {target} HTTP/{version}", *(f"{name}: {said}" for name, said in headers.items())]
        self.transport.write("\r\n".join([*lines, "", ""]).encode())

    async def until(self, done):
        """Wait until something holds that bytes or the end of the connection can bring about."""
        async with asyncio.timeout(PATIENCE):
            while not done():
                self._news.clear()
                await self._news.wait()

    async def answer(self):
        """Read one answer, by its length or to the end of the connection."""
        await self.until(lambda: b"\r\n\r\n" in self.data or self.end != "kept")
        head, _, _ = self.data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        if not first.startswith("HTTP/1.1 "):
            await self.until(lambda: self.end != "kept")
            return Answer(body=self.data, end=self.end)
        headers = {name.lower(): said for name, said in (line.split(": ", 1) for line in lines)}
        length = 0 if " 204 " in first else int(headers.get("content-length", 10**9))
        gone = len(head) + 4

        def complete():
            return len(self.data) >= gone + length or self.end != "kept"

        await self.until(complete)
        body, self.data = self.data[gone : gone + length], self.data[gone + length :]
        if len(body) < length < 10**9:
            self.end = f"cut, {self.end}"
        return Answer(int(first.split()[1]), headers, body, self.end, self.chunks)

    async def ask(self, *args, **kwargs):
        """Send a request and read its answer."""
        self.send(*args, **kwargs)
        return await self.answer()


@contextlib.asynccontextmanager
async def wired(server):
    """Give a connection to the server, and close it."""
    wire = await Wire.to(server)
    try:
        yield wire
    finally:
        wire.transport.abort()
        await wire.until(lambda: wire.end != "kept")


async def ask(server, *lead_ids, **kwargs):
    """Ask on a connection of its own."""
    async with wired(server) as wire:
        return await wire.ask(f"{PATH}?leadIds={','.join(lead_ids or IDS)}", **kwargs)


async def turns(done):
    """Let the loop turn until something holds."""
    async with asyncio.timeout(PATIENCE):
        while not done():
            await asyncio.sleep(0)


def row(server, lead_id):
    """Return the API's row for what the server says it will tell."""
    status = server.expected(lead_id)
    return {
        "leadId": lead_id,
        "workflowStatus": status.workflow_status.value,
        "workflowInstanceId": status.workflow_instance_id,
        "latestStep": status.latest_step,
        "workflowStopReason": status.workflow_stop_reason,
        "hasPendingApproval": status.has_pending_approval,
    }


def right(server):
    """Return the rows of a right answer to `IDS`."""
    return [row(server, lead_id) for lead_id in IDS]


# Good answers


async def test_an_answer_follows_the_reference(server):
    """200, JSON, the whole envelope, one row per lead with all six fields, and a trace ID."""
    answer = await ask(server)
    assert (answer.status, answer.headers["content-type"], answer.end) == (200, "application/json", "kept")
    assert answer.json == {
        "success": True,
        "data": {"items": right(server)},
        "error": None,
        "traceId": "trace-1",
    }


@pytest.mark.parametrize(
    "query",
    ["leadIds=12,b,c", "leadIds=12%2Cb%2cc", "leadIds=12&leadIds=b&leadIds=c", "x=1&leadIds=12,b&leadIds=c"],
)
async def test_lead_ids_in_every_form(server, query):
    """Raw commas, encoded commas, and the parameter repeated ask for the same leads."""
    async with wired(server) as wire:
        answer = await wire.ask(f"{PATH}?{query}")
    assert answer.items == right(server)
    assert server.requests[0].lead_ids == IDS
    assert server.requests[0].target == f"{PATH}?{query}"


async def test_ids_are_decoded_and_asked_once(server):
    """Percent-encoding is UTF-8, of path IDs too; a lead named twice has one row."""
    async with wired(server) as wire:
        answer = await wire.ask("/v1/accounts/%C3%A9/campaigns/a%20b/lead-status?leadIds=%C3%A9,a%22b,%C3%A9")
    assert [item["leadId"] for item in answer.items] == ["é", 'a"b']
    assert (server.requests[0].account, server.requests[0].campaign) == ("é", "a b")


def test_derived_statuses_are_pinned():
    """A lead has the same status in every run, process and release; all seven occur."""
    told = derived("507f1f77bcf86cd799439011")
    assert told == LeadStatus(
        "507f1f77bcf86cd799439011",
        WorkflowStatus.NOT_STARTED,
        "00000000000000007eaab447",
        "email_1",
        None,
        False,
    )
    assert {derived(str(number)).workflow_status for number in range(100)} == set(WorkflowStatus)


def test_fast_encoding_is_right():
    """Rows made from templates are what `json` makes of the same status, whatever the ID."""
    odd = ['a"b\\c', "é\u2028", "😀", " ", "0" * 24, "\x01"]
    for lead_id in odd + [f"lead{number}" for number in range(500)]:
        assert encode_derived(lead_id) == json.dumps(row_of(derived(lead_id)))


async def test_statuses_can_be_set(server):
    """set_status fixes any text and fields in both spellings; the others stay derived."""
    server.set_status("12", "snoozed", latestStep="x", workflow_stop_reason=None)
    server.set_status("b", WorkflowStatus.STOPPED)
    items = (await ask(server)).items
    assert items == right(server)
    assert [items[0][name] for name in ("workflowStatus", "latestStep")] == ["snoozed", "x"]
    assert items[0]["workflowInstanceId"] == derived("12").workflow_instance_id
    assert items[1] == row_of(derived("b")) | {"workflowStatus": "stopped"}
    assert items[2] == row_of(derived("c"))


def test_setting_a_field_that_is_not_there():
    """A misspelt field is refused by name, with those there are."""
    with pytest.raises(ValueError, match=r"lastStep; there are .*latestStep"):
        FakeLeadStatusServer().set_status("a", "pending", lastStep="x")


async def test_statuses_is_a_dict(server):
    """server.statuses takes whole statuses and plain texts, and lets them go again."""
    server.statuses["12"] = LeadStatus("another", WorkflowStatus.WAITING)
    server.statuses["b"] = "completed"
    items = (await ask(server)).items
    assert items == right(server)
    assert items[0] == {"leadId": "12", "workflowStatus": "waiting"} | dict.fromkeys(OPTIONAL)
    assert items[1] == row_of(derived("b")) | {"workflowStatus": "completed"}
    server.statuses.clear()
    assert server.expected("12") == derived("12")


async def test_status_of_is_asked_for_each_lead():
    """status_of decides per lead and per request; None leaves the derived status, set ones come first."""
    stages = iter(["pending", "completed"])

    def status_of(lead_id):
        return next(stages) if lead_id == "12" else None

    async with FakeLeadStatusServer(status_of=status_of) as server:
        server.set_status("b", "waiting")
        seen = [[item["workflowStatus"] for item in (await ask(server)).items] for _ in range(2)]
    assert seen == [[stage, "waiting", derived("c").workflow_status] for stage in ("pending", "completed")]


# Refusals


def is_refusal(answer, status):
    """Check an enveloped error as the reference shows it."""
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    told = answer.json
    assert (told["success"], told["data"]) == (False, None)
    assert {"code", "message", "details"} <= told["error"].keys()
    assert all(isinstance(told["error"][name], str) for name in ("code", "message", "details"))
    assert told["traceId"].startswith("trace-")


def is_page(answer, status):
    """Check the HTML page of a proxy."""
    assert (answer.status, answer.headers["content-type"]) == (status, "text/html")
    assert str(status).encode() in answer.body


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer sk_right", 200),
        ("Bearer sk_wrong", 401),
        ("Bearer sk_gone", 401),
        ("Bearer ", 401),
        ("Basic sk_right", 401),
        ("sk_right", 401),
        ("", 401),
    ],
)
async def test_keys(authorization, status):
    """With api_key only that key passes, as a bearer token, and no revoked one ever does."""
    async with FakeLeadStatusServer(api_key="sk_right", revoked_keys={"sk_gone"}) as server:
        answer = await ask(server, Authorization=authorization)
        assert answer.status == status
        server.api_key = None
        any_key = await ask(server, Authorization="Bearer other")
        revoked = await ask(server, Authorization="Bearer sk_gone")
    assert (any_key.status, revoked.status) == (200, 401)
    is_refusal(revoked, 401)


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({}, 200),
        ({"unknown": {"acc"}}, 404),
        ({"unknown": {"camp"}}, 404),
        ({"unknown": {"other"}}, 200),
        ({"forbidden": {"acc"}}, 403),
        ({"forbidden": {"camp"}}, 403),
        ({"max_ids": 2}, 400),
        ({"max_ids": 3}, 200),
        ({"bad_ids": ["b", "x"]}, 400),
        ({"bad_ids": {"x"}}, 200),
    ],
    ids=str,
)
async def test_refusals_that_can_be_set(options, status):
    """403, 404 and 400 come as enveloped errors for what the options name, and for nothing else."""
    async with FakeLeadStatusServer(**options) as server:
        answer = await ask(server)
    assert answer.status == status
    if status == 400:
        assert answer.json["error"]["code"] == "VALIDATION_ERROR"
    if status != 200:
        is_refusal(answer, status)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (PATH, 400),
        (f"{PATH}?leadIds=", 400),
        (f"{PATH}?leadIds=a,,b", 400),
        (f"{PATH}?ids=a", 400),
        ("/elsewhere", 404),
        ("/", 404),
        (f"{PATH}/more?leadIds=a", 404),
        ("/v1/accounts//campaigns/camp/lead-status?leadIds=a", 404),
        (f"/prefix{PATH}?leadIds=a", 404),
        (f"http://api.example{PATH}?leadIds=a", 200),
        ("http://api.example", 404),
    ],
)
async def test_targets(server, target, status):
    """No leads are a 400, other paths a 404; the whole URL, as proxies are sent, is fine."""
    async with wired(server) as wire:
        answer = await wire.ask(target)
    assert answer.status == status
    assert status == 200 or is_refusal(answer, status) is None


async def test_a_path_prefix():
    """With path_prefix the URL has it, and only paths below it are known."""
    async with FakeLeadStatusServer(path_prefix="/gateway/") as server:
        assert server.url.endswith("/gateway")
        async with wired(server) as wire:
            assert (await wire.ask(f"/gateway{PATH}?leadIds=a")).status == 200
            assert (await wire.ask(f"{PATH}?leadIds=a")).status == 404


@pytest.mark.parametrize(
    ("too_long", "check"),
    [
        (414, lambda answer: is_page(answer, 414)),
        (400, lambda answer: is_page(answer, 400)),
        (413, lambda answer: is_page(answer, 413)),
        (431, lambda answer: is_page(answer, 431)),
        ("400", lambda answer: is_refusal(answer, 400)),
        (Fault(414, b"no"), lambda answer: answer.body == b"no" or pytest.fail("not ours")),
    ],
    ids=["414", "400", "413", "431", "a fault by name", "a canned fault"],
)
async def test_long_targets(too_long, check):
    """Targets beyond max_url_bytes are refused as too_long says: an HTML page, or any fault."""
    target = f"{PATH}?leadIds=abc"
    async with (
        FakeLeadStatusServer(max_url_bytes=len(target), too_long=too_long) as server,
        wired(server) as wire,
    ):
        assert (await wire.ask(target)).status == 200
        check(await wire.ask(target + "d"))


# Faults


def refused(status, **headers):
    """Make a check for an enveloped error with these headers, and no other Retry-After."""
    expected = {name.lower().replace("_", "-"): said for name, said in headers.items()}

    def check(answer, server):
        is_refusal(answer, status)
        assert {name: said for name, said in answer.headers.items() if "retry" in name} == expected
        assert answer.end == "kept"

    return check


def paged(status):
    """Make a check for an HTML page."""
    return lambda answer, server: is_page(answer, status)


def dated(skew, ahead):
    """Make a check for a Retry-After that is a date: so far from the Date, which is so far off."""

    def check(answer, server):
        is_refusal(answer, 429)
        date, until = (parsedate_to_datetime(answer.headers[name]) for name in ("date", "retry-after"))
        assert (until - date).total_seconds() == ahead
        assert abs((date - datetime.now(UTC)).total_seconds() - skew) < 30

    return check


def told(change):
    """Make a check for a 200 whose rows are the right ones, changed so."""

    def check(answer, server):
        assert (answer.status, answer.end) == (200, "kept")
        assert answer.items == change(right(server))

    return check


def nothing(end):
    """Make a check for an end without a byte."""

    def check(answer, server):
        assert (answer.status, answer.body, answer.end) == (None, b"", end)

    return check


def is_garbage(answer, server):
    """Check for an answer that has all but a status line."""
    assert (answer.status, answer.end) == (None, "closed")
    assert answer.body.startswith(b"HELLO THERE\r\nContent-Type: application/json\r\n")
    assert answer.body.endswith(b"}")


def json_retry_after(place):
    """Make a check for a pause that only the body states."""

    def check(answer, server):
        assert answer.status == 429
        assert "retry-after" not in answer.headers
        assert place(answer.json)["retry_after"] == 1

    return check


def whole(**expected):
    """Make a check for a 200 envelope with these members."""

    def check(answer, server):
        assert answer.status == 200
        assert answer.json | expected == answer.json

    return check


def is_empty(status):
    """Make a check for a status without a body."""

    def check(answer, server):
        assert (answer.status, answer.body, answer.end) == (status, b"", "kept")

    return check


def is_redirect(answer, server):
    """Check for a 302 to another path of the same server."""
    assert answer.status == 302
    assert answer.headers["location"].startswith("/")
    assert PATH not in answer.headers["location"]


def is_truncated(answer, server):
    """Check for half the JSON under a good status, which nothing but its syntax gives away."""
    assert (answer.status, answer.end) == (200, "closed")
    assert "content-length" not in answer.headers
    assert answer.headers["connection"] == "close"
    with pytest.raises(json.JSONDecodeError):
        _ = answer.json


def is_cut(answer, server):
    """Check for fewer bytes than Content-Length says, and a clean end."""
    assert (answer.status, answer.end) == (200, "cut, closed")
    assert 0 < len(answer.body) < int(answer.headers["content-length"])


def is_dripping(answer, server):
    """Check for a right answer in many small pieces."""
    told(list)(answer, server)
    assert answer.chunks > 50


def is_gzip(answer, server):
    """Check for a right answer, packed."""
    assert answer.headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(answer.body))["data"]["items"] == right(server)


def is_bomb(answer, server):
    """Check for valid gzip of 200 MB in a thousandth of that."""
    assert (answer.status, answer.headers["content-encoding"]) == (200, "gzip")
    assert len(answer.body) < 250_000
    unpack, size, rest = zlib.decompressobj(wbits=31), 0, answer.body
    while not unpack.eof:
        size += len(unpack.decompress(rest, 1_000_000))
        rest = unpack.unconsumed_tail
    assert size == 200_000_000


def is_huge(answer, server):
    """Check for a right answer of more than 9 MB, its length not said."""
    assert len(answer.body) > 9_000_000
    assert "content-length" not in answer.headers
    assert "content-encoding" not in answer.headers
    assert answer.items == right(server)


def echoes_the_key(answer, server):
    """Check for a page that shows what it was sent."""
    assert (answer.status, answer.headers["content-type"]) == (502, "text/html")
    assert b"Bearer sk_test" in answer.body


def is_deep(answer, server):
    """Check for an unknown member nested so deep that decoders give up, in otherwise valid JSON."""
    assert answer.status == 200
    assert b'"meta": ' + b"[" * 100_000 + b"]" * 100_000 + b"}" in answer.body
    assert re.sub(rb', "meta": \[+\]+', b"", answer.body).endswith(b'"traceId": "trace-1"}')


def has_bom(answer, server):
    """Check for a right answer behind a byte order mark."""
    assert answer.body.startswith(b"\xef\xbb\xbf{")
    assert json.loads(answer.body.decode("utf-8-sig"))["data"]["items"] == right(server)


def sets_a_cookie(answer, server):
    """Check for a right answer that wants to be remembered."""
    told(list)(answer, server)
    assert answer.headers["set-cookie"].startswith("lb=1")


def is_stale(answer, server):
    """Check for a right answer; what follows on the connection has a test of its own."""
    told(list)(answer, server)


def first(**changes):
    """Make a change of the first row."""
    return lambda rows: [rows[0] | changes, *rows[1:]]


def doubled(rows):
    """Add the first row again, with another status."""
    other = "waiting" if rows[0]["workflowStatus"] == "pending" else "pending"
    return [*rows, rows[0] | {"workflowStatus": other}]


SEEN = {
    "429": refused(429),
    "429-retry-after": refused(429, Retry_After="1"),
    "429-retry-after-decimal": refused(429, Retry_After="0.75"),
    "429-retry-after-date": dated(0, 1),
    "429-retry-after-date-skewed": dated(3600, 1),
    "429-retry-after-ms": refused(429, Retry_After_Ms="750"),
    "429-json-retry-after": json_retry_after(lambda body: body["error"]),
    "429-json-retry-after-top": json_retry_after(lambda body: body),
    "429-retry-after-zero": refused(429, Retry_After="0"),
    "429-retry-after-past": dated(0, -60),
    "429-retry-after-huge": refused(429, Retry_After="3600"),
    "429-retry-after-garbage": refused(429, Retry_After="soon"),
    "400": refused(400),
    "400-html": paged(400),
    "401": refused(401),
    "403": refused(403),
    "404": refused(404),
    "408": refused(408),
    "413": paged(413),
    "414": paged(414),
    "431": paged(431),
    "500": refused(500),
    "502": refused(502),
    "502-html": paged(502),
    "503": refused(503),
    "503-retry-after": refused(503, Retry_After="1"),
    "504": paged(504),
    "redirect": is_redirect,
    "204": is_empty(204),
    "success-false": whole(success=False, data=None),
    "data-null": whole(success=True, data=None, error=None),
    "items-missing": whole(success=True, data={}, error=None),
    "html-200": paged(200),
    "empty-body": is_empty(200),
    "truncated-json": is_truncated,
    "cut-body": is_cut,
    "reset": nothing("ConnectionResetError"),
    "disconnect": nothing("closed"),
    "slow-drip": is_dripping,
    "stale-keep-alive": is_stale,
    "garbage-status-line": is_garbage,
    "missing-row": told(lambda rows: rows[1:]),
    "foreign-row": told(lambda rows: [*rows, rows[0] | {"leadId": "nobody-asked"}]),
    "duplicate-row": told(doubled),
    "shuffled-rows": told(lambda rows: rows[::-1]),
    "bad-row": told(first(workflowStatus=17)),
    "bad-row-no-id": told(first(leadId=None)),
    "row-int-id": told(first(leadId=12)),
    "unknown-status": told(first(workflowStatus="paused_by_vendor")),
    "null-optionals": told(lambda rows: [row | dict.fromkeys(OPTIONAL) for row in rows]),
    "absent-optionals": told(
        lambda rows: [{name: row[name] for name in row.keys() - OPTIONAL} for row in rows]
    ),
    "extra-fields": told(lambda rows: [row | {"score": 1, "tags": ["x"]} for row in rows]),
    "bom": has_bom,
    "lone-surrogate": told(first(latestStep="call \ud83d")),
    "gzip": is_gzip,
    "gzip-bomb": is_bomb,
    "huge-body": is_huge,
    "echo-key": echoes_the_key,
    "deep-nesting": is_deep,
    "set-cookie": sets_a_cookie,
}
SILENT = {"reset", "disconnect", "garbage-status-line"}


def test_every_fault_has_its_line():
    """No fault is without a check; "hang" has a test of its own."""
    assert set(SEEN) == set(FAULTS) - {"hang"}


@pytest.mark.parametrize("name", SEEN)
async def test_a_fault_on_the_wire(name):
    """Each fault shows what its name says, is in the log by name, and is over after one request."""
    async with FakeLeadStatusServer(drip_interval=0.0) as server:
        server.fault(name)
        answer = await ask(server)
        SEEN[name](answer, server)
        assert server.requests[0].fault == name
        assert server.requests[0].status == (None if name in SILENT else answer.status)
        assert (await ask(server)).items == right(server)
        assert server.requests[1].fault is None
        await turns(lambda: server.connections == 0)
        assert server.in_flight == 0


@pytest.mark.parametrize("name", sorted(set(FAULTS) - {"hang"}))
async def test_a_fault_without_leads(name):
    """A request that names no lead can meet any fault too."""
    async with FakeLeadStatusServer(drip_interval=0.0) as server:
        server.fault(name)
        async with wired(server) as wire:
            await wire.ask("/elsewhere")
        assert server.requests[0].fault == name


async def test_hang_is_never_answered(server):
    """The connection stays open without a byte until the client leaves, and later requests wait behind."""
    server.fault("hang")
    async with wired(server) as wire:
        wire.send()
        wire.send()
        await server.wait_for_requests(1)
        assert (await ask(server)).status == 200
        assert (wire.data, wire.end, server.in_flight, server.count) == (b"", "kept", 1, 2)
    await turns(lambda: server.in_flight == 0)
    assert server.requests[0].status is None


async def test_a_stale_connection_ends_with_the_next_request(server):
    """The first request is answered; the second finds the connection closed without a byte, and counts."""
    server.fault("stale-keep-alive")
    async with wired(server) as wire:
        assert (await wire.ask()).status == 200
        server.hold()  # which a connection that is gone knows nothing of
        nothing("closed")(await wire.ask(), server)
    assert [(request.fault, request.status) for request in server.requests] == [
        ("stale-keep-alive", 200),
        ("stale-keep-alive", None),
    ]
    assert server.in_flight == 0


async def test_dripping_goes_at_its_interval():
    """After one byte comes nothing for drip_interval seconds; a client that leaves ends it."""
    async with FakeLeadStatusServer(drip_interval=3600.0) as server:
        server.fault("slow-drip")
        async with wired(server) as wire:
            wire.send()
            await wire.until(lambda: wire.data)
            assert (wire.data, server.requests[0].status, server.in_flight) == (b"H", 200, 1)
        await turns(lambda: server.in_flight == 0)
        await turns(lambda: len(asyncio.all_tasks()) == 1)


async def test_dripping_keeps_or_closes_as_asked():
    """A dripped answer is followed by the next one, or by the end if the client wanted it."""
    async with FakeLeadStatusServer(drip_interval=0.0) as server, wired(server) as wire:
        server.script("slow-drip", None, "slow-drip")
        wire.send()
        wire.send()
        assert [(await wire.answer()).status, (await wire.answer()).status] == [200, 200]
        answer = await wire.ask(Connection="close")
        assert answer.items == right(server)
        await wire.until(lambda: wire.end == "closed")


async def test_a_script_goes_in_order(server):
    """Scripted faults meet the next requests one by one; None and "ok" are good answers."""
    server.script("429", None, "502-html", "ok")
    server.script(Fault(418, b"teapot", {"X-Pot": "1"}))
    answers = [await ask(server) for _ in range(6)]
    assert [answer.status for answer in answers] == [429, 200, 502, 200, 418, 200]
    assert [request.fault for request in server.requests] == [
        "429",
        None,
        "502-html",
        None,
        "Fault(418)",
        None,
    ]
    assert (answers[4].body, answers[4].headers["x-pot"]) == (b"teapot", "1")


async def test_rules_count_and_choose(server):
    """A rule meets so many requests, or those for which `when` holds; a script comes before it."""
    server.fault("500", times=2, when=lambda request: "b" in request.lead_ids)
    server.fault("503", times=None, when=lambda request: request.campaign == "nobody")
    server.script("400")
    statuses = [(await ask(server, *lead_ids)).status for lead_ids in ("ab", "c", "ab", "b", "b")]
    assert statuses == [400, 200, 500, 500, 200]


async def test_rules_for_ever_and_clearing(server):
    """times=None is for ever, until clear_faults, which forgets the script as well."""
    server.fault("500", times=None)
    assert [(await ask(server)).status for _ in range(4)] == [500] * 4
    server.script("400")
    server.clear_faults()
    assert (await ask(server)).status == 200


async def test_faults_sprinkled_by_count():
    """faults_every meets each n-th request with its fault, the first named where two fall together."""
    async with FakeLeadStatusServer(faults_every={"429": 2, "502-html": 3}) as server:
        statuses = [(await ask(server)).status for _ in range(6)]
        server.clear_faults()
        assert (await ask(server)).status == 200
        assert (await ask(server)).status == 200
    assert statuses == [200, 429, 502, 429, 200, 429]


async def test_faults_sprinkled_by_ratio():
    """A ratio below 1 meets about that part of the requests, and the same ones in every run."""
    runs = []
    for _ in range(2):
        async with FakeLeadStatusServer(faults_every={"500": 0.2}) as server, wired(server) as wire:
            runs.append([(await wire.ask(f"{PATH}?leadIds=a")).status for _ in range(300)])
    assert runs[0] == runs[1]
    assert 30 <= runs[0].count(500) <= 90


@pytest.mark.parametrize("often", [0, -1, 1.5, float("nan")])
def test_bad_sprinkling(often):
    """What is neither a whole number nor a ratio is refused by name."""
    with pytest.raises(ValueError, match=r"faults_every\['429'\]"):
        FakeLeadStatusServer(faults_every={"429": often})


@pytest.mark.parametrize(
    "use",
    [
        lambda server: server.script(None, "4-2-9"),
        lambda server: server.fault("4-2-9"),
        lambda server: FakeLeadStatusServer(faults_every={"4-2-9": 3}),
    ],
)
def test_unknown_faults(use):
    """An unknown name is a ValueError that lists the names."""
    with pytest.raises(ValueError, match=r"'4-2-9'.*429-retry-after, .*gzip-bomb"):
        use(FakeLeadStatusServer())


def test_a_fault_with_a_bad_how():
    """A Fault says which ways onto the wire there are."""
    with pytest.raises(ValueError, match="how must be one of whole, cut"):
        Fault(how="upside-down")


@pytest.mark.parametrize(
    ("fault", "line", "content_type"),
    [
        (Fault(299, b"x", content_type="text/plain"), b"HTTP/1.1 299 Unknown", "text/plain"),
        (Fault(503, b"x", {"content-type": "text/csv"}), b"HTTP/1.1 503 Service Unavailable", "text/csv"),
    ],
)
async def test_canned_replies(server, fault, line, content_type):
    """A Fault of one's own goes out as it is, with a phrase, and one Content-Type."""
    server.fault(fault)
    async with wired(server) as wire:
        wire.send()
        await wire.until(lambda: wire.data)
        assert wire.data.startswith(line + b"\r\n")
        assert wire.data.lower().count(b"content-type") == 1
        answer = await wire.answer()
    assert (answer.status, answer.body) == (fault.status, b"x")
    assert answer.headers["content-type"] == content_type


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (None, None),
        ("gzip", None),
        ("slow-drip", None),
        ("cut-body", aiohttp.ClientPayloadError),
        ("garbage-status-line", aiohttp.ClientResponseError),
        ("reset", aiohttp.ClientOSError),
        ("disconnect", aiohttp.ServerDisconnectedError),
    ],
)
async def test_a_plain_aiohttp_client_agrees(fault, error):
    """A real HTTP client reads answers, packed ones and failures as what they are."""
    async with (
        FakeLeadStatusServer(drip_interval=0.0) as server,
        aiohttp.ClientSession(headers={"Authorization": "Bearer sk_test"}) as client,
    ):
        server.script(fault, fault)  # aiohttp sends a second time when it is disconnected
        url = f"{server.url}{PATH}?leadIds={','.join(IDS)}"
        with contextlib.nullcontext() if error is None else pytest.raises(error):
            async with client.get(url) as response:
                assert (await response.json())["data"]["items"] == right(server)


# HTTP


async def test_requests_in_pieces_and_in_heaps(server):
    """A head that comes byte by byte is one request; three in one write are three, answered in order."""
    async with wired(server) as wire:
        for byte in f"GET {PATH}?leadIds=a HTTP/1.1\r\nAuthorization: Bearer k\r\n\r\n".encode():
            wire.transport.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await wire.answer()).items == [row(server, "a")]
        server.hold()
        for lead_id in "bcd":
            wire.send(f"{PATH}?leadIds={lead_id}")
        await server.wait_for_requests(2)
        assert server.count == 2
        server.release()
        assert [(await wire.answer()).items for _ in range(3)] == [
            [row(server, lead_id)] for lead_id in "bcd"
        ]


async def test_other_methods(server):
    """A POST is a 405, its body is not taken for a request, and the connection ends after the answer."""
    async with wired(server) as wire:
        wire.send(method="POST", **{"Content-Length": "9"})
        answer = await wire.answer()
        wire.transport.write(b"GET / HTTP/1.1\r\n\r\n")
        is_refusal(answer, 405)
        await wire.until(lambda: wire.end == "closed")
    assert [request.method for request in server.requests] == ["POST"]


@pytest.mark.parametrize(
    ("version", "headers", "closes"),
    [
        ("1.1", {}, False),
        ("1.1", {"Connection": "keep-alive"}, False),
        ("1.1", {"Connection": "Close"}, True),
        ("1.0", {}, True),
        ("1.1", {"Content-Length": "0"}, False),
        ("1.1", {"Content-Length": "3"}, True),
        ("1.1", {"Transfer-Encoding": "chunked"}, True),
    ],
)
async def test_keep_alive(server, version, headers, closes):
    """Connections are kept, unless the client wants otherwise, or has a body that nobody reads."""
    async with wired(server) as wire:
        answer = await wire.ask(version=version, **headers)
        assert answer.items == right(server)
        assert ("connection" in answer.headers) == closes
        if closes:
            await wire.until(lambda: wire.end == "closed")
        else:
            assert (await wire.ask()).status == 200


@pytest.mark.parametrize("line", [b"HELLO", b"GET /", b"get / HTTP/1.1", b"GET / HTTP/2", b""])
async def test_what_is_no_request(server, line):
    """A line that is no request line is a 400 page and the end, and is not in the log."""
    async with wired(server) as wire:
        wire.transport.write(line + b"\r\n\r\nGET / HTTP/1.1\r\n\r\n")
        is_page(await wire.answer(), 400)
        await wire.until(lambda: wire.end == "closed")
    assert server.count == 0


async def test_a_head_without_end(server):
    """A head beyond all bounds is a 431 page and the end, not a growing buffer."""
    async with wired(server) as wire:
        wire.transport.write(b"GET /" + b"x" * MAX_HEAD)
        is_page(await wire.answer(), 431)
        await wire.until(lambda: wire.end == "closed")


async def test_headers_are_logged(server):
    """Names are lower-case, values as sent without blanks around, repeated ones joined."""
    async with wired(server) as wire:
        wire.transport.write(b"GET / HTTP/1.1\r\nX-One:  1 \r\nx-one: 2\r\nEmpty:\r\n\r\n")
        await wire.answer()
    assert server.requests[0].headers == {"x-one": "1, 2", "empty": ""}


# What was scripted and not met


@pytest.mark.parametrize(
    ("script", "faults", "asked", "left"),
    [
        ((), [], 1, []),
        (("500", None), [], 2, []),
        (("500", None), [], 1, ["script: 1 left: 'ok'"]),
        (("500", "ok", Fault(418)), [], 0, ["script: 3 left: '500', 'ok', 'Fault(418)'"]),
        ((), [("500", 3)], 3, []),
        ((), [("500", 3)], 1, ["fault('500', times=3): 2 left"]),
        ((), [("500", None)], 1, []),
        ((), [("500", None)], 0, ["fault('500', times=None): met by no request"]),
        ((), [("500", 0)], 0, []),
        (("404",), [("500", 1), ("502", 2)], 3, ["fault('502', times=2): 1 left"]),
        (("404",), [("500", 1)], 0, ["script: 1 left: '404'", "fault('500', times=1): 1 left"]),
    ],
)
async def test_check_names_what_was_not_met(server, script, faults, asked, left):
    """A rest of the script, good answers too, and of each rule; a rule without end is to be met once."""
    server.script(*script)
    for name, times in faults:
        server.fault(name, times=times)
    for _ in range(asked):
        await ask(server)
    if left:
        message = "\n  ".join([f"faults that no request met, after {asked} requests:", *left])
        with pytest.raises(AssertionError, match=re.escape(message) + "$"):
            server.check()
        server.clear_faults()
    server.check()


async def test_check_leaves_out_what_is_sprinkled():
    """`faults_every` is met by whom it hits; a condition that never held is named."""
    async with FakeLeadStatusServer(faults_every={"500": 1000}) as server:
        server.check()
        server.fault("404", when=lambda request: "other" in request.lead_ids)
        await ask(server)
        with pytest.raises(AssertionError, match=r"fault\('404', times=1\): 1 left"):
            server.check()


async def test_strict():
    """At the end of either block, if it ended well, what was not met is an error; the server is closed."""
    server = FakeLeadStatusServer(strict=True)
    with pytest.raises(AssertionError, match="'reset'"):
        async with server:
            server.script("reset")
    assert (server._listener.connections, server._home.entered) == (set(), False)
    with pytest.raises(AssertionError, match="'reset'"), server:
        pass
    server.strict = False
    with server:
        pass
    server.strict = True
    with pytest.raises(ValueError, match="of the block"):
        async with server:
            raise ValueError("of the block")
    server.clear_faults()
    async with server:
        pass


# The log, holding and waiting


async def test_the_log_says_what_came_and_what_became_of_it(server):
    """One entry per request, with its time, method, connection and status."""
    before = asyncio.get_running_loop().time()
    async with wired(server) as first, wired(server) as second:
        await first.ask()
        await second.ask()
        server.script("404")
        await first.ask()
        assert server.connections == 2
    assert [request.connection for request in server.requests] == [1, 2, 1]
    assert [request.status for request in server.requests] == [200, 200, 404]
    assert {request.method for request in server.requests} == {"GET"}
    times = [request.at for request in server.requests]
    assert before <= times[0] <= times[1] <= times[2] <= asyncio.get_running_loop().time()
    assert server.requests[0].headers["authorization"] == "Bearer sk_test"


async def test_requests_need_not_be_kept():
    """With keep_requests=False the log stays empty, and the figures are right all the same."""
    async with FakeLeadStatusServer(keep_requests=False) as server, wired(server) as wire:
        for _ in range(3):
            await wire.ask()
        assert (server.requests, server.count, server.peak_rate(60.0)) == ([], 3, 3)
        await server.wait_for_requests(3)


@pytest.mark.parametrize(
    ("times", "per", "peak"),
    [
        ([], 1.0, 0),
        ([5.0], 1.0, 1),
        ([0.0, 1.0, 2.0], 1.0, 1),
        ([0.0, 0.5, 0.999, 1.0, 1.2], 1.0, 4),
        ([0.0, 0.5, 0.999, 1.0, 1.2], 0.1, 2),
        ([0.0, 0.5, 0.999, 1.0, 1.2], 60.0, 5),
    ],
)
def test_peak_rate(times, per, peak):
    """The most arrivals in any window of `per` seconds, wherever it begins; its end is not in it."""
    log = Log(keep=True)
    for at in times:
        log.add(ReceivedRequest(at, "GET", "/", "", "", (), {}, 1))
    assert log.peak(per) == peak


async def test_waiting_for_requests(server):
    """Each waiter wakes when its number has come, not before; one that is cancelled harms no other."""
    waiters = [asyncio.create_task(server.wait_for_requests(count)) for count in (1, 2, 2)]
    await asyncio.sleep(0)
    assert (await ask(server)).status == 200
    await waiters[0]
    assert not waiters[1].done()
    waiters[2].cancel()
    assert (await ask(server)).status == 200
    await asyncio.wait(waiters)
    assert [waiter.cancelled() for waiter in waiters] == [False, False, True]
    assert not server._log._waiting


async def test_a_waiter_cancelled_as_its_number_comes():
    """A wake-up and a cancellation in the same turn are no error for the log."""
    log = Log(keep=False)
    waiter = asyncio.create_task(log.wait(1))
    await asyncio.sleep(0)
    waiter.cancel()
    ((_, future),) = log._waiting
    future.cancel()
    log.add(ReceivedRequest(0.0, "GET", "/", "", "", (), {}, 1))
    assert log.count == 1
    await asyncio.wait([waiter])


async def test_holding(server):
    """From hold to release nothing is answered; what is answered was decided on arrival."""
    server.hold()
    server.hold()
    calls = [asyncio.create_task(ask(server)) for _ in range(3)]
    await server.wait_for_requests(3)
    assert (server.in_flight, server.max_in_flight) == (3, 3)
    assert [request.status for request in server.requests] == [None] * 3
    before = right(server)
    server.set_status("12", "changed")
    server.release()
    server.release()
    assert [(await call).items for call in calls] == [before] * 3
    assert (server.in_flight, server.max_in_flight) == (0, 3)
    assert (await ask(server)).items == right(server) != before


async def test_a_client_that_leaves_while_held(server):
    """Its request is over, its task gone, and its status stays None."""
    server.hold()
    async with wired(server) as wire:
        wire.send()
        await server.wait_for_requests(1)
    await turns(lambda: server.in_flight == 0 and len(asyncio.all_tasks()) == 1)
    server.release()
    assert server.requests[0].status is None


async def test_what_has_arrived_is_not_held(server):
    """A request that is on its way when `hold` comes is answered in its time."""
    server.latency = 0.01
    call = asyncio.create_task(ask(server))
    await server.wait_for_requests(1)
    server.hold()
    async with asyncio.timeout(PATIENCE):
        assert (await call).status == 200


async def test_latency(server):
    """Each answer takes so long, and requests on other connections do not wait for each other."""
    server.latency = 0.05
    loop = asyncio.get_running_loop()
    before = loop.time()
    await asyncio.gather(*(ask(server) for _ in range(10)))
    assert loop.time() - before >= 0.05
    assert server.max_in_flight == 10


# Life


async def test_start_and_close_without_a_block():
    """`start` gives the server, aclose may be called twice, and nothing is left behind."""
    server = await FakeLeadStatusServer().start()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", server.url)
    await server.start()
    assert (await ask(server)).status == 200
    url = server.url
    await server.aclose()
    await server.aclose()
    assert server.url == url
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_no_url_before_the_start():
    """The URL of a server that was never started is an error that says what to do."""
    with pytest.raises(RuntimeError, match="start"):
        _ = FakeLeadStatusServer().url
    await FakeLeadStatusServer().aclose()


async def test_closing_ends_everything():
    """What hangs, drips, is held or idle is gone when aclose returns."""
    server = await FakeLeadStatusServer(drip_interval=3600.0).start()
    server.script(None, "hang", "slow-drip", None)
    wires = [await Wire.to(server) for _ in range(4)]
    await wires[3].ask()
    wires[0].send()
    wires[1].send()
    await server.wait_for_requests(3)
    server.hold()
    wires[2].send()
    await server.wait_for_requests(4)
    await server.aclose()
    assert (server.connections, server.in_flight) == (0, 0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    for wire in wires:
        await wire.until(lambda wire=wire: wire.end != "kept")


async def test_an_outage_and_its_end(server):
    """stop_listening drops connections and refuses new ones; start_listening is on the same port again."""
    url = server.url
    async with wired(server) as wire:
        await wire.ask()
        await server.stop_listening()
        await server.stop_listening()
        await wire.until(lambda: wire.end != "kept")
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            await Wire.to(server)
    await server.start_listening()
    assert server.url == url
    assert (await ask(server)).status == 200
    await server.stop_listening()
    await server.aclose()


async def test_a_port_that_was_taken():
    """A server that cannot listen again says so, and can once the port is free."""
    server = await FakeLeadStatusServer().start()
    port = int(server.url.rpartition(":")[2])
    await server.aclose()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(OSError, match="in use"):
            await server.start()
    with server:  # it was not started, so that it can be in whatever way
        assert (await ask(server)).status == 200
    async with server:
        assert (await ask(server)).status == 200


class Pipe:
    """A transport that only knows whether it was aborted."""

    aborted = False

    def abort(self):
        """Be aborted."""
        self.aborted = True


async def test_a_connection_accepted_too_late():
    """One that the loop had accepted when listening stopped is dropped as soon as it is there."""
    gone = []
    listener = Listener(lambda *_: pytest.fail("nothing arrives"), gone.append)
    connection = listener._accept()
    assert isinstance(connection, Connection)
    pipe = Pipe()
    connection.connection_made(pipe)
    assert pipe.aborted
    connection.data_received(b"GET / HTTP/1.1\r\n\r\n")
    connection.connection_lost(None)
    assert (gone, listener.connections) == ([connection], set())


async def test_closed_while_a_connection_is_accepted():
    """What the loop has accepted, and not yet made a connection, is gone too when aclose returns."""
    server = await FakeLeadStatusServer().start()
    with socket.socket() as client:
        client.settimeout(PATIENCE)
        client.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        for _ in range(2):  # seen by the loop; then accepted, which leaves the rest to a task
            await asyncio.sleep(0)
        await server.aclose()
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""


# Rate limits


def admitted(limit, times):
    """Return which of the requests at these times pass."""
    return [limit.admit(now).admitted for now in times]


@pytest.mark.parametrize(
    ("limit", "times", "passing"),
    [
        (SlidingWindow(2), [0.0, 0.9, 0.95, 1.0, 1.5, 1.9], [1, 1, 0, 1, 0, 1]),
        (SlidingWindow(1, per=60.0), [5.0, 64.9, 65.0], [1, 0, 1]),
        (FixedWindow(2), [0.8, 0.9, 0.95, 1.0, 1.1, 1.2, 3.0], [1, 1, 0, 1, 1, 0, 1]),
        (FixedWindow(1, per=2.0), [-1.0, 0.0, 1.9, 2.0], [1, 1, 0, 1]),
        (TokenBucket(1.0), [0.0, 0.5, 1.0, 9.0, 9.5], [1, 0, 1, 1, 0]),
        (TokenBucket(2.0, burst=3), [7.0] * 4 + [7.5] * 2 + [99.0] * 4, [1, 1, 1, 0, 1, 0, 1, 1, 1, 0]),
        (SlidingWindow(1, lockout=5.0), [0.0, 0.5, 5.0, 9.9, 14.9], [1, 0, 0, 0, 1]),
        (TokenBucket(1.0, lockout=3.0), [0.0, 0.5, 3.5], [1, 0, 1]),
    ],
    ids=str,
)  # fmt: skip
def test_limits_admit(limit, times, passing):
    """Each kind lets through what its rule says; a lock-out starts anew with each refusal."""
    assert admitted(limit, times) == [bool(each) for each in passing]


@pytest.mark.parametrize(
    ("limit", "decisions"),
    [
        (SlidingWindow(2), [(True, 0.0, 1, 1.0), (True, 0.0, 0, 0.75), (False, 0.5, 0, 0.5)]),
        (FixedWindow(2, per=2.0), [(True, 0.0, 1, 2.0), (True, 0.0, 0, 1.75), (False, 1.5, 0, 1.5)]),
        (TokenBucket(0.5, burst=2), [(True, 0.0, 1, 2.0), (True, 0.0, 0, 3.75), (False, 1.5, 0, 1.5)]),
        (SlidingWindow(2, lockout=9.0), [(True, 0.0, 1, 1.0), (True, 0.0, 0, 0.75), (False, 9.0, 0, 9.0)]),
    ],
    ids=str,
)
def test_decisions_tell_what_is_left(limit, decisions):
    """A decision has seconds to wait, what remains and when all is whole again; waiting helps."""
    for now, (passes, wait, remaining, reset) in zip((4.0, 4.25, 4.5), decisions, strict=True):
        assert limit.admit(now) == Decision(passes, wait, 2, remaining, reset)
    assert limit.admit(4.5 + wait).admitted


@pytest.mark.parametrize("kind", [SlidingWindow, FixedWindow, TokenBucket, ConcurrencyLimit])
@pytest.mark.parametrize("bad", [(0, 1), (1, 0), (-1, 1), (1, float("nan"))])
def test_limits_refuse_nonsense(kind, bad):
    """A rate, window or burst that is not above 0 is refused by name."""
    with pytest.raises(ValueError, match="must be above 0"):
        kind(*bad)


def test_a_limit_of_requests_at_once():
    """So many pass until one of them has ended; what was refused does not count, and a lock-out holds."""
    limit = ConcurrencyLimit(2, wait=3.0)
    assert [limit.admit(0.0) for _ in range(3)] == [
        Decision(True, 0.0, 2, 1, 3.0),
        Decision(True, 0.0, 2, 0, 3.0),
        Decision(False, 3.0, 2, 0, 3.0),
    ]
    limit.ended()
    assert admitted(limit, [0.0, 0.0, 99.0]) == [True, False, False]
    locking = ConcurrencyLimit(1, lockout=5.0)
    assert admitted(locking, [0.0, 1.0]) == [True, False]
    locking.ended()
    assert admitted(locking, [2.0, 6.0, 11.0]) == [False, False, True]


def test_other_limits_do_not_care_when_requests_end():
    """What counts requests per time is told all the same, and admits no more for it."""
    limit = SlidingWindow(1)
    assert limit.admit(0.0).admitted
    limit.ended()
    assert not limit.admit(0.5).admitted


def test_limit_alone_is_no_limit():
    """The base of all kinds decides nothing."""
    for use in (lambda: Limit().admit(0.0), lambda: Limit().size, lambda: Limit().span):
        with pytest.raises(NotImplementedError):
            use()


NOW = datetime(2026, 11, 23, 6, 0, 0, 900_000, tzinfo=UTC)
IETF = {"RateLimit-Policy": '"default";q=2;w=3', "RateLimit": '"default";r=0;t=2'}


@pytest.mark.parametrize(
    ("options", "passes", "headers"),
    [
        ({}, False, {}),
        ({"retry_after": "seconds"}, False, {"Retry-After": "2"}),
        ({"retry_after": "seconds"}, True, {}),
        ({"retry_after": "ms"}, False, {"Retry-After-Ms": "1251"}),
        (
            {"retry_after": "date"},
            False,
            {"Retry-After": "Mon, 23 Nov 2026 06:00:02 GMT", "Date": "Mon, 23 Nov 2026 06:00:00 GMT"},
        ),
        ({"headers": "ietf"}, True, IETF),
        ({"headers": "ietf", "retry_after": "seconds"}, False, {"Retry-After": "2"} | IETF),
        (
            {"headers": "x-ratelimit"},
            True,
            {"X-RateLimit-Limit": "2", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "2"},
        ),
    ],
    ids=str,
)
def test_headers_of_limits(options, passes, headers):
    """Each dialect says its own, rounded up so that waiting as long as told is enough."""
    decision = Decision(passes, 0.0 if passes else 1.2501, 2, 0, 1.2501)
    assert headers_of(SlidingWindow(2, per=2.5, **options), decision, NOW) == headers


@pytest.mark.parametrize(
    ("kind", "span"),
    [
        (SlidingWindow(2, 5.0), 5.0),
        (FixedWindow(2, 5.0), 5.0),
        (TokenBucket(4.0, 2), 0.5),
        (ConcurrencyLimit(2, 0.5), 0.5),
    ],
)
def test_spans(kind, span):
    """The window that headers tell of; of a bucket, the time in which it fills."""
    assert (kind.size, kind.span) == (2, span)


async def test_a_rate_limit_on_the_wire():
    """Beyond the limit come enveloped 429s with its headers, before any fault; it can be replaced."""
    limit = SlidingWindow(2, per=60.0, retry_after="seconds", headers="x-ratelimit")
    async with FakeLeadStatusServer(rate_limit=limit) as server:
        server.script(None, "502-html", "404")
        answers = [await ask(server) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 502, 429]
        assert answers[1].headers["content-type"] == "text/html"
        assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
        is_refusal(answers[2], 429)
        assert int(answers[2].headers["retry-after"]) in {59, 60}
        assert server.requests[2].fault is None
        server.rate_limit = TokenBucket(0.001)
        assert [(await ask(server)).status for _ in range(2)] == [404, 429]
        server.rate_limit = None
        assert (await ask(server)).status == 200


async def test_a_limit_of_requests_at_once_on_the_wire():
    """An answer, a reset or a client that leaves makes room; a 429 does not, nor a limit that came later."""
    limit = ConcurrencyLimit(2, wait=0.5, retry_after="ms")
    async with FakeLeadStatusServer(rate_limit=limit) as server, wired(server) as leaving:
        server.hold()
        leaving.send()
        await server.wait_for_requests(1)
        staying = asyncio.create_task(ask(server))
        await server.wait_for_requests(2)
        refused = asyncio.create_task(ask(server))
        await server.wait_for_requests(3)
        leaving.transport.abort()
        await turns(lambda: server.in_flight == 2)
        server.script("reset")
        second = asyncio.create_task(ask(server))
        await server.wait_for_requests(4)
        server.release()
        answers = [await each for each in (staying, refused, second)]
        assert [answer.status for answer in answers] == [200, 429, None]
        assert answers[1].headers["retry-after-ms"] == "500"
        assert limit._running == 0
        server.script("hang")
        async with wired(server) as hanging:
            hanging.send()
            await server.wait_for_requests(5)
            assert limit._running == 1
            server.rate_limit = None
            assert (await ask(server)).status == 200
            assert limit._running == 1
        await turns(lambda: limit._running == 0)


async def test_an_answer_makes_room_before_it_leaves():
    """Who has got an answer may ask again at once, on another connection too."""
    async with FakeLeadStatusServer(rate_limit=ConcurrencyLimit(1), latency=0.001) as server:
        assert [(await ask(server)).status for _ in range(20)] == [200] * 20


async def test_a_faults_own_pause_wins_over_the_limits():
    """A scripted header is sent as scripted, next to what the limit says."""
    limit = FixedWindow(1000, per=60.0, retry_after="seconds", headers="ietf")
    async with FakeLeadStatusServer(rate_limit=limit) as server:
        server.script(Fault(429, headers={"RateLimit": "mine"}))
        answer = await ask(server)
    assert answer.headers["ratelimit"] == "mine"
    assert answer.headers["ratelimit-policy"] == '"default";q=1000;w=60'


# The package


def test_names():
    """Every public name is there, loaded when first used; another is an AttributeError."""
    assert len(testing.__all__) == len(set(testing.__all__))
    assert [name for name in testing.__all__ if getattr(testing, name) is None] == []
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = testing.nothing
