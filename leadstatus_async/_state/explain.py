"""Why requests were refused: the question that best tells those that were from those that passed.

Theory of operation. Every kind of limit is a number that a server looks at, and a threshold: how many passed
in the last `w` seconds, how many since its window began, how full a bucket is that leaks at `r`, how many
are in flight. So for each of these questions the record is gone through, and the threshold is sought that
divides it best: above it nearly all were refused, below it nearly none. How good that is is its gain: the
log-likelihood (in nats) over "some share is refused, whatever is sent", which is chance. It is an
explanation if the gain is more than luck brings to one of a hundred questions, and grows with the refusals;
it is chance if after several refusals no question gains much, not even "how fast did we go".

Of explanations that are about as good, the fastest is tried: if it is too fast, the next refusal says so and
costs little, while nothing ever says that one is too slow. What speaks against explanations that were
tried is kept as `Doubts`. What is not explained is None, and the controller goes on by trial and error.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import msgspec

from leadstatus_async._state.throttle import LOCK_OUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from leadstatus_async._state.record import Point, Record

Kind = Literal["window", "bucket", "at once", "chance"]

_USUAL = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0)
_SHORTEST = 0.5  # seconds of a window that nobody would call a bucket
_ODD = 1.0  # nats: by so much less likely are lengths that are not usual, buckets, and where a window begins
_TIGHTEST = 3  # episodes, whose ends tell best where windows begin
_GRID = 1.12  # rates of a bucket are tried in these steps, from what passed on average
_STEPS = 14
LUCK = 5.0  # nats: what the best of all questions seldom gains where all is chance,
_EACH = 1.5  # nor so much for each refusal: a limit makes one several times as likely
_CLEAR = 0.75  # of all that can be gained, where a limit is so low that half of all are refused
_EXPLAINED = 0.75  # of the refusals must be above a threshold, or it explains nothing
_ALL = 0.95  # the same, of what is in flight, since that is no estimate
_RIVAL = 0.3  # of the gain: what "at once" may lack; if it is wrong, that shows at once
_TOO_MUCH = 4.0, 5.5, 0.8  # nats: a gain that forbids chance, after three refusals, later, and for each
_SELDOM, _LATER, _ENOUGH = 10, 6, 6  # requests for each refusal, at least; fewer from so many refusals on
_REPEATED = 0.5  # of the first refusals: more further ones are no chance
_REMEMBERED = 8  # episodes
_FLIGHT = 3  # a flight of refusals counts as so many at most
_NOTICED = 0.15  # of the rate: so much more shows when a bucket is empty
_PACE = 0.5  # of the refusals must be above a rate
_LOCKED = 2.0  # nats: what a limit within a second may lack where a longer one may be a lock-out instead
_ABOUT = 0.93  # of the fastest rate: as fast, so that a limit as people state them is preferred
_LONG = 1.9  # seconds: what takes longer does not show within one
_SURE = 0.3  # of what is above the threshold of such a limit must have been refused
_BUCKETS, _CLEARLY = 3, 3  # refusals from which on a bucket, and a limit that refuses half of all, is told
_WINDOW_LOCKED, _BUCKET_LOCKED = 4, 6  # the same, where it may be a lock-out
_OUTDATED = 0.8  # of a threshold
_NO_FASTER = 0.98  # of a rate that was refused


class Doubts(msgspec.Struct):
    """What speaks against explanations.

    Attributes:
        too_fast: requests per second at which an explanation was kept to and refused.
        hope: nats by which the fastest explanation may be worse than the best.
        refusals: as many must there be before it may be chance, or those that are remembered,
        tried_at: since that was believed in vain.
        at_once: nats that "so many at once" must gain.
    """

    too_fast: float = math.inf
    hope: float = 4.0
    refusals: int = 3
    tried_at: float = -math.inf
    at_once: float = 7.0


class Explanation(msgspec.Struct, frozen=True):
    """Why requests were refused.

    Attributes:
        kind: "window": `number` requests in `per` seconds; "bucket": `number` per second, and what is more
            shows after `per` seconds; "at once": `number` in flight; "chance": at most a share of all.
        number, per: as above.
        outdated: whether the latest refusal was far below the threshold, so that it must be another by now.
        share: of what was above the threshold, as much was refused.
    """

    kind: Kind
    number: float
    per: float = 1.0
    outdated: bool = False
    share: float = 1.0

    @property
    def is_rate(self) -> bool:
        """Whether it is one that going slower answers."""
        return self.kind in {"window", "bucket"}

    @property
    def acts(self) -> bool:
        """Whether it is answered by itself: all is but a limit for which the rate that passes is found."""
        return self.slow or not self.is_rate

    @property
    def usual(self) -> bool:
        """Whether it is a limit as people state them."""
        return self.kind == "bucket" or self.per in _USUAL

    @property
    def slow(self) -> bool:
        """Whether it takes longer than a second to show, as a lock-out does."""
        return (self.per if self.kind == "window" else _NOTICED * self.per) >= _LONG

    @property
    def rate(self) -> float:
        """Requests per second that it allows; infinity for as many as one likes."""
        if self.kind == "bucket":
            return self.number
        return self.number / self.per if self.kind == "window" else math.inf

    def __str__(self) -> str:
        match self.kind:
            case "window":
                return f"{self.number:g} per {self.per:.3g} s"
            case "bucket":
                return f"{self.number:.3g} per second"
            case "at once":
                return f"{self.number:g} at once"
            case _:
                return "by chance"


class _Divided(msgspec.Struct, frozen=True):
    """The best answer to a question: its gain, the threshold, and which share above that was refused."""

    gain: float = 0.0
    threshold: float = 0.0
    share: float = 0.0


_Found = tuple[float, Explanation]


class _Seen:
    """Points of a record in columns, with what each question needs of them.

    Attributes:
        at, since, passed, refused, rates: of the points.
        first, further, total: refusals of either sort, and what passed.
        began: when the first point was; `span` is the seconds since.
        dear: whether nothing passed for as long as a lock-out lasts.
    """

    def __init__(self, points: Sequence[Point], now: float) -> None:
        self.at = [point.at for point in points]
        self.since = [point.since for point in points]
        self.passed = [point.passed for point in points]
        self.refused = [point.refused for point in points]
        self.rates = [point.rate for point in points]
        self.first = sum(refused == 1 for refused in self.refused)
        self.further = sum(refused > 1 for refused in self.refused)
        self.total = sum(self.passed)
        self.began = self.at[0]
        self.span = max(now, self.at[-1]) - self.began
        self._refusals = [place for place, refused in enumerate(self.refused) if refused]
        self._passes = [(place, passed) for place, passed in enumerate(self.passed) if passed]
        # Of each episode: when the first was refused, when the last, and when something passed again.
        self.episodes: list[tuple[float, float, float]] = []
        for place in self._refusals:
            if place + 1 < len(points) and not self.refused[place + 1]:
                self.episodes.append((self._refused_first(place), self.at[place], self.at[place + 1]))
        self.dear = any(end - first >= LOCK_OUT for first, _, end in self.episodes)

    def _refused_first(self, place: int) -> float:
        while place and self.refused[place] > 1:
            place -= 1
        return self.at[place]

    def divided(self, numbers: Sequence[float], recall: float = _EXPLAINED) -> _Divided:
        """Find the threshold that best divides the points by these numbers, one for each."""
        refused = [(numbers[place], 1.0) for place in self._refusals]
        least = min(refused)[0]
        passed = [(numbers[place], float(count)) for place, count in self._passes if numbers[place] >= least]
        return _best(refused, passed, float(self.total), recall)

    def refused_since(self, at: float) -> int:
        """Return how many refusals came after something had passed, since then."""
        return sum(refused == 1 and when > at for when, refused in zip(self.at, self.refused, strict=True))

    def outdated(self, numbers: Sequence[float], most: float) -> bool:
        """Return whether the latest first refusal was far below the threshold."""
        latest = next(place for place in reversed(self._refusals) if self.refused[place] == 1)
        return numbers[latest] < _OUTDATED * most


def explain(
    record: Record, now: float, doubts: Doubts, since: float = -math.inf, luck: float = LUCK
) -> Explanation | None:
    """Return why requests were refused; None while it cannot be told.

    Args:
        record: what was seen.
        now: seconds on its clock.
        doubts: what speaks against explanations.
        since: of the record, only what was sent after that.
        luck: nats that an explanation must gain at least.
    """
    points = [point for point in record.points() if point.at >= since]
    if sum(point.refused == 1 for point in points) < 2:
        return None
    seen = _Seen(points, now)
    once = _Seen([point for point in points if point.refused <= 1], now) if seen.further else seen
    found = [
        (gain, why)
        for gain, why in _limits(seen, once)
        if why.rate < _NO_FASTER * doubts.too_fast and _shown(why, seen)
    ]
    best = max([gain for gain, _ in found], default=0.0)
    clear = math.inf
    if seen.first >= _CLEARLY:
        clear = _CLEAR * -_likelihood(float(seen.first + seen.further), float(seen.total))
    at_once = _at_once(record)
    if at_once is not None and at_once[0] >= max(min(doubts.at_once, clear), (1 - _RIVAL) * best):
        return at_once[1]
    pace = once.divided(once.rates, _PACE).gain
    # If how fast it went tells as much, it is for the controller to find how fast it may go.
    rival = 0.0 if seen.dear else pace
    if best >= max(rival, min(max(luck, _EACH * seen.first), clear)):
        return _fastest(found, best, best - min(doubts.hope, _RIVAL * best))
    early, later, each = _TOO_MUCH
    new = seen.first == doubts.refusals == Doubts().refusals
    if (
        seen.refused_since(doubts.tried_at) >= min(_REMEMBERED, (2 if seen.dear else 1) * doubts.refusals)
        and max(best, pace) < (early if new else max(later, each * seen.first))
        and seen.total >= (_SELDOM if seen.first < _ENOUGH else _LATER) * seen.first
        and seen.further <= _REPEATED * seen.first
    ):
        most = seen.first + math.sqrt(seen.first)  # as few as these tell
        return Explanation("chance", most / (seen.first + seen.total))
    return None


def _limits(seen: _Seen, once: _Seen) -> list[_Found]:
    """Return windows and buckets with their gains; none that takes long where a lock-out is as likely."""
    found = [*_windows(seen), *_buckets(seen)]
    if seen.dear and any(why.slow for _, why in found):
        again = found if once is seen else [*_windows(once), *_buckets(once)]
        slow = max([gain for gain, why in again if why.slow], default=0.0)
        if max([gain for gain, why in again if not why.slow], default=0.0) > slow - _LOCKED:
            return [(gain, why) for gain, why in found if not why.slow]
    return found


def _shown(why: Explanation, seen: _Seen) -> bool:
    """Return whether there were enough refusals for a limit of its kind, and few enough others."""
    bucket = why.kind == "bucket"
    least = _BUCKETS if bucket else 0
    if why.slow and seen.dear:
        least = _BUCKET_LOCKED if bucket else _WINDOW_LOCKED
    return seen.first >= least and (why.share >= _SURE or not why.slow)


def _fastest(found: Sequence[_Found], best: float, nearly: float) -> Explanation:
    """Return the fastest of those that explain nearly as much as the best, and as well what came last."""
    outdated = next(why.outdated for gain, why in found if gain == best)
    good = [why for gain, why in found if gain >= nearly and why.outdated == outdated]
    least = _ABOUT * max(why.rate for why in good)
    return max((why for why in good if why.rate >= least), key=lambda why: (why.usual, why.rate))


def _windows(seen: _Seen) -> Iterator[_Found]:
    """Ask how many had passed in so many seconds, up to then or since a window began."""
    lengths = {length: 0.0 for length in _USUAL if length <= _GRID * seen.span}
    began = seen.began
    for _, last, end in seen.episodes:  # the window ended between the last refusal and what passed then
        unasked = end - last
        longest, began = end - began, end
        for length in (longest, longest - unasked / 2, longest - unasked):
            if length > _SHORTEST and all(abs(length - other) > 0.02 * length for other in lengths):
                lengths[length] = _ODD
    tightest = sorted((end - last, end) for _, last, end in seen.episodes)[:_TIGHTEST]
    for length, prior in lengths.items():
        yield _window(seen, _sliding(seen, length), length, prior)
        for _, end in tightest:
            yield _window(seen, _fixed(seen, length, end), length, prior + _ODD)


def _window(seen: _Seen, numbers: list[float], length: float, prior: float) -> _Found:
    divided = seen.divided(numbers)
    most = float(max(1, round(divided.threshold)))
    outdated = seen.outdated(numbers, most)
    return divided.gain - prior, Explanation("window", most, length, outdated, divided.share)


def _buckets(seen: _Seen) -> Iterator[_Found]:
    """Ask how full a bucket was; between two refusals passes just what it leaks."""
    average = seen.total / seen.span
    rates = {average * _GRID**step for step in range(_STEPS)}
    firsts = [at for at, refused in zip(seen.at, seen.refused, strict=True) if refused == 1]
    for first in firsts[:-1]:
        both = zip(seen.at, seen.passed, strict=True)
        count = sum(passed for at, passed in both if first < at <= firsts[-1])
        rates.add(count / (firsts[-1] - first))
    for rate in rates - {0.0}:
        levels = _leaking(seen, rate)
        divided = seen.divided(levels)
        if divided.threshold <= rate * seen.span:  # else all could have come out of what it held at first
            most = max(1.0, divided.threshold)
            per = max(1.0, (most + 1) / (_NOTICED * rate))
            outdated = seen.outdated(levels, most)
            yield divided.gain - _ODD, Explanation("bucket", rate, per, outdated, divided.share)


def _at_once(record: Record) -> _Found | None:
    """Ask how many were in flight."""
    numbers = record.in_flight()
    refused = sum(number[1] for number in numbers)
    if not refused:
        return None
    share = min(1.0, _FLIGHT * len(record.refusals) / refused)
    divided = _best(
        [(number, share * refused) for number, refused, _ in numbers if refused],
        [(number, passed) for number, _, passed in numbers],
        sum(passed for *_, passed in numbers),
        _ALL,
    )
    if divided.threshold <= 1.0:
        return None
    return divided.gain, Explanation("at once", divided.threshold - 1)


def _sliding(seen: _Seen, length: float) -> list[float]:
    """Return for each point how many had passed in the seconds before it."""
    numbers: list[float] = []
    oldest, total = 0, 0
    for at, passed in zip(seen.at, seen.passed, strict=True):
        while seen.at[oldest] <= at - length:
            total -= seen.passed[oldest]
            oldest += 1
        total += passed
        numbers.append(total - (passed > 0))
    return numbers


def _fixed(seen: _Seen, length: float, end: float) -> list[float]:
    """Return for each point how many had passed since its window began; one ended then."""
    numbers: list[float] = []
    window, total = -math.inf, 0
    for at, passed in zip(seen.at, seen.passed, strict=True):
        place = (at - end) // length
        if place != window:
            window, total = place, 0
        total += passed
        numbers.append(total - (passed > 0))
    return numbers


def _leaking(seen: _Seen, rate: float) -> list[float]:
    """Return for each point the level of a bucket that leaks at that rate, in tenths."""
    levels: list[float] = []
    level, before = 0.0, seen.began
    for at, since, passed in zip(seen.at, seen.since, seen.passed, strict=True):
        level = max(0.0, level - (since - before) * rate)
        if passed:  # evenly, so that it leaks between them
            level = max(1.0, level + passed - (at - since) * rate)
        before = at
        levels.append(round(level - (passed > 0), 1))
    return levels


def _best(
    refused: list[tuple[float, float]], passed: list[tuple[float, float]], total: float, recall: float
) -> _Divided:
    """Find the threshold that divides best.

    Only the numbers of refusals come into question: below one, further passes only make it worse.

    Args:
        refused: numbers, and how many were refused at each.
        passed: the same of what passed, at least of what is not below all refusals.
        total: how many passed in all.
        recall: share of the refusals that must be above the threshold.
    """
    both = sum(weight for _, weight in refused)
    chance = _likelihood(both, total)
    passing = sorted(passed)
    best = _Divided()
    above = below = 0.0  # refused and passed, at this number or above
    refused = sorted(refused, reverse=True)
    for place, (number, weight) in enumerate(refused):
        above += weight
        if place + 1 < len(refused) and refused[place + 1][0] == number:
            continue
        while passing and passing[-1][0] >= number:
            below += passing.pop()[1]
        if above >= recall * both and above * total > below * both:
            gain = _likelihood(above, below) + _likelihood(max(0.0, both - above), total - below) - chance
            if gain > best.gain:
                best = _Divided(gain, number, above / (above + below))
    return best


def _likelihood(refused: float, passed: float) -> float:
    """Return the log-likelihood of so many of each, at just that share."""
    both = refused + passed
    return sum(part * math.log(part / both) for part in (refused, passed) if part > 0)
