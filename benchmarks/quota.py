"""What a wrong guess of the rate limit costs: requests refused, and time over the ideal.

    python -m benchmarks.quota [--requests 800] [--told 100] [--picture docs/rate.svg]

Each client is told `told` requests per second; the server (our fake one, real sockets) allows 40, by
kinds of windows and ways of saying so. Ours is compared with aiolimiter plus back-off in each
task, and with aiohttp_retry. Time over ideal counts the burst a kind allows as given away.
"""

import argparse
import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
from aiolimiter import AsyncLimiter

from leadstatus_async import LeadStatusSession, RateLimit
from leadstatus_async.testing import FakeLeadStatusServer, FixedWindow, SlidingWindow, TokenBucket

ALLOWED = 40
SEED = 20260101
PATIENCE = 10  # times the ideal, after which a client is stopped
KINDS: dict[str, Callable[[], FixedWindow | SlidingWindow | TokenBucket]] = {
    "fixed window, no header": lambda: FixedWindow(ALLOWED),
    "fixed window, Retry-After": lambda: FixedWindow(ALLOWED, retry_after="seconds"),
    "sliding window, no header": lambda: SlidingWindow(ALLOWED),
    "token bucket, burst 5, no header": lambda: TokenBucket(ALLOWED, burst=5),
    "fixed window, each 429 locks out 5 s": lambda: FixedWindow(ALLOWED, lockout=5.0),
}
Client = Callable[[str, int, int], Awaitable[None]]


async def ours(url: str, told: int, requests: int) -> None:
    """Use this library as it comes."""
    async with LeadStatusSession(
        "sk_benchmark", base_url=url, rate_limit=RateLimit(told), chunk_size=1
    ) as session:
        result = await session.campaign("a", "c").get_many([f"x{number}" for number in range(requests)])
    assert len(result.statuses) == requests


async def per_task_back_off(url: str, told: int, requests: int) -> None:
    """Use aiolimiter as most do, and full-jitter back-off in each of 16 workers."""
    limiter, dice = AsyncLimiter(told, 1), random.Random(SEED)
    numbers = iter(range(requests))
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer sk"}) as client:

        async def worker() -> None:
            for number in numbers:
                attempt = 0
                while True:
                    async with limiter, client.get(_target(url, number)) as response:
                        await response.read()
                    if response.status == 200:
                        break
                    await asyncio.sleep(dice.random() * min(20.0, 0.5 * 2**attempt))
                    attempt += 1

        await asyncio.gather(*(worker() for _ in range(16)))


async def retrying_client(url: str, told: int, requests: int) -> None:
    """Use aiohttp_retry with its exponential back-off, behind the same aiolimiter."""
    from aiohttp_retry import ExponentialRetry, RetryClient

    limiter, numbers = AsyncLimiter(told, 1), iter(range(requests))
    options = ExponentialRetry(attempts=30, start_timeout=0.5, max_timeout=20.0, statuses={429})
    async with RetryClient(headers={"Authorization": "Bearer sk"}, retry_options=options) as client:

        async def worker() -> None:
            for number in numbers:
                async with limiter, client.get(_target(url, number)) as response:
                    await response.read()

        await asyncio.gather(*(worker() for _ in range(16)))


def _target(url: str, number: int) -> str:
    return f"{url}/v1/accounts/a/campaigns/c/lead-status?leadIds=x{number}"


CLIENTS: dict[str, Client] = {
    "leadstatus_async": ours,
    "aiolimiter + back-off per task": per_task_back_off,
    "aiohttp_retry": retrying_client,
}


async def contest(client: Client, kind: str, told: int, requests: int) -> tuple[float, float, list[float]]:
    """Return the share refused, the time over ideal, and when each request arrived."""
    async with FakeLeadStatusServer(rate_limit=KINDS[kind](), latency=0.02) as server:
        started = time.perf_counter()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE * requests / ALLOWED):
                await client(server.url, told, requests)
        elapsed = time.perf_counter() - started
        refused = sum(request.status == 429 for request in server.requests)
        times = [request.at - server.requests[0].at for request in server.requests]
        return refused / server.count, elapsed / (requests / ALLOWED), times


def picture(times: list[float], told: int) -> str:
    """Draw requests per second over time as an SVG."""
    seconds = int(times[-1]) + 1
    counts = [sum(second <= at < second + 1 for at in times) for second in range(seconds)]
    width, height, top = 640, 200, max(told, *counts)
    step = width / max(1, seconds)
    bars = "".join(
        f'<rect x="{40 + at * step:.1f}" y="{10 + height - count / top * height:.1f}" '
        f'width="{step * 0.9:.1f}" height="{count / top * height:.1f}" fill="#3a7"/>'
        for at, count in enumerate(counts)
    )
    line = 10 + height - ALLOWED / top * height
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 250" '
        'font-family="sans-serif" font-size="12">'
        f'{bars}<line x1="40" x2="680" y1="{line:.1f}" y2="{line:.1f}" stroke="#c33"/>'
        f'<text x="45" y="{line - 4:.1f}" fill="#c33">{ALLOWED}/s allowed</text>'
        f'<text x="40" y="235">requests in each of {seconds} seconds, as the server saw them; '
        f"told {told}/s</text></svg>"
    )


async def main() -> None:
    """Run all clients against all kinds and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quota", description=__doc__)
    parser.add_argument("--requests", type=int, default=800)
    parser.add_argument("--told", type=int, default=100)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--clients", nargs="+", default=list(CLIENTS), choices=list(CLIENTS))
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    print(
        f"| server allows {ALLOWED}/s, client told {options.told}/s | " + " | ".join(options.clients) + " |"
    )
    print("|---" * (len(options.clients) + 1) + "|")
    for kind in options.kinds:
        cells = []
        for name in options.clients:
            refused, over, times = await contest(CLIENTS[name], kind, options.told, options.requests)
            cells.append(f"{refused:.1%} refused, {f'{over:.2f} x' if over < PATIENCE else 'never done'}")
            if options.picture and name == "leadstatus_async" and kind == options.kinds[0]:
                options.picture.write_text(picture(times, options.told))
        print(f"| {kind} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
