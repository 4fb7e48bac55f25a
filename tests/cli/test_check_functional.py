"""`leadstatus check`: rows in, the same rows with statuses out; in this process, against real sockets."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import threading
import time

import pytest

from leadstatus_async import LeadStatusSession, RateLimit, RateLimitState, Suggestion
from leadstatus_async._tables import COLUMNS
from leadstatus_async.cli.check import _Job
from leadstatus_async.cli.inputs import Record, Source
from leadstatus_async.cli.output import Standard
from leadstatus_async.cli.signals import Stop
from leadstatus_async.errors import DeadlineExceededError

LEADS = 'Name,Lead ID,note\r\n"A, B",x1,"two\nlines"\r\nC,x2\r\nD,,x\r\nE,x1,y,z\r\nF,"a,b",\r\nG,x3,\r\n'


@pytest.fixture
def leads(tmp_path):
    file = tmp_path / "leads.csv"
    file.write_bytes(LEADS.encode())
    return file


def test_every_row_of_a_file_has_its_row(fake, check, leads):
    """In their order, with the line where one cannot be asked for; the column is named."""
    run = check("--file", leads, "--format", "csv")
    assert run.code == 3
    assert [row["lead_id"] for row in run.rows] == ["x1", "x2", "", "x1", "a,b", "x3"]
    assert [row["error"].partition(": the ID ")[0] for row in run.rows] == [
        "", "", "InvalidLeadIdError: line 5", "InvalidLeadIdError: line 6", "InvalidLeadIdError: line 7", "",
    ]  # fmt: skip
    assert run.rows[0]["workflow_status"] == fake.expected("x1").workflow_status
    assert f"lead IDs: column 'Lead ID' of {leads}" in run.words
    assert fake.requests[0].lead_ids == ("x1", "x2", "x3")


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "json"])
def test_the_input_is_enriched(fake, check, leads, form):
    """Its own columns untouched and in order, then those of a status."""
    run = check("--file", leads, "--enrich", "--format", form)
    if form in ("csv", "tsv"):
        rows = list(
            csv.DictReader(io.StringIO(run.text, newline=""), delimiter="\t" if form == "tsv" else ",")
        )
    else:
        rows = (
            json.loads(run.text) if form == "json" else [json.loads(line) for line in run.text.splitlines()]
        )
    assert [list(row) for row in rows] == [["Name", "Lead ID", "note", *COLUMNS[1:]]] * 6
    assert [row["note"] for row in rows] == ["two\nlines", "", "x", "y,z", "", ""]
    assert rows[5]["workflow_status"] == fake.expected("x3").workflow_status


def test_bytes_that_are_no_text_go_through(check, tmp_path):
    """And in an ID they are a failure."""
    file = tmp_path / "a.csv"
    file.write_bytes(b"lead_id,n\nx,\xff\xe9\n\xff,y\n")
    run = check("--file", file, "--enrich", "--format", "csv")
    assert run.out.splitlines()[1].startswith(b"x,\xff\xe9,")
    assert run.out.splitlines()[2].startswith(b"\xff,y,,")
    assert "line 3: the ID is no text in utf-8; give --encoding" in run.text
    run = check("--file", file, "--format", "jsonl")
    assert [json.loads(line)["lead_id"] for line in run.text.splitlines()] == ["x", "\udcff"]


def test_several_campaigns(fake, check, leads):
    """A row for each lead and campaign, in their order."""
    run = check("--file", leads, "--format", "csv", "--campaign", "other")
    assert run.rows[0].keys() == {"lead_id", "campaign_id", *COLUMNS[1:]}
    assert [(row["lead_id"], row["campaign_id"]) for row in run.rows[:4]] == [
        ("x1", "camp"), ("x1", "other"), ("x2", "camp"), ("x2", "other"),
    ]  # fmt: skip
    assert len(run.rows) == 12
    assert {request.campaign for request in fake.requests} == {"camp", "other"}


def test_one_of_several_campaigns_is_unknown(fake, check, tmp_path):
    """Its rows say so, the other's are answered."""
    fake.unknown = {"other"}
    file = tmp_path / "a.csv"
    file.write_text("lead_id\n" + "".join(f"x{number}\n" for number in range(50)))
    run = check(
        "--file", file, "--format", "csv", "--campaign", "other", "--chunk-size", "5", "--concurrency", "1"
    )
    assert run.code == 3
    assert [bool(row["workflow_status"]) for row in run.rows] == [True, False] * 50
    assert {row["error_type"] for row in run.rows} == {"", "NotFoundError"}


@pytest.mark.parametrize(("only", "kept"), [(["failed"], 3), (["failed", "--only", "pending"], None)])
def test_only_some_rows(fake, check, leads, only, kept):
    """By status; failures, too."""
    run = check("--file", leads, "--format", "csv", "--only", *only)
    pending = sum(fake.expected(one).workflow_status == "pending" for one in ("x1", "x2", "x3"))
    assert len(run.rows) == (kept if kept is not None else 3 + pending)
    run = check("--file", leads, "--format", "json", "--only", "not_there")
    assert json.loads(run.text) == []
    assert "not_there is no status that the API's reference has" in run.words


def test_a_table(fake, check, leads):
    """Columns of fixed width; what is too long is cut; two campaigns have a column."""
    fake.set_status("x1", "stopped", latestStep="email_1")
    run = check("--file", leads, "--format", "table", "--campaign", "other")
    lines = run.text.splitlines()
    assert lines[0].split() == ["lead", "campaign", "status", "step", "/", "reason"]
    assert lines[1].split()[:3] == ["x1", "camp", "stopped"]
    assert "email_1" in lines[1]
    assert len(lines) == 13


def test_leading_and_trailing(fake, check, tmp_path):
    """Input of JSON lines, in another encoding, with lines left out as asked, all of it told."""
    file = tmp_path / "a.jsonl"
    file.write_bytes('# h\xe9\n\n{"id": 5, "n": "\xe9"}\n'.encode("cp1252"))
    reading = ["--column", "ID", "--encoding", "cp1252", "--skip-blank", "--comment", "#"]
    run = check("--file", file, *reading, "--format", "jsonl", "--enrich")
    row = json.loads(run.text)
    assert (run.code, row["id"], row["n"]) == (0, 5, "\xe9")
    assert row["workflow_status"] == fake.expected("5").workflow_status
    assert "2 lines left out, as asked" in run.words


def test_nothing_that_can_be_asked_for(fake, check, tmp_path):
    """The rows are written all the same, and the exit code is 2."""
    file = tmp_path / "a.csv"
    file.write_text("lead_id\n\na b\n")
    run = check("--file", file, "--format", "csv")
    assert (run.code, len(run.rows), fake.count) == (2, 2, 0)
    out = tmp_path / "out.csv"
    run = check("--file", file, "--output", out)
    assert (run.code, out.exists()) == (2, False)
    assert (tmp_path / "out.csv.part").read_text().count("\n") == 3
    assert "no row has a lead ID that can be asked for; the rows are in" in run.words
    file.write_text("lead_id\n")
    run = check("--file", file, "--format", "csv")
    assert (run.code, run.out) == (2, b"")
    assert f"no lead IDs in {file}" in run.words


def test_quiet_says_only_what_failed(check, leads):
    """Wherever the option stands."""
    assert check("--file", leads, "--quiet", "--format", "csv", "--only", "failed").err.count("failed") == 3
    assert check("-q", "a").err == ""
    assert "lead" in check("--no-progress", "a").err


def test_a_deadline_fails_what_is_late(fake, check):
    """Each lead has its row."""
    fake.latency = 5.0
    run = check("--format", "csv", "--deadline", "0.2", "a", "b")
    assert run.code == 3
    assert [row["error_type"] for row in run.rows] == [DeadlineExceededError.__name__] * 2


def test_a_deadline_that_cannot_be_kept(check, fake):
    """What cannot be asked for in time has its row all the same."""
    run = check("--format", "csv", "--campaign", "d", "--deadline", "0.0000001", "a", "b")
    assert [row["error_type"] for row in run.rows] == [DeadlineExceededError.__name__] * 4
    assert fake.count == 0
    run = check("--format", "csv", "--deadline", "1", "--rate", "1/h", "--chunk-size", "1", "a", "b", "c")
    assert [row["error_type"] for row in run.rows][1:] == [DeadlineExceededError.__name__] * 2
    run = check(
        "--format",
        "csv",
        "--campaign",
        "d",
        "--deadline",
        "1",
        "--rate",
        "1/h",
        "--chunk-size",
        "1",
        "a",
        "b",
        "c",
    )
    assert [row["error_type"] for row in run.rows].count(DeadlineExceededError.__name__) >= 5
    assert [row["lead_id"] for row in run.rows] == ["a", "a", "b", "b", "c", "c"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a", "--enrich", "--format", "csv"], "--enrich needs rows to add to"),
        (["a", "--enrich", "--format", "table"], "--enrich needs --format csv"),
        (["--file", "a.jsonl", "--enrich", "--format", "csv"], "--enrich writes JSON lines as they are"),
        (["--file", "two.csv", "--enrich", "--format", "json"], "two columns of one name"),
        (["a", "--spreadsheet-safe", "--format", "json"], "--spreadsheet-safe needs"),
        (["a", "--campaign", "camp"], "a --campaign is given twice"),
        (["a", "--resume"], "--resume needs --output F"),
        (["a", "--resume", "--output", "x.json"], "--resume needs --output F"),
        (["a", "--output", "no/such/folder.csv"], "there is no folder no/such"),
        (["--file", "a.jsonl", "--output", "a.jsonl", "--force"], "a.jsonl is the input"),
        (["--file", "in.csv.part", "--output", "in.csv"], "in.csv.part is the input"),
        (["a", "--rate", "fast"], "--rate must be 20, 20/s, 600/min"),
        (["a", "--rate", "none", "--rate", "5"], "alone, none"),
        (["a", "--ca-file", "nothing"], "cannot read --ca-file nothing"),
        (["a", "--ca-file", "two.csv"], "it holds no certificates"),
        (["a", "--api-key-file", "nothing"], "cannot read nothing"),
        (["a", "--api-key-file", "key"], "key is no UTF-8 text"),
        (["a", "--chunk-size", "0"], "chunk_size"),
        (["a", "--lead-ids-format", "x"], "lead_ids_format"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_sentence(fake, check, tmp_path, monkeypatch, arguments, says):
    """Exit 2, before anything is asked or written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"lead_id": "x"}\n')
    (tmp_path / "in.csv.part").write_text("x\n")
    (tmp_path / "two.csv").write_text("lead_id,b,b\nx\n")
    (tmp_path / "key").write_bytes(b"\xff")
    before = {file.name for file in tmp_path.iterdir()}
    run = check(*arguments)
    assert run.code == 2
    assert says in run.words
    assert "Traceback" not in run.err
    assert run.out == b""
    assert fake.count == 0
    assert {file.name for file in tmp_path.iterdir()} == before


def test_options_from_the_environment(fake, leadstatus, monkeypatch):
    """Named after the option alone; several rates are separated by spaces."""
    for name, value in {
        "ACCOUNT": "a1", "CAMPAIGN": "c1", "CHUNK_SIZE": "2", "RATE": "50/s 3000/min", "FORMAT": "jsonl",
        "LEAD_IDS_FORMAT": "repeat", "BURST": "3", "INSECURE_HTTP": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"LEADSTATUS_{name}", value)
    run = leadstatus("check", "a", "b", "c")
    assert (run.code, len(run.text.splitlines())) == (0, 3)
    assert [(one.account, one.campaign, one.lead_ids) for one in fake.requests] == [
        ("a1", "c1", ("a", "b")), ("a1", "c1", ("c",)),
    ]  # fmt: skip
    assert "leadIds=a&leadIds=b" in fake.requests[0].target


def test_a_fatal_answer_has_a_row_for_what_was_not_read(fake, check):
    """However little is read ahead."""
    fake.fault("401", times=None)
    ids = [f"x{number}" for number in range(30)]
    run = check("--format", "csv", "--concurrency", "1", "--chunk-size", "1", *ids)
    assert (run.code, fake.count) == (4, 1)
    assert [(row["lead_id"], row["error_type"]) for row in run.rows] == [
        (one, "AuthenticationError") for one in ids
    ]


def test_what_was_learned_is_told(check, monkeypatch):
    """As one says it to the command."""
    state = RateLimitState(38, 50, suggestion=Suggestion(RateLimit(38)))
    monkeypatch.setattr(LeadStatusSession, "rate_limit_state", state)
    run = check("--format", "csv", "a")
    assert run.err.splitlines()[-1] == "the server allowed 38 requests/s: next time --rate 38/s"


@pytest.mark.parametrize("campaigns", [[], ["--campaign", "other"]])
@pytest.mark.parametrize("kind", ["text", "objects", "disk"])
def test_an_input_that_breaks_off_is_no_end(fake, check, tmp_path, monkeypatch, kind, campaigns):
    """What was read until then is written, and the exit code says that it is not all."""
    file = tmp_path / ("a.jsonl" if kind == "objects" else "a.txt")
    options = []
    if kind == "text":
        file.write_bytes("".join(f"x{number}\n" for number in range(5000)).encode("utf-16") + b"\0")
        options = ["--encoding", "utf-16"]
    elif kind == "objects":
        file.write_text("[]\n" * 1500 + '{"a": 1}\n')
    else:
        file.write_text("a\nb\n")

        def broken(self, lines):
            yield from (Record(1, "a"), Record(2, "b"))
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(Source, "_text", broken)
    run = check("--file", file, *options, "--format", "csv", *campaigns)
    assert run.code == 2
    wanted, says = {
        "text": (5000, "is no text in utf-16"),
        "objects": (1500, "has no column of lead IDs"),
        "disk": (2, "Input/output error"),
    }[kind]
    assert says in run.words
    assert len(run.rows) == wanted * (1 + len(campaigns) // 2)


@pytest.fixture
def signals_restored():
    """Leave the test's process as it was."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it(fake, check, signals_restored, monkeypatch, sign, code):
    """What was answered is written and told; a second signal does not wait for more."""
    tell, left = _Job._tell, []

    def twice(self):
        os.kill(os.getpid(), sign)
        tell(self)

    monkeypatch.setattr(_Job, "_tell", twice)
    monkeypatch.setattr(Stop, "_leave_if_told", lambda self: left.append(self._told and self._hurry))
    fake.hold()

    def send():
        fake.wait_for_requests(1)
        os.kill(os.getpid(), sign)

    sending = threading.Thread(target=send)
    sending.start()
    run = check("--format", "csv", *(f"x{number}" for number in range(300)))
    sending.join()
    assert (run.code, run.out) == (code, b"")
    assert "0 of 300 rows written" in run.words
    assert left == [False, True]


def test_a_signal_that_comes_when_all_is_asked_is_too_late(fake, check, signals_restored, monkeypatch):
    """The job is done."""
    complete = _Job._complete

    def late(self):
        os.kill(os.getpid(), signal.SIGTERM)
        complete(self)

    monkeypatch.setattr(_Job, "_complete", late)
    assert check("--format", "csv", "a").code == 0


def test_a_signal_while_nobody_reads(check, signals_restored, monkeypatch):
    """What is stuck in a write is let go."""

    def stuck(self, rows):
        self.blocked = True
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr(Standard, "write", stuck)
    monkeypatch.setattr("leadstatus_async.cli.signals.discard_output", lambda: None)
    run = check("--format", "csv", "a")
    assert (run.code, "terminated" in run.words) == (143, True)


def test_nobody_reads_after_a_signal(fake, check, signals_restored, monkeypatch):
    """Neither does that hold it."""

    def stuck(self, rows):
        self.blocked = True
        time.sleep(5)

    def flush(self):
        if self._stop.code is not None and self._broken is None:
            self._out.write(b"")

    def send():
        fake.wait_for_requests(1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    fake.hold()
    monkeypatch.setattr(Standard, "write", stuck)
    monkeypatch.setattr(_Job, "_flush", flush)
    monkeypatch.setattr("leadstatus_async.cli.signals.discard_output", lambda: None)
    sending = threading.Thread(target=send)
    sending.start()
    run = check("--format", "csv", "a")
    sending.join()
    assert (run.code, "interrupted" in run.words) == (130, True)


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("campaigns", [["camp"], ["camp", "other"]])
def test_a_pipe(fake, leadstatus, campaigns, refused):
    """Is read while it is written; every line has its row, whatever becomes of the key."""
    if refused:
        fake.fault("401", times=None)
    read, write = os.pipe()
    count = 30_000 if refused else 500

    def feed():
        with os.fdopen(write, "w") as lines:
            lines.writelines(f"x{number}\n" for number in range(count))

    feeding = threading.Thread(target=feed)
    feeding.start()
    where = [option for one in campaigns for option in ("--campaign", one)]
    run = leadstatus("check", "--account", "acc", *where, "--format", "csv", "--file", f"/dev/fd/{read}")
    feeding.join()
    os.close(read)
    assert run.code == (4 if refused else 0)
    assert [row["lead_id"] for row in run.rows] == [
        f"x{number}" for number in range(count) for _ in campaigns
    ]


def test_campaigns_that_are_all_refused(fake, check):
    """Each lead has its rows, though nothing was read any more."""
    fake.unknown = {"camp", "other"}
    ids = [f"x{number}" for number in range(30)]
    options = ["--campaign", "other", "--concurrency", "1", "--chunk-size", "1"]
    run = check("--format", "csv", *options, *ids)
    assert [(row["lead_id"], row["error_type"]) for row in run.rows] == [
        (one, "NotFoundError") for one in ids for _ in range(2)
    ]


def test_the_format_of_the_input_may_be_said(check, tmp_path):
    """Whatever its suffix."""
    (tmp_path / "a.txt").write_text("lead_id\nx\n")
    run = check("--file", tmp_path / "a.txt", "--input-format", "csv", "--format", "csv")
    assert [row["lead_id"] for row in run.rows] == ["x"]


def test_an_interrupt_while_options_are_read(check, monkeypatch):
    """Is an interrupt like any other."""

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("leadstatus_async.cli.options.rate_limits", interrupt)
    run = check("a")
    assert (run.code, run.words) == (130, "leadstatus: interrupted; nothing was written")


def test_what_cannot_be_asked_for_says_its_line_though_the_key_is_refused(fake, check, tmp_path):
    """Behind what was read, too; and when the rest is asked for once more."""
    file, out = tmp_path / "a.csv", tmp_path / "out.csv"
    file.write_text("lead_id,n\n" + "".join(f"x{number},\n" for number in range(20)) + ",\na b,\nlong,1,2\n")
    fake.fault("401", times=None)
    options = ["--file", file, "--output", out, "--concurrency", "1", "--chunk-size", "1"]
    assert check(*options).code == 4
    fake.clear_faults()
    assert check(*options, "--resume").code == 3
    with out.open() as rows:
        errors = [row["error"] for row in csv.DictReader(rows)]
    assert errors[:20] == [""] * 20
    assert [error.partition(": the ID ")[0] for error in errors[20:]] == [
        f"InvalidLeadIdError: line {line}" for line in (22, 23, 24)
    ]


def test_a_slow_reader_loses_nothing_to_a_signal(check, signals_restored, monkeypatch):
    """A write that goes on is no write that is stuck."""
    write = Standard.write

    def slow(self, rows):
        self.blocked = True
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        write(self, rows)

    monkeypatch.setattr(Standard, "write", slow)
    run = check("--format", "csv", "a")
    assert (run.code, [row["lead_id"] for row in run.rows]) == (143, ["a"])
