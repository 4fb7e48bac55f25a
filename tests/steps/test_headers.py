"""What an answer says about waiting and about the rate limit, in the dialects that are out there."""

from __future__ import annotations

import math
from email.utils import formatdate

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from leadstatus_async._steps.headers import RateHint, rate_hints, retry_after, suggested_rate, tightest

NOW = 1_613_462_400.0
DATE = "Tue, 16 Feb 2021 08:00:00 GMT"
DAY = 86_400

NUMBER_NAMES = ["Retry-After", "retry-after-ms"]
RATE_NAMES = [
    "RateLimit",
    "RateLimit-Policy",
    *(
        f"{prefix}-{part}"
        for prefix in ("RateLimit", "X-RateLimit", "X-Rate-Limit")
        for part in ("Limit", "Remaining", "Reset")
    ),
]

UNREADABLE = {
    "empty": "",
    "blank": " ",
    "infinite": "inf",
    "infinity": "Infinity",
    "nan": "nan",
    "negative": "-5",
    "signed": "+5",
    "exponent": "1e3",
    "underscore": "1_000",
    "hexadecimal": "0x10",
    "thousands": "1,000",
    "no-integer-part": ".5",
    "no-fraction": "5.",
    "two-points": "1.2.3",
    "arabic-digits": "\u0663\u0660",
    "fullwidth-digits": "\uff13\uff10",
    "superscript": "3\u00b2",
    "no-break-space": "\u00a05",
    "minutes": "5m",
    "unit alone": "s",
    "numbers and words": "1, soon",
    "word": "soon",
    "surrogate": "5\udcff",
    "newline": "5\n6",
}
BAD_DATES = {
    "no-zone": "Tue, 16 Feb 2021 09:00:00",
    "unknown-zone": "Tue, 16 Feb 2021 09:00:00 CET",
    "offset-after-gmt": "Tue, 16 Feb 2021 09:00:00 GMT+0100",
    "no-such-day": "Tue, 31 Feb 2021 09:00:00 GMT",
    "no-such-month": "Tue, 16 Fev 2021 09:00:00 GMT",
    "no-such-hour": "Tue, 16 Feb 2021 25:00:00 GMT",
    "no-such-second": "Tue, 16 Feb 2021 09:00:61 GMT",
    "no-such-offset": "Tue, 16 Feb 2021 09:00:00 +9900",
    "year-0": "Tue, 16 Feb 0000 09:00:00 GMT",
    "year-10000": "Tue, 16 Feb 10000 09:00:00 GMT",
    "arabic-digits": "Tue, \u0661\u0666 Feb 2021 09:00:00 GMT",
    "arabic-seconds": "Tue, 16 Feb 2021 09:00:3\u0660 GMT",
    "iso-without-zone": "2021-02-16 09:00:00",
    "date-only": "Tue, 16 Feb 2021",
    "junk-behind": "Tue, 16 Feb 2021 09:00:00 GMT; and more",
}
GOOD_DATES = {
    "imf-fixdate": "Tue, 16 Feb 2021 08:01:30 GMT",
    "rfc-850": "Tuesday, 16-Feb-21 08:01:30 GMT",
    "asctime": "Tue Feb 16 08:01:30 2021",
    "email-utc": "Tue, 16 Feb 2021 08:01:30 -0000",
    "email-offset": "Tue, 16 Feb 2021 09:01:30 +0100",
    "javascript-east": "Tue Feb 16 2021 09:01:30 GMT+0100 (Central European Standard Time)",
    "javascript-west": "Tue Feb 16 2021 03:01:30 GMT-0500 (Eastern Standard Time)",
    "javascript-utc": "Tue Feb 16 2021 08:01:30 GMT+0000 (Coordinated Universal Time)",
    "javascript-not-english": "Tue Feb 16 2021 09:01:30 GMT+0100 (Mitteleurop\u00e4ische Normalzeit)",
    "javascript-bare": "Tue Feb 16 2021 09:01:30 GMT+0100",
    "iso-utc": "2021-02-16T08:01:30Z",
    "iso-seven-digits": "2021-02-16T08:01:30.0000000Z",
    "iso-offset": "2021-02-16T09:01:30+01:00",
    "ruby-offset": "2021-02-16 01:01:30 -0700",
    "padded": " \tTue, 16 Feb 2021 08:01:30 GMT ",
}


def rate_hint(headers, status, *, now):
    """Read the tightest of what headers say."""
    return tightest(rate_hints(headers, status, now=now))


def named(cases):
    """Return the values of a table as parameters, its keys as their ids."""
    return [pytest.param(value, id=name) for name, value in cases.items()]


def hint(status=200, *, now=NOW, **headers):
    """Read the hint of headers whose names are given with underscores."""
    return rate_hint({name.replace("_", "-"): value for name, value in headers.items()}, status, now=now)


# -- Retry-After ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stated", "seconds"),
    [
        pytest.param("120", 120.0, id="integer"),
        pytest.param("0", 0.0, id="zero"),
        pytest.param("007", 7.0, id="leading-zeros"),
        pytest.param("0.75", 0.75, id="decimal"),
        pytest.param(" 5\t", 5.0, id="padded"),
        pytest.param("3600000", 3_600_000.0, id="weeks"),
        pytest.param("1, 1", 1.0, id="two-lines"),
        pytest.param("1, 30", 30.0, id="two-lines-that-differ"),
        pytest.param("5s", 5.0, id="with-unit"),
        pytest.param("2 seconds", 2.0, id="with-unit-spelled-out"),
        pytest.param("0.5 Sec", 0.5, id="with-unit-in-capitals"),
        pytest.param("1500ms", 1.5, id="in-milliseconds"),
        pytest.param("9" * 9, 999_999_999.0, id="thirty-years"),
        pytest.param("9" * 16, None, id="sixteen-digits"),
        pytest.param("9" * 5000, None, id="absurdly-long"),
        pytest.param("0." + "3" * 5000, 1 / 3, id="absurdly-precise"),
    ],
)
def test_retry_after_number(stated, seconds):
    """A plain number of seconds is read, however large; only what can be no delay is dropped."""
    assert retry_after({"Retry-After": stated}) == seconds
    if seconds is not None and stated.strip().replace(".", "").isdigit():
        assert retry_after({"retry-after-ms": stated}) == seconds / 1000


@pytest.mark.parametrize(
    ("stated", "seconds"),
    [(NOW + 90, 90.0), ((NOW + 90) * 1000, 90.0), (NOW - 5, 0.0), (NOW + 2 * DAY, None), (10**14, None)],
    ids=["seconds", "milliseconds", "past", "far", "microseconds"],
)
def test_retry_after_epoch(stated, seconds):
    """A number that can only be an epoch is one, if it is within a day."""
    assert retry_after({"Retry-After": f"{stated:.0f}", "Date": DATE}) == seconds
    assert retry_after({}, {"retry_after": stated}, now=NOW) == seconds


@pytest.mark.parametrize(
    "date",
    [
        "Sun, 6 Nov 1994 08:51:07 GMT",
        "Sun, 06 Nov 1994 08:51:07 UTC",
        "Sun, 6 Nov 1994 08:51:07 gmt",
        "sun, 06 nov 1994 08:51:07 gmt",
        "SUN, 06 NOV 1994 08:51:07 GMT",
        "06 Nov 1994 08:51:07 GMT",
        "6-nov-94 08:51:07 gmt",
        "1994-11-06t08:51:07z",
    ],
)
def test_retry_after_dates_that_are_nearly_right(date):
    """A day of one digit, UTC for GMT, small letters: what it means is plain."""
    assert retry_after({"Retry-After": date, "Date": "Sun, 06 Nov 1994 08:49:37 GMT"}) == 90.0


@pytest.mark.parametrize("stated", [*named(UNREADABLE), *named(BAD_DATES)])
def test_retry_after_unreadable(stated):
    """What is no plain number and no clean date states no pause, in a header or in the body."""
    headers = {"Date": DATE}
    assert retry_after(headers | {"Retry-After": stated}) is None
    assert retry_after(headers | {"retry-after-ms": stated}) is None
    assert retry_after({}, {"retry_after": stated}) is None


@pytest.mark.parametrize("stated", named(GOOD_DATES))
def test_retry_after_date(stated):
    """A date counts from the response's own `Date`, whatever our clock says; without one, from `now`."""
    assert retry_after({"Retry-After": stated, "Date": DATE}) == 90.0
    assert retry_after({"Retry-After": stated, "Date": DATE}, now=NOW + 3600) == 90.0
    assert retry_after({"Retry-After": stated}, now=NOW) == 90.0
    assert retry_after({"Retry-After": stated, "Date": "today"}, now=NOW) == 90.0
    assert retry_after({"Retry-After": stated}) is None


def test_retry_after_past_date():
    """A date that is past gives 0.0, never less."""
    assert retry_after({"Retry-After": "Sunday, 06-Nov-94 08:49:37 GMT", "Date": DATE}) == 0.0
    assert retry_after({"Retry-After": DATE, "Date": DATE}) == 0.0


def test_retry_after_asctime_of_one_digit():
    """The first nine days of a month are padded by a space in the asctime form."""
    headers = {"Retry-After": "Sun Nov  6 08:49:37 1994", "Date": "Sun, 06 Nov 1994 08:49:00 GMT"}
    assert retry_after(headers) == 37.0


def test_retry_after_leap_second():
    """A leap second is a valid HTTP date."""
    headers = {"Retry-After": "Sat, 31 Dec 2016 23:59:60 GMT", "Date": "Sat, 31 Dec 2016 23:59:30 GMT"}
    assert retry_after(headers) == 30.0


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        pytest.param({"retry_after": 2}, 2.0, id="top"),
        pytest.param({"error": {"retry_after": 30}}, 30.0, id="smartlead"),
        pytest.param({"message": "slow down", "retry_after": 1.337, "global": False}, 1.337, id="discord"),
        pytest.param({"retry_after": "2.5"}, 2.5, id="numeric-text"),
        pytest.param({"retry_after": "soon", "error": {"retry_after": 3}}, 3.0, id="inner-if-top-unreadable"),
        pytest.param({"retry_after": 2, "error": {"retry_after": 3}}, 2.0, id="top-before-inner"),
        pytest.param({"retry_after": 0}, 0.0, id="zero"),
        pytest.param({"retry_after": 10**400}, None, id="absurdly-large"),
        pytest.param({"retry_after": True}, None, id="bool"),
        pytest.param({"retry_after": -1}, None, id="negative"),
        pytest.param({"retry_after": math.nan}, None, id="nan"),
        pytest.param({"retry_after": math.inf}, None, id="infinite"),
        pytest.param({"retry_after": None}, None, id="null"),
        pytest.param({"retry_after": [1]}, None, id="list"),
        pytest.param({"error": "slow down"}, None, id="error-is-text"),
        pytest.param(["retry_after"], None, id="body-is-a-list"),
        pytest.param("retry_after", None, id="body-is-text"),
        pytest.param(None, None, id="no-body"),
    ],
)
def test_retry_after_in_the_body(body, seconds):
    """A decoded body may say it, at the top or inside `error`; JSON of any other shape says nothing."""
    assert retry_after({}, body) == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        pytest.param({"retry-after-ms": "750", "Retry-After": "9"}, 0.75, id="milliseconds-win"),
        pytest.param({"retry-after-ms": "0", "Retry-After": "9"}, 9.0, id="unless-zero"),
        pytest.param({"retry-after-ms": "0", "Retry-After": "soon"}, 4.0, id="body-if-none-else"),
        pytest.param({"retry-after-ms": "-1", "Retry-After": "9"}, 9.0, id="unless-unreadable"),
        pytest.param({"Retry-After": "9"}, 9.0, id="header-before-body"),
        pytest.param({"Retry-After": "0"}, 4.0, id="but-not-if-zero"),
        pytest.param({"Retry-After": "soon"}, 4.0, id="body-if-header-unreadable"),
        pytest.param({"RETRY-AFTER": "9"}, 9.0, id="any-case"),
    ],
)
def test_retry_after_precedence(headers, seconds):
    """`retry-after-ms` comes first, then `Retry-After`, then the body: the first that states a pause."""
    assert retry_after(headers, {"retry_after": 4}) == seconds


# -- the rate limit: who says it how -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param(
            {"RateLimit": '"default";r=50;t=30', "RateLimit-Policy": '"default";q=100;w=60'},
            RateHint(100, 60, 50, 30),
            id="draft-8-to-10",
        ),
        pytest.param(
            {"Ratelimit": '"default";r=50;t=30', "Ratelimit-Policy": '"burst";q=100;w=60'},
            RateHint(100, 60, 50, 30),
            id="cloudflare-docs",
        ),
        pytest.param(
            {"ratelimit": '"api";r=489;t=189', "ratelimit-policy": '"fixed window";"api";q=500;w=300'},
            RateHint(500, 300, 489, 189),
            id="hugging-face",
        ),
        pytest.param(
            {
                "ratelimit": '"api";r=489;t=189',
                "ratelimit-policy": '"fixed window";"pages";q=100;w=300, "fixed window";"api";q=500;w=300',
            },
            RateHint(500, 300, 489, 189),
            id="hugging-face-two-policies",
        ),
        pytest.param(
            {
                "RateLimit": '"10-in-1sec"; r=7; t=1',
                "RateLimit-Policy": '"10-in-1sec"; q=10; w=1; pk=:YzUyZTM2ZmQxY2Q4:',
            },
            RateHint(10, 1, 7, 1),
            id="express-rate-limit-draft-8",
        ),
        pytest.param(
            {"RateLimit": "default;r=50;t=30", "RateLimit-Policy": "default;l=100;w=60"},
            RateHint(100, 60, 50, 30),
            id="draft-8-interim-tokens",
        ),
        pytest.param(
            {"RateLimit": "limit=100, remaining=50, reset=5", "RateLimit-Policy": "100;w=60"},
            RateHint(100, 60, 50, 5),
            id="express-rate-limit-draft-7",
        ),
        pytest.param(
            {"RateLimit": "limit=100, remaining=2; reset=5"},
            RateHint(100, None, 2, 5),
            id="draft-7-semicolon",
        ),
        pytest.param(
            {
                "RateLimit-Limit": "50",
                "RateLimit-Remaining": "20",
                "RateLimit-Reset": "23",
                "RateLimit-Policy": '10;w=1;comment="a, b; c", 50;w=60',
            },
            RateHint(50, 60, 20, 23),
            id="draft-6-policies",
        ),
        pytest.param(
            {
                "RateLimit-Limit": "10, 10;w=5, 80;w=60",
                "RateLimit-Remaining": "6",
                "RateLimit-Reset": "3",
            },
            RateHint(10, 5, 6, 3),
            id="draft-3-list-of-limits",
        ),
        pytest.param(
            {"ratelimit-limit": "300", "ratelimit-remaining": "280", "ratelimit-reset": "53"},
            RateHint(300, None, 280, 53),
            id="persona-resend-truto",
        ),
        pytest.param(
            {
                "X-RateLimit-Limit": '10, 10;w=1;name="foo", 50;w=60',
                "X-RateLimit-Remaining": "9",
                "X-RateLimit-Reset": "1",
            },
            RateHint(10, 1, 9, 1),
            id="envoy",
        ),
        pytest.param(
            {
                "x-ratelimit-limit": "5000",
                "x-ratelimit-remaining": "4999",
                "x-ratelimit-used": "1",
                "x-ratelimit-reset": "1613465000",
                "date": DATE,
            },
            RateHint(5000, None, 4999, 2600),
            id="github",
        ),
        pytest.param(
            {
                "X-RateLimit-Limit": "60",
                "X-RateLimit-Remaining": "12",
                "X-RateLimit-Reset": "1613462430",
                "Date": DATE,
            },
            RateHint(60, None, 12, 30),
            id="smartlead",
        ),
        pytest.param(
            {
                "Retry-After": "2",
                "X-RateLimit-Limit": "20",
                "X-RateLimit-Remaining": "7",
                "X-RateLimit-Reset": "Tue Feb 16 2021 09:02:42 GMT+0100 (Central European Standard Time)",
                "Date": "Tue, 16 Feb 2021 08:02:40 GMT",
            },
            RateHint(20, None, 7, 2),
            id="lemlist",
        ),
        pytest.param(
            {
                "X-RateLimit-Limit": "50",
                "X-RateLimit-Remaining": "0",
                "X-RateLimit-Reset": "1613520000000",
                "Date": DATE,
            },
            RateHint(50, None, 0, 57_600),
            id="openrouter-milliseconds",
        ),
        pytest.param(
            {"X-Rate-Limit-Limit": "180", "X-Rate-Limit-Remaining": "179", "X-Rate-Limit-Reset": "60"},
            RateHint(180, None, 179, 60),
            id="ontraport",
        ),
        pytest.param(
            {
                "x-rate-limit-limit": "900",
                "x-rate-limit-remaining": "899",
                "x-rate-limit-reset": "1613463300",
                "date": DATE,
            },
            RateHint(900, None, 899, 900),
            id="twitter-okta",
        ),
        pytest.param(
            {
                "X-Rate-Limit-Limit": "1m",
                "X-Rate-Limit-Remaining": "8",
                "X-Rate-Limit-Reset": "2021-02-16T08:00:11.5000000Z",
                "Date": DATE,
            },
            RateHint(None, None, 8, 11.5),
            id="aspnetcore-rate-limit",
        ),
        pytest.param(
            {
                "X-RateLimit-Limit": "200",
                "X-RateLimit-Remaining": "198",
                "X-RateLimit-Reset": "2021-02-16 01:00:40 -0700",
                "Date": DATE,
            },
            RateHint(200, None, 198, 40),
            id="gusto",
        ),
        pytest.param(
            {"X-Ratelimit-Used": "6", "X-Ratelimit-Remaining": "594.0", "X-Ratelimit-Reset": "219"},
            RateHint(None, None, 594, 219),
            id="reddit",
        ),
        pytest.param(
            {
                "X-RateLimit-Limit": "5",
                "X-RateLimit-Remaining": "0",
                "X-RateLimit-Reset": "1613462401.25",
                "X-RateLimit-Reset-After": "1.25",
                "Date": DATE,
            },
            RateHint(5, None, 0, 1.25),
            id="discord",
        ),
        pytest.param({"X-Shopify-Shop-Api-Call-Limit": "32/40"}, None, id="shopify-not-understood"),
        pytest.param(
            {"X-HubSpot-RateLimit-Max": "100", "X-HubSpot-RateLimit-Remaining": "99"},
            None,
            id="hubspot-not-understood",
        ),
        pytest.param(
            {"x-ratelimit-limit-requests": "60", "x-ratelimit-reset-requests": "6m0s"},
            None,
            id="openai-not-understood",
        ),
        pytest.param({"Retry-After": "2", "Date": DATE}, None, id="none-at-all"),
        pytest.param({}, None, id="no-headers"),
    ],
)
def test_dialect(headers, expected):
    """Each dialect is read as its owner documents it, from any mapping, whatever the case of the names."""
    assert rate_hint(headers, 200, now=NOW) == expected
    shouted = {name.upper(): value for name, value in headers.items()}
    assert rate_hint(shouted, 200, now=NOW) == expected
    assert rate_hint(CIMultiDictProxy(CIMultiDict(headers)), 200, now=NOW) == expected


# -- the rate limit: resets ----------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["RateLimit", "X-RateLimit", "X-Rate-Limit"])
@pytest.mark.parametrize(
    ("stated", "seconds"),
    [
        pytest.param("0", 0, id="at-once"),
        pytest.param("42", 42, id="delta-is-not-1970"),
        pytest.param("0.5", 0.5, id="decimal-delta"),
        pytest.param(str(DAY), DAY, id="a-day"),
        pytest.param(str(DAY + 1), None, id="more-than-a-day"),
        pytest.param("600000", None, id="milliseconds-delta-prisjakt"),
        pytest.param("1613462400", 0, id="epoch-now"),
        pytest.param("1613462442", 42, id="epoch"),
        pytest.param("1613462399", None, id="past-epoch"),
        pytest.param("1613548800", DAY, id="epoch-in-a-day"),
        pytest.param("1613548801", None, id="epoch-in-more-than-a-day"),
        pytest.param("1613462442500", 42.5, id="epoch-milliseconds"),
        pytest.param("1613462399999", None, id="past-epoch-milliseconds"),
        pytest.param("1613462442000000", None, id="epoch-microseconds"),
        pytest.param("9" * 5000, None, id="absurdly-long"),
        pytest.param("Tue, 16 Feb 2021 07:59:59 GMT", None, id="past-date"),
        *(pytest.param(date, 90, id=name) for name, date in GOOD_DATES.items()),
        *(pytest.param(date, None, id=f"bad-{name}") for name, date in BAD_DATES.items()),
        *(pytest.param(text, None, id=f"unreadable-{name}") for name, text in UNREADABLE.items()),
    ],
)
def test_reset(prefix, stated, seconds):
    """A reset is told apart by its size, counts from the response's `Date`, and is dropped if implausible."""
    headers = {f"{prefix}-Remaining": "7", f"{prefix}-Reset": stated}
    expected = RateHint(remaining=7, reset=seconds)
    assert rate_hint(headers, 200, now=NOW) == expected
    assert rate_hint(headers | {"Date": DATE}, 200, now=NOW - 3600) == expected


def test_reset_without_a_clock():
    """Without any clock an epoch or a date is dropped; a delta needs none."""
    for stated in ("1613462442", "1613462442000", GOOD_DATES["javascript-east"]):
        assert hint(X_RateLimit_Remaining="7", X_RateLimit_Reset=stated, now=None) == RateHint(remaining=7)
    assert hint(X_RateLimit_Reset="42", now=None) == RateHint(reset=42)


# -- the rate limit: plausibility, several policies ----------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({"RateLimit-Policy": '"a";q=100;w=0'}, RateHint(limit=100), id="no-window"),
        pytest.param({"RateLimit-Policy": f'"a";q=100;w={DAY}'}, RateHint(100, DAY), id="a-day"),
        pytest.param({"RateLimit-Policy": '"a";q=9;w=2592000'}, RateHint(limit=9), id="month"),
        pytest.param({"RateLimit-Policy": '"a";q=-1;w=-1'}, None, id="negative"),
        pytest.param({"RateLimit-Policy": '"a";q=0;w=60'}, None, id="limit-0-is-no-limit"),
        pytest.param({"RateLimit-Policy": '"a";q=9;qu="request";w=60'}, RateHint(9, 60), id="in-requests"),
        pytest.param({"RateLimit-Policy": '"a";q=9999;qu="content-bytes";w=60'}, None, id="in-bytes"),
        pytest.param({"X-RateLimit-Limit": "0", "X-RateLimit-Remaining": "0"}, None, id="switched-off"),
        pytest.param({"X-RateLimit-Limit": "-1", "X-RateLimit-Remaining": "-1"}, None, id="unlimited"),
        pytest.param(
            {"X-RateLimit-Limit": "5", "X-RateLimit-Remaining": "6"}, RateHint(limit=5), id="more-than-all"
        ),
        pytest.param(
            {"X-RateLimit-Limit": "5", "X-RateLimit-Remaining": "5"}, RateHint(5, None, 5), id="all-of-it"
        ),
        pytest.param({"X-RateLimit-Limit": "name=a,1000"}, None, id="limit-in-another-tongue"),
        pytest.param({"RateLimit": '"a;r=5;t=5'}, None, id="unpaired-quote"),
        pytest.param({"RateLimit": ";r=5;t=5"}, RateHint(remaining=5, reset=5), id="no-name"),
        pytest.param({"RateLimit": '"a";r=5;t=5;flag'}, RateHint(remaining=5, reset=5), id="flag"),
        pytest.param(
            {"RateLimit": '"a=b, \\"c;";R=5 ; t = 5', "RateLimit-Policy": '"x";q=1, "a=b, \\"c;";q=9;w=60'},
            RateHint(9, 60, 5, 5),
            id="separators-in-a-name",
        ),
        pytest.param({"RateLimit": '"a";r="5";t="5"'}, RateHint(remaining=5, reset=5), id="quoted-numbers"),
        pytest.param({"RateLimit": ", ;, ,"}, None, id="empty-members"),
        pytest.param({"RateLimit": '"a";r=5;t=5' + " " * 500}, None, id="too-long"),
        pytest.param({"RateLimit": ""}, None, id="empty"),
    ],
)
def test_plausibility(headers, expected):
    """What is implausible, unreadable or not counted in requests is dropped; nothing left is no hint."""
    assert rate_hint(headers, 200, now=NOW) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param(
            {"RateLimit": '"min";r=20;t=10, "day";r=90;t=900'},
            RateHint(remaining=90, reset=900),
            id="lowest-rate",
        ),
        pytest.param(
            {"RateLimit": '"min";r=0;t=60, "day";r=90;t=900'}, RateHint(remaining=0, reset=60), id="used-up"
        ),
        pytest.param(
            {
                "RateLimit": '"min";r=20;t=10, "day";r=90;t=900',
                "RateLimit-Policy": '"day";q=1000;w=86400, "min";q=50;w=60',
            },
            RateHint(1000, 86400, 90, 900),
            id="each-with-its-policy",
        ),
        pytest.param(
            {"RateLimit": '"min";r=20;t=10', "RateLimit-Policy": '"day";q=5;w=86400, "min";q=50;w=60'},
            RateHint(50, 60, 20, 10),
            id="unmentioned-policy-does-not-count",
        ),
        pytest.param(
            {"RateLimit": '"other";r=20;t=10', "RateLimit-Policy": '"day";q=5;w=86400, "min";q=50;w=60'},
            RateHint(None, None, 20, 10),
            id="policies-of-others",
        ),
        pytest.param(
            {"RateLimit-Policy": '"sec";q=10;w=1, "hour";q=600;w=3600'},
            RateHint(600, 3600),
            id="policies-only",
        ),
        pytest.param(
            {"RateLimit": '"a";r=3, "b";r=20;t=10'}, RateHint(None, None, 20, 10), id="one-without-a-rate"
        ),
        pytest.param(
            {"RateLimit-Limit": "100", "RateLimit-Policy": "1000;w=3600"},
            RateHint(1000, 3600),
            id="policy-of-another-limit",
        ),
        pytest.param(
            {"RateLimit-Remaining": "5", "RateLimit-Reset": "9", "RateLimit-Policy": "100;w=60"},
            RateHint(100, 60, 5, 9),
            id="the-only-policy",
        ),
        pytest.param(
            {"RateLimit": '"a";r=20;t=10', "X-RateLimit-Remaining": "1", "X-RateLimit-Reset": "60"},
            RateHint(None, None, 20, 10),
            id="standard-before-x",
        ),
        pytest.param(
            {"RateLimit": "nonsense", "X-RateLimit-Remaining": "1", "X-RateLimit-Reset": "60"},
            RateHint(None, None, 1, 60),
            id="x-if-standard-unreadable",
        ),
        pytest.param(
            {"RateLimit-Limit": "9", "X-Rate-Limit-Remaining": "1", "X-Rate-Limit-Reset": "60"},
            RateHint(None, None, 1, 60),
            id="x-if-standard-gives-no-rate",
        ),
        pytest.param(
            {"RateLimit-Limit": "9", "X-RateLimit-Limit": "8"},
            RateHint(limit=9),
            id="first-if-none-gives-a-rate",
        ),
    ],
)
def test_most_restrictive(headers, expected):
    """Of several policies the one with the lowest rate counts; of several dialects the first with a rate."""
    assert rate_hint(headers, 200, now=NOW) == expected


def test_list_in_several_lines():
    """A list field that comes in several lines is one list; of any other field the first line counts."""
    headers = CIMultiDict(
        [
            ("RateLimit", '"a";r=20;t=10'),
            ("RateLimit", '"b";r=1;t=10'),
            ("RateLimit-Policy", '"a";q=30;w=60'),
            ("ratelimit-policy", '"b";q=40;w=60'),
        ]
    )
    assert rate_hint(headers, 200, now=None) == RateHint(40, 60, 1, 10)
    twice = CIMultiDict([("X-RateLimit-Reset", "5"), ("x-ratelimit-reset", "6")])
    assert rate_hint(twice, 200, now=None) == RateHint(reset=5)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param(
            {"X-RateLimit-Limit": "30", "X-RateLimit-Remaining": "14", "X-RateLimit-Reset": "71"},
            RateHint(30, None, None, 71),
            id="github-secondary-limit",
        ),
        pytest.param({"X-RateLimit-Remaining": "14"}, None, id="nothing-else-said"),
        pytest.param({"RateLimit": '"a";t=5, "b";r=9;t=9'}, RateHint(reset=5), id="remaining-not-said"),
        pytest.param(
            {"X-RateLimit-Limit": "30", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "71"},
            RateHint(30, None, 0, 71),
            id="used-up",
        ),
        pytest.param(
            {"RateLimit": '"sec";r=0;t=1, "day";r=90;t=900'},
            RateHint(None, None, 90, 900),
            id="one-of-two-used-up",
        ),
        pytest.param(
            {"RateLimit": '"sec";r=9;t=1, "day";r=90;t=900', "RateLimit-Policy": '"sec";q=10;w=1'},
            RateHint(10, 1, None, 1),
            id="none-of-two-used-up",
        ),
    ],
)
def test_remaining_on_a_429(headers, expected):
    """A refusal that names no limit as used up is about another limit: what remains says nothing then."""
    assert rate_hint(headers, 429, now=NOW) == expected


@pytest.mark.parametrize("status", [200, 404, 500, 503])
def test_remaining_on_other_answers(status):
    """Only a 429 contradicts what remains."""
    assert hint(status, X_RateLimit_Remaining="14", X_RateLimit_Reset="7") == RateHint(remaining=14, reset=7)


# -- the rate a hint suggests --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "rate"),
    [
        pytest.param(RateHint(100, 60, 50, 10), 5.0, id="remaining-until-reset"),
        pytest.param(RateHint(remaining=0, reset=10), 0.1, id="nothing-left"),
        pytest.param(RateHint(remaining=0.5, reset=10), 0.1, id="less-than-one-left"),
        pytest.param(RateHint(100, 50, None, 10), 2.0, id="no-remaining"),
        pytest.param(RateHint(100, 50, 7, None), 2.0, id="no-reset"),
        pytest.param(RateHint(100, 50, 7, 0), 2.0, id="reset-now"),
        pytest.param(RateHint(remaining=7, reset=0), None, id="reset-now-no-window"),
        pytest.param(RateHint(limit=100), None, id="limit-only"),
        pytest.param(RateHint(window=60), None, id="window-only"),
        pytest.param(RateHint(remaining=1e15, reset=5e-324), None, id="overflow"),
        pytest.param(RateHint(5e-324, DAY), None, id="underflow"),
        pytest.param(RateHint(), None, id="nothing"),
    ],
)
def test_suggested_rate(said, rate):
    """The rate uses up what remains at the reset, else it is the policy's; it is never 0 or infinite."""
    assert suggested_rate(said) == rate


def test_hint_is_frozen():
    """A hint can be shared: it does not change, and equal ones are equal."""
    said = RateHint(1, 2, 3, 4)
    with pytest.raises(AttributeError):
        said.limit = 5
    assert said == msgspec.structs.replace(RateHint(), limit=1, window=2, remaining=3, reset=4)


# -- laws ----------------------------------------------------------------------------------------------

# Text made of the pieces that dialects are made of reaches further into the parser than plain text.
pieces_ = st.lists(
    st.sampled_from(
        [
            *' \t,;="\\-+.:/()',
            *("limit", "remaining", "reset", "q", "r", "w", "t", "qu", "pk", "inf", "nan", "GMT", "Feb"),
            *("0", "1", "60", "1613462442", "1613462442000", "9" * 400, "\u0663", "\u00b2", "\udcff"),
            *('"a"', '"a";r=5;t=9', "limit=9", "100;w=60", *GOOD_DATES.values()),
        ]
    ),
    max_size=20,
).map("".join)
texts_ = st.one_of(
    st.text(max_size=50), pieces_, st.text(min_size=1, max_size=3).map(lambda text: text * 3000)
)
numbers_ = st.one_of(st.integers(), st.floats(), texts_, st.booleans(), st.none())
clocks_ = st.none() | st.floats(0, 1e11)
finite_ = st.floats(0, 1e15)


def headers_(names):
    """Draw some of these headers, and perhaps a `Date`, with any text in them."""
    return st.dictionaries(st.sampled_from([*names, "Date"]), texts_)


@given(
    headers_(NUMBER_NAMES),
    st.fixed_dictionaries(
        {"retry_after": numbers_, "error": st.fixed_dictionaries({"retry_after": numbers_})}
    ),
    clocks_,
)
def test_retry_after_never_raises(headers, body, now):
    """Whatever the headers and the body hold, there is a finite number of seconds from 0.0 up, or None."""
    seconds = retry_after(headers, body, now=now)
    assert seconds is None or 0.0 <= seconds < math.inf


@given(headers_(RATE_NAMES), st.sampled_from([200, 429]), clocks_)
@example({"RateLimit": '"' * 999}, 200, None)
@example({"RateLimit": '"\\' * 499}, 200, None)
def test_rate_hint_never_raises_and_is_plausible(headers, status, now):
    """Whatever the headers hold, every field of a hint is plausible, and its rate above 0 and finite."""
    said = rate_hint(headers, status, now=now)
    if said is None:
        return
    assert said != RateHint()
    assert said.limit is None or 0 < said.limit < math.inf
    assert said.window is None or 0 < said.window <= DAY
    assert said.remaining is None or 0 <= said.remaining <= (said.limit or math.inf)
    assert said.reset is None or 0 <= said.reset <= DAY
    rate = suggested_rate(said)
    assert rate is None or 0 < rate < math.inf


@given(st.integers(0, 253_402_300_799), st.integers(0, 253_402_300_799), st.booleans())
def test_dates_round_trip(then, now, usegmt):
    """Any date that the standard library writes, from 1970 to 9999, is read to the second."""
    headers = {"Retry-After": formatdate(then, usegmt=usegmt), "Date": formatdate(now, usegmt=True)}
    assert retry_after(headers) == max(0, then - now)


@given(st.integers(0, DAY), st.integers(DAY + 1, 4_000_000_000), st.sampled_from([1, 1000]))
@example(0, 100_000_000, 1000)
def test_an_epoch_equals_its_delta(delta, now, unit):
    """A reset says the same in seconds from now, in epoch seconds, and in epoch milliseconds since 1973."""
    if unit == 1000 and now <= 100_000_000:
        now += 100_000_000
    stated = str((now + delta) * unit)
    assert (
        hint(X_RateLimit_Reset=stated, now=now) == hint(X_RateLimit_Reset=str(delta)) == RateHint(reset=delta)
    )


@given(finite_, st.floats(1e-3, DAY), finite_, st.floats(1e-3, DAY))
def test_suggested_rate_is_spent_at_the_reset(limit, window, remaining, reset):
    """At the suggested rate at least one request, and no more than remains, goes out until the reset."""
    rate = suggested_rate(RateHint(limit, window, remaining, reset))
    assert rate * reset == pytest.approx(max(1.0, remaining))


@given(
    st.dictionaries(
        st.sampled_from("abcdef"), st.tuples(st.integers(0, 1000), st.integers(1, DAY)), min_size=1
    ),
    st.randoms(use_true_random=False),
)
def test_the_most_restrictive_does_not_depend_on_the_order(states, dice):
    """In whatever order the policies come, the rate is the lowest of theirs."""
    items = [f'"{name}";r={remaining};t={reset}' for name, (remaining, reset) in states.items()]
    dice.shuffle(items)
    lowest = min(max(1, remaining) / reset for remaining, reset in states.values())
    assert suggested_rate(hint(RateLimit=", ".join(items))) == lowest
