"""What is kept of a server's text: bounded, on one line, without secrets (h4, h12)."""

from __future__ import annotations

import base64
import copy
import html
import json
import pickle
import random
import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leadstatus_async._steps.redact import Redactor
from leadstatus_async._steps.rows import RawRow, presented
from leadstatus_async.errors import APIStatusError
from leadstatus_async.models import LeadStatus, WorkflowStatus

KEY = "sk_live_9+a/B=c~d'E\"f&g"
PASSWORD = "correct horse"
REDACTOR = Redactor([KEY, f"bob:{PASSWORD}", PASSWORD])
PENDING = WorkflowStatus.PENDING


def b64(text: str) -> str:
    """Return text in base64."""
    return base64.b64encode(text.encode()).decode()


SPELLINGS = {
    "plain": KEY,
    "lower case": KEY.lower(),
    "upper case": KEY.upper(),
    "line break": f"{KEY[:9]}\r\n{KEY[9:]}",
    "soft hyphens": "\xad".join(KEY),
    "escaped NULs": "\\u0000".join(KEY),
    "percent twice": quote(quote(KEY, safe=""), safe=""),
    "bytes of Python": "".join(f"\\x{ord(one):02x}" for one in KEY),
    "HTML without ends": "".join(f"&#{ord(one)}" for one in KEY),
    "base64 in JSON": b64(KEY).rstrip("=").replace("/", "\\/"),
    "base64 in a URL": quote(b64(KEY).rstrip("="), safe=""),
    "base64 in a mail": b64(KEY)[:20] + "\r\n" + b64(KEY)[20:].rstrip("="),
    "password in a form": PASSWORD.replace(" ", "+"),
    "percent": quote(KEY, safe=""),
    "all percent": "".join(f"%{ord(one):02x}" for one in KEY),
    "some percent": KEY[:5] + "".join(f"%{ord(one):02X}" for one in KEY[5:9]) + KEY[9:],
    "unicode escapes": "".join(f"\\u{ord(one):04X}" for one in KEY),
    "JSON in JSON": json.dumps(KEY)[1:-1].replace("/", "\\/"),
    "HTML": html.escape(KEY, quote=False),
    "HTML, decimal": "".join(f"&#{ord(one)};" for one in KEY),
    "HTML, hex": "".join(f"&#x{ord(one):04x};" for one in KEY),
    "base64": b64(KEY).rstrip("="),
    "hex": KEY.encode().hex(),
    "HEX": KEY.encode().hex().upper(),
    "with NULs": "\0".join(KEY),
    "with escapes": "\x1b".join(KEY),
    "password": PASSWORD,
    "user and password": f"bob:{PASSWORD}",
    "Basic": b64(f"bob:{PASSWORD}").rstrip("="),
}


def leaks(text: str, secret: str = KEY) -> bool:
    """Whether a reader could tell most of a secret from text."""
    return any(secret[start : start + 6].lower() in text.lower() for start in range(len(secret) - 6))


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("around", ["{}", "your key {}, is wrong", "<{}>", "x={}&y"])
def test_a_secret_does_not_show_however_it_is_spelled(spelling, around):
    """Plain, escaped once or twice, encoded; in a line, in details as key and as value."""
    text = around.format(SPELLINGS[spelling])
    line = REDACTOR.line(text, 500)
    assert "[redacted]" in line
    assert not leaks(line)
    assert not leaks(line, PASSWORD)
    details = REDACTOR.details({"a": [text, {text: 1}]})
    assert json.dumps(details, ensure_ascii=False).count("[redacted]") == 2
    assert not leaks(json.dumps(details, ensure_ascii=False))


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("alphabet", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64_wherever_the_secret_begins(before, after, alphabet):
    """A secret inside a longer text in base64 is found at each of the three places it may begin."""
    text = alphabet(b"\xff" * before + KEY.encode() + b"\xfb" * after).decode()
    line = REDACTOR.line(text, 500)
    assert "[redacted]" in line
    assert len(line) - len("[redacted]") <= 12, "what is left is the neighbours'"


@pytest.mark.parametrize("secret", ["pässwörter", "пароль-пароль"])
def test_secrets_of_other_alphabets(secret):
    """As they are, escaped, and in a page whose encoding was not told."""
    redactor = Redactor([secret])
    lost = "".join(one if one.isascii() else "\ufffd" for one in secret)
    for text in (secret, quote(secret), json.dumps(secret)[1:-1], lost):
        assert redactor.line(f"<{text}>", 500) == "<[redacted]>"


@pytest.mark.parametrize("length", range(380, 520))
def test_no_beginning_of_a_secret_is_left_where_text_is_cut(length):
    """Text is searched before it is cut."""
    line = REDACTOR.line("x" * length + KEY + "y" * 100_000, 500)
    assert len(line) <= 500
    assert "sk_live" not in line


@pytest.mark.parametrize("torn_at", range(1, len(KEY)))
def test_no_beginning_of_a_secret_is_left_where_text_was_torn(torn_at):
    """What was searched may itself be the beginning of a longer text."""
    assert "sk_live" not in REDACTOR.line("x" * 300 + KEY[:torn_at], 500, torn=True)


def test_secrets_take_no_place_of_the_message():
    """The window that is searched is larger than what is kept."""
    line = REDACTOR.line((KEY + " ") * 1000, 500)
    assert len(line) == 500
    assert set(line.split()) <= {"[redacted]", "[redacted]"[: len(line.split()[-1])]}


@pytest.mark.parametrize("secret", ["", "k", "sk_test", "1234567"])
def test_what_is_too_short_for_a_key_stays(secret):
    """It would be found in innocent words."""
    assert Redactor([secret]).line("a k 1234567 sk_test", 500) == "a k 1234567 sk_test"


@pytest.mark.parametrize("word", ["abc", "secret", "p@ss+1"])
def test_a_short_password_is_looked_for_in_errors_as_a_word(word):
    """In a row it may be a word of the user's."""
    redactor = Redactor([], [word])
    assert redactor.line(f"({word}) un{word}ed", 500) == f"([redacted]) un{word}ed"
    assert presented([LeadStatus("a", PENDING, None, word)], redactor)[0].latest_step == word
    assert Redactor([], ["ab"]).line("ab", 500) == "ab"


CONTROLS = [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029]


@given(st.text(st.sampled_from([*map(chr, CONTROLS), "a", "é", "\U0001f642", "\ud83d"])))
def test_no_control_character_is_kept(text):
    """C0, C1, DEL, line separators and what turns the direction of text; surrogates no encoder would take."""
    line = REDACTOR.line(text, 500)
    assert not any(ord(one) in CONTROLS for one in line)
    assert line.encode().decode() == line
    assert len(line.splitlines()) <= 1
    (status,) = presented([LeadStatus("a", PENDING, latest_step=text)], REDACTOR)
    assert not any(ord(one) in CONTROLS for one in status.latest_step)


def test_spaces_stay_spaces():
    """A line break between two words is no reason to join them."""
    assert REDACTOR.line("a\r\nb\tc\u2028d\x1b[31me\u202ef", 500) == "a  b c d[31mef"


def test_a_control_character_makes_no_other_status():
    """`pend` and `ing` with a NUL between them is not `pending`; nothing is invented."""
    row = LeadStatus("a", WorkflowStatus("pend\0ing"), "i\x1bd", "two\nlines", "\u202egnp")
    (status,) = presented([row], REDACTOR)
    assert status == LeadStatus("a", WorkflowStatus("pend\ufffding"), "i\ufffdd", "two lines", "\ufffdgnp")
    assert not status.workflow_status.is_known


@pytest.mark.parametrize(
    "field", ["workflow_status", "workflow_instance_id", "latest_step", "workflow_stop_reason"]
)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_status_shows_no_secret(field, spelling):
    """Whichever text of a row has it; the others, and other rows, are untouched."""
    other = LeadStatus("b", PENDING, "50% & more", "C:\\step", None, has_pending_approval=True)
    fields = {"lead_id": "a", "workflow_status": PENDING, field: f"at {SPELLINGS[spelling]}."}
    if field == "workflow_status":
        fields[field] = WorkflowStatus(fields[field])
    shown, same = presented([LeadStatus(**fields), other], REDACTOR)
    assert getattr(shown, field).startswith("at [redacted]")
    assert not leaks(repr(shown))
    assert same == other


def test_clean_outcomes_are_the_same_objects():
    """Nothing is copied where nothing is found."""
    rows = [LeadStatus("a", WorkflowStatus("paused"), "é", "50% & more"), LeadStatus("b", PENDING)]
    assert all(one is other for one, other in zip(presented(rows, REDACTOR), rows, strict=True))


@pytest.mark.parametrize(
    ("body", "clear"),
    [
        (b'{"latestStep": "plain"}', True),
        (b'{\n "latestStep":\t"plain" }', True),
        (b'{"latestStep": "a\\u0020b"}', False),
        (b'{"latestStep": "50%"}', False),
        (b'{"latestStep": "Q&A"}', False),
        ('{"latestStep": "é"}'.encode(), False),
        (b'{"latestStep": "\x7f"}', False),
        (b"{" + b64(KEY).encode() + b"}", False),
        (b"{" + KEY.encode().hex().encode() + b"}", False),
        (b"{" + KEY.encode() + b"}", False),
    ],
)
def test_a_glance_at_the_body(body, clear):
    """Most bodies need no second look; those that might are looked at field by field."""
    assert REDACTOR.clears(body) is clear
    assert REDACTOR.clears(bytearray(body)) is clear


@pytest.mark.parametrize("value", [None, True, 5, 1.5, [], {}, {"a": [1, None, "x", {"b": False}]}, "text"])
def test_harmless_details_stay_as_they_are(value):
    """Any JSON is kept as JSON."""
    assert REDACTOR.details(value) == value


def test_details_are_bounded():
    """2,000 characters as JSON; of longer ones the beginning, as text; of text its beginning."""
    small = ["x" * 1996]
    assert REDACTOR.details(small) == small
    assert REDACTOR.details(["x" * 1997]) == '["' + "x" * 1997 + '"'
    assert REDACTOR.details(["x" * 20_000]) == '["' + "x" * 1998
    assert Redactor(["1234567890"]).details({"n": 1234567890}) == '{"n": [redacted]}'
    assert REDACTOR.details([float("nan")]) == [None]
    assert REDACTOR.details("y" * 3000) == "y" * 2000
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    assert REDACTOR.details(nested) is None


def test_a_redactor_does_not_show_what_it_takes_out():
    """Neither by its repr nor by its attributes."""
    assert repr(REDACTOR) == "<Redactor>"
    assert KEY not in repr(vars(REDACTOR))
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        pickle.dumps(REDACTOR)


@pytest.mark.parametrize(
    "key", [KEY, "sk_live_4eC39HqLyjWDarjtT1zdp7dcKx9", r"a\\b\c%d&e;f\u0041" * 2, "aaaaaaaaaaaaaaaaaaaaaaaa"]
)
@pytest.mark.parametrize("before", [0, 3])
def test_a_secret_that_is_nearly_there_costs_no_backtracking(key, before):
    """Every beginning of it, however spelled, with much text after it: once it would take minutes."""
    redactor = Redactor([key])
    for length in range(before, len(key)):
        for start in (
            key[:length],
            quote(key[:length], safe=""),
            "\\".join(key[:length]),
            "\n".join(key[:length]),
        ):
            text = f"{start}@ was revoked " + "z" * 3000
            assert "[redacted]" not in redactor.line(text, 500)
            presented([RawRow("a", "pending", None, text)], redactor)


def test_texts_grow_no_longer_than_they_may():
    """`[redacted]` may be longer than a secret: what is kept is cut afterwards."""
    redactor = Redactor(["12345678"])
    row = RawRow("a", "12345678" * 1250, "12345678" * 250, "12345678" * 10_000, "x" * 3000)
    (status,) = presented([row], redactor)
    assert len(status.workflow_status) == 10_000
    assert (
        len(status.workflow_instance_id)
        == len(status.latest_step)
        == len(status.workflow_stop_reason)
        == 2000
    )
    assert "12345678" not in repr(status)


@pytest.mark.parametrize("length", range(1950, 2001, 7))
def test_no_beginning_of_a_secret_is_left_where_a_text_of_a_row_is_cut(length):
    """It is searched a bit beyond what is kept."""
    for most in (2000, 10_000):
        text = "q" * (length + most - 2000) + KEY + "z" * 50
        kept, _ = REDACTOR.field(text, most, 100_000)
        assert not leaks(kept)


def test_what_would_take_too_long_to_search_is_not_shown():
    """Texts that might hide a secret are searched up to a bound, for an answer as a whole."""
    rows = [RawRow(f"l{number}", "pending", None, "%" * 2000, "plain") for number in range(600)]
    shown = presented(rows, REDACTOR)
    assert shown[0].latest_step == "%" * 2000
    assert shown[-1].latest_step == "[redacted]"
    assert shown[-1].workflow_stop_reason == "plain"


@pytest.mark.parametrize(
    "secret",
    [
        "abc%25defgh1234",
        "abc&amp;defgh1234",
        r"pa\\ssword99",
        r"\\server\pw12345",
        r"a\u005cpassword",
        "se\u00a0cret-pass",
    ],
    ids=ascii,
)
def test_a_secret_that_looks_like_an_escape(secret):
    """It is found as it stands, in JSON, in a URL, and on a page."""
    redactor = Redactor([secret])
    for text in (secret, json.dumps(secret)[1:-1], quote(secret, safe=""), html.escape(secret)):
        assert redactor.line(f"<{text}>", 500) == "<[redacted]>"
        assert redactor.field(f"<{text}>", 2000, 10_000)[0] == "<[redacted]>"


def test_secrets_of_all_kinds(request):
    """Random ones, of every punctuation, in every dress that programs give them; the seed is printed."""
    seed = 20261125
    request.node.add_report_section("call", "seed", str(seed))
    dice = random.Random(seed)
    for _ in range(300):
        secret = "".join(dice.choices(string.punctuation + "abcdefgh0123", k=dice.randint(8, 20)))
        dressed = (
            secret,
            json.dumps(secret)[1:-1],
            json.dumps(secret)[1:-1].replace("/", "\\/"),
            repr(secret)[1:-1],
            quote(secret, safe=""),
            quote(quote(secret, safe=""), safe=""),
            html.escape(secret),
            html.escape(html.escape(secret)),
            b64(secret).rstrip("="),
            secret.encode().hex(),
        )
        redactor = Redactor([secret])
        for text in dressed:
            assert "[redacted]" in redactor.line(f"your key {text} is wrong", 500), (seed, secret, text)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("levels", [20, 21, 100, 500])
def test_details_that_are_nested_deep_become_text(opening, levels):
    """Copying and pickling go down as deep as they are."""
    closing = {"[": "]", '{"a":': "}"}[opening]
    deep = json.loads(opening * levels + "1" + closing * levels)
    details = REDACTOR.details(deep)
    assert isinstance(details, str) is (levels > 20)
    error = APIStatusError(500, details=details)
    for twin in (copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert twin.details == details
    assert REDACTOR.details(["[" * 100]) == ["[" * 100]
