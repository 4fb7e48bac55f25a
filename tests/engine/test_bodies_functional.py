"""Bodies that come compressed, rightly or not: what is whole is read, what is not is told by its encoding."""

from __future__ import annotations

import gzip
import json
import zlib

import aiohttp
import pytest

from leadstatus_async import (
    BatchError,
    LeadStatusSession,
    ResponseDecodeError,
    ResponseTooLargeError,
    RetryPolicy,
    ServerError,
)
from leadstatus_async._engine.transport.bodies import Inflater
from tests.parrot import Parrot

pytestmark = pytest.mark.usefixtures("nothing_left")
QUICK = RetryPolicy(max_attempts=2, base_delay=0.001, max_delay=0.001, max_outage=0)


def rows(lead_ids):
    """Return a good body."""
    items = [{"leadId": lead_id, "workflowStatus": "waiting", "latestStep": "é"} for lead_id in lead_ids]
    return json.dumps({"success": True, "data": {"items": items}}, ensure_ascii=False).encode()


def bare(body):
    """Return deflate without the header that it should have."""
    return zlib.compress(body)[2:-4]


def said(encoding, body, *, chunked=False, status="200 OK"):
    """Return an answer whose body says that it has an encoding."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Encoding: {encoding}\r\n".encode()
    if not chunked:
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    parts = [body[at : at + 7] for at in range(0, len(body), 7)] if len(body) < 10_000 else [body]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


async def ask(answer, *, borrowed=False, leads=3, **options):
    """Ask once; return the result, the trouble if any, and the Parrot."""
    async with Parrot(lambda writer, said: writer.write(said), lambda _, ids: answer(ids)) as parrot:
        lent = aiohttp.ClientSession() if borrowed else None
        async with LeadStatusSession(
            "sk_live_bodies", base_url=parrot.url, http_session=lent, retry=QUICK, **options
        ) as session:
            lead_ids = [f"lead{number}" for number in range(leads)]
            result = await session.campaign("a", "c1").get_many(lead_ids, on_error="collect")
            assert [outcome.lead_id for outcome in result] == lead_ids
        if lent is not None:
            await lent.close()
        return result, parrot


GOOD = {
    "gzip": ("gzip", gzip.compress),
    "in capitals": ("GZIP", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "two members": ("gzip", lambda body: gzip.compress(body[:20]) + gzip.compress(body[20:])),
    "an empty member": ("gzip", lambda body: gzip.compress(b"") + gzip.compress(body)),
    "bytes after the stream": ("gzip", lambda body: gzip.compress(body) + b"\0\0\0\0junk"),
    "a line after the stream": ("gzip", lambda body: gzip.compress(body) + b"\r\n"),
    "one byte after the stream": ("gzip", lambda body: gzip.compress(body) + b"\x1f"),
    "deflate": ("deflate", zlib.compress),
    "bare deflate": ("deflate", bare),
    "bytes after deflate": ("deflate", lambda body: zlib.compress(body) + b"junk"),
    "identity": ("identity", bytes),
    "an unknown word": ("none", bytes),
}


@pytest.mark.parametrize("chunked", [False, True], ids=["whole", "chunked"])
@pytest.mark.parametrize("borrowed", [False, True], ids=["own", "lent"])
@pytest.mark.parametrize("case", GOOD)
async def test_what_is_whole_is_read(case, borrowed, chunked):
    """Whatever stands behind the end of the stream, in whatever pieces it comes."""
    encoding, encode = GOOD[case]
    result, parrot = await ask(
        lambda lead_ids: said(encoding, encode(rows(lead_ids)), chunked=chunked), borrowed=borrowed
    )
    assert [status.latest_step for status in result] == ["é"] * 3
    assert len(parrot.requests) == 1


BAD = {
    "no gzip": ("gzip", bytes, "gzip"),
    "gzip that breaks off": (
        "gzip",
        lambda body: gzip.compress(body)[:-20],
        "breaks off within its gzip stream",
    ),
    "gzip with a flaw": ("gzip", lambda body: gzip.compress(body)[:30] + b"\xff" * 60, "gzip"),
    "gzip without its sum": ("gzip", lambda body: gzip.compress(body)[:-8] + b"\0" * 8, "not gzip"),
    "deflate that breaks off": ("deflate", lambda body: zlib.compress(body)[:-6], "breaks off"),
    "too many members": ("gzip", lambda _: gzip.compress(b"") * 200, "more than 100 gzip streams"),
    "no deflate": ("deflate", lambda _: b"\x07" * 50, "deflate"),
    "brotli": ("br", lambda _: b"\x0b\x02\x80hello\x03", "br, which was not asked for"),
    "zstd": ("zstd", lambda _: b"(\xb5/\xfd\x04", "zstd, which was not asked for"),
    "two at once": ("gzip, br", gzip.compress, "gzip, br, which was not asked for"),
}


@pytest.mark.parametrize("chunked", [False, True], ids=["whole", "chunked"])
@pytest.mark.parametrize("case", BAD)
async def test_what_cannot_be_decoded_is_told_by_its_encoding(case, chunked):
    """And asked for again, as every body that cannot be read."""
    encoding, encode, told = BAD[case]
    result, parrot = await ask(lambda lead_ids: said(encoding, encode(rows(lead_ids)), chunked=chunked))
    assert {type(failure.error) for failure in result.failures} == {ResponseDecodeError}
    assert told in str(result[0].error)
    assert result[0].error.status == 200
    assert len(parrot.requests) == 2


async def test_an_error_page_with_a_wrong_encoding_keeps_its_status():
    """What it says is lost, that it is a 503 is not."""
    result, _ = await ask(lambda _: said("gzip", b"<h1>no gzip</h1>", status="503 Service Unavailable"))
    assert {type(failure.error) for failure in result.failures} == {ServerError}


async def test_a_bomb_is_refused_at_the_cap():
    """After decompression; a megabyte of zeros is a thousand bytes."""
    bomb = gzip.compress(b"[" * 3_000_000)
    result, _ = await ask(lambda _: said("gzip", bomb), max_response_bytes=1_000_000)
    assert {type(failure.error) for failure in result.failures} == {ResponseTooLargeError}
    result, _ = await ask(lambda _: said("gzip", bomb), max_response_bytes=3_000_001)
    assert {type(failure.error) for failure in result.failures} == {ResponseDecodeError}


async def test_only_what_can_be_read_is_asked_for(server, make_session):
    """Whatever libraries aiohttp finds, unless the user says otherwise."""
    await make_session().campaign("a", "c").get("x")
    await make_session(headers={"accept-encoding": "identity"}).campaign("a", "c").get("x")
    told = [request.headers["accept-encoding"] for request in server.requests]
    assert told == ["gzip, deflate", "identity"]


async def test_a_large_answer_comes_in_pieces():
    """Ten thousand rows, compressed."""
    with_many = {"chunk_size": 10_000, "max_url_bytes": 200_000}
    try:
        result, parrot = await ask(
            lambda ids: said("gzip", gzip.compress(rows(ids))), leads=5_000, **with_many
        )
    except BatchError as error:  # pragma: no cover
        raise AssertionError(error.result.failures[0]) from None
    assert len(result.statuses) == 5_000
    assert len(parrot.requests) == 1


async def test_what_brings_nothing_is_not_read_without_end():
    """Junk behind a stream, of more than the cap."""
    result, _ = await ask(
        lambda ids: said("gzip", gzip.compress(rows(ids)) + b"\0" * 400_000), max_response_bytes=100_000
    )
    assert {type(failure.error) for failure in result.failures} == {ResponseTooLargeError}


def test_output_that_zlib_holds_back_is_waited_for():
    """A stream of deflate that ends just behind a piece of it."""
    for size in range(65_530, 65_545):
        packed = zlib.compressobj(9, zlib.DEFLATED, -15)
        data = packed.compress(b" " * size) + packed.flush()
        for step in (1, 7, len(data)):
            inflater = Inflater("deflate")
            got = b"".join(
                piece for at in range(0, len(data), step) for piece in inflater.pieces(data[at : at + step])
            )
            inflater.end()
            assert got == b" " * size
