"""`leadstatus plan`, `watch`, `report` and `serve`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys

import pytest

from leadstatus_async import LeadStatusSession
from tests.cli.conftest import WHERE

ASKED = ["--account", "acc", "--campaign", "camp"]


def test_a_plan_costs_nothing(fake, leadstatus, tmp_path):
    """Rows, requests, bytes and time, of all campaigns, whatever cannot be asked for."""
    file = tmp_path / "a.csv"
    file.write_text("lead_id\n" + "".join(f"x{number % 2000}\n" for number in range(2500)) + "\na b\n")
    run = leadstatus(
        "plan", *ASKED, "--campaign", "d", "--file", file, "--rate", "10/s", "--chunk-size", "50"
    )
    assert (run.code, fake.count) == (0, 0)
    lines = run.text.splitlines()
    assert lines[0] == "2,502 rows, 2,000 different leads"
    assert lines[1] == "2 rows that cannot be asked for"
    assert lines[2].startswith("80 requests, ")
    assert 7.5 < float(lines[3].split()[0]) < 8.5
    file.write_text("lead_id\n\n")
    assert leadstatus("plan", *ASKED, "--file", file).code == 2
    assert leadstatus("plan", *ASKED, "a").text.startswith("1 row, 1 different lead\n1 request, ")


def test_watch_until_all_are_settled(fake, leadstatus, monkeypatch):
    """A line for each first status and each change; what cannot be asked for is told first."""
    fake.set_status("a", "completed")
    told = iter(["pending", "waiting", "waiting", "stopped"])
    fake._leads.status_of = lambda lead_id: next(told) if lead_id == "b" else None
    run = leadstatus("watch", *ASKED, "--interval", "0.01", "a", "b", "b", "a b")
    rows = [json.loads(line) for line in run.text.splitlines()]
    assert run.code == 3
    assert [(row["lead_id"], row["workflow_status"]) for row in rows] == [
        ("a b", None), ("a", "completed"), ("b", "pending"), ("b", "waiting"), ("b", "stopped"),
    ]  # fmt: skip
    assert "argument 4: the ID contains whitespace" in rows[0]["error"]
    run = leadstatus("watch", *ASKED, "--format", "table", "a")
    assert (run.code, run.text.splitlines()[1].split()[:2]) == (0, ["a", "completed"])
    assert leadstatus("watch", *ASKED, "a b").code == 2
    run = leadstatus("watch", *ASKED, "--format", "csv", "a")
    assert (run.code, "--format must be table or jsonl" in run.words) == (2, True)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("out.csv", []), ("out.tsv", []), ("out.jsonl", []), ("out.json", []), ("out.jsonl", ["--enrich"]),
        ("out.csv", ["--enrich"]), ("out.csv", ["--enrich", "--spreadsheet-safe"]),
    ],
)  # fmt: skip
def test_a_report_of_output_files(fake, leadstatus, tmp_path, name, options):
    """The same figures as at the end of the job, without asking anything."""
    file = tmp_path / ("in.jsonl" if "jsonl" in name else "in.csv")
    if "jsonl" in name:
        file.write_text('{"lead_id": "a", "error": 1, "error_type": 2}\n{"lead_id": "bad"}\n\n')
    else:
        file.write_text("lead_id,error,error_type\na,1,2\nbad,1,\n,,\n")
    fake.bad_ids = {"bad"}
    job = leadstatus(*WHERE, "--file", file, "--output", tmp_path / name, *options)
    asked = fake.count
    run = leadstatus("report", tmp_path / name, tmp_path / name)
    assert (run.code, fake.count) == (3, asked)
    said = " ".join(run.text.split())
    assert "6 rows" in said
    assert "2 failed, InvalidLeadIdError: the ID is empty (mend these lines of the input)" in said
    assert "2 failed, BadRequestError" in said
    assert "1 failed, BadRequestError" in job.words
    assert fake.expected("a").workflow_status in said


def test_a_report_of_what_is_no_output(leadstatus, tmp_path):
    """One sentence."""
    for text, says in (
        ("lead_id,x\na,b\n", "row 1 of"),
        ("[1\n", "row 1 of"),
        ("{nothing\n", "row 1 of"),
        (f"lead_id,x\n{'y' * 2**23},\n", "cannot read"),
    ):
        (tmp_path / "a").write_text(text)
        run = leadstatus("report", tmp_path / "a")
        assert (run.code, says in run.words) == (2, True)
    run = leadstatus("report", tmp_path / "nothing")
    assert (run.code, "cannot read" in run.words) == (2, True)
    (tmp_path / "a").write_text("lead_id,workflow_status\n")
    assert leadstatus("report", tmp_path / "a").code == 0


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_server_for_development(sign, code):
    """Says where it is, answers as told, and ends on a signal."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "leadstatus_async", "serve", "--rate", "1000", "--latency", "0.001",
        "--seed", "3", "--fault", "500=2", stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), env=os.environ,
    )  # fmt: skip
    url = (await process.stdout.readline()).decode().strip()
    export = (await process.stdout.readline()).decode()
    assert export == f"export SONARLY_BASE_URL={url} SONARLY_API_KEY=sk_test\n"
    async with LeadStatusSession("sk_test", base_url=url) as session:
        campaign = session.campaign("a", "c")
        assert (await campaign.get("x")).ok
        assert (await campaign.get("x")).ok
        assert session.stats.retries == 1
    process.send_signal(sign)
    _, err = await process.communicate()
    assert (process.returncode, err) == (code, b"")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--fault", "500"], "--fault must be NAME=EVERY"),
        (["--fault", "nothing=3"], "cannot serve"),
        (["--rate", "0"], "cannot serve"),
    ],
)
def test_a_server_that_cannot_be(leadstatus, options, says):
    """One sentence."""
    run = leadstatus("serve", *options)
    assert (run.code, says in run.words) == (2, True)


def test_a_port_that_is_taken(fake, leadstatus):
    """One sentence."""
    run = leadstatus("serve", "--port", fake.url.rpartition(":")[2])
    assert (run.code, "cannot listen on port" in run.words) == (2, True)


def test_seeds_make_other_statuses():
    """The same for the same seed."""
    from leadstatus_async.testing import FakeLeadStatusServer

    told = []
    for seed in (0, 1, 1):
        with FakeLeadStatusServer(seed=seed, faults_every={"500": 0.5}) as server:
            told.append([server.expected(f"x{number}") for number in range(20)])
    assert told[0] != told[1] == told[2]


def test_the_version_and_help(leadstatus):
    """`--version`; each command has examples."""
    from leadstatus_async import __version__

    assert leadstatus("--version").text == f"{__version__}\n"
    for command in ("demo", "check", "plan", "watch", "report", "serve"):
        shown = leadstatus(command, "--help").text
        assert shown.count(f"  leadstatus {command}") + shown.count("| leadstatus check") == 2, command
    assert "default: 100" in leadstatus("check", "--help").text
    assert "LEADSTATUS_CHUNK_SIZE" in leadstatus("check", "--help").text
