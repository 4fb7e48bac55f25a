"""The settings that bound pace and patience, and how bad values are told."""

from __future__ import annotations

import asyncio
import copy
import math
import pickle
from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest

from leadstatus_async._checks import require_number, require_whole, returned_by
from leadstatus_async.errors import ConfigurationError
from leadstatus_async.learned import Suggestion
from leadstatus_async.policy import RateLimit, RetryPolicy

HUGE = 10**400


def test_defaults_are_designs():
    """The defaults are those that the README states."""
    assert RetryPolicy() == RetryPolicy(
        max_attempts=5, base_delay=0.5, max_delay=20.0, max_retry_after=120.0, budget=100, max_outage=60.0
    )
    assert RateLimit(10) == RateLimit(max_rate=10, per=1.0, burst=None)


@pytest.mark.parametrize("value", [0, 0.0, 0.5, 7, 10.0])
def test_number_in_range(value):
    """A finite number in range comes back as it is."""
    assert require_number("x", value, most=10) is value


@pytest.mark.parametrize(
    "value",
    [None, "1", True, False, math.nan, math.inf, -math.inf, -0.1, 10.5, 1j, [1], HUGE, -HUGE],
    ids=repr,
)
def test_number_out_of_range(value):
    """Everything else is refused by name, with the value and what is allowed; bools are no numbers."""
    with pytest.raises(
        ConfigurationError, match=r"^x must be a number of at least 0 and at most 10, not "
    ) as caught:
        require_number("x", value, most=10)
    assert repr(value)[:50] in str(caught.value)
    assert len(str(caught.value)) < 200


class Int64:
    """A whole number that is no int, as numpy's."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


class Float32:
    """A number that is no float, as numpy's."""

    def __init__(self, value):
        self.value = value

    def __float__(self):
        return self.value


bool_ = type("bool_", (), {"__float__": lambda _: 1.0, "__index__": lambda _: 1})


@pytest.mark.parametrize("value", [Int64(3), Float32(3.0), Decimal(3), Fraction(3)])
def test_numbers_of_other_kinds_are_taken(value):
    """As plain numbers, so that nothing else has to know of them."""
    number = require_number("x", value)
    assert (type(number), number) == (float, 3.0)
    limit = RateLimit(value, per=value, burst=Int64(2))
    assert limit == RateLimit(3.0, per=3.0, burst=2)
    assert type(limit.burst) is int
    assert RetryPolicy(max_attempts=Int64(2), budget=value) == RetryPolicy(max_attempts=2, budget=3.0)


@pytest.mark.parametrize("value", [bool_(), Float32(math.nan), Float32(math.inf), Fraction(HUGE), "3", b"3"])
def test_what_is_nearly_a_number_is_refused(value):
    """Numpy's bool is no subclass of ours."""
    with pytest.raises(ConfigurationError):
        require_number("x", value)
    with pytest.raises(ConfigurationError):
        require_whole("x", value)


def test_number_above():
    """`above` refuses the bound itself."""
    assert require_number("x", 1e-9, above=True) == 1e-9
    with pytest.raises(ConfigurationError, match=r"^x must be a number above 0, not 0\.0$"):
        require_number("x", 0.0, above=True)


@pytest.mark.parametrize("value", [0, -1, 1.0, True, None, "1", math.nan, 4])
def test_whole_out_of_range(value):
    """A whole number is an int in range, and no bool."""
    with pytest.raises(
        ConfigurationError, match="x must be a whole number of at least 1 and at most 3, not "
    ):
        require_whole("x", value, most=3)


@pytest.mark.parametrize("value", [1, 3, HUGE], ids=["least", "some", "huge"])
def test_whole_in_range(value):
    """Without a top, any int from the least on will do."""
    assert require_whole("x", value) == value


def test_whole_without_a_top_says_none():
    """Where there is no upper bound, none is told."""
    with pytest.raises(ConfigurationError, match=r"^x must be a whole number of at least 1, not 0$"):
        require_whole("x", 0)


@pytest.mark.parametrize(
    "limit",
    [
        RateLimit(0.1),
        RateLimit(20, per=1.0),
        RateLimit(60, per=60, burst=60),
        RateLimit(60, per=60, burst=1),
        RateLimit(0.5, burst=1),
        RateLimit(2.5, burst=2),
    ],
    ids=repr,
)
def test_rate_limit(limit):
    """A rate is requests per second; it pickles, copies and hashes."""
    assert limit.rate == limit.max_rate / limit.per
    assert pickle.loads(pickle.dumps(limit)) == copy.deepcopy(limit) == limit
    assert hash(limit) == hash(copy.copy(limit))
    with pytest.raises(AttributeError):
        limit.max_rate = 99


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_rate": 0}, "RateLimit.max_rate must be a number above 0, not 0"),
        ({"max_rate": -1}, "RateLimit.max_rate"),
        ({"max_rate": "10"}, "RateLimit.max_rate"),
        ({"max_rate": math.inf}, "RateLimit.max_rate"),
        ({"max_rate": HUGE}, "RateLimit.max_rate"),
        ({"max_rate": True}, "RateLimit.max_rate"),
        ({"max_rate": 1, "per": 0}, "RateLimit.per must be a number above 0, not 0"),
        ({"max_rate": 1, "per": math.nan}, "RateLimit.per"),
        ({"max_rate": 1, "per": None}, "RateLimit.per"),
        ({"max_rate": 5e-324, "per": 1e300}, "RateLimit.max_rate / per"),
        ({"max_rate": 1e300, "per": 1e-300}, "RateLimit.max_rate / per"),
        (
            {"max_rate": 10, "burst": 0},
            "RateLimit.burst must be a whole number of at least 1 and at most 10, not 0",
        ),
        ({"max_rate": 10, "burst": 11}, "RateLimit.burst"),
        (
            {"max_rate": 0.5, "burst": 2},
            "RateLimit.burst must be a whole number of at least 1 and at most 1, not 2",
        ),
        ({"max_rate": 10, "burst": 2.0}, "RateLimit.burst"),
    ],
    ids=str,
)
def test_bad_rate_limit(options, named):
    """A rate out of range fails at construction and says which option it is."""
    with pytest.raises(ConfigurationError) as caught:
        RateLimit(**options)
    assert named in str(caught.value)


def test_policy_options_are_checked_when_replaced():
    """`msgspec.structs.replace` cannot get a bad value past the check."""
    with pytest.raises(ConfigurationError, match="burst"):
        msgspec.structs.replace(RateLimit(10), burst=20)


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": 1},
        {"base_delay": 0, "max_delay": 0},
        {"max_delay": 0.1},
        {"budget": 0},
        {"budget": 2.5},
        {"max_outage": 0},
        {"max_retry_after": 0},
    ],
    ids=str,
)
def test_retry_policy(options):
    """Zero is allowed where it turns something off; a policy pickles."""
    policy = RetryPolicy(**options)
    assert pickle.loads(pickle.dumps(policy)) == policy


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_attempts": 0}, "RetryPolicy.max_attempts must be a whole number of at least 1, not 0"),
        ({"max_attempts": 2.0}, "RetryPolicy.max_attempts"),
        ({"base_delay": -0.1}, "RetryPolicy.base_delay must be a number of at least 0, not -0.1"),
        ({"max_delay": math.inf}, "RetryPolicy.max_delay"),
        ({"max_retry_after": "60"}, "RetryPolicy.max_retry_after"),
        ({"budget": -1}, "RetryPolicy.budget"),
        ({"budget": None}, "RetryPolicy.budget"),
        ({"max_outage": math.nan}, "RetryPolicy.max_outage"),
    ],
    ids=str,
)
def test_bad_retry_policy(options, named):
    """A bound out of range fails at construction and says which option it is."""
    with pytest.raises(ConfigurationError) as caught:
        RetryPolicy(**options)
    assert named in str(caught.value)


def test_an_awaitable_that_is_returned_is_refused():
    """A coroutine is closed, so that nobody is warned; others have nothing to close."""

    class Awaitable:
        def __await__(self):
            yield

    for awaitable in (Awaitable(), asyncio.sleep(0)):
        with pytest.raises(ConfigurationError, match="x must be a plain function"):
            returned_by("x", awaitable)
    assert returned_by("x", 5) == 5


@pytest.mark.parametrize(
    ("suggestion", "text"),
    [
        (Suggestion(RateLimit(40)), "rate_limit=RateLimit(40)"),
        (Suggestion(RateLimit(60, per=60)), "rate_limit=RateLimit(60, per=60)"),
        (Suggestion(concurrency=4), "concurrency=4"),
        (Suggestion(RateLimit(40), 4), "rate_limit=RateLimit(40), concurrency=4"),
    ],
)
def test_a_suggestion_reads_as_one_writes_it(suggestion, text):
    """The options of a session, as they are stated."""
    assert str(suggestion) == text
