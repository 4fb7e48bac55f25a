"""`--output F`: never seen half written, and gone on with by `--resume`."""

from __future__ import annotations

import csv
import errno
import json
import random
import signal

import pytest

from leadstatus_async.cli import output
from leadstatus_async.cli.check import _Job
from leadstatus_async.cli.output import Parts

LEADS = 60


@pytest.fixture
def leads(tmp_path):
    """Sixty leads, with what CSV can have in its cells, and two that cannot be asked for."""
    file = tmp_path / "leads.csv"
    with file.open("w", newline="") as out:
        write = csv.writer(out).writerow
        write(["name", "lead_id", "error"])
        for number in range(LEADS):
            lead_id = "" if number in (7, 41) else f"x{number % 50}"
            write([f'N "{number}"', lead_id, "two\nlines" if number % 3 else "\xe9,\r"])
    return file


FORMS = {
    "csv": ["out.csv"],
    "tsv": ["out.tsv"],
    "jsonl": ["out.jsonl"],
    "enriched": ["out.csv", "--enrich"],
    "enriched objects": ["out.jsonl", "--enrich"],
    "safe": ["out.csv", "--enrich", "--spreadsheet-safe"],
    "two campaigns": ["out.csv", "--campaign", "other"],
    "only": ["out.csv", "--only", "pending", "--only", "failed", "--only", "completed"],
    "all of it": ["out.jsonl", "--enrich", "--campaign", "other", "--only", "failed", "--only", "waiting"],
}


@pytest.fixture(params=FORMS)
def job(request, check, tmp_path, leads):
    """Return a function that runs a job, and its output."""
    name, *options = FORMS[request.param]
    chunks = ["--chunk-size", "5", "--concurrency", "1"]

    def run(*more, file=leads):
        return check("--file", file, "--output", tmp_path / name, *options, *chunks, *more)

    return run, tmp_path / name


def beside(out):
    """Return the names of what stands beside the output."""
    return sorted(
        file.name[len(out.name) :] for file in out.parent.iterdir() if file.name.startswith(out.name)
    )


def test_it_appears_all_at_once(job):
    """Under its name when it is whole; what stands beside it stays while rows have failed."""
    run, out = job
    assert run().code == 3
    assert beside(out) == ["", ".meta"]
    before = out.read_bytes()
    assert run("--force").code == 3
    again = run()
    assert again.code == 2
    assert "give --force to begin anew, or --resume to go on" in again.words
    assert out.read_bytes() == before


class StoppedError(OSError):
    """The disk is full."""

    strerror = "No space left on device"


@pytest.fixture
def interrupted(monkeypatch):
    """Return a function that lets so many more bytes of rows be written, and then no more."""
    append = Parts._append

    def let(count):
        left = count

        def limited(file, data):
            nonlocal left
            if ".meta" in str(file.name):
                append(file, data)
                return
            append(file, data[:left])
            left -= len(data)
            if left < 0:
                raise StoppedError(errno.ENOSPC, "full")

        monkeypatch.setattr(Parts, "_append", staticmethod(limited if count is not None else append))

    return let


@pytest.mark.parametrize("seed", range(3))
def test_an_interrupted_job_goes_on(fake, job, interrupted, seed):
    """Torn at any byte, any number of times: the same file in the end, and each lead asked for once or so."""
    random.seed(seed)
    run, out = job
    run()
    wanted = out.read_bytes()
    for file in beside(out):
        (out.parent / f"{out.name}{file}").unlink()
    asked = fake.count
    cuts = 0
    while not out.exists():
        interrupted(random.randrange(len(wanted) // 2))
        ended = run("--resume")
        cuts += 1
        assert cuts < 60, seed
        if not out.exists():
            assert ended.code == 1, ended.err
            assert "cannot write" in ended.words
            assert ended.err.splitlines()[-1].startswith("leadstatus check ")
            assert ended.err.splitlines()[-1].endswith(" --resume")
    assert out.read_bytes() == wanted, seed
    assert fake.count - asked <= asked + 6 * cuts, seed
    interrupted(None)
    ended = run("--resume")
    if ended.code != 2:
        assert ended.code == 3
        assert "has every row, and none to ask for again" in ended.words
    else:
        assert "is finished; made with --only" in ended.words
    assert out.read_bytes() == wanted


@pytest.mark.parametrize("name", ["csv", "enriched objects", "safe", "two campaigns"])
@pytest.mark.parametrize("cut", [None, 0, 1])
def test_failed_rows_are_asked_for_once_more(fake, check, tmp_path, leads, monkeypatch, name, cut):
    """Those only; a second time where that was cut short, and not those that it had asked for."""
    path, *options = FORMS[name]
    out = tmp_path / path
    options = ["--file", leads, "--output", out, *options, "--chunk-size", "5", "--concurrency", "1"]
    check(*options)
    wanted = out.read_bytes()
    fake.bad_ids = {f"x{number}" for number in range(10, 20)}
    check(*options, "--force")
    assert out.read_bytes() != wanted
    fake.bad_ids = set()
    asked = len(fake.requests)
    if cut is not None:
        note = Parts.note_again

        def torn(self, found):
            note(self, found[:cut])
            raise StoppedError(errno.ENOSPC, "full")

        monkeypatch.setattr(Parts, "note_again", torn)
        assert check(*options, "--resume").code == 1
        monkeypatch.setattr(Parts, "note_again", note)
    run = check(*options, "--resume")
    assert run.code == 3
    assert out.read_bytes() == wanted
    again = [lead_id for request in fake.requests[asked:] for lead_id in request.lead_ids]
    assert set(again) == {f"x{number}" for number in range(10, 20)}
    assert beside(out) == ["", ".meta"]


def test_a_finished_file_is_settled_when_nothing_has_failed(fake, check, tmp_path):
    """Then nothing stands beside it, and going on does nothing."""
    out = tmp_path / "out.csv"
    options = ["a", "b", "--output", out]
    fake.fault("404", times=1)
    assert check(*options).code == 3
    assert beside(out) == ["", ".meta"]
    assert check(*options, "--resume").code == 0
    assert beside(out) == [""]
    run = check(*options, "--resume")
    assert (run.code, fake.count) == (0, 2)
    assert check(*options, "--resume", "--quiet").err == ""
    assert "has every row, and none to ask for again" in run.words


def test_a_key_that_is_refused_again(fake, check, tmp_path):
    """Stays as it is, and costs one request."""
    out = tmp_path / "out.csv"
    ids = [f"x{number}" for number in range(500)]
    fake.fault("401", times=None)
    assert check(*ids, "--output", out).code == 4
    asked = fake.count
    run = check(*ids, "--output", out, "--resume", "--concurrency", "1")
    assert (run.code, fake.count) == (4, asked + 1)
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["lead_id"], row["error_type"]) for row in rows] == [
        (one, "AuthenticationError") for one in ids
    ]
    fake.clear_faults()
    assert check(*ids, "--output", out, "--resume").code == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--campaign", "d"], "was made with --campaign ['camp'], not --campaign ['camp', 'd']"),
        (["--account", "other"], "--account 'acc'"),
        (["--column", "error"], "--column 'lead_id'"),
        (["--enrich"], "--enrich False"),
        (["--base-url", "http://127.0.0.1:9"], "--base-url"),
        (["--format", "tsv"], "--format 'csv'"),
        (["--only", "failed"], "--only []"),
    ],
)
def test_another_job_does_not_go_on(check, tmp_path, leads, interrupted, change, says):
    """Exit 2, and what differs."""
    options = ["--file", leads, "--output", tmp_path / "out.csv", "--chunk-size", "5", "--concurrency", "1"]
    interrupted(1000)
    check(*options)
    before = (tmp_path / "out.csv.part").read_bytes()
    interrupted(None)
    run = check(*options, *change, "--resume")
    assert run.code == 2
    assert says in run.words
    assert (tmp_path / "out.csv.part").read_bytes() == before
    assert "give --force to begin anew, or --resume to go on" in check(*options).words


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("x3\n", "x99\n", "belongs: the input has changed"),
        ("x3\n", "", "has other"),
        ("x50\n", "", "has more rows than"),
    ],
)
def test_another_input_does_not_go_on(check, tmp_path, interrupted, old, new, says):
    """A changed line, or one that is gone."""
    file, out = tmp_path / "a.txt", tmp_path / "out.csv"
    text = "".join(f"x{number}\n" for number in range(51))
    file.write_text(text)
    options = ["--file", file, "--output", out, "--chunk-size", "5", "--concurrency", "1"]
    if "more rows" in says:
        check(*options)
        out.rename(tmp_path / "out.csv.part")
        (tmp_path / "out.csv.part.meta").write_text(json.dumps({"asked": {}}) + "\n")
        before = None
    else:
        interrupted(600)
        check(*options)
        before = (tmp_path / "out.csv.part").read_bytes()
    interrupted(None)
    file.write_text(text.replace(old, new))
    if before is None:
        (tmp_path / "out.csv.part.meta").unlink()
        (tmp_path / "out.csv.part").rename(out)
    run = check(*options, "--resume")
    assert run.code == 2
    assert says.replace("has other", "belongs: the input has changed") in run.words


def test_a_file_of_another_program_is_left_alone(check, tmp_path):
    """Whatever it is; another header, too."""
    out = tmp_path / "out.csv"
    out.write_text("mine\n")
    assert check("a", "--output", out).code == 2
    run = check("a", "--output", out, "--resume")
    assert (run.code, out.read_text()) == (2, "mine\n")
    assert "has other columns" in run.words
    out.unlink()
    assert check("a", "--output", out).code == 0
    run = check("a", "b", "--output", out, "--resume")
    assert run.code == 2
    assert "was not made by this job" in run.words
    run = check("a", "--output", out, "--resume", "--only", "failed")
    assert run.code == 2
    assert "is finished; made with --only" in run.words


def test_parts_without_rows_or_without_what_stands_beside_are_begun_anew(check, tmp_path):
    """There is nothing to lose, or nothing known of it."""
    out, part, meta = (tmp_path / f"out.csv{end}" for end in ("", ".part", ".part.meta"))
    for text, has_meta in (("", True), ("lead", True), ("a,b\nc,d\n", False)):
        part.write_text(text)
        if has_meta:
            meta.write_text("torn")
        assert check("a", "--output", out, "--resume").code == 0
        assert (beside(out), out.read_text().count("\n")) == ([""], 2)
        out.unlink()


def test_killed_between_one_rename_and_the_next(fake, check, tmp_path):
    """F has its name already; what stands beside it not yet."""
    out = tmp_path / "out.csv"
    fake.fault("404", times=1)
    check("a", "--output", out)
    (tmp_path / "out.csv.meta").rename(tmp_path / "out.csv.part.meta")
    assert check("a", "--output", out, "--resume").code == 0
    assert beside(out) == [""]


def test_nobody_else_writes_it_meanwhile(check, tmp_path, monkeypatch):
    """The second is told so."""
    out = tmp_path / "out.csv"
    prepare = _Job.prepare
    codes = []

    def both(self):
        ready = prepare(self)
        if not codes:
            codes.append(0)
            codes[0] = check("a", "--output", out, "--force").code
        return ready

    monkeypatch.setattr(_Job, "prepare", both)
    assert check("a", "--output", out).code == 0
    assert codes == [2]
    monkeypatch.setattr(output, "fcntl", None)
    assert check("a", "--output", out, "--force").code == 0


def test_json_and_tables_are_files_too(check, tmp_path, interrupted):
    """Whole, or not there; there is no going on with them."""
    assert check("a", "b", "--output", tmp_path / "out.json").code == 0
    assert len(json.loads((tmp_path / "out.json").read_text())) == 2
    assert check("a", "b, c", "--output", tmp_path / "out.json", "--force").code == 3
    assert beside(tmp_path / "out.json") == [""]  # there would be no going on
    assert check("a", "--output", tmp_path / "out", "--format", "table").code == 0
    assert (tmp_path / "out").read_text().startswith("lead ")
    interrupted(5)
    run = check("a", "--output", tmp_path / "new.json")
    assert (run.code, "--resume" in run.err) == (1, False)


def test_a_proxys_password_is_not_said_again(check, tmp_path, interrupted):
    """In the command that goes on."""
    interrupted(5)
    proxy = "http://me:s3cr@t@127.0.0.1:9"
    run = check("a", "--output", tmp_path / "new.csv", f"--proxy={proxy}", "--proxy", proxy)
    assert run.code == 1
    assert run.err.count("http://...@127.0.0.1:9") == 2
    assert "s3cr" not in run.err


def test_what_fails_in_a_run_that_goes_on_is_asked_for_once_more(fake, check, tmp_path):
    """At its end; as far as its deadline allows."""
    out = tmp_path / "out.csv"
    fake.fault("404", times=1)
    assert check("a", "--output", out, "--resume").code == 0
    out.unlink()
    fake.fault("404", times=None)
    assert check("a", "--output", out, "--resume").code == 3
    before, fake.latency = out.read_bytes(), 0.2
    assert check("a", "--output", out, "--resume", "--deadline", "0.0000001").code == 3
    assert out.read_bytes() == before
    fake.latency = 0.0
    assert check("a", "--output", out, "--resume", "--deadline", "60").code == 3
    fake.clear_faults()
    assert check("a", "--output", out, "--resume").code == 0


def test_what_was_torn_beside_the_rows_spoils_nothing(fake, check, tmp_path):
    """What was asked again behind it counts."""
    out = tmp_path / "out.csv"
    fake.bad_ids = {"a", "b"}
    assert check("a", "b", "c", "--output", out).code == 3
    with (tmp_path / "out.csv.meta").open("a") as meta:
        meta.write('{"again": [0, ["pend')
    fake.bad_ids = set()
    assert check("a", "b", "c", "--output", out, "--resume").code == 0
    assert "failed" not in out.read_text()
    assert out.read_text().count("BadRequestError") == 0
    assert beside(out) == [""]


def test_a_lock_file_of_a_job_that_never_began_is_none_of_ours(check, tmp_path):
    """It says nothing of the F that is there."""
    out = tmp_path / "out.csv"
    assert check("a", "--output", out).code == 0
    (tmp_path / "out.csv.part.meta").write_text("")
    assert check("a", "--output", out, "--resume").code == 0


def test_signals_are_left_as_they_were(check, tmp_path, interrupted):
    """However it ends: whoever calls this in a process of theirs has their own."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    interrupted(400)
    assert check("a", "b", "c", "d", "e", "--output", tmp_path / "out.csv").code == 1
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
