"""How long the largest answer that is read can stop the event loop, whatever is in it.

    python -m benchmarks.hostile [--mebibytes 8] [--rounds 3] [--only NAME ...]

Each body is served as a 200 (and some as a 500) by a server in a process of its own, gzipped, over a real
socket. A task that wants to run every millisecond tells the longest time for which it could not: with
this library, and with the plainest client, `await response.json()` of aiohttp. Whole-process peak
memory of a gzip bomb is taken in a process of its own.
"""

import argparse
import asyncio
import gzip
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import aiohttp

from leadstatus_async import LeadStatusSession, RetryPolicy
from leadstatus_async.testing import FakeLeadStatusServer, Fault

MEBIBYTE = 2**20
_OPEN, _CLOSE = b'{"success":true,"data":{"items":[', b'],"x":1},"error":null,"traceId":"t"}'
_ROW = b'{"leadId":"x","workflowStatus":"pending"},'


def _filled(before: bytes, unit: bytes, after: bytes, size: int) -> bytes:
    return before + unit * ((size - len(before) - len(after)) // len(unit)) + after


def _numbered(before: bytes, unit: bytes, after: bytes, size: int) -> bytes:
    count = (size - len(before) - len(after)) // (len(unit % 10_000_000))
    return before + b"".join(unit % number for number in range(10_000_000, 10_000_000 + count)) + after


def _rows(before: bytes, after: bytes, last: bytes, count: int, size: int) -> bytes:
    count = min(count, size // 100)
    rows = [before % (number, number) for number in range(count)]
    padding = max(0, (size - len(_OPEN) - len(last)) // count - len(rows[-1]) - 10)
    pad = b',"p":"' + b"p" * padding + b'"' + after + b","
    return _OPEN + pad.join(rows) + pad + last


def bodies(size: int) -> dict[str, bytes]:
    """Return bodies of so many bytes, by what is nasty about them."""
    last = b'{"leadId":"y","workflowStatus":"pending"}' + _CLOSE
    bad = b'{"leadId":"y","workflowStatus":"pend\ning"}' + _CLOSE
    meta = b'{"success":true,"meta":'
    rest = b',"data":{"items":[]},"traceId":"t"}'
    deep = b"[" * 900 + b"]" * 900 + b","
    return {
        "floats": _filled(b"", b"1e308,", b"1", size),
        "floats in a list": _filled(b"[", b"1e308,", b"1]", size),
        "floats for rows": _filled(_OPEN, b"1e308,", b"1" + _CLOSE, size),
        "floats in a trace id": _filled(
            b'{"success":true,"traceId":[', b"1e308,", b'1],"data":{"items":[]}}', size
        ),
        "floats in a damaged row": _filled(
            _OPEN + b'{"leadId":"x","a":[', b"1e308,", b"NaN]}" + _CLOSE, size
        ),
        "floats in an error": _filled(b'{"success":false,"error":{"details":[', b"1e308,", b"1]}}", size),
        "digits": _filled(meta, b"1", rest, size),
        "brackets": _filled(b"", b"[", b"", size),
        "nesting": _filled(meta + b"[", deep, b"1]" + rest, size),
        "nesting for rows": _filled(_OPEN, deep, b"1" + _CLOSE, size),
        "nesting in damaged rows": _filled(_OPEN, b'{"leadId":"x","a":' + deep + b"}},", bad, size),
        "escapes": _filled(meta + b'"', b'\\"', b'"' + rest, size),
        "escapes in a damaged row": _filled(_OPEN + b'{"leadId":"x\n","a":"', b'\\"', b'"}' + _CLOSE, size),
        "unicode escapes in a row": _filled(
            _OPEN + b'{"leadId":"x","workflowStatus":"a","latestStep":"', b"\\u00e9", b'"}' + _CLOSE, size
        ),
        "quotes": _filled(_OPEN, b'"",', b"1e" + _CLOSE, size),
        "duplicate keys": _filled(b"{", b'"success":true,', b'"data":{"items":[]}}', size),
        "duplicate lists": _filled(b'{"data":{', b'"items":[],', b'"items":[1e]}}', size),
        "long keys": _filled(_OPEN + b'{"leadId":"x","workflowStatus":"a","', b"k", b'":NaN}' + _CLOSE, size),
        "many keys": _numbered(_OPEN + b'{"leadId":"x\n",', b'"%d":1,', b'"z":1}' + _CLOSE, size),
        "tiny rows": _filled(_OPEN, _ROW, last, size),
        "tiny rows, one damaged": _filled(_OPEN, _ROW, bad, size),
        "tiny bad rows": _filled(_OPEN, b'{"leadId":"x","workflowStatus":1},', last, size),
        "tiny damaged rows": _filled(_OPEN, b'{"leadId":"x","workflowStatus":NaN},', last, size),
        "tiny foreign rows": _numbered(_OPEN, b'{"leadId":"%d","workflowStatus":"pending"},', last, size),
        "tiny unlisted rows": _numbered(_OPEN, b'{"leadId":"x","workflowStatus":"%d"},', last, size),
        "as many rows as are read": _rows(b'{"leadId":"%d","workflowStatus":"a%d"', b"}", last, 49_000, size),
        "as many, one damaged": _rows(b'{"leadId":"%d","workflowStatus":"a%d"', b"}", bad, 24_000, size),
        "as many bad ones": _rows(b'{"leadId":"%d","workflowStatus":%d', b"}", last, 2_100, MEBIBYTE // 2),
        "as many damaged ones": _rows(
            b'{"leadId":"%d\xe9%d","a":' + b"[" * 40 + b"]" * 40, b"}", bad, 1_900, MEBIBYTE // 2
        ),
        "empty objects": _filled(_OPEN, b"{},", last, size),
        "scalars": _filled(_OPEN, b"0,", last, size),
        "spaces": _filled(_OPEN, b" ", last, size),
        "Latin-1": _filled(
            _OPEN + b'{"leadId":"x","workflowStatus":"a","latestStep":"', b"\xe9", b'"}' + _CLOSE, size
        ),
        "control characters": _filled(_OPEN + b'{"leadId":"x","latestStep":"', b"\n", b'"}' + _CLOSE, size),
        "a page": _filled(b"<html>", b"<style ", b"</html>", size),
    }


async def stall(client: Callable[[], Awaitable[object]]) -> float:
    """Return the longest time in seconds for which a task that wants to run every millisecond could not."""
    longest, last, running = 0.0, time.perf_counter(), True

    async def heart() -> None:
        nonlocal longest, last
        while running:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now

    beating = asyncio.create_task(heart())
    await asyncio.sleep(0)
    await client()
    running = False
    await beating
    return longest


async def measure(url: str) -> dict[str, float]:
    """Return the stalls of both clients."""
    async with (
        LeadStatusSession("sk_benchmark", base_url=url, retry=RetryPolicy(max_attempts=1)) as session,
        aiohttp.ClientSession() as plain,
    ):
        campaign = session.campaign("a", "c")

        async def rival() -> None:
            try:
                async with plain.get(f"{url}/v1/accounts/a/campaigns/c/lead-status?leadIds=x") as response:
                    await response.json(content_type=None)
            except (ValueError, RecursionError, aiohttp.ClientError):
                pass

        return {
            "ours": await stall(lambda: campaign.get_many(["x"], on_error="collect")),
            "response.json()": await stall(rival),
        }


def in_child(*words: str) -> str:
    """Run this module again for one figure."""
    command = [sys.executable, "-m", "benchmarks.hostile", *words]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


async def serve(name: str, status: int, size: int) -> None:
    """Serve one body until the parent ends this process."""
    fault: str | Fault = name
    if name != "gzip-bomb":
        packed = gzip.compress(bodies(size)[name], 6)
        fault = Fault(status, packed, headers={"Content-Encoding": "gzip"})
    async with FakeLeadStatusServer() as server:
        server.fault(fault, times=None)
        print(server.url, flush=True)
        await asyncio.Event().wait()


async def bomb(url: str) -> float:
    """Return the MiB that a gzip bomb adds to the peak, after a good answer."""
    async with LeadStatusSession("sk_benchmark", base_url=url, retry=RetryPolicy(max_attempts=1)) as session:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await session.campaign("a", "c").get_many(["x"], on_error="collect")
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    """Read the command line, run, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--serve", nargs=2, metavar=("NAME", "STATUS"), help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--bomb", help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = options.mebibytes * MEBIBYTE - 1
    if options.serve:
        asyncio.run(serve(options.serve[0], int(options.serve[1]), size))
    elif options.measure:
        print(json.dumps(asyncio.run(measure(options.measure))))
    elif options.bomb:
        print(asyncio.run(bomb(options.bomb)))
    else:
        table(options.only or [*bodies(1000), "gzip-bomb"], size, options.rounds)


def table(names: list[str], size: int, rounds: int) -> None:
    """Print the longest stall of each body, in seconds: the median of so many rounds."""
    print(f"| longest stall, seconds, {size // MEBIBYTE + 1} MiB | ours | response.json() |\n|---|---|---|")
    for name in names:
        for status in (200, 500) if "floats" in name or name == "nesting" else (200,):
            command = [sys.executable, "-m", "benchmarks.hostile", "--serve", name, str(status)]
            command += ["--mebibytes", str(size // MEBIBYTE + 1)]
            serving = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            try:
                assert serving.stdout is not None
                url = serving.stdout.readline().strip()
                if name == "gzip-bomb":
                    added = [float(in_child("--bomb", url)) for _ in range(rounds)]
                    print(f"\n200 MB gzip bomb: {statistics.median(added):.1f} MiB more at the peak")
                    continue
                runs = [json.loads(in_child("--measure", url)) for _ in range(rounds)]
            finally:
                serving.terminate()
                serving.wait()
            shown = " | ".join(f"{statistics.median(run[who] for run in runs):.3f}" for who in runs[0])
            print(f"| {name}{', a 500' if status == 500 else ''} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
