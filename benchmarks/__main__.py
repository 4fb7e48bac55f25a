"""The runner: every contestant in a process of its own, interleaved, median and spread.

python -m benchmarks [--rounds 5] [--leads 100000] [--only cpu gets scale ...]
                     [--json FILE] [--markdown FILE] [--svg FILE]
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
ALONE = ("us_per_lead", "over_ideal", "cpu_ratio", "peak_rss_mb", "import_ratio")  # named by their table
RIVALS = {"cpu": "floor", "gets": "bare-futures", "cancel": "cancelled-futures us_each"}
TITLES = {
    "cpu": "CPU of the client process per lead (microseconds, user + sys)",
    "gets": "10,000 gathered gets: CPU of the client process per lead (microseconds)",
    "scale": "CPU per lead of get_many against the number of leads (microseconds)",
    "many": "A million leads: memory, stalls of the event loop, and as text",
    "cancel": "Cancelling 10,000 waiting gets in one go",
    "import": "Importing all of it over importing aiohttp, msgspec and aiolimiter",
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
                    shown = label if figure in ALONE else f"{label} {figure}"
                    runs.setdefault(shown, []).append(value)
    return runs


def run(only: list[str], rounds: int, leads: int) -> dict[str, Runs]:
    """Run the chosen benchmarks."""
    rates = (10, 100, 1000)
    plans = {
        "cpu": [
            (name, name, leads)
            for name in (
                "floor",
                "ours",
                "ours-limiter",
                "ours-stream",
                "ours-unordered",
                "worker-loop",
                "aiohttp-json",
                "httpx-pydantic",
            )
        ],
        "gets": [(name, name, 10_000) for name in ("bare-futures", "ours-gets")],
        "scale": [(f"{size:,} leads", "ours", size) for size in (1_000, 10_000, 100_000, 1_000_000)],
        "many": [("get_many", "many-leads", 1_000_000)],
        "cancel": [(name, name, 10_000) for name in ("cancelled-gets", "cancelled-futures")],
        "import": [("import", "import", 10)],
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
    """Return the tables: median, least and most, and where there is a rival, the ratio to that."""
    where = f"{platform.python_implementation()} {platform.python_version()}, aiohttp {version('aiohttp')}, "
    lines = [f"{where}msgspec {version('msgspec')}, {platform.system()}, {platform.machine()}", ""]
    for name, runs in results.items():
        rival = statistics.median(runs[RIVALS[name]]) if RIVALS.get(name) in runs else None
        lines += [f"### {TITLES[name]}", ""]
        lines += [
            "| | median | least - most |" + (f" over {RIVALS[name].partition(' ')[0]} |" if rival else ""),
            "|---|---|---|" + ("---|" if rival else ""),
        ]
        for label, values in runs.items():
            middle = statistics.median(values)
            alike = rival and (name != "cancel" or label.endswith("us_each"))
            ratio = f" {middle / rival:.2f} |" if rival and alike else " |" if rival else ""
            lines.append(f"| {label} | {middle:.2f} | {min(values):.2f} - {max(values):.2f} |{ratio}")
        lines.append("")
    return "\n".join(lines)


def picture(results: dict[str, Runs]) -> str:
    """Draw the CPU per lead of all contestants as bars, for light and dark pages."""
    bars = sorted((statistics.median(values), label) for label, values in results["cpu"].items())
    bars = [(middle, label) for middle, label in bars if middle < 5 * bars[0][0]]  # others are off the scale
    scale, height = 420 / bars[-1][0], 26 * len(bars) + 34
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}" style="font:13px sans-serif">',
        "<style>text{fill:#333}@media(prefers-color-scheme:dark){text{fill:#ddd}}</style>",
        '<text x="10" y="18">CPU of the client process, microseconds per lead</text>',
    ]
    for row, (middle, label) in enumerate(bars):
        y = 30 + 26 * row
        color = "#3b7dd8" if label.startswith("ours") else "#999"
        lines += [
            f'<text x="130" y="{y + 14}" text-anchor="end">{label}</text>',
            f'<rect x="140" y="{y}" width="{middle * scale:.0f}" height="18" fill="{color}"/>',
            f'<text x="{146 + middle * scale:.0f}" y="{y + 14}">{middle:.2f}</text>',
        ]
    return "\n".join([*lines, "</svg>\n"])


def main() -> None:
    """Read the command line, run, print, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--leads", type=int, default=100_000)
    parser.add_argument("--only", nargs="+", choices=TITLES, default=list(TITLES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--svg", type=Path, help="where to draw the table of CPU")
    options = parser.parse_args()
    results = run(options.only, options.rounds, options.leads)
    tables = markdown(results)
    print(tables)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))
    if options.svg:
        options.svg.write_text(picture(results))
    if options.markdown:
        options.markdown.write_text(tables)


if __name__ == "__main__":
    main()
