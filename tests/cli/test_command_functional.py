"""The `leadstatus` command as people run it: a process, through pipes and through a terminal."""

from __future__ import annotations

import asyncio
import csv
import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import sys
import termios

import pytest

from leadstatus_async import RateLimit, RateLimitState, Suggestion
from leadstatus_async.cli import app
from leadstatus_async.cli.exits import Exit
from leadstatus_async.cli.rows import values_of
from leadstatus_async.cli.tally import Tally
from leadstatus_async.errors import (
    APITimeoutError,
    AuthenticationError,
    InvalidLeadIdError,
    MissingLeadError,
)
from leadstatus_async.models import LeadFailure, LeadStatus, WorkflowStatus
from leadstatus_async.testing import Fault
from tests.conftest import KEY

COMMAND = [sys.executable, "-m", "leadstatus_async"]
WHERE = ["check", "--account", "acc", "--campaign", "camp"]


@pytest.fixture
def process(server):
    """Run the command in a process of its own; returns exit code, stdout and stderr."""

    async def run(*arguments, **environment):
        usual = {"SONARLY_API_KEY": KEY, "SONARLY_BASE_URL": server.url, "COLUMNS": "100"}
        process = await asyncio.create_subprocess_exec(
            *COMMAND, *arguments, env=os.environ | usual | environment,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    return run


@pytest.fixture
def leadstatus(server, monkeypatch, tmp_path, capsysbinary):
    """Run the command in a thread of this process; returns exit code, stdout and stderr."""

    async def run(*arguments, stdin="", **environment):
        usual = {"SONARLY_API_KEY": KEY, "SONARLY_BASE_URL": server.url, "COLUMNS": "100"}
        for name, value in (usual | environment).items():
            monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name, raising=False)
        (tmp_path / "stdin").write_text(stdin)
        capsysbinary.readouterr()
        with (tmp_path / "stdin").open() as lines:
            monkeypatch.setattr(sys, "stdin", lines)
            code = await asyncio.to_thread(app.run, list(arguments))
        out, err = capsysbinary.readouterr()
        assert KEY not in out.decode() + err.decode()
        return code, out.decode(), err.decode()

    return run


async def test_a_table_for_people(server, leadstatus):
    """Leads and a summary on stdout, the story on stderr, no control sequences into a pipe."""
    code, out, err = await leadstatus(*WHERE, "--format", "table", "a", "b", "c")
    assert code == 0
    assert out.split()[:5] == ["lead", "status", "step", "/", "reason"]
    assert server.expected("a").workflow_status in out
    assert "\x1b" not in out + err
    assert "3 leads in" in err


@pytest.mark.parametrize("form", ["csv", "jsonl", "json"])
async def test_data_for_programs(server, leadstatus, form):
    """One row per position, in input order, duplicates included; failed ones with their error."""
    server.fault("missing-row")
    code, out, _ = await leadstatus(*WHERE, "--format", form, "a", "b", "a")
    rows = {
        "csv": lambda: list(csv.DictReader(io.StringIO(out))),
        "jsonl": lambda: [json.loads(line) for line in out.splitlines()],
        "json": lambda: json.loads(out),
    }[form]()
    assert code == 3
    assert [row["lead_id"] for row in rows] == ["a", "b", "a"]
    assert rows[0]["error"].startswith("MissingLeadError: ")
    assert rows[1]["workflow_status"] == server.expected("b").workflow_status


async def test_ids_from_files_and_stdin(server, leadstatus, tmp_path):
    """A BOM and CRLF are fine; `-` is standard input, as argument or file; an argument is no file."""
    file = tmp_path / "ids.txt"
    file.write_bytes("\ufeffa\r\n  b\r\n".encode())
    code, out, _ = await leadstatus(*WHERE, "--format", "csv", "--file", str(file), "x", f"@{file}")
    assert code == 0
    assert [line.split(",")[0] for line in out.splitlines()] == ["lead_id", "x", f"@{file}", "a", "b"]
    for arguments in (["--file", "-"], ["-"]):
        code, out, _ = await leadstatus(*WHERE, "--format", "csv", *arguments, stdin="c\nd")
        assert (code, [line.split(",")[0] for line in out.splitlines()]) == (0, ["lead_id", "c", "d"])


async def test_no_line_is_dropped_unasked(server, leadstatus):
    """Blank lines and what looks like a comment have rows that say their line, unless left out on request."""
    lines = "a\n\n#1001\n  \nb\n// c\n"
    code, out, err = await leadstatus(*WHERE, "--format", "csv", "-", stdin=lines)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 3
    assert [row["lead_id"] for row in rows] == ["a", "", "#1001", "", "b", "// c"]
    assert rows[1]["error"] == "InvalidLeadIdError: line 2: the ID is empty"
    assert "line 3: the ID begins with #" in rows[2]["error"]
    assert "2 failed, InvalidLeadIdError: the ID is empty" in err
    options = ["--skip-blank", "--comment", "#", "--format", "csv"]
    code, out, err = await leadstatus(*WHERE, *options, "-", stdin=lines.replace("// c", "c"))
    assert (code, [line.split(",")[0] for line in out.splitlines()]) == (0, ["lead_id", "a", "b", "c"])


async def test_failures_are_told_by_their_reason(leadstatus):
    """However many there are: not one sentence for each."""
    lines = "".join(f"bad,{number}\n" for number in range(4000)) + "x\ty\n"
    code, out, err = await leadstatus(*WHERE, "--format", "csv", "-", stdin=lines + "good\n")
    assert code == 3
    assert len(out.splitlines()) == 4003
    assert "4,000 failed, InvalidLeadIdError: the ID contains a comma" in " ".join(err.split())
    assert len(err) < 600


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
async def test_no_answer_is_lost_to_an_encoding(server, process, encoding):
    """What a terminal cannot show is written as an escape; what goes into a pipe is UTF-8."""
    server.set_status("lead\u5317", "\u5b8c\u6210")
    for form in ("table", "csv"):
        code, out, err = await process(
            *WHERE, "--format", form, "lead\u5317", "b", PYTHONIOENCODING=encoding, PYTHONUTF8="0"
        )
        assert (code, "Traceback" in err) == (0, False)
        assert ("\\u5b8c\\u6210" if form == "table" else "\u5b8c\u6210") in out


async def shell(server, command):
    """Run a shell command in which `leadstatus` is ours; returns exit code, stdout and stderr."""
    process = await asyncio.create_subprocess_shell(
        f'leadstatus() {{ {sys.executable} -m leadstatus_async.cli "$@"; }}; {command}',
        env={**os.environ, "SONARLY_API_KEY": KEY, "SONARLY_BASE_URL": server.url},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode, out.decode("utf-8", "surrogateescape"), err.decode()


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ("leadstatus check --account a --campaign c - <&-", 2, "leadstatus: standard input is closed"),
        ("leadstatus check --account a --campaign c x >&-", 1, "leadstatus: standard output is closed"),
        ("leadstatus check --account a --campaign c x --format csv >/dev/full", 1, "No space left on device"),
        ("leadstatus check --account a --campaign c x >/dev/full", 1, "No space left on device"),
        ("printf '\\377\\n' | leadstatus check --account a --campaign c -", 2, "the ID is no text in utf-8"),
    ],
)
async def test_broken_streams_are_one_sentence(server, command, code, says):
    """No traceback, whatever is closed or full; `python -m leadstatus_async.cli` is the command, too."""
    ended, _, err = await shell(server, command)
    assert ended == code
    assert says in err
    assert "Traceback" not in err
    assert "Exception ignored" not in err


@pytest.mark.parametrize("form", ["table", "csv"])
@pytest.mark.parametrize("unbuffered", ["1", ""])
async def test_a_reader_that_is_gone_is_141(server, form, unbuffered):
    """As for programs that SIGPIPE ends."""
    command = f"leadstatus {' '.join(WHERE)} --format {form} a b; echo $? >&2"
    _, _, err = await shell(server, f"export PYTHONUNBUFFERED={unbuffered}; ({command}) | true")
    assert err.split()[-1] == "141"
    assert "Traceback" not in err


async def test_words_never_go_where_data_goes(server):
    """With standard error closed they are gone."""
    code, out, _ = await shell(server, f"leadstatus {' '.join(WHERE)} --format csv a 2>&-")
    assert code == 0
    assert len(out.splitlines()) == 2


async def test_statuses_are_no_markup(server, leadstatus):
    """A server may say what it likes: nothing of it is a command to the table."""
    server.set_status("a", "[/x]")
    server.set_status("b", "[link=http://evil/]completed[/link]:smile:")
    code, out, err = await leadstatus(*WHERE, "--format", "table", "a", "b", COLUMNS="300")
    assert (code, "Traceback" in err) == (0, False)
    assert (out + err).count("[/x]") == 2
    assert err.count("[link=http://evil/]completed[/link]:smile:") == 1
    assert "[link=http://ev" in out


async def test_what_stands_behind_two_dashes_is_an_id(leadstatus):
    """Whatever it looks like; and so is a last line of blanks, though without a newline."""
    _, out, _ = await leadstatus(*WHERE, "--format", "csv", "--", "a", "--debug")
    assert [line.split(",")[0] for line in out.splitlines()] == ["lead_id", "a", "--debug"]
    _, out, _ = await leadstatus(*WHERE, "--format", "jsonl", "-", stdin="a\n  ")
    assert [json.loads(line)["lead_id"] for line in out.splitlines()] == ["a", ""]
    code, _, err = await leadstatus(*WHERE, "-", "--file", "-", stdin="a\n")
    assert (code, "given twice" in err) == (2, True)


@pytest.mark.parametrize("gap", [0.0, 0.002, 0.01])
@pytest.mark.parametrize(
    "signs", [(signal.SIGINT,) * 2, (signal.SIGTERM, signal.SIGINT), (signal.SIGTERM,) * 2]
)
async def test_a_second_signal_costs_no_row(server, signs, gap):
    """What was answered is written, and the exit code is the first one's."""
    server.latency = 0.05
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *WHERE, "--format", "csv", "--chunk-size", "10", "--rate", "50", "-",
        env={**os.environ, "SONARLY_API_KEY": KEY, "SONARLY_BASE_URL": server.url},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    process.stdin.write("\n".join(f"lead{number}" for number in range(2000)).encode())
    process.stdin.write_eof()
    await server.wait_for_requests(10)
    for sign in signs:
        process.send_signal(sign)
        await asyncio.sleep(gap)
    out, err = await process.communicate()
    codes = [130 if sign is signal.SIGINT else 143 for sign in signs]
    assert process.returncode in (codes[:1] if gap else codes)  # sent together, they come in any order
    rows = out.decode().splitlines()[1:]
    assert len(rows) >= 10
    assert f": {len(rows)} rows written" in err.decode()
    assert "Traceback" not in err.decode()


async def test_without_arguments_there_is_help(leadstatus):
    """Exit 2; `-h` is `--help`, everywhere, and `--debug` may stand anywhere."""
    code, out, err = await leadstatus()
    assert (code, err) == (2, "")
    assert out.lstrip().startswith("Usage: ")
    for arguments in (["-h"], ["check", "-h"], ["demo", "-h"]):
        code, out, _ = await leadstatus(*arguments)
        assert code == 0
        assert "Usage: " in out
    code, _, err = await leadstatus(*WHERE, "a", "--rate", "0", "--debug")
    assert code == 2
    assert "Traceback" in err


async def test_one_is_no_plural(leadstatus):
    """1 lead, 1 request."""
    _, _, err = await leadstatus(*WHERE, "--format", "csv", "a")
    assert err.startswith("1 lead in ")
    assert "1 request," in err


EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202elead"


async def test_nothing_is_printed_raw(server, leadstatus, tmp_path):
    """Neither from the server, nor from a file, nor a file's name: no escape sequences, no right-to-left."""
    server.set_status("a", EVIL)
    server.set_status("\u202eb", "pending")
    table = [*WHERE, "--format", "table"]
    texts = [await leadstatus(*table, "a", "\u202eb")]
    texts.append(await leadstatus(*table, "a", "--file", str(tmp_path / EVIL.replace("/", ""))))
    error = json.dumps({"success": False, "error": {"code": EVIL, "message": EVIL * 500}}).encode()
    server.fault(Fault(422, error), times=None)
    texts.append(await leadstatus(*table, "a", "b"))
    file = tmp_path / "ids"
    file.write_text(f"{EVIL}\n")
    texts.append(await leadstatus(*table, "--file", str(file)))
    for _, out, err in texts:
        assert not any(sign in out + err for sign in "\x1b\x07\x9b\u202e")
        assert max(map(len, (out + err).split("\n"))) <= 520
    _, shown = await in_terminal(
        [*WHERE, "--format", "csv", "\u202eb"], SONARLY_API_KEY=KEY, SONARLY_BASE_URL=server.url
    )
    assert "\u202e" not in shown


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_what_was_answered_before_an_interrupt_is_written(server, sign, code):
    """In the order asked; the rest is told by its number."""
    answered = [f"lead{number}" for number in range(40)]
    server.script(None, None)
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *WHERE, "--format", "csv", "--chunk-size", "20", "--rate", "2", "-",
        env={**os.environ, "SONARLY_API_KEY": KEY, "SONARLY_BASE_URL": server.url},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    process.stdin.write("\n".join(f"lead{number}" for number in range(400)).encode())
    process.stdin.write_eof()
    await server.wait_for_requests(3)
    process.send_signal(sign)
    out, err = await process.communicate()
    assert process.returncode == code
    ids = [line.split(",")[0] for line in out.decode().splitlines()[1:]]
    assert ids[:40] == answered
    assert f": {len(ids)} rows written" in err.decode()
    assert "Traceback" not in err.decode()


async def test_the_key_from_a_file(server, leadstatus, tmp_path):
    """Its newline is no part of it."""
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    code, _, _ = await leadstatus(*WHERE, "a", "--api-key-file", str(file), SONARLY_API_KEY=None)
    assert code == 0
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "says"),
    [
        ([*WHERE], {}, 2, "no lead IDs"),
        (["check", "a"], {}, 2, "--account"),
        (["chekc"], {}, 2, "chekc"),
        ([*WHERE, "a", "--rate", "fast"], {}, 2, "--rate"),
        ([*WHERE, "a", "--rate", "0"], {}, 2, "max_rate"),
        ([*WHERE, "a", "--chunk-size", "0"], {}, 2, "chunk_size"),
        ([*WHERE, "a", "--format", "xml"], {}, 2, "--format"),
        ([*WHERE, "a", "--file", "/nonexistent"], {}, 2, "cannot read"),
        ([*WHERE, "a", "--file", sys.executable], {}, 2, "UTF-8"),
        ([*WHERE, "a"], {"SONARLY_API_KEY": None}, 2, "SONARLY_API_KEY"),
        ([*WHERE, "a"], {"SONARLY_API_KEY": "Bearer x"}, 2, "Bearer"),
        ([*WHERE, "sk_live_oops"], {}, 2, "looks like an API key"),
        (["check", "--account", "..", "--campaign", "c", "a"], {}, 2, "account_group_id"),
        ([*WHERE, "a"], {"SONARLY_BASE_URL": "http://api.example"}, 2, "https"),
    ],
)  # fmt: skip
async def test_bad_usage_is_one_sentence(server, leadstatus, arguments, environment, code, says):
    """Exit 2, what is wrong and what to do, no traceback, nothing sent, no key shown."""
    ended, out, err = await leadstatus(*arguments, **environment)
    assert ended == code
    assert says in err
    assert "Traceback" not in err
    assert out == ""
    assert server.count == 0
    assert "oops" not in err


async def test_debug_shows_the_traceback(leadstatus):
    """For bug reports; without locals, and so without the key."""
    code, _, err = await leadstatus("--debug", *WHERE, "a", "--rate", "0")
    assert code == 2
    assert "Traceback" in err


async def test_bad_ids_fail_in_place(leadstatus):
    """An ID that cannot be asked for is a failed row, and the others are answered."""
    code, out, err = await leadstatus(*WHERE, "--format", "csv", "good", "a,b")
    assert code == 3
    assert "InvalidLeadIdError" in out
    assert "1 failed" in err


async def test_a_refused_key_is_4_and_an_unreachable_host_5(server, leadstatus):
    """The exit codes of --help."""
    server.fault("401", times=None)
    code, out, err = await leadstatus(*WHERE, "--format", "table", "a", "b")
    assert code == 4
    assert "AuthenticationError" in err
    assert "failed" in out
    await server.stop_listening()
    code, _, err = await leadstatus(*WHERE, "a", "--deadline", "60", SONARLY_BASE_URL="http://127.0.0.1:9")
    assert code == 5
    assert "cannot connect" in err


async def test_a_refusal_in_mid_job_has_a_row_for_each_lead(server, leadstatus):
    """Those that were not even read are told the same."""
    server.fault("401", times=None)
    options = ["--format", "csv", "--chunk-size", "10"]
    code, out, _ = await leadstatus(*WHERE, *options, *(f"lead{number}" for number in range(95)))
    assert code == 4
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["lead_id"] for row in rows] == [f"lead{number}" for number in range(95)]
    assert all(row["error"].startswith("AuthenticationError: ") for row in rows)


@pytest.mark.parametrize("where", ["leadstatus_async.cli.inputs.Source.count", "asyncio.run"])
def test_an_interrupt_before_anything_was_asked(monkeypatch, capsys, where):
    """Exit 130, and a word; standard output may be anything that can be written to."""
    from leadstatus_async.cli import app

    def interrupt(*_arguments, **_options):
        for coroutine in _arguments:
            getattr(coroutine, "close", lambda: None)()
        raise KeyboardInterrupt

    monkeypatch.setenv("SONARLY_API_KEY", KEY)
    monkeypatch.setattr(where, interrupt)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert app.run([*WHERE, "a"]) == 130
    assert capsys.readouterr().err.endswith("leadstatus: interrupted; nothing was written\n")


async def test_help_lists_the_exit_codes(leadstatus):
    """And the options."""
    code, out, _ = await leadstatus("check", "--help")
    assert code == 0
    for said in ("130 interrupted", "--deadline", "--api-key-file", "--format"):
        assert said in " ".join(out.split())
    code, out, _ = await leadstatus("--help")
    assert "demo" in out


async def test_a_broken_pipe_is_silent(server):
    """`leadstatus ... | head -1` ends without a word."""
    process = await asyncio.create_subprocess_shell(
        f"{sys.executable} -m leadstatus_async {' '.join(WHERE)} --format csv --rate 500 --file - | head -1",
        env={**os.environ, "SONARLY_API_KEY": KEY, "SONARLY_BASE_URL": server.url},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate("".join(f"lead{number}\n" for number in range(9000)).encode())
    assert out.startswith(b"lead_id,")
    assert b"Traceback" not in err
    assert b"Broken" not in err


@pytest.mark.parametrize("unbuffered", ["1", ""])
async def test_a_reader_that_is_gone_is_no_error_worth_a_word(server, unbuffered):
    """A write into a closed pipe is silent, and so is the last flush of what was buffered."""
    process = await asyncio.create_subprocess_shell(
        f"{sys.executable} -m leadstatus_async {' '.join(WHERE)} --format csv a | true",
        env={
            **os.environ, "SONARLY_API_KEY": KEY, "SONARLY_BASE_URL": server.url,
            "PYTHONUNBUFFERED": unbuffered,
        },
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, err = await process.communicate()
    assert b"Broken" not in err
    assert b"Traceback" not in err


def test_what_ends_the_command(monkeypatch, capsys):
    """An interrupt is 130 and one sentence; what is no error of ours is not dressed up as one."""
    from leadstatus_async.cli import __main__ as entry
    from leadstatus_async.cli import app

    def raising(error):
        def run(*_args, **_kwargs):
            raise error

        return run

    monkeypatch.setattr(app, "app", raising(KeyboardInterrupt()))
    assert app.run([]) == 130
    assert "interrupted" in capsys.readouterr().err
    monkeypatch.setattr(app, "app", raising(RuntimeError("a bug")))
    with pytest.raises(RuntimeError):
        app.run([])
    monkeypatch.setitem(sys.modules, "leadstatus_async.cli.app", None)
    with pytest.raises(ModuleNotFoundError):
        entry.main()


async def test_ctrl_c_ends_within_a_second(server):
    """Exit 130, and one sentence."""
    server.hold()
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *WHERE, "a",
        env={**os.environ, "SONARLY_API_KEY": KEY, "SONARLY_BASE_URL": server.url},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a CI in the background ignores it
    )  # fmt: skip
    await server.wait_for_requests(1)
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(5):
        out, err = await process.communicate()
    assert process.returncode == 130
    assert out == b""
    assert b"interrupted" in err
    assert b"Traceback" not in err


async def in_terminal(arguments, columns=80, **environment):
    """Run the command in a pseudo-terminal; returns exit code and everything shown."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        stdin=side,
        stdout=side,
        stderr=side,
        env={**kept, "TERM": "xterm"} | environment,
    )
    os.close(side)
    shown = bytearray()

    def read():
        while True:
            try:
                piece = os.read(main, 65536)
            except OSError:
                return
            if not piece:
                return
            shown.extend(piece)

    await asyncio.get_running_loop().run_in_executor(None, read)
    os.close(main)
    return await process.wait(), shown.decode()


@pytest.mark.parametrize("options", [[], ["--campaign", "other"], ["--output", "out.csv"]])
@pytest.mark.parametrize("columns", [60, 80])
async def test_in_a_terminal_there_is_progress_and_colour(server, tmp_path, monkeypatch, columns, options):
    """A bar while it runs, colours, and no line longer than the terminal."""
    monkeypatch.chdir(tmp_path)
    code, shown = await in_terminal(
        [*WHERE, *options, *(f"lead{number}" for number in range(300)), "not, an ID" * 9],
        columns, SONARLY_API_KEY=KEY, SONARLY_BASE_URL=server.url,
    )  # fmt: skip
    assert code == 3
    assert "\x1b[" in shown
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "\n").split("\n")
    assert max(len(line) for line in plain) <= columns


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
async def test_no_colour_where_none_is_wanted(server, environment):
    """NO_COLOR and TERM=dumb are respected."""
    _, shown = await in_terminal(
        [*WHERE, "a"], SONARLY_API_KEY=KEY, SONARLY_BASE_URL=server.url, **environment
    )
    assert "\x1b[3" not in shown
    assert server.expected("a").workflow_status in shown


async def test_the_demo_runs_anywhere(leadstatus):
    """No key, no network, under 20 seconds: a bar per status on stdout, the story on stderr."""
    async with asyncio.timeout(30):
        code, out, err = await leadstatus("demo", SONARLY_API_KEY=None, SONARLY_BASE_URL="http://127.0.0.1:9")
    assert code == 0
    assert sum("█" in line for line in out.splitlines()) == 7
    for said in ("5,000 leads in", "requests", "retries", "leads/s", "s paused"):
        assert said in " ".join(err.split())


async def test_the_demo_shows_itself_in_a_terminal():
    """Live progress, then the summary."""
    code, shown = await in_terminal(["demo"], 60)
    assert code == 0
    assert "/5000" in shown.replace(",", "")


async def test_without_the_extra_one_sentence_says_what_to_install():
    """No typer, no traceback."""
    code = "import sys; sys.modules['typer'] = None; import runpy; sys.argv = ['leadstatus']; "
    code += "runpy.run_module('leadstatus_async', run_name='__main__')"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()
    assert process.returncode == 1
    assert err.decode().strip().splitlines() == [
        'The leadstatus command needs its extra: pip install "leadstatus-async[cli]"'
    ]


OK = LeadStatus("a", WorkflowStatus.PENDING)


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([], Exit.USAGE),
        ([LeadFailure("", InvalidLeadIdError([], "line 1: the ID is empty"))], Exit.USAGE),
        ([OK], Exit.ANSWERED),
        ([OK, LeadFailure("b", MissingLeadError(""))], Exit.SOME_FAILED),
        ([OK, LeadFailure("b", APITimeoutError(""))], Exit.SOME_FAILED),
        ([LeadFailure("b", APITimeoutError(""))], Exit.UNREACHABLE),
        ([LeadFailure("a", MissingLeadError("")), LeadFailure("b", APITimeoutError(""))], Exit.SOME_FAILED),
        ([OK, LeadFailure("b", AuthenticationError(401))], Exit.KEY_REFUSED),
    ],
)
def test_exit_codes(outcomes, code):
    """Decided from the outcomes alone."""
    tally = Tally()
    for outcome in outcomes:
        tally.add(values_of(outcome), None if outcome.ok else outcome)
    assert tally.exit is code


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (RateLimitState(10, 10, suggestion=None), []),
        (
            RateLimitState(38, 50, suggestion=Suggestion(RateLimit(38))),
            ["the server allowed 38 requests/s: next time --rate 38/s"],
        ),
        (
            RateLimitState(2, 50, suggestion=Suggestion(RateLimit(20, per=10, burst=4))),
            ["the server allowed 2 requests/s: next time --rate 20/10s --burst 4"],
        ),
        (
            RateLimitState(1, 10, reason="60 per 60 s", suggestion=Suggestion(RateLimit(60, per=60))),
            ["the server allowed 1 requests/s: next time --rate 60/min (60 per 60 s)"],
        ),
        (
            RateLimitState(10, 10, suggestion=Suggestion(concurrency=4)),
            ["the server allowed 4 requests at once: next time --concurrency 4"],
        ),
    ],
)
def test_what_was_learned_is_told_in_options(state, told):
    """What the server refused for is said as one says it to the command."""
    from leadstatus_async.cli.render import learned

    assert learned(state) == told


def test_reasons_without_end_are_counted_together():
    """A server that gives each failure words of its own."""
    from leadstatus_async.cli.render import reasons

    tally = Tally()
    for number in range(1500):
        failure = LeadFailure("a", MissingLeadError(f"number {number}"))
        tally.add(values_of(failure), failure)
    told = reasons(tally)
    assert len(told) == 11
    assert told[0].startswith("500 failed, MissingLeadError (")
    assert told[-1] == "991 failed for other reasons"


def test_a_pipe_that_breaks_under_words_is_told():
    """It is for the command to say what that means."""
    from leadstatus_async.cli.render import console

    with pytest.raises(BrokenPipeError):
        console(io.StringIO()).on_broken_pipe()
