"""An answer is never taken for another request's: connections that say more than they were asked (h1)."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
import uvloop
from aiohttp.client_proto import ResponseHandler

from leadstatus_async import LeadStatusSession, RetryPolicy
from leadstatus_async._engine.transport.connections import _readable
from tests.parrot import Parrot, refusal, reply, status_of

LEADS = [f"{number:024x}" for number in range(50)]
LATE = {"0 ms": 0.0, "1 ms": 0.001, "10 ms": 0.01, "100 ms": 0.1}
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
QUICK = RetryPolicy(base_delay=0.001, max_delay=0.01)


@pytest.fixture(params=LOOPS)
def run(request):
    """Run a coroutine in a loop of each kind."""

    def run(coroutine):
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(asyncio.wait_for(coroutine, 30))

    return run


def says_again(delay, copies, extra=None, first_only=True):
    """Return what a parrot does: answer, and after a while answer again, or say something else."""
    heard = []

    def after(writer, answer):
        writer.write(answer)
        heard.append(answer)
        if first_only and len(heard) > 1:
            return None

        async def again():
            for _ in range(copies):
                await asyncio.sleep(delay)
                writer.write(answer if extra is None else extra)

        return again()

    return after


async def ask(parrot, borrowed, calls, *, campaigns=2):
    """Ask for the same leads in turn, once the server has said all it wants; return the wrong statuses."""
    lent = aiohttp.ClientSession() if borrowed else None
    wrong = 0
    try:
        async with LeadStatusSession(
            "sk_live_parrot", base_url=parrot.url, http_session=lent, rate_limit=None, retry=QUICK
        ) as session:
            for number in range(calls):
                name = f"c{number % campaigns}"
                campaign = session.campaign("a", name)
                if number % 4 == 0:
                    found = [await campaign.get(lead) for lead in LEADS[:1]]
                elif number % 4 == 1:
                    found = [one async for one in campaign.stream(LEADS)]
                elif number % 4 == 2:
                    watch = campaign.watch(LEADS, interval=60, until=lambda _: True)
                    found = [one async for one in watch]
                else:
                    found = await campaign.get_many(LEADS)
                wrong += sum(one.workflow_status != status_of(name, one.lead_id) for one in found)
                await parrot.quiet.wait()
            assert session._core.limits.max_url_bytes == 4000
    finally:
        if lent is not None:
            await lent.close()
    return wrong


@pytest.mark.parametrize("borrowed", [False, True], ids=["own", "lent"])
@pytest.mark.parametrize("campaigns", [1, 4], ids=["same", "others"])
@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("late", LATE)
def test_an_answer_that_is_sent_again_answers_nobody(run, late, copies, campaigns, borrowed):
    """However late its copies come while the connection is idle, every status is that of its campaign."""

    async def main():
        async with Parrot(says_again(LATE[late], copies)) as parrot:
            assert await ask(parrot, borrowed, 8, campaigns=campaigns) == 0
            assert len(parrot.requests) == 8, "nothing was asked twice"
            assert parrot.connections == 2, "only the connection that said more was given up"

    run(main())


@pytest.mark.parametrize("borrowed", [False, True], ids=["own", "lent"])
@pytest.mark.parametrize(
    "extra",
    [
        refusal("400 Bad Request"),
        refusal("429 Too Many Requests"),
        refusal("401 Unauthorized"),
        reply(b"", "204 No Content"),
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"nonsense",
        refusal("400 Bad Request")[:-20],
    ],
    ids=["400", "429", "401", "204", "half a head", "100", "nonsense", "cut"],
)
def test_what_is_pushed_onto_an_idle_connection_is_not_heard(run, extra, borrowed):
    """Nothing is learned from it: neither a limit nor a refusal, and no request is sent twice."""

    async def main():
        async with Parrot(says_again(0.005, 1, extra)) as parrot:
            assert await ask(parrot, borrowed, 4) == 0
            assert len(parrot.requests) == 4
            # aiohttp forgets a fragment when the next request begins, and what follows it is no HTTP.
            assert parrot.connections == (1 if borrowed and extra.endswith(b"-Le") else 2)

    run(main())


@pytest.mark.parametrize("extra", [b"\r\n", b" ", b"\0", b"H"], ids=ascii)
def test_an_idle_connection_that_received_one_byte_is_not_used_again(run, extra):
    """Any byte will do."""

    async def main():
        async with Parrot(says_again(0.005, 1, extra)) as parrot:
            assert await ask(parrot, borrowed=False, calls=4) == 0
            assert parrot.connections == 2

    run(main())


@pytest.mark.parametrize("borrowed", [False, True], ids=["own", "lent"])
@pytest.mark.parametrize(
    "part",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\n"],
    ids=["whole", "half a head", "a head without its end"],
)
def test_more_than_the_answer_in_one_segment_ends_the_connection(run, part, borrowed):
    """The answer is taken, what follows it in the same segment is not, and the connection is closed."""

    def after(writer, answer):
        writer.write(answer + (part or answer))

    async def main():
        async with Parrot(after) as parrot:
            assert await ask(parrot, borrowed, 4) == 0
            # Of a fragment aiohttp tells nothing; what would follow it is no HTTP.
            assert parrot.connections == (1 if borrowed and part else 4)

    run(main())


@pytest.mark.parametrize("borrowed", [False, True], ids=["own", "lent"])
def test_more_than_an_answer_that_came_in_pieces_ends_the_connection(run, borrowed):
    """The copy stands in the segment of the answer's last byte."""

    async def after(writer, answer):
        writer.write(answer[:-1])
        await asyncio.sleep(0.005)
        writer.write(answer[-1:] + answer)

    async def main():
        async with Parrot(after) as parrot:
            assert await ask(parrot, borrowed, 4) == 0
            assert parrot.connections == 4

    run(main())


@pytest.mark.parametrize("borrowed", [False, True], ids=["own", "lent"])
def test_a_body_after_a_204_answers_nobody(run, borrowed):
    """It is no answer to the next request."""
    sent = []

    def answer(campaign, lead_ids):
        good = Parrot.good(campaign, lead_ids)
        sent.append(campaign)
        return b"HTTP/1.1 204 No Content\r\n\r\n" + good if len(sent) == 1 else good

    async def main():
        async with Parrot(lambda writer, said: writer.write(said), answer) as parrot:
            lent = aiohttp.ClientSession() if borrowed else None
            async with LeadStatusSession("sk_live_parrot", base_url=parrot.url, http_session=lent) as session:
                first = await session.campaign("a", "c0").get_many(LEADS, on_error="collect")
                assert {one.error.status for one in first} == {204}
                for name in ("c1", "c2"):
                    for one in await session.campaign("a", name).get_many(LEADS):
                        assert one.workflow_status == status_of(name, one.lead_id)
            if lent is not None:
                await lent.close()

    run(main())


@pytest.mark.parametrize("borrowed", [False, True], ids=["own", "lent"])
def test_an_answer_for_other_leads_is_not_believed(run, borrowed):
    """None of its rows was asked for: its connection is closed, and the request sent again."""

    def answer(campaign, lead_ids):
        told = [f"other-{one}" for one in lead_ids] if len(parrots[0].requests) == 2 else lead_ids
        return Parrot.good(campaign, told)

    parrots = []

    async def main():
        async with Parrot(lambda writer, said: writer.write(said), answer) as parrot:
            parrots.append(parrot)
            assert await ask(parrot, borrowed, 4) == 0
            assert parrot.requests == [(1, "c0"), (1, "c1"), (2, "c1"), (2, "c0"), (2, "c1")]

    run(main())


def test_answers_for_other_leads_for_ever_are_a_decode_error(run):
    """After all attempts the error says so, names no lead and has the trace id."""

    async def main():
        wrong = lambda campaign, _: Parrot.good(campaign, ["somebody"])  # noqa: E731
        async with Parrot(lambda writer, said: writer.write(said), wrong) as parrot:
            async with LeadStatusSession(
                "sk_live_parrot", base_url=parrot.url, retry=QUICK, rate_limit=None
            ) as session:
                (failure,) = await session.campaign("a", "c7").get_many(["x"], on_error="collect")
            assert len(parrot.requests) == parrot.connections == 5
        assert type(failure.error).__name__ == "ResponseDecodeError"
        assert "another request's" in str(failure.error)
        assert "somebody" not in str(failure.error)
        assert (failure.error.trace_id, failure.error.attempts) == ("c7", 5)

    run(main())


def test_a_connection_in_good_order_is_used_again(run):
    """Hundreds of answers, whole and in pieces, on one connection."""

    async def after(writer, answer):
        middle = len(answer) // 2
        writer.write(answer[:middle])
        await asyncio.sleep(0)
        writer.write(answer[middle:])

    async def main():
        for borrowed in (False, True):
            async with Parrot(after) as parrot:
                assert await ask(parrot, borrowed, 100) == 0
                assert (len(parrot.requests), parrot.connections) == (100, 1)

    run(main())


@pytest.mark.parametrize("borrowed", [False, True], ids=["own", "lent"])
def test_early_hints_are_no_answer(run, borrowed):
    """1xx heads come before an answer; the connection is in good order."""

    def answer(campaign, lead_ids):
        hint = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        return b"HTTP/1.1 100 Continue\r\n\r\n" + hint + Parrot.good(campaign, lead_ids)

    async def main():
        async with Parrot(lambda writer, said: writer.write(said), answer) as parrot:
            assert await ask(parrot, borrowed, 4) == 0
            assert parrot.connections == 1

    run(main())


def test_a_borrowed_session_whose_every_connection_speaks_first(run):
    """Whoever greets with an answer is given up after some tries, and asked nothing on those connections."""

    class Slow(aiohttp.TCPConnector):
        async def connect(self, *args, **kwargs):
            connection = await super().connect(*args, **kwargs)
            await asyncio.sleep(0.01)  # until the greeting is there
            return connection

    async def main():
        async with (
            Parrot(lambda *_: None, greeting=refusal("429 Too Many Requests")) as parrot,
            aiohttp.ClientSession(connector=Slow()) as lent,
            LeadStatusSession(
                "sk_live_parrot", base_url=parrot.url, http_session=lent, retry=RetryPolicy(max_attempts=1)
            ) as session,
        ):
            (failure,) = await session.campaign("a", "c").get_many(["x"], on_error="collect")
            assert "nobody asked for" in str(failure.error)
            assert parrot.connections == 20
            assert not parrot.requests

    run(main())


async def test_a_connection_that_is_gone_is_no_idle_one():
    """Closed between the pool and the request, which hooks of a borrowed session have time for."""
    assert _readable(ResponseHandler(asyncio.get_running_loop()))


def test_the_owners_middlewares_run_and_stay(run):
    """A borrowed session's middlewares see each request, before we look at the connection."""

    async def main():
        seen = []

        async def middleware(request, handler):
            seen.append(request.url.path)
            return await handler(request)

        async with (
            Parrot(lambda writer, said: writer.write(said)) as parrot,
            aiohttp.ClientSession(middlewares=[middleware]) as lent,
            LeadStatusSession("sk_live_parrot", base_url=parrot.url, http_session=lent) as session,
        ):
            assert (await session.campaign("a", "c0").get("x")).ok
            assert len(seen) == 1
            assert list(lent._middlewares) == [middleware]

    run(main())


@pytest.mark.parametrize("owner", ["another session", "the owner"])
def test_a_connection_that_others_have_used(run, owner):
    """On a borrowed session a stray answer is not heard either if it came after somebody else's request."""

    async def after(writer, answer):
        writer.write(answer)
        if b'"traceId": "c1"' in answer:  # theirs, not ours
            await asyncio.sleep(0)
            writer.write(answer)

    async def main():
        wrong = 0
        async with (
            Parrot(after) as parrot,
            aiohttp.ClientSession() as lent,
            LeadStatusSession("sk_live_o", base_url=parrot.url, http_session=lent, rate_limit=None) as other,
            LeadStatusSession(
                "sk_live_p", base_url=parrot.url, http_session=lent, rate_limit=None
            ) as session,
        ):
            for number in range(10):
                if owner == "the owner":
                    path = f"{parrot.url}/v1/accounts/a/campaigns/c1/lead-status?leadIds={','.join(LEADS)}"
                    await (await lent.get(path)).read()
                else:
                    await other.campaign("a", "c1").get_many(LEADS)
                await parrot.quiet.wait()
                name = f"c{number + 2}"
                found = await session.campaign("a", name).get_many(LEADS)
                wrong += sum(one.workflow_status != status_of(name, one.lead_id) for one in found)
                await parrot.quiet.wait()
        assert wrong == 0

    run(main())


@pytest.mark.parametrize(
    "greeting", [refusal("401 Unauthorized"), b"\r\n", b"HTTP/1.1 200 OK\r\nCon"], ids=ascii
)
def test_a_server_that_speaks_first_is_asked_nothing(run, greeting):
    """What stands on a new connection before anything was asked is no answer."""

    async def main():
        async with (
            Parrot(lambda writer, said: writer.write(said), greeting=greeting) as parrot,
            LeadStatusSession("sk_live_parrot", base_url=parrot.url, retry=QUICK, rate_limit=None) as session,
        ):
            (failure,) = await session.campaign("a", "c1").get_many(["x"], on_error="collect")
        # Where the greeting comes after the request, it cannot be told from an answer.
        assert type(failure.error).__name__ in ("APIConnectionError", "AuthenticationError")

    run(main())


@pytest.mark.parametrize("hook", ["on_request_start", "on_request_end"])
async def test_a_hook_of_a_borrowed_session_that_hangs_is_timed(server, hook):
    """An attempt takes no longer than `timeout`, whatever the owner's hooks do."""
    trace = aiohttp.TraceConfig()

    async def hang(*_):
        await asyncio.Event().wait()

    getattr(trace, hook).append(hang)
    async with (
        aiohttp.ClientSession(trace_configs=[trace]) as lent,
        LeadStatusSession(
            "sk_live_parrot",
            base_url=server.url,
            http_session=lent,
            timeout=0.05,
            retry=RetryPolicy(max_attempts=1),
        ) as session,
        asyncio.timeout(10),
    ):
        (failure,) = await session.campaign("a", "c").get_many(["x"], on_error="collect")
    assert type(failure.error).__name__ == "APITimeoutError"
