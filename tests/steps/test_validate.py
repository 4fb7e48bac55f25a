"""Which lead IDs and path IDs can be asked for."""

from __future__ import annotations

import enum
import math
import uuid
from decimal import Decimal
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leadstatus_async._steps.chunk import endpoint
from leadstatus_async._steps.validate import bad_lead_ids, checked_path_id
from leadstatus_async.errors import ConfigurationError

ROOM = 3900
GOOD = [
    "507f1f77bcf86cd799439011",
    "a",
    "..",
    "a/b?c#d%2C&e=f+g",
    "ünï",
    "🙂",
    "\u200b",
    "0",
    "'\"<>\\",
    "%2e%2e",
]
LOST = "and may have lost digits; read that column as text, or convert it with str()"
BAD = [
    (None, "is NoneType, not str"),
    (507, "is int, not str; convert it with str()"),
    (True, "is bool, not str; convert it with str()"),
    (b"a", "is bytes, not str"),
    (["a"], "is list, not str"),
    (uuid.UUID(int=5), "is UUID, not str; convert it with str()"),
    (
        507.0,
        "is float, not str, and may have lost digits; read that column as text, or convert it with str()",
    ),
    (math.nan, "is float, not str: a missing value; leave it out, and convert the others with str()"),
    (Decimal(5), "is Decimal, not str; convert it with str()"),
    ("", "is empty"),
    ("a,b", "contains a comma, which separates IDs; pass a list of IDs"),
    (" a", "contains whitespace"),
    ("a\n", "contains whitespace"),
    ("a\u00a0b", "contains whitespace"),
    ("a\u2028b", "contains whitespace"),
    ("a\u3000", "contains whitespace"),
    ("a\x00", "contains a control character"),
    ("a\x7f", "contains a control character"),
    ("a\x9f", "contains a control character"),
    ("a\ud83d", "contains a lone surrogate"),
    ("\udc80a", "contains a lone surrogate"),
    ("x" * (ROOM + 1), f"takes more than the {ROOM} bytes there are for it in a URL (max_url_bytes)"),
    ("🙂" * (ROOM // 12 + 1), f"takes more than the {ROOM} bytes there are for it in a URL (max_url_bytes)"),
]


class Kind(str, enum.Enum):  # noqa: UP042 - what StrEnum is not: its str() is no value
    """An ID of a str subclass."""

    ID = "507f"


@pytest.mark.parametrize("lead_id", [*GOOD, "x" * ROOM, "🙂" * (ROOM // 12), Kind.ID], ids=ascii)
def test_good_lead_id(lead_id):
    """What can be percent-encoded and told apart is asked for, whatever it looks like."""
    assert bad_lead_ids([lead_id], room=ROOM) == []
    assert bad_lead_ids([lead_id, "a,b"], room=ROOM) == [(1, "a,b", BAD[10][1])]


@pytest.mark.parametrize(("value", "wrong"), BAD, ids=lambda value: ascii(value)[:30])
def test_bad_lead_id(value, wrong):
    """Each bad ID is told by index, value and what is wrong with it, alone and among good ones."""
    assert bad_lead_ids([value], room=ROOM) == [(0, value, wrong)]
    assert bad_lead_ids(["a", value, "b"], first=10, room=ROOM) == [(11, value, wrong)]


def test_all_bad_ids_are_told_together():
    """No bad ID hides another one."""
    values = [value for value, _ in BAD]
    assert [(value, wrong) for _, value, wrong in bad_lead_ids(values, room=ROOM)] == BAD


def test_nothing_is_wrong_with_nothing():
    """An empty list has no bad IDs."""
    assert bad_lead_ids([], room=ROOM) == []


@pytest.mark.parametrize("room", [0, -50])
def test_no_room_at_all(room):
    """Where the path leaves no room, every ID is refused, and the text has no negative number."""
    assert bad_lead_ids(["a"], room=room) == [
        (0, "a", "takes more than the 0 bytes there are for it in a URL (max_url_bytes)")
    ]


@given(
    st.lists(st.one_of(st.text(), st.integers(), st.characters(codec=None), st.none()), max_size=6),
    st.integers(0, 60),
)
@example(["a" * 5, "é"], 6)
def test_block_and_single_agree(values, room):
    """A list is judged as its members are, one by one: the fast way finds what the slow way finds."""
    alone = [
        bad for index, value in enumerate(values) for bad in bad_lead_ids([value], first=index, room=room)
    ]
    assert bad_lead_ids(values, room=room) == alone


@given(st.lists(st.text(min_size=1), max_size=8))
def test_what_is_let_through_arrives(texts):
    """A server that splits the decoded parameter at commas gets exactly the IDs that were let through."""
    bad = {index for index, _, _ in bad_lead_ids(texts, room=ROOM)}
    good = [text for index, text in enumerate(texts) if index not in bad]
    target = endpoint("", "acc", "cam", "comma").target(good)
    arrived = parse_qs(urlsplit(target).query, keep_blank_values=True, strict_parsing=True)["leadIds"]
    assert arrived[0].split(",") == (good or [""])


@pytest.mark.parametrize(
    "value", ["507f1f77bcf86cd799439011", "...", "a.b", "ü", "x" * 1000, "a&b=c+d", "~"], ids=ascii
)
def test_good_path_id(value):
    """A plain path ID comes back as it is."""
    assert checked_path_id("campaign_id", value) == value


def test_path_id_of_a_str_subclass():
    """What counts is the text that a str holds, not what `str()` makes of it."""
    assert quote(checked_path_id("campaign_id", Kind.ID)) == "507f"


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        (".", "would rewrite the path"),
        ("..", "would rewrite the path"),
        ("a/b", "contains '/'"),
        ("../../admin", "contains '/'"),
        ("a?b", "contains '?'"),
        ("a#b", "contains '#'"),
        ("%2e%2e", "contains '%'"),
        ("", "is empty"),
        (None, "is NoneType, not str"),
        (5, "is int, not str; convert it with str()"),
        ("a,b", "contains a comma"),
        ("a b", "contains whitespace"),
        ("a\r\n", "contains whitespace"),
        ("a\x00", "contains a control character"),
        ("\ud800", "contains a lone surrogate"),
        ("x" * 1001, "takes more than the 1000 bytes"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_bad_path_id(value, wrong):
    """A path ID that would bend the URL is told by option, value and what is wrong with it (a6)."""
    with pytest.raises(ConfigurationError) as caught:
        checked_path_id("campaign_id", value)
    assert str(caught.value).startswith(f"campaign_id {value!r:.100} {wrong}")
    assert str(caught.value).encode()
    assert len(str(caught.value)) < 300
