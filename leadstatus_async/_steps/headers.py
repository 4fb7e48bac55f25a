"""What an answer says about waiting and about the rate limit: `Retry-After` and its kin, in their dialects.

Values in, seconds out: no clock, `now` is an argument, and the response's own `Date` comes before it, since
clocks differ (d3). Numbers are ASCII digits only: `float()` and `isdigit()` also take `inf`, `nan`, `1e3`,
superscripts and other scripts' digits. What is unreadable or implausible is dropped, never guessed (d8).
Whether a pause or a hint is obeyed is decided elsewhere (d5, d7).
"""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

DECODED = ("gzip", "deflate")  # content encodings that are asked for, and known
_DAY = 86_400.0
_AGES = 1e15  # what a number of absurdly many digits becomes: still "very long", and finite
_EARLIEST = 1e9  # epoch seconds are larger since 2001; as a delay it would be thirty years
_EARLIEST_MS = 1e11  # epoch milliseconds are larger since 1973, epoch seconds smaller until 5138
_LONGEST_FIELD = 500  # pairing limits with policies is quadratic; real fields have tens of characters

_WAITS = frozenset({"retry-after", "retry-after-ms"})
_PREFIXES = ("ratelimit", "x-ratelimit", "x-rate-limit")
_LISTS = frozenset({"ratelimit", "ratelimit-policy"})
_RATES = _LISTS | {f"{prefix}-{part}" for prefix in _PREFIXES for part in ("limit", "remaining", "reset")}

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_THOUSANDS = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+")
_WITH_UNIT = re.compile(
    r"([0-9]+(?:\.[0-9]+)?) ?(ms|milliseconds?|s|secs?|seconds?)", re.ASCII | re.IGNORECASE
)
_QUOTED = r'"(?:[^"\\]|\\.)*"?'  # an unpaired quote takes the rest, which leaves nothing to believe
_MEMBER = re.compile(rf'(?:{_QUOTED}|[^,"])+')
_PART = re.compile(rf'(?:{_QUOTED}|[^;"])+')
_KEYS = {"limit": "q", "l": "q", "window": "w", "remaining": "r", "reset": "t"}  # older drafts' names

_WEEKDAY, _MONTH = r"[A-Z][a-z]+", r"(?P<month>[A-Z][a-z]{2})"
_CLOCK = r"(?P<minute>\d\d:\d\d):(?P<second>[0-5]\d(?:\.\d+)?|60)"
_OFFSET = r"(?P<zone>Z|[+-]\d\d:?\d\d)"
_DAY_FIRST = rf"(?:{_WEEKDAY}, )?(?P<day>\d\d?)[ -]{_MONTH}[ -](?P<year>\d{{4}}|\d\d)"
_DATES = [
    re.compile(form, re.ASCII | re.IGNORECASE)
    for form in (
        # RFC 9110, 5.6.7: IMF-fixdate and RFC 850, in which some have an offset, or no weekday
        rf"{_DAY_FIRST} {_CLOCK} (?:GMT|UTC|{_OFFSET})",
        # asctime, the third of them
        rf"{_WEEKDAY} {_MONTH} (?P<day>[ \d]\d) {_CLOCK} (?P<year>\d{{4}})",
        # JavaScript's Date.toString(), whose offset email.utils ignores (d8: lemlist)
        rf"{_WEEKDAY} {_MONTH} (?P<day>\d\d) (?P<year>\d{{4}}) {_CLOCK} GMT{_OFFSET}(?: \(.*\))?",
        # ISO 8601 with a zone; without one it could be anybody's local time
        rf"(?P<year>\d{{4}})-(?P<month>\d\d)-(?P<day>\d\d)[T ]{_CLOCK} ?{_OFFSET}",
    )
]
_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTHS = {name: f"{number:02}" for number, name in enumerate(_NAMES, start=1)}


class RateHint(msgspec.Struct, frozen=True):
    """What rate-limit headers say; None for what they do not, or not plausibly.

    Attributes:
        limit: requests per window, above 0.
        window: length of the window in seconds, above 0 and at most a day.
        remaining: requests left in it, at most `limit`.
        reset: seconds until it is renewed, at most a day.
    """

    limit: float | None = None
    window: float | None = None
    remaining: float | None = None
    reset: float | None = None


def retry_after(headers: Mapping[str, str], body: Any = None, *, now: float | None = None) -> float | None:
    """Return the seconds the server asks to wait; None if it does not say, or not readably.

    Never negative: a date that is past gives 0.0. No upper bound, but a number that can only be an epoch is
    read as one, and dropped if it is more than a day away. Both 0.0 and None state no pause, so the caller
    needs a floor (d4). The first that states one counts: `retry-after-ms`, `Retry-After`, the body.

    Args:
        headers: of the response, in any case.
        body: its decoded JSON, in which some put `retry_after`, at the top or inside `error`.
        now: epoch seconds, for a date in an answer that has no `Date` of its own.
    """
    found, top, clock = _pick(headers, _WAITS), _object(body), _clock(headers, now)
    milliseconds = _number(found.get("retry-after-ms"))
    stated = [
        None if milliseconds is None else _wait(milliseconds / 1000.0, clock),
        _wait(found.get("retry-after"), clock),
        _wait(top.get("retry_after"), clock),
        _wait(_object(top.get("error")).get("retry_after"), clock),
    ]
    said = [max(0.0, seconds) for seconds in stated if seconds is not None]
    return next(filter(None, said), 0.0 if said else None)


def content_encoding(headers: Mapping[str, str]) -> str:
    """Return in what a body is encoded: "gzip", "deflate", another word as it came, or "" for nothing."""
    encoding = headers.get("Content-Encoding")
    name = encoding.strip().lower() if encoding else ""
    return {"x-gzip": "gzip", "identity": ""}.get(name, name)


def rate_hints(headers: Mapping[str, str], status: int, *, now: float | None) -> list[RateHint]:
    """Read the rate-limit headers of a response: what is plausible of each limit that they tell of.

    Understood: `RateLimit` and `RateLimit-Policy` of the IETF draft, as structured fields or in the
    `limit=, remaining=, reset=` of draft 7; `RateLimit-*`, `X-RateLimit-*` and `X-Rate-Limit-*` with a
    reset in seconds, epoch seconds, epoch milliseconds or a date. Standard names come first: the next are
    read only if those before give no rate. A policy nothing is said about counts only if that holds for all.

    Args:
        headers: of the response, in any case.
        status: of the response. A 429 that names no limit as used up is about another one (GitHub's
            secondary limits are such), so what remains of those it names is dropped.
        now: epoch seconds, for an epoch or date in an answer that has no `Date` of its own.
    """
    found = _pick(headers, _RATES)
    if not found:
        return []
    clock = _clock(headers, now)
    first: list[RateHint] = []
    for stated in _dialects(found):
        hints = _said([_read(item, clock) for item in stated], status)
        if any(suggested_rate(hint) is not None for hint in hints):
            return hints
        first = first or hints
    return first


def tightest(hints: Sequence[RateHint]) -> RateHint | None:
    """Return the one with the lowest `suggested_rate`; None if there is none at all."""
    return min(hints, key=lambda hint: suggested_rate(hint) or math.inf, default=None)


def suggested_rate(hint: RateHint) -> float | None:
    """Return the requests per second that use up what remains just when it is renewed; None if unknown.

    Never 0: with nothing left it is one request per `reset`, since a hint may slow the client but not stop
    it (d7). Where `remaining` or `reset` is missing, or the reset is now, it is `limit / window`.
    """
    rate = 0.0
    if hint.remaining is not None and hint.reset:
        rate = max(1.0, hint.remaining) / hint.reset
    elif hint.limit and hint.window:
        rate = hint.limit / hint.window
    return rate if 0.0 < rate < math.inf else None


def _pick(headers: Mapping[str, str], names: frozenset[str]) -> dict[str, str]:
    """Return those headers by lower-case name; most responses have none, which must cost next to nothing."""
    found: dict[str, str] = {}
    if names.isdisjoint(map(str.lower, headers)):
        return found
    for key, value in headers.items():
        name = key.lower()
        if name in found and name in _LISTS:  # a list may come in several lines (RFC 9110, 5.3)
            found[name] += f",{value}"
        elif name in names:
            found.setdefault(name, value)
    return found


def _clock(headers: Mapping[str, str], now: float | None) -> float | None:
    """Return the epoch seconds at which the response was made, by the server's clock if it tells."""
    date = _epoch(_pick(headers, frozenset({"date"})).get("date", ""))
    return now if date is None else date


def _dialects(found: dict[str, str]) -> Iterator[list[dict[str, str]]]:
    """Yield what each family of headers states, the standard ones first."""
    policies = _items(found.get("ratelimit-policy", ""))
    yield _paired(_items(found.get("ratelimit", "")), policies)
    for prefix in _PREFIXES:
        yield _separate(found, prefix, policies)
    yield policies


def _items(text: str) -> list[dict[str, str]]:
    """Read a list of structured-field items, one dict each: the draft's parameters, and the name as ""."""
    if len(text) > _LONGEST_FIELD:
        return []
    items = [_item(member) for member in _MEMBER.findall(text)]
    if not items or any("" in item for item in items):
        return items
    return [{key: value for item in items for key, value in item.items()}]  # draft 7: one limit, as pairs


def _item(member: str) -> dict[str, str]:
    item: dict[str, str] = {}
    for part in _PART.findall(member):
        bare: str = part.strip()
        key, equals, value = bare.partition("=")
        if bare.startswith('"'):
            item[""] = bare.strip('"')  # the last one: Hugging Face has "fixed window";"api";q=500;w=300
        elif equals:
            key = key.strip().lower()
            item[_KEYS.get(key, key)] = value.strip(' "')
        elif bare:
            item.setdefault("", bare)
    if _number(item.get("")) is not None:
        item.setdefault("q", item[""])  # before draft 8 a policy was named by its quota: 100;w=60
    return item


def _paired(states: Sequence[dict[str, str]], policies: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Add to each state what its policy says: that of its name or quota, or the only one there is."""
    if len(states) == len(policies) == 1 and "q" not in states[0]:
        return [policies[0] | states[0]]  # Cloudflare's own example names them "burst" and "default"
    paired: list[dict[str, str]] = []
    none: dict[str, str] = {}
    for state in states:
        known = [key for key in ("", "q") if key in state]
        fitting = (policy for policy in policies if any(policy.get(key) == state[key] for key in known))
        paired.append(next(fitting, none) | state)
    return paired


def _separate(found: dict[str, str], prefix: str, policies: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Read one limit from three headers; its window may stand in the list of limits (`100, 100;w=60`)."""
    limits = _items(found.get(f"{prefix}-limit", ""))
    parts = {
        "q": limits[0].get("q") if limits else None,
        "r": found.get(f"{prefix}-remaining"),
        "t": found.get(f"{prefix}-reset"),
    }
    state = {key: value for key, value in parts.items() if value is not None}
    return _paired([state], [limit for limit in (*limits, *policies) if "w" in limit]) if state else []


def _said(hints: list[RateHint], status: int) -> list[RateHint]:
    if status == 429 and all(hint.remaining != 0 for hint in hints):
        hints = [msgspec.structs.replace(hint, remaining=None) for hint in hints]
    return [hint for hint in hints if hint != RateHint()]


def _read(stated: dict[str, str], clock: float | None) -> RateHint:
    """Turn what one limit states into numbers, dropping what is implausible."""
    limit, window, remaining = (_number(stated.get(key)) for key in ("q", "w", "r"))
    if limit == 0 or stated.get("qu", "requests") not in {"request", "requests"}:
        return RateHint()  # a limiter that is switched off; bytes or connections, not requests
    reset = _reset(stated.get("t"), clock)
    return RateHint(
        limit=limit,
        window=window if window and window <= _DAY else None,
        remaining=None if remaining is None or (limit is not None and remaining > limit) else remaining,
        reset=reset if reset is not None and 0.0 <= reset <= _DAY else None,
    )


def _reset(stated: str | None, clock: float | None) -> float | None:
    """Read a reset in any of its units as seconds from now; an epoch is told from a delta by its size."""
    number = _number(stated)
    if number is not None and number <= _DAY:
        return number
    if number is None:
        return None if stated is None else _until(stated, clock)
    then = number / 1000.0 if number > _EARLIEST_MS else number
    return None if clock is None else then - clock


def _wait(stated: Any, clock: float | None) -> float | None:
    """Read a delay as seconds from now: a number, perhaps with its unit, or said twice, or a date."""
    number = _number(stated)
    if number is None and isinstance(stated, str):
        number = _spelled_out(stated.strip(" \t"))
    if number is None:
        return _until(stated, clock) if isinstance(stated, str) else None
    if number < _EARLIEST:
        return number
    seconds = _reset(f"{number:.0f}", clock)
    return seconds if seconds is not None and seconds <= _DAY else None


def _spelled_out(text: str) -> float | None:
    """Read what is nearly a number of seconds: `2s`, `120 ms`, or `1, 2` from two lines, the longer one."""
    if len(text) > _LONGEST_FIELD:
        return None
    if found := _WITH_UNIT.fullmatch(text):
        return cast("float", _number(found[1])) / (1000.0 if found[2].lower().startswith("m") else 1.0)
    if _THOUSANDS.fullmatch(text):
        return None
    numbers = [_number(part) for part in text.split(",")]
    return None if None in numbers else max(cast("list[float]", numbers))


def _until(date: str, clock: float | None) -> float | None:
    """Return the seconds to a date, negative if it is past; None without a clock or a readable date."""
    then = _epoch(date)
    return None if then is None or clock is None else then - clock


def _epoch(text: str) -> float | None:
    """Read a date as epoch seconds; None if it is not cleanly one of the known forms."""
    found = next(filter(None, (form.fullmatch(text.strip(" \t")) for form in _DATES)), None)
    if found is None:
        return None
    date = found.groupdict()
    year, month = date["year"], date["month"]
    if len(year) == 2:  # RFC 850: obsolete, so POSIX's pivot is near enough to RFC 9110's fifty years
        year = ("20" if year < "69" else "19") + year
    day, zone = date["day"].strip().zfill(2), (date.get("zone") or "Z").upper()
    try:
        minute = datetime.fromisoformat(
            f"{year}-{_MONTHS.get(month.title(), month)}-{day}T{date['minute']}{zone}"
        )
    except ValueError:  # a thirteenth month, a thirtieth of February
        return None
    return minute.timestamp() + float(date["second"])  # apart: a leap second is no time to datetime


def _number(value: Any) -> float | None:
    """Read a plain number that is not negative."""
    if isinstance(value, str):
        text = value.strip(" \t")
        return min(float(text), _AGES) if _NUMBER.fullmatch(text) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(min(value, _AGES)) if 0 <= value < math.inf else None


def _object(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
