"""Whatever a server or a proxy sends back, the key and the proxy's credentials show nowhere (h4)."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import logging
import pickle
import traceback

import aiohttp
import pytest

from leadstatus_async import LeadStatusSession, RateLimit, RetryPolicy
from leadstatus_async.testing import FakeLeadStatusServer, Fault
from tests.conftest import KEY

PASSWORD = "hunter2-hunter2"
BASIC = base64.b64encode(f"bob:{PASSWORD}".encode()).decode()
SECRETS = [KEY, PASSWORD, BASIC, base64.b64encode(KEY.encode()).decode().rstrip("="), KEY.encode().hex()]
ESCAPED = KEY.replace("_", "\\u005f")


def refusal(said: str) -> str:
    """Return an enveloped error, with a text as it stands in JSON in each of its fields."""
    return (
        f'{{"success": false, "data": null, "error": {{"code": "{said}", "message": "no: {said}", '
        f'"details": {{"headers": ["{said}"], "{said}": 1}}}}, "traceId": "{said}"}}'
    )


def answer(said: str) -> str:
    """Return a good answer, with a text as it stands in JSON in each of its fields."""
    row = (
        f'{{"leadId": "x", "workflowStatus": "{said}", "workflowInstanceId": "{said}", "latestStep": "{said}"'
    )
    rows = f'[{row}, "workflowStopReason": "{said}"}}]'
    return f'{{"success": true, "data": {{"items": {rows}}}, "traceId": "{said}"}}'


def everywhere(*things: object) -> str:
    """Return all that can be read of things: texts, repr, attributes, pickles, tracebacks."""
    shown = []
    for thing in things:
        shown += [
            str(thing),
            repr(thing),
            repr(copy.deepcopy(thing)),
            repr(pickle.loads(pickle.dumps(thing))),
        ]
        shown.append(pickle.dumps(thing).decode("latin-1"))
        if isinstance(thing, BaseException):
            shown += traceback.format_exception(thing)
            shown += [repr(vars(thing)), everywhere(*getattr(thing, "exceptions", ()))]
            shown.append(
                "".join(traceback.TracebackException.from_exception(thing, capture_locals=True).format())
            )
    return "\n".join(shown)


@pytest.mark.parametrize("borrowed", [False, True], ids=["own", "lent"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
@pytest.mark.parametrize("spelled", [*SECRETS, ESCAPED, KEY.replace("_", "%5F")], ids=lambda one: one[:12])
@pytest.mark.parametrize(
    ("status", "make"),
    [
        (200, answer),
        (200, refusal),
        (400, refusal),
        (401, refusal),
        (500, refusal),
        (502, "<p>{}</p>".format),
    ],
    ids=["rows", "success false", "400", "401", "500", "page"],
)
async def test_what_is_sent_back_shows_nowhere(
    server, make_session, caplog, status, make, spelled, encoding, borrowed
):
    """In results, errors, events and logs: plain, escaped, encoded, in any encoding of the body."""
    caplog.set_level(logging.DEBUG)
    server.fault(Fault(status, make(spelled).encode(encoding)), times=None)
    seen = []
    lent = aiohttp.ClientSession() if borrowed else None
    session = LeadStatusSession(
        KEY,
        base_url="http://localhost:1" if not borrowed else server.url,
        proxy=f"http://bob:{PASSWORD}@{server.url.removeprefix('http://')}",
        http_session=lent,
        rate_limit=RateLimit(1000),
        retry=RetryPolicy(max_attempts=1),
        on_event=seen.append,
    )
    async with session:
        result = await session.campaign("a", "c").get_many(["x"], on_error="collect")
        (stream,) = [one async for one in session.campaign("a", "c").stream(["x"], on_error="collect")]
        (one,) = await asyncio.gather(session.campaign("a", "c").get("x"), return_exceptions=True)
    if lent is not None:
        await lent.close()
    (outcome,) = result
    shown = everywhere(result, outcome, stream, one, *seen) + repr(session)
    shown += result.to_jsonl() + result.to_csv() + json.dumps(result.to_dicts()) + str(result.trace_ids)
    if not outcome.ok:
        shown += everywhere(outcome.error)
    assert "redacted" in shown
    for secret in SECRETS:
        assert secret not in shown + caplog.text


async def test_a_bad_row_shows_no_key(server, make_session):
    """Neither the message nor the snippet of a row that is not what the API promises."""
    body = answer("a").replace('"latestStep": "a"', f'"latestStep": ["{ESCAPED}"], "{KEY}": "{KEY}"')
    server.fault(Fault(200, body.encode()))
    (outcome,) = await make_session().campaign("a", "c").get_many(["x"], on_error="collect")
    assert "redacted" in outcome.error.snippet
    assert KEY not in everywhere(outcome.error)


async def test_text_is_kept_short(server, make_session):
    """Messages 500 characters, details 2,000 as JSON, a row's texts 2,000, codes and trace ids 200."""
    session = make_session(retry=RetryPolicy(max_attempts=1))
    campaign = session.campaign("a", "c")
    server.script(Fault(500, refusal("z" * 10_000).encode()), Fault(200, answer("z" * 10_000).encode()))
    (failed,) = await campaign.get_many(["x"], on_error="collect")
    error = failed.error
    assert (len(error.message), len(error.code), len(error.trace_id)) == (500, 200, 200)
    assert len(error.details) == 2000
    (status,) = await campaign.get_many(["x"])
    assert status.latest_step == status.workflow_instance_id == status.workflow_stop_reason == "z" * 2000


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupt_inside_aiohttp_leaves_no_frame_with_the_key(monkeypatch, kind):
    """Ctrl-C while a request is made: the traceback has none of aiohttp's frames."""

    async def send(self, conn):
        try:
            dict(self.headers)["missing"]
        except KeyError:
            raise kind from None

    async def main():
        monkeypatch.setattr(aiohttp.ClientRequest, "send", send)
        async with FakeLeadStatusServer() as server:
            session = LeadStatusSession(KEY, base_url=server.url)
            engine = session._core.enter()
            try:
                await engine.transport.send("/v1/x")
            except BaseException as caught:
                raised = caught
            await session.aclose()
        assert type(raised) is kind
        assert raised.__context__ is raised.__cause__ is None
        frames = traceback.TracebackException.from_exception(raised, capture_locals=True)
        assert KEY not in "".join(frames.format())
        assert not [frame for frame in frames.stack if "aiohttp" in frame.filename]

    asyncio.run(main())
