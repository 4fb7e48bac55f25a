"""The fuzzer: stories made by seeds, in virtual time and over real sockets, for as long as it is given.

    python -m tests.fuzz                                # a minute, from a seed that it prints
    LEADSTATUS_FUZZ_SECONDS=3600 python -m tests.fuzz
    LEADSTATUS_FUZZ_SEED=17 LEADSTATUS_FUZZ_SECONDS=0 python -m tests.fuzz   # that one story of each kind

Two thirds of the time go to the engine in virtual time (`tests/engine/test_schedules.py`), the rest to a
server that does to its sockets whatever can be done: RST and FIN at any byte, answers that come twice, early
hints, garbage, compression of all kinds, pages of proxies, answers in drops.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import logging
import os
import random
import socket
import struct
import sys
import time
import zlib
from itertools import count
from urllib.parse import unquote

from leadstatus_async import (
    BatchError,
    LeadStatus,
    LeadStatusError,
    LeadStatusSession,
    RetryPolicy,
)
from tests.engine.test_schedules import tell_story
from tests.parrot import STATUSES

STATES = [*STATUSES, "not_started", "not_in_campaign"]


def status_of(lead_id: str) -> str:
    """Return the one right status of a lead."""
    return STATES[zlib.crc32(lead_id.encode()) % len(STATES)]


class RawServer:
    """Answers each request in a way that its dice choose; what it says of a lead is always right."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._tasks: set[asyncio.Task] = set()
        self._calm = dice.choice([0.2, 0.6, 0.9])
        self.heard = 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        dice = self._dice
        if dice.random() < 0.05:
            writer.write(self._garbage())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heard += 1
                target = head.split(b" ", 2)[1].decode()
                lead_ids = [unquote(one) for one in target.partition("leadIds=")[2].split(",")]
                if dice.random() < self._calm:
                    writer.write(self._encoded(self._rows(lead_ids)))
                else:
                    way = dice.choice(
                        [self._cut, self._twice, self._refuse, self._hint, self._drip, self._strange]
                    )
                    await way(writer, lead_ids)
        except (
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
            OSError,
            asyncio.CancelledError,
        ):
            pass
        finally:
            writer.close()

    def _rows(self, lead_ids):
        dice = self._dice
        rows = [{"leadId": lead_id, "workflowStatus": status_of(lead_id)} for lead_id in lead_ids]
        if dice.random() < 0.2:
            dice.shuffle(rows)
        if dice.random() < 0.1:
            rows.pop()
        if dice.random() < 0.1:
            rows.append({"leadId": "stranger", "workflowStatus": "completed"})
        return json.dumps({"success": True, "data": {"items": rows}, "traceId": "t"}).encode()

    def _encoded(self, body, status="200 OK"):
        dice = self._dice
        encoding, encode = dice.choice(
            [
                ("", bytes),
                ("", bytes),
                ("gzip", gzip.compress),
                ("gzip", lambda data: gzip.compress(data) + dice.randbytes(dice.randrange(9))),
                ("gzip", lambda data: gzip.compress(data)[: dice.randrange(len(data))]),
                ("gzip", bytes),
                ("deflate", zlib.compress),
                ("deflate", lambda data: zlib.compress(data)[2:-4]),
                ("br", bytes),
            ]
        )
        head = f"HTTP/1.1 {status}\r\n" + (f"Content-Encoding: {encoding}\r\n" if encoding else "")
        data = encode(body)
        if dice.random() < 0.7:
            return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data
        size = dice.choice([1, 7, 1000])
        parts = [data[at : at + size] for at in range(0, len(data), size)]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
        return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks + b"0\r\n\r\n"

    def _garbage(self):
        return self._dice.choice(
            [b"\0", b"\r\n", b"HTTP/1.1 ", self._dice.randbytes(40), b"HTTP/1.1 408 Late\r\n\r\n"]
        )

    async def _cut(self, writer, lead_ids):
        """RST or FIN, at any byte."""
        answer = self._encoded(self._rows(lead_ids))
        writer.write(answer[: self._dice.randrange(len(answer))])
        await asyncio.sleep(0)
        if self._dice.random() < 0.5:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
        raise ConnectionError

    async def _twice(self, writer, lead_ids):
        """The answer again, at once or later."""
        answer = self._encoded(self._rows(lead_ids))
        writer.write(answer)
        await asyncio.sleep(self._dice.choice([0, 0, 0.001, 0.01]))
        writer.write(answer[: self._dice.choice([len(answer), self._dice.randrange(len(answer))])])

    async def _refuse(self, writer, lead_ids):
        """Say no, in words of the API or of some proxy."""
        status = self._dice.choice(
            ["500 Oops", "502 Bad", "503 Busy", "404 Gone", "403 No", "400 Bad", "429 Slow", "520 X"]
        )
        error = {"success": False, "data": None, "error": {"code": "X", "message": "m", "details": ""}}
        passing = status[0] == "5" or status[:3] in ("400", "429")
        body = json.dumps(error).encode() if passing and self._dice.random() < 0.5 else b"<h1>sorry</h1>"
        writer.write(self._encoded(body, status))
        del lead_ids

    async def _hint(self, writer, lead_ids):
        """Early hints and the like, before the answer."""
        for _ in range(self._dice.choice([1, 3])):
            writer.write(
                self._dice.choice(
                    [b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"]
                )
            )
            await asyncio.sleep(0)
        writer.write(self._encoded(self._rows(lead_ids)))

    async def _drip(self, writer, lead_ids):
        """In drops, now and then for longer than an attempt may take."""
        answer = self._encoded(self._rows(lead_ids))
        pause = self._dice.choice([0, 0, 0.001, 0.5])
        step = max(1, len(answer) // 10)
        for at in range(0, len(answer), step):
            writer.write(answer[at : at + step])
            await asyncio.sleep(pause)

    async def _strange(self, writer, lead_ids):
        """Garbage before, after or instead of the answer."""
        answer = self._encoded(self._rows(lead_ids))
        garbage = self._garbage()
        writer.write(self._dice.choice([garbage + answer, answer + garbage, garbage]))


async def socket_story(seed: int) -> None:
    """Let a few callers ask a raw server; check what they are told."""
    dice = random.Random(seed)
    complaints: list[dict] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    async with RawServer(dice) as server:
        session = LeadStatusSession(
            "sk_live_fuzzing",
            base_url=server.url,
            rate_limit=None,
            timeout=0.2,
            chunk_size=dice.choice([1, 5, 50]),
            concurrency=dice.choice([1, 4, 16]),
            retry=RetryPolicy(
                max_attempts=dice.choice([1, 3, 5]),
                base_delay=0.001,
                max_delay=0.01,
                max_outage=dice.choice([0, 0.3]),
            ),
            cache_size=dice.choice([0, 10, 500]),
        )
        callers = dice.choice([1, 4, 8])
        calls = [asyncio.create_task(_call(session, dice, number % 4)) for number in range(callers)]
        async with asyncio.timeout(30):
            if dice.random() < 0.3:
                await asyncio.sleep(dice.random() / 10)
                dice.choice(calls).cancel()
            if dice.random() < 0.2:
                await asyncio.sleep(dice.random() / 10)
                await session.aclose()
            await asyncio.wait(calls)
            for call in calls:
                if not call.cancelled():
                    call.result()
            for _ in range(20):
                await asyncio.sleep(0)
            assert session._core.idle
            await session.aclose()
        assert session.stats.in_flight == 0
    gc.collect()
    assert not complaints, complaints


async def _call(session, dice, number):
    campaign = session.campaign("a", f"c{number}")
    if dice.random() < 0.5:
        age = dice.choice([None, 0.0, 0.05, 60.0]) if session._core.cache is not None else None
        campaign = campaign.with_options(
            timeout=dice.choice([0.05, 0.5]), max_attempts=dice.choice([1, 4]), max_age=age
        )
    ids = [f"c{number}x{dice.randrange(80)}" for _ in range(dice.choice([1, 20, 120]))]
    kind = dice.choice(["get_many", "get", "stream"])
    try:
        if kind == "get_many":
            outcomes = list(await campaign.get_many(ids, on_error=dice.choice(["raise", "collect"])))
        elif kind == "get":
            outcomes = await asyncio.gather(*map(campaign.get, ids), return_exceptions=True)
        else:
            outcomes = [one async for one in campaign.stream(ids, on_error="collect")]
    except BatchError as error:
        outcomes = list(error.result)
    except LeadStatusError as error:
        outcomes = list(error.result or [])
    assert not outcomes or len(outcomes) == len(ids)
    for lead_id, outcome in zip(ids, outcomes, strict=False):
        if isinstance(outcome, LeadStatus):
            assert (outcome.lead_id, outcome.workflow_status) == (lead_id, status_of(lead_id))
        else:
            assert isinstance(outcome, LeadStatusError) or outcome.lead_id == lead_id


def main() -> None:
    """Tell stories until the time is up; the seed of one that fails is printed."""
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # our server writes to clients that have left
    seconds = float(os.environ.get("LEADSTATUS_FUZZ_SECONDS", "60"))
    first = int(os.environ.get("LEADSTATUS_FUZZ_SEED", random.SystemRandom().randrange(2**40)))
    print(f"fuzzing for {seconds:g} s from seed {first}", flush=True)
    for name, tell, share in (
        ("virtual", tell_story, 2 / 3),
        ("sockets", lambda seed: asyncio.run(socket_story(seed)), 1 / 3),
    ):
        until, told = time.monotonic() + seconds * share, 0
        for seed in count(first):
            try:
                tell(seed)
            except BaseException:
                print(f"LEADSTATUS_FUZZ_SEED={seed} fails ({name})", file=sys.stderr)
                raise
            told += 1
            if time.monotonic() >= until:
                break
        print(f"{told} stories, {name}", flush=True)


if __name__ == "__main__":
    main()
