"""The runner: every contestant in a process of its own, interleaved, median and spread.

python -m benchmarks [--rounds 5] [--leads 100000] [--only cpu quota get limiter memory]
                     [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

Runs = dict[str, list[float]]
TITLES = {
    "cpu": "CPU of the client process per lead (microseconds, user + sys)",
    "quota": "Quota utilisation: wall time over ideal, 50 ms of latency, 3 s of requests",
    "get": "A lone warm get over a plain aiohttp request for the same lead",
    "limiter": "CPU of a paced acquisition over a bare asyncio.sleep",
    "memory": "Peak RSS of a stream (MB)",
}


@contextmanager
def serving(latency: float = 0.0) -> Iterator[int]:
    """Run the server in a process of its own; yields its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.server", str(latency)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


def measure(name: str, port: int, size: int) -> dict[str, float]:
    """Run one contestant once; empty if what it needs is not installed."""
    command = [sys.executable, "-m", "benchmarks.contestants", name, str(port), str(size)]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(told) if told else {}


def interleaved(plan: list[tuple[str, str, int]], rounds: int, latency: float = 0.0) -> Runs:
    """Run (label, contestant, size) in turn, `rounds` times; figures by label."""
    runs: Runs = {}
    with serving(latency) as port:
        for _ in range(rounds):
            for label, name, size in plan:
                for figure, value in measure(name, port, size).items():
                    shown = (
                        label
                        if figure in ("us_per_lead", "over_ideal", "cpu_ratio", "peak_rss_mb")
                        else f"{label} {figure}"
                    )
                    runs.setdefault(shown, []).append(value)
    return runs


def run(only: list[str], rounds: int, leads: int) -> dict[str, Runs]:
    """Run the chosen benchmarks."""
    rates = (10, 100, 1000)
    plans = {
        "cpu": [
            (name, name, leads)
            for name in ("ours", "ours-limiter", "worker-loop", "aiohttp-json", "httpx-pydantic")
        ],
        "quota": [
            (f"{name} {rate}/s", name, rate) for rate in rates for name in ("paced-ours", "paced-aiolimiter")
        ],
        "get": [("get / plain", "lone-get", 1500)],
        "limiter": [(f"{rate}/s", "limiter-cpu", rate) for rate in rates],
        "memory": [(f"{size:,} leads", "stream-memory", size) for size in (100_000, 1_000_000)],
    }
    latencies = {"quota": 0.05}
    return {name: interleaved(plans[name], rounds, latencies.get(name, 0.0)) for name in only}


def markdown(results: dict[str, Runs]) -> str:
    """Return the tables: median, least and most, and for CPU the ratio to the plain worker loop."""
    where = f"{platform.python_implementation()} {platform.python_version()}, aiohttp {version('aiohttp')}, "
    lines = [f"{where}msgspec {version('msgspec')}, {platform.system()}, {platform.machine()}", ""]
    for name, runs in results.items():
        rival = statistics.median(runs["worker-loop"]) if "worker-loop" in runs else None
        lines += [f"### {TITLES[name]}", ""]
        lines += [
            "| | median | least - most |" + (" over worker-loop |" if rival else ""),
            "|---|---|---|" + ("---|" if rival else ""),
        ]
        for label, values in runs.items():
            middle = statistics.median(values)
            ratio = f" {middle / rival:.2f} |" if rival else ""
            lines.append(f"| {label} | {middle:.2f} | {min(values):.2f} - {max(values):.2f} |{ratio}")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Read the command line, run, print, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--leads", type=int, default=100_000)
    parser.add_argument("--only", nargs="+", choices=TITLES, default=list(TITLES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    results = run(options.only, options.rounds, options.leads)
    tables = markdown(results)
    print(tables)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))
    if options.markdown:
        options.markdown.write_text(tables)


if __name__ == "__main__":
    main()
