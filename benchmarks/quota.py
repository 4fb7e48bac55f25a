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
from collections import Counter
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
Arrivals = list[tuple[float, bool]]


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


async def contest(client: Client, kind: str, told: int, requests: int) -> tuple[float, float, Arrivals]:
    """Return the share refused, the time over ideal, and when each request arrived, and if it was refused."""
    async with FakeLeadStatusServer(rate_limit=KINDS[kind](), latency=0.02) as server:
        started = time.perf_counter()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE * requests / ALLOWED):
                await client(server.url, told, requests)
        elapsed = time.perf_counter() - started
        refused = sum(request.status == 429 for request in server.requests)
        began = server.requests[0].at
        arrivals = [(request.at - began, request.status == 429) for request in server.requests]
        return refused / server.count, elapsed / (requests / ALLOWED), arrivals


def picture(arrivals: Arrivals, told: int) -> str:
    """Draw requests in each second as an SVG: admitted ones, and refused ones on top of them."""
    seconds = int(arrivals[-1][0]) + 1
    counts = [Counter(refused for at, refused in arrivals if int(at) == second) for second in range(seconds)]
    left, top, width, height = 56, 40, 620, 200
    most = 20 * -(-max(told, *(sum(count.values()) for count in counts)) // 20)
    step = width / seconds

    def bar(second: int, lowest: int, count: int, colour: str) -> str:
        x, y = left + (second + 0.1) * step, top + height * (1 - (lowest + count) / most)
        return (
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{0.8 * step:.1f}" '
            f'height="{height * count / most:.1f}" fill="{colour}"/>'
        )

    def text(x: float, y: float, words: object, anchor: str = "middle", more: str = "") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{words}</text>'

    def level(number: int, colour: str, dashes: str = "") -> str:
        y = top + height * (1 - number / most)
        return f'<path d="M{left} {y:.1f}h{width}" stroke="{colour}"{dashes}/>'

    bottom, middle = top + height, top + height / 2
    frame = 'viewBox="0 0 700 300" font-family="sans-serif" font-size="12" fill="#222"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {frame} role="img" aria-label="Requests in each second">',
        '<rect width="700" height="300" rx="6" fill="#fff"/>',
        *(level(number, "#ddd") for number in range(0, most + 1, 20)),
        *(
            text(left - 8, bottom - height * number / most + 4, number, "end")
            for number in range(0, most + 1, 20)
        ),
        *(bar(second, 0, count[False], "#2e9e5b") for second, count in enumerate(counts)),
        *(bar(second, count[False], count[True], "#d9534f") for second, count in enumerate(counts)),
        level(ALLOWED, "#222", ' stroke-dasharray="5 4"'),
        *(text(left + (second + 0.5) * step, bottom + 16, second + 1) for second in range(0, seconds, 5)),
        text(left + width / 2, bottom + 38, "second of the job"),
        text(16, middle, "requests, as the server saw them", more=f' transform="rotate(-90 16 {middle})"'),
        f'<rect x="{left}" y="14" width="12" height="12" fill="#2e9e5b"/>',
        text(left + 18, 24, "answered", "start"),
        f'<rect x="{left + 92}" y="14" width="12" height="12" fill="#d9534f"/>',
        text(left + 110, 24, "refused (429)", "start"),
        f'<path d="M{left + 210} 20h24" stroke="#222" stroke-dasharray="5 4"/>',
        text(left + 240, 24, f"allowed: {ALLOWED}/s; the client was told {told}/s", "start"),
        "</svg>\n",
    ]
    return "".join(parts)


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
            refused, over, arrivals = await contest(CLIENTS[name], kind, options.told, options.requests)
            cells.append(f"{refused:.1%} refused, {f'{over:.2f} x' if over < PATIENCE else 'never done'}")
            if options.picture and name == "leadstatus_async" and kind == options.kinds[0]:
                options.picture.write_text(picture(arrivals, options.told))
        print(f"| {kind} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
