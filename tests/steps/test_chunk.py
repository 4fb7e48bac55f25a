"""How lead IDs become request targets, bounded by count and by the bytes really sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from leadstatus_async._steps.chunk import Endpoint, Limits, endpoint, fit, plan_chunks

COMMA = endpoint("", "acc", "cam", "comma")
REPEAT = endpoint("", "acc", "cam", "repeat")
PREFIX = "/v1/accounts/acc/campaigns/cam/lead-status?leadIds="
FORMATS = pytest.mark.parametrize("where", [COMMA, REPEAT], ids=["comma", "repeat"])

ids_ = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters=","), min_size=1, max_size=12
)
lists_ = st.lists(ids_, unique=True, max_size=60)


@pytest.mark.parametrize(
    ("base_path", "account", "campaign", "prefix"),
    [
        ("", "acc", "cam", PREFIX),
        ("/proxy/sonarly", "acc", "cam", f"/proxy/sonarly{PREFIX}"),
        ("/a%2Fb", "acc", "cam", f"/a%2Fb{PREFIX}"),
        ("", "ä b", "c&d=e+f", "/v1/accounts/%C3%A4%20b/campaigns/c%26d%3De%2Bf/lead-status?leadIds="),
        ("", "...", "~-_.", "/v1/accounts/.../campaigns/~-_./lead-status?leadIds="),
    ],
)
def test_endpoint(base_path, account, campaign, prefix):
    """The target begins with the base path, the API's path and the IDs, encoded; the plain IDs are kept."""
    where = endpoint(base_path, account, campaign, "comma")
    assert where == Endpoint(prefix, ",", account, campaign)


@pytest.mark.parametrize(
    ("lead_ids", "comma", "repeat"),
    [
        (["a"], "a", "a"),
        (["a", "b", "c"], "a,b,c", "a&leadIds=b&leadIds=c"),
        (["é", "🙂"], "%C3%A9,%F0%9F%99%82", "%C3%A9&leadIds=%F0%9F%99%82"),
        (
            ["a/b?c#d", "e&f=g+h%2C"],
            "a%2Fb%3Fc%23d,e%26f%3Dg%2Bh%252C",
            "a%2Fb%3Fc%23d&leadIds=e%26f%3Dg%2Bh%252C",
        ),
        (["&leadIds="], "%26leadIds%3D", "%26leadIds%3D"),
    ],
)
def test_target(lead_ids, comma, repeat):
    """Lead IDs are percent-encoded as UTF-8 and joined by raw commas (a23), or repeated."""
    assert COMMA.target(lead_ids) == PREFIX + comma
    assert REPEAT.target(lead_ids) == PREFIX + repeat


@FORMATS
@given(lead_ids=lists_.filter(bool))
def test_target_is_sent_as_counted(where, lead_ids):
    """A target is ASCII, so its length is the bytes sent; and as an encoded URL it goes out unchanged."""
    target = where.target(lead_ids)
    assert target.isascii()
    assert URL(f"https://api.example{target}", encoded=True).raw_path_qs == target
    values = URL(f"https://api.example{target}", encoded=True).query.getall("leadIds")
    assert (values[0].split(",") if where is COMMA else values) == lead_ids


@FORMATS
@given(lead_ids=lists_, chunk_size=st.integers(1, 20), room=st.integers(-20, 120))
def test_planning_loses_nothing(where, lead_ids, chunk_size, room):
    """Planning loses, adds and reorders nothing, keeps both bounds, and fills each chunk."""
    limits = Limits(chunk_size, len(PREFIX) + room)
    chunks = list(plan_chunks(lead_ids, where, limits))
    assert [lead_id for start, stop, _ in chunks for lead_id in lead_ids[start:stop]] == lead_ids
    for start, stop, target in chunks:
        assert target == where.target(lead_ids[start:stop])
        assert 1 <= stop - start <= chunk_size
        assert stop - start == 1 or len(target) <= limits.max_url_bytes
        if stop < len(lead_ids) and stop - start < chunk_size:
            assert len(where.target(lead_ids[start : stop + 1])) > limits.max_url_bytes


@FORMATS
@given(lead_ids=lists_.filter(bool), data=st.data())
def test_fit_stays_in_its_range(where, lead_ids, data):
    """A chunk of a range begins where the range does and never ends beyond it."""
    start = data.draw(st.integers(0, len(lead_ids) - 1))
    stop = data.draw(st.integers(start + 1, len(lead_ids)))
    end, target = fit(lead_ids, start, stop, where, Limits(data.draw(st.integers(1, 99)), 10_000))
    assert start < end <= stop
    assert target == where.target(lead_ids[start:end])


@FORMATS
def test_bound_is_met_exactly(where):
    """A target of exactly `max_url_bytes` is allowed, one byte more is not."""
    lead_ids = ["x" * 24] * 50
    exact = len(where.target(lead_ids[:7]))
    assert fit(lead_ids, 0, 50, where, Limits(100, exact))[0] == 7
    assert fit(lead_ids, 0, 50, where, Limits(100, exact - 1))[0] == 6
    assert fit(lead_ids, 0, 50, where, Limits(100, exact + len(where.separator) + 23))[0] == 7


def test_nothing_needs_no_request():
    """No lead IDs, no chunks."""
    assert list(plan_chunks([], COMMA, Limits(100, 4000))) == []


def test_what_is_learned_applies_at_once():
    """A limit lowered between two chunks bounds the next one."""
    limits = Limits(4, 4000)
    plan = plan_chunks([str(number) for number in range(10)], COMMA, limits)
    sizes = []
    for start, stop, _ in plan:
        sizes.append(stop - start)
        limits.chunk_size = 2
    assert sizes == [4, 2, 2, 2]


@pytest.mark.parametrize(
    ("count", "size", "allowed"),
    [(1, 10_000, True), (2, 300, True), (2, 301, False), (5, 300, True), (6, 300, False), (6, 301, False)],
)
def test_limits(count, size, allowed):
    """Both bounds hold, but for a single ID, which cannot be made smaller."""
    assert Limits(5, 300).allow(count, size) is allowed
