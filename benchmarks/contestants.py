"""Who is measured: this library, and what people write by hand. Each runs in a process of its own.

    python -m benchmarks.contestants NAME PORT SIZE     prints one JSON object

CPU is user + system time of this process alone; a warm-up before it opens the connections.
"""

import asyncio
import contextlib
import json
import random
import resource
import sys
import time
from typing import Any, Self

SEED = 20260101
TARGET = "/v1/accounts/acc/campaigns/camp/lead-status"


def lead_ids(count: int) -> list[str]:
    """Return seeded IDs that look like ObjectIds."""
    dice = random.Random(SEED)
    return [f"{dice.getrandbits(96):024x}" for _ in range(count)]


def cpu() -> float:
    """Return the CPU seconds this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def session(port: int, **options: Any) -> Any:
    """Make a session of this library against the server."""
    from leadstatus_async import LeadStatusSession

    return LeadStatusSession("sk_live_benchmark", base_url=f"http://127.0.0.1:{port}", **options)


async def ours(port: int, size: int, rate: float | None = None) -> dict[str, float]:
    """Use `get_many` as users get it, all features on; the limiter off, or one that does not bind."""
    from leadstatus_async import RateLimit

    limit = None if rate is None else RateLimit(rate)
    async with session(port, rate_limit=limit) as opened:
        campaign = opened.campaign("acc", "camp")
        await campaign.get_many(lead_ids(1600))
        asked = lead_ids(size)
        before = cpu()
        result = await campaign.get_many(asked)
        used = cpu() - before
    assert [status.lead_id for status in result] == asked
    return {"us_per_lead": used / size * 1e6}


class Floor:
    """The least that aiohttp and msgspec can do it with: what everything else is compared to.

    One session with preset headers, without limit, cookies and time-outs; URLs that are encoded already; one
    typed decoder; rows placed by slice. No retry, no pace, no checks.
    """

    def __init__(self, port: int) -> None:
        import aiohttp
        import msgspec
        from yarl import URL

        from leadstatus_async.models import LeadStatus

        class Data(msgspec.Struct):
            items: list[LeadStatus]

        class Answer(msgspec.Struct):
            data: Data

        self._decode = msgspec.json.Decoder(Answer).decode
        self._url = URL
        self._prefix = f"http://127.0.0.1:{port}{TARGET}?leadIds="
        self._client = aiohttp.ClientSession(
            headers={"Authorization": "Bearer sk"},
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def fetch(self, chunk: list[str]) -> list[Any]:
        """Ask for a chunk; return its rows."""
        url = self._url(self._prefix + ",".join(chunk), encoded=True)
        async with self._client.get(url) as response:
            return self._decode(await response.read()).data.items

    async def workers(self, asked: list[str], take: Any, width: int = 16) -> None:
        """Ask for all, `width` chunks at a time over one iterator; `take(at, rows)` has the rows."""
        starts = iter(range(0, len(asked), 100))

        async def worker() -> None:
            for at in starts:
                take(at, await self.fetch(asked[at : at + 100]))

        await asyncio.gather(*(worker() for _ in range(width)))

    async def all_of(self, asked: list[str]) -> list[Any]:
        """Return the rows of all."""
        rows: list[Any] = [None] * len(asked)

        def place(at: int, part: list[Any]) -> None:
            rows[at : at + len(part)] = part

        await self.workers(asked, place)
        return rows


async def floor(port: int, size: int) -> dict[str, float]:
    """The least there can be."""
    async with Floor(port) as client:
        await client.all_of(lead_ids(1600))
        asked = lead_ids(size)
        before = cpu()
        rows = await client.all_of(asked)
        used = cpu() - before
    assert [row.lead_id for row in rows] == asked
    return {"us_per_lead": used / size * 1e6}


async def ours_stream(port: int, size: int, *, ordered: bool = True) -> dict[str, float]:
    """Use `stream`, from a generator."""
    async with session(port, rate_limit=None) as opened:
        campaign = opened.campaign("acc", "camp")
        await campaign.get_many(lead_ids(1600))
        asked = lead_ids(size)
        before = cpu()
        got = [status async for status in campaign.stream((one for one in asked), ordered=ordered)]
        used = cpu() - before
    ids = [status.lead_id for status in got]
    assert ids == asked if ordered else sorted(ids) == sorted(asked)
    return {"us_per_lead": used / size * 1e6}


async def ours_gets(port: int, size: int) -> dict[str, float]:
    """Gather single gets."""
    async with session(port, rate_limit=None) as opened:
        campaign = opened.campaign("acc", "camp")
        await campaign.get_many(lead_ids(1600))
        asked = lead_ids(size)
        before = cpu()
        got = await asyncio.gather(*(campaign.get(lead_id) for lead_id in asked))
        used = cpu() - before
    assert [status.lead_id for status in got] == asked
    return {"us_per_lead": used / size * 1e6}


async def bare_futures(port: int, size: int) -> dict[str, float]:
    """Gather as many coroutines that each wait for a future, which the floor's workers set."""
    async with Floor(port) as client:
        await client.all_of(lead_ids(1600))
        asked = lead_ids(size)
        loop = asyncio.get_running_loop()
        waiting: list[asyncio.Future[Any]] = []

        async def one() -> Any:
            future = loop.create_future()
            waiting.append(future)
            return await future

        def place(at: int, rows: list[Any]) -> None:
            for future, row in zip(waiting[at : at + 100], rows, strict=True):
                future.set_result(row)

        before = cpu()
        waiters = asyncio.gather(*(one() for _ in asked))
        await asyncio.sleep(0)
        await client.workers(asked, place)
        got = await waiters
        used = cpu() - before
    assert [status.lead_id for status in got] == asked
    return {"us_per_lead": used / size * 1e6}


async def longest_stall(work: Any) -> tuple[float, Any]:
    """Run `work`; return the longest seconds in which a task that wants each turn had none; its result."""
    worst, running = 0.0, True

    async def watch() -> None:
        nonlocal worst
        last = time.perf_counter()
        while running:
            await asyncio.sleep(0)
            now = time.perf_counter()
            worst, last = max(worst, now - last), now

    watcher = asyncio.create_task(watch())
    await asyncio.sleep(0)
    result = await work
    running = False
    await watcher
    return worst, result


async def cancelled_gets(port: int, size: int) -> dict[str, float]:
    """Cancel gets that wait for a permit, all in one go."""
    from leadstatus_async import RateLimit

    async with session(port, rate_limit=RateLimit(0.01)) as opened:
        campaign = opened.campaign("acc", "camp")
        await campaign.get("warm")
        waiters = [asyncio.create_task(campaign.get(lead_id)) for lead_id in lead_ids(size)]
        await asyncio.sleep(0)
        before = cpu()
        for waiter in waiters:
            waiter.cancel()
        stall, _ = await longest_stall(asyncio.wait(waiters))
        return {"us_each": (cpu() - before) / size * 1e6, "stall_ms": stall * 1e3}


async def cancelled_futures(_port: int, size: int) -> dict[str, float]:
    """Cancel as many tasks that wait for a bare future."""
    loop = asyncio.get_running_loop()

    async def one() -> None:
        await loop.create_future()

    waiters = [asyncio.create_task(one()) for _ in range(size)]
    await asyncio.sleep(0)
    before = cpu()
    for waiter in waiters:
        waiter.cancel()
    stall, _ = await longest_stall(asyncio.wait(waiters))
    return {"us_each": (cpu() - before) / size * 1e6, "stall_ms": stall * 1e3}


async def gathered(fetch: Any, size: int, width: int = 16) -> dict[str, float]:
    """Ask by one task per chunk under a semaphore, as most people write it."""
    gate = asyncio.Semaphore(width)

    async def one(chunk: list[str]) -> list[Any]:
        async with gate:
            return await fetch(chunk)

    async def all_of(asked: list[str]) -> None:
        parts = await asyncio.gather(*(one(asked[at : at + 100]) for at in range(0, len(asked), 100)))
        rows = {
            row.leadId if hasattr(row, "leadId") else row["leadId"]: row for part in parts for row in part
        }
        assert [rows[lead_id] for lead_id in asked]

    await all_of(lead_ids(1600))
    asked = lead_ids(size)
    before = cpu()
    await all_of(asked)
    return {"us_per_lead": (cpu() - before) / size * 1e6}


async def worker_loop(port: int, size: int) -> dict[str, float]:
    """By hand, aiohttp and msgspec: 16 workers over an iterator; no retry, no pace, no checks."""
    import aiohttp
    import msgspec

    from leadstatus_async.models import LeadStatus

    class Data(msgspec.Struct):
        items: list[LeadStatus]

    class Answer(msgspec.Struct):
        data: Data

    decode = msgspec.json.Decoder(Answer).decode
    url = f"http://127.0.0.1:{port}{TARGET}"
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer sk"}) as client:

        async def all_of(asked: list[str]) -> None:
            rows: dict[str, LeadStatus] = {}
            chunks = iter([asked[at : at + 100] for at in range(0, len(asked), 100)])

            async def worker() -> None:
                for chunk in chunks:
                    async with client.get(url, params={"leadIds": ",".join(chunk)}) as response:
                        for row in decode(await response.read()).data.items:
                            rows[row.lead_id] = row

            await asyncio.gather(*(worker() for _ in range(16)))
            assert [rows[lead_id] for lead_id in asked]

        await all_of(lead_ids(1600))
        asked = lead_ids(size)
        before = cpu()
        await all_of(asked)
        return {"us_per_lead": (cpu() - before) / size * 1e6}


async def aiohttp_json(port: int, size: int) -> dict[str, float]:
    """Use aiohttp, json and gather."""
    import aiohttp

    async with aiohttp.ClientSession(headers={"Authorization": "Bearer sk"}) as client:

        async def fetch(chunk: list[str]) -> list[Any]:
            params = {"leadIds": ",".join(chunk)}
            async with client.get(f"http://127.0.0.1:{port}{TARGET}", params=params) as response:
                return (await response.json())["data"]["items"]

        return await gathered(fetch, size)


async def httpx_pydantic(port: int, size: int) -> dict[str, float]:
    """Use httpx, pydantic and gather."""
    import httpx
    from pydantic import BaseModel

    class Row(BaseModel):
        leadId: str  # noqa: N815 - the API's spelling
        workflowStatus: str  # noqa: N815
        latestStep: str | None = None  # noqa: N815
        hasPendingApproval: bool | None = None  # noqa: N815

    class Data(BaseModel):
        items: list[Row]

    class Answer(BaseModel):
        data: Data

    async with httpx.AsyncClient(headers={"Authorization": "Bearer sk"}) as client:

        async def fetch(chunk: list[str]) -> list[Any]:
            params = {"leadIds": ",".join(chunk)}
            response = await client.get(f"http://127.0.0.1:{port}{TARGET}", params=params)
            return Answer.model_validate_json(response.content).data.items

        return await gathered(fetch, size)


async def paced_ours(port: int, rate: int) -> dict[str, float]:
    """Quota utilisation of a session: wall time over the ideal, for 3 seconds of requests."""
    from leadstatus_async import RateLimit

    requests = 3 * rate
    async with session(port, rate_limit=RateLimit(rate), chunk_size=1, concurrency=128) as opened:
        started = time.perf_counter()
        await opened.campaign("acc", "camp").get_many(lead_ids(requests))
        return {"over_ideal": (time.perf_counter() - started) / (requests / rate)}


async def paced_aiolimiter(port: int, rate: int) -> dict[str, float]:
    """The same with `AsyncLimiter(rate, 1)` used plainly, which lets 2 x rate - 1 go in its first second."""
    import aiohttp
    from aiolimiter import AsyncLimiter

    limiter, requests = AsyncLimiter(rate, 1), 3 * rate
    gate = asyncio.Semaphore(128)
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer sk"}) as client:

        async def one(lead_id: str) -> None:
            async with gate, limiter:
                url = f"http://127.0.0.1:{port}{TARGET}?leadIds={lead_id}"
                async with client.get(url) as response:
                    await response.read()

        started = time.perf_counter()
        await asyncio.gather(*(one(lead_id) for lead_id in lead_ids(requests)))
        return {"over_ideal": (time.perf_counter() - started) / (requests / rate)}


async def lone_get(port: int, size: int) -> dict[str, float]:
    """A lone warm `get` against a plain aiohttp request for the same lead, interleaved."""
    import aiohttp

    gets, plains = [], []
    async with (
        session(port, rate_limit=None) as opened,
        aiohttp.ClientSession(headers={"Authorization": "Bearer sk"}) as client,
    ):
        campaign = opened.campaign("acc", "camp")
        for lead_id in lead_ids(size):
            started = time.perf_counter()
            await campaign.get(lead_id)
            between = time.perf_counter()
            async with client.get(f"http://127.0.0.1:{port}{TARGET}?leadIds={lead_id}") as response:
                await response.json()
            gets.append(between - started)
            plains.append(time.perf_counter() - between)
    gets, plains = sorted(gets[50:]), sorted(plains[50:])
    middle, late = len(gets) // 2, int(len(gets) * 0.99)
    return {"p50_ratio": gets[middle] / plains[middle], "p99_ratio": gets[late] / plains[late]}


async def limiter_cpu(_port: int, rate: int) -> dict[str, float]:
    """CPU of a paced acquisition over that of a bare `asyncio.sleep(1 / rate)`, interleaved."""
    from leadstatus_async import RateLimit
    from leadstatus_async.limiter import TokenBucketLimiter

    limiter, ours_used, bare_used = TokenBucketLimiter(RateLimit(rate)), 0.0, 0.0
    rounds, each = 6, max(3, rate // 4)
    for _ in range(rounds):
        before = cpu()
        for _ in range(each):
            await limiter.acquire()
        between = cpu()
        for _ in range(each):
            await asyncio.sleep(1 / rate)
        ours_used, bare_used = ours_used + between - before, bare_used + cpu() - between
    return {"cpu_ratio": ours_used / bare_used}


async def stream_memory(port: int, size: int) -> dict[str, float]:
    """Peak RSS of streaming so many leads from a generator."""
    async with session(port, rate_limit=None) as opened:
        seen = 0
        async for _ in opened.campaign("acc", "camp").stream(f"{number:024x}" for number in range(size)):
            seen += 1
    assert seen == size
    return {"peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


async def many_leads(port: int, size: int) -> dict[str, float]:
    """Hold the result of so many leads: bytes for each, the longest stall of the loop, and as text."""
    async with session(port, rate_limit=None) as opened:
        campaign = opened.campaign("acc", "camp")
        await campaign.get_many(lead_ids(1600))
        asked = lead_ids(size)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        stall, result = await longest_stall(campaign.get_many(asked))
    figures = {
        "bytes_per_lead": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / size,
        "stall_ms": stall * 1e3,
    }
    for name in ("to_csv", "to_jsonl"):
        started = time.perf_counter()
        getattr(result, name)()
        figures[f"{name}_s"] = time.perf_counter() - started
    for name in ("iter_csv", "iter_jsonl"):
        longest, last = 0.0, time.perf_counter()
        for _ in getattr(result, name)():
            longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
        figures[f"{name}_part_ms"] = longest * 1e3
    return figures


async def import_time(_port: int, rounds: int) -> dict[str, float]:
    """Import all of it, over importing what it depends on: the least of some runs, in turn.

    As installed, that is with bytecode: else it would be the compiler that is timed.
    """
    import os
    import subprocess
    import tempfile

    theirs = "aiohttp, msgspec, aiolimiter"
    runs: dict[str, list[float]] = {theirs: [], f"{theirs}, leadstatus_async.session": []}
    with tempfile.TemporaryDirectory() as cache:
        env = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        for _ in range(rounds + 1):
            for modules, seconds in runs.items():
                code = (
                    f"import time; began = time.perf_counter(); import {modules}; "
                    "print(time.perf_counter() - began)"
                )
                run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=env)
                seconds.append(float(run.stdout))
    alone, ours_too = (min(seconds[1:]) for seconds in runs.values())  # the first run writes the bytecode
    return {"import_ratio": ours_too / alone}


CONTESTANTS = {
    "many-leads": many_leads,
    "import": import_time,
    "floor": floor,
    "ours-stream": ours_stream,
    "ours-unordered": lambda port, size: ours_stream(port, size, ordered=False),
    "ours-gets": ours_gets,
    "bare-futures": bare_futures,
    "cancelled-gets": cancelled_gets,
    "cancelled-futures": cancelled_futures,
    "ours": ours,
    "ours-limiter": lambda port, size: ours(port, size, 1e6),
    "worker-loop": worker_loop,
    "aiohttp-json": aiohttp_json,
    "httpx-pydantic": httpx_pydantic,
    "paced-ours": paced_ours,
    "paced-aiolimiter": paced_aiolimiter,
    "lone-get": lone_get,
    "limiter-cpu": limiter_cpu,
    "stream-memory": stream_memory,
}


if __name__ == "__main__":
    name, port, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with contextlib.suppress(ModuleNotFoundError):  # a rival that is not installed is left out
        print(json.dumps(asyncio.run(CONTESTANTS[name](port, size))))
