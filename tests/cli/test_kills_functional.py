"""The installed command as a process that is killed, interrupted, terminated, and out of disk."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import os
import random
import resource
import signal
import sys

import pytest

LEADS = 1500
COMMAND = [
    sys.executable, "-m", "leadstatus_async", "check", "--account", "acc", "--campaign", "camp",
    "--rate", "none", "--chunk-size", "10", "--concurrency", "4",
]  # fmt: skip

BARE = {name: value for name, value in os.environ.items() if not name.startswith("COV")}


@pytest.fixture
def leads(tmp_path):
    file = tmp_path / "leads.csv"
    with file.open("w", newline="") as out:
        write = csv.writer(out).writerow
        write(["name", "lead_id", "note"])
        for number in range(LEADS):
            write(
                [
                    f'"{number}"',
                    "" if number % 400 == 7 else f"x{number}",
                    "two\nlines" if number % 5 else "\xe9,",
                ]
            )
    return file


@pytest.fixture
async def start(server):
    """Start the command, unmeasured: whoever is killed leaves half a file of that."""
    processes = []

    async def run(*arguments, **more):
        usual = {
            "stdin": asyncio.subprocess.DEVNULL,
            "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        }
        process = await asyncio.create_subprocess_exec(
            *COMMAND, *map(str, arguments),
            env={**BARE, "SONARLY_API_KEY": "sk_test", "SONARLY_BASE_URL": server.url},
            stderr=asyncio.subprocess.PIPE, **(usual | more),
        )  # fmt: skip
        processes.append(process)
        return process

    yield run
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


KINDS = {"csv": ["out.csv"], "jsonl": ["out.jsonl"], "enriched": ["out.csv", "--enrich"]}


@pytest.mark.parametrize(("kind", "seed"), [("csv", 1), ("jsonl", 2), ("enriched", 3)])
async def test_killed_at_random_moments(server, start, tmp_path, leads, kind, seed):
    """Nothing is lost: the file of an uninterrupted run, to the byte, and hardly a lead is asked twice."""
    random.seed(seed)
    name, *options = KINDS[kind]
    out, wanted = tmp_path / name, tmp_path / f"wanted-{name}"
    server.latency = 0.005
    process = await start("--file", leads, "--output", wanted, "-q", *options)
    assert await process.wait() == 3
    asked, kills = server.count, 0
    while not out.exists():
        process = await start("--file", leads, "--output", out, "--resume", "-q", *options)
        before = server.count
        if kills < 17:
            # It dies at a moment of its work, however long this machine takes to begin it.
            await asyncio.wait({
                asyncio.ensure_future(process.wait()),
                asyncio.ensure_future(server.wait_for_requests(before + random.randrange(1, 9))),
            }, return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            kills += 1
        await process.communicate()
    assert kills >= 10, seed
    assert out.read_bytes() == wanted.read_bytes(), seed
    # What was in flight, and as much again that waited for an earlier answer.
    assert server.count - asked <= asked + 2 * 4 * kills, seed
    process = await start("--file", leads, "--output", out, "--resume", "-q", *options)
    assert await process.wait() == 3
    assert out.read_bytes() == wanted.read_bytes(), seed


@pytest.mark.parametrize(
    ("sign", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
async def test_a_signal_leaves_what_was_answered(server, start, tmp_path, leads, sign, code, word):
    """All rows up to the first lead without an outcome; the last line is the command that goes on."""
    out = tmp_path / "out.csv"
    server.latency = 0.02
    process = await start("--file", leads, "--output", out, "--no-progress")
    await server.wait_for_requests(20)
    process.send_signal(sign)
    async with asyncio.timeout(10):
        _, err = await process.communicate()
    assert process.returncode == code
    lines = err.decode().splitlines()
    written = (tmp_path / "out.csv.part").read_bytes().count(b"\n") - 1
    assert f"{word}: {written:,} of " in err.decode()
    assert written >= 150
    assert lines[-1].startswith("leadstatus check --account acc --campaign camp")
    assert lines[-1].endswith("--resume")
    assert not out.exists()


async def test_a_second_signal_does_not_wait(server, start, tmp_path, leads):
    """Whatever is still to be closed."""
    server.hold()
    process = await start("--file", leads, "--output", tmp_path / "out.csv")
    await server.wait_for_requests(4)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
    async with asyncio.timeout(5):
        await process.communicate()
    assert process.returncode == 130


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_reader_that_does_not_read_holds_nobody(server, start, leads, sign, code):
    """A signal ends the command though its output is stuck."""
    read, write = os.pipe()
    process = await start("--file", leads, "--format", "csv", stdout=write)
    os.close(write)
    before = -1
    while server.count > before:  # until the pipe is full, which takes some 70 answers
        before = server.count
        with contextlib.suppress(TimeoutError):
            await server.wait_for_requests(before + 1, timeout=2.0)
    process.send_signal(sign)
    async with asyncio.timeout(10):
        await process.communicate()
    os.close(read)
    assert process.returncode == code


async def test_a_full_disk_costs_nothing_that_was_there(server, start, tmp_path, leads):
    """One sentence, exit 1; and with room again it goes on."""
    out = tmp_path / "out.csv"

    def small():
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    process = await start("--file", leads, "--output", out, preexec_fn=small)
    _, err = await process.communicate()
    assert process.returncode == 1
    assert f"leadstatus: cannot write {out}: File too large" in err.decode()
    assert err.decode().splitlines()[-1].endswith("--resume")
    assert "Traceback" not in err.decode()
    assert (tmp_path / "out.csv.part").stat().st_size == 30_000
    asked = server.count
    process = await start("--file", leads, "--output", out, "--resume")
    await process.communicate()
    assert process.returncode == 3
    assert out.read_bytes().count(b"\n") == LEADS + 1
    assert server.count - asked < LEADS / 10 - 20


async def test_a_pipe_is_read_while_it_is_written(server, start, tmp_path):
    """What is there is asked for and written, though there may be more."""
    process = await start(
        "--format",
        "jsonl",
        "-",
        "--campaign",
        "d",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    for lead_id in (b"a", b"b"):
        process.stdin.write(lead_id + b"\n")
        for campaign in (b"camp", b"d"):
            line = await process.stdout.readline()
            assert lead_id in line
            assert campaign in line
    process.stdin.write(b"\n")
    process.stdin.write_eof()
    out, _ = await process.communicate()
    assert out.count(b"InvalidLeadIdError: line 3") == 2
    assert process.returncode == 3


async def test_a_pipe_whose_key_is_refused(server, start):
    """Every line has its row all the same."""
    server.fault("401", times=None)
    process = await start(
        "--format", "csv", "-", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    lines = "".join(f"x{number}\n" for number in range(30_000)).encode()
    out, _ = await process.communicate(lines)
    assert process.returncode == 4
    assert out.count(b"AuthenticationError,401") == 30_000


async def test_an_interrupt_does_not_wait_for_a_pipe(server, start):
    """Whose writer has no more for now."""
    process = await start(
        "--format", "csv", "-", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    process.stdin.write(b"a\n")
    while b"a," not in await process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(10):
        await process.wait()
    assert process.returncode == 130
    process.stdin.close()
    await process.communicate()


async def test_a_pipe_goes_on_where_the_same_lines_come_again(server, start, tmp_path):
    """`--resume` with standard input."""
    out = tmp_path / "out.csv"
    lines = "".join(f"x{number}\n" for number in range(200)).encode()
    process = await start("-", "--output", out, "--resume", stdin=asyncio.subprocess.PIPE)
    process.stdin.write(lines[:600])
    await process.stdin.drain()
    await server.wait_for_requests(3)
    process.send_signal(signal.SIGTERM)
    await process.communicate()
    assert process.returncode == 143
    process = await start("-", "--output", out, "--resume", stdin=asyncio.subprocess.PIPE)
    await process.communicate(lines)
    assert process.returncode == 0
    assert [line.partition(",")[0] for line in out.read_text().splitlines()[1:]] == lines.decode().split()
