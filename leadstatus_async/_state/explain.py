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
_SELDOM = 10  # requests for each refusal, at least: more refusals are no chance
_REPEATED = 0.5  # of the first refusals: more further ones are no chance
_FLIGHT = 3  # a flight of refusals counts as so many at most
_NOTICED = 0.15  # of the rate: so much more shows when a bucket is empty
_PACE = 0.5  # of the refusals must be above a rate
_RIVALS = 2.0
_ABOUT = 0.93
_LONG = 1.9
_SURE = 0.3
_OUTDATED = 0.8  # of a threshold
_NO_FASTER = 0.98  # of a rate that was refused


class Doubts(msgspec.Struct):
    """What speaks against explanations.

    Attributes:
        too_fast: requests per second at which an explanation was kept to and refused.
        hope: nats by which the fastest explanation may be worse than the best.
        refusals: as many must there be before it may be chance.
        at_once: nats that "so many at once" must gain.
    """

    too_fast: float = math.inf
    hope: float = 4.0
    refusals: int = 3
    at_once: float = 7.0


class Explanation(msgspec.Struct, frozen=True):
    """Why requests were refused.

    Attributes:
        kind: "window": `number` requests in `per` seconds; "bucket": `number` per second, and what is more
            shows after `per` seconds; "at once": `number` in flight; "chance": a share `number` of all.
        number, per: as above.
        outdated: whether the latest refusal was far below the threshold, so that it must be another by now.
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
    def usual(self) -> bool:
        """Whether it is a limit as people state them."""
        return self.kind == "bucket" or self.per in _USUAL

    @property
    def slow(self) -> bool:
        """Whether what it makes one wait for may be a lock-out instead."""
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


def _dear(points: Sequence[Point]) -> bool:
    """Return whether a refusal has been followed by a long pause."""
    refused_at = math.inf
    for point in points:
        if point.refused == 1:
            refused_at = point.at
        elif not point.refused:
            if point.at - refused_at >= LOCK_OUT:
                return True
            refused_at = math.inf
    return False


def _gain(found: tuple[float, Explanation]) -> float:
    return found[0]


class _Divided(msgspec.Struct, frozen=True):
    """The best answer to a question: its gain, and the threshold."""

    gain: float = 0.0
    threshold: float = 0.0
    share: float = 0.0


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
    first = sum(point.refused == 1 for point in points)
    if first < 2:
        return None
    passed = sum(point.passed for point in points)
    dear = _dear(points)
    once = [point for point in points if point.refused <= 1]
    found = [*_windows(points, now), *_buckets(points, now)]
    if dear and any(why.slow for _, why in found):
        again = [*_windows(once, now), *_buckets(once, now)]
        slow = max([gain for gain, why in again if why.slow], default=0.0)
        if max([gain for gain, why in again if not why.slow], default=0.0) > slow - _RIVALS:
            found = [(gain, why) for gain, why in found if not why.slow]  # it may as well be a lock-out
    found = [(gain, why) for gain, why in found if why.share >= _SURE or not why.slow]
    if first < 3:
        found = [(gain, why) for gain, why in found if why.kind == "window"]
    if dear and first < 6:
        found = [(gain, why) for gain, why in found if not why.slow or (first > 3 and why.kind == "window")]
    found = [(gain, why) for gain, why in found if why.rate < _NO_FASTER * doubts.too_fast]
    best = max([gain for gain, _ in found], default=0.0)
    most = -_likelihood(float(sum(point.refused > 0 for point in points)), float(passed))
    clear = _CLEAR * most if first > 2 else math.inf
    at_once = _at_once(record)
    if at_once is not None and at_once[0] >= max(min(doubts.at_once, clear), (1 - _RIVAL) * best):
        return at_once[1]
    pace = _divide(once, [point.rate for point in once], _PACE).gain
    # If how fast it went tells as much, it is for the controller to find how fast it may go.
    rival = 0.0 if dear else pace
    if best >= max(rival, min(max(luck, _EACH * first), clear)):
        outdated = max(found, key=_gain)[1].outdated
        nearly = best - min(doubts.hope, _RIVAL * best)
        good = [why for gain, why in found if gain >= nearly and why.outdated == outdated]
        fastest = max(why.rate for why in good)
        return max(
            (why for why in good if why.rate >= _ABOUT * fastest), key=lambda why: (why.usual, why.rate)
        )
    early, later, each = _TOO_MUCH
    further = sum(point.refused > 1 for point in points)
    if (
        first >= (2 if dear else 1) * doubts.refusals
        and max(best, pace) < (early if first == doubts.refusals == 3 else max(later, each * first))
        and passed >= _SELDOM * first
        and further <= _REPEATED * first
    ):
        return Explanation("chance", first / (first + passed))
    return None


def _windows(points: Sequence[Point], now: float) -> Iterator[tuple[float, Explanation]]:
    """Ask how many had passed in so many seconds, up to then or since a window began."""
    lengths = {length: 0.0 for length in _USUAL if length <= _GRID * (now - points[0].at)}
    began, refused_at = points[0].at, -math.inf
    ends: list[
        tuple[float, float, float]
    ] = []  # for how long it was not asked, when it passed, since the last
    for point in points:
        if point.refused:
            refused_at = point.at
        elif refused_at > -math.inf:  # the first that passed again: the window ended in between
            ends.append((point.at - refused_at, point.at, point.at - began))
            began, refused_at = point.at, -math.inf
    for unasked, _, longest in ends:
        for length in (longest, longest - unasked / 2, longest - unasked):
            if length > _SHORTEST and all(abs(length - other) > 0.02 * length for other in lengths):
                lengths[length] = _ODD
    tightest = [end for _, end, _ in sorted(ends)[:_TIGHTEST]]
    for length, prior in lengths.items():
        yield _window(points, _sliding(points, length), length, prior)
        for end in tightest:
            yield _window(points, _fixed(points, length, end), length, prior + _ODD)


def _window(
    points: Sequence[Point], numbers: list[float], length: float, prior: float
) -> tuple[float, Explanation]:
    divided = _divide(points, numbers)
    most = float(max(1, round(divided.threshold)))
    return divided.gain - prior, Explanation(
        "window", most, length, _outdated(points, numbers, most), divided.share
    )


def _buckets(points: Sequence[Point], now: float) -> Iterator[tuple[float, Explanation]]:
    """Ask how full a bucket was; between two refusals passes just what it leaks."""
    span = now - points[0].at
    rates = {sum(point.passed for point in points) / span * _GRID**step for step in range(_STEPS)}
    firsts = [point.at for point in points if point.refused == 1]
    for first in firsts[:-1]:
        count = sum(point.passed for point in points if first < point.at <= firsts[-1])
        rates.add(count / (firsts[-1] - first))
    for rate in rates - {0.0}:
        levels = _leaking(points, rate)
        divided = _divide(points, levels)
        if divided.threshold <= rate * span:  # else all could have come out of what it held at first
            most = max(1.0, divided.threshold)
            seen = max(1.0, (most + 1) / (_NOTICED * rate))
            yield (
                divided.gain - _ODD,
                Explanation("bucket", rate, seen, _outdated(points, levels, most), divided.share),
            )


def _outdated(points: Sequence[Point], numbers: Sequence[float], most: float) -> bool:
    """Return whether the latest first refusal was far below the threshold."""
    both = zip(reversed(numbers), reversed(points), strict=True)
    return next(number for number, point in both if point.refused == 1) < _OUTDATED * most


def _at_once(record: Record) -> tuple[float, Explanation] | None:
    """Ask how many were in flight."""
    numbers = record.in_flight()
    refused = sum(number[1] for number in numbers)
    share = min(1.0, _FLIGHT * len(record.refusals) / refused) if refused else 1.0
    samples = [(number, share * refused, passed) for number, refused, passed in numbers]
    divided = _best(samples, recall=_ALL)
    if divided.threshold <= 1.0:
        return None
    return divided.gain, Explanation("at once", divided.threshold - 1)


def _sliding(points: Sequence[Point], length: float) -> list[float]:
    """Return for each point how many had passed in the seconds before it."""
    numbers: list[float] = []
    oldest, total = 0, 0
    for point in points:
        while points[oldest].at <= point.at - length:
            total -= points[oldest].passed
            oldest += 1
        total += point.passed
        numbers.append(total - (point.passed > 0))
    return numbers


def _fixed(points: Sequence[Point], length: float, end: float) -> list[float]:
    """Return for each point how many had passed since its window began; one ended then."""
    numbers: list[float] = []
    window, total = -math.inf, 0
    for point in points:
        place = (point.at - end) // length
        if place != window:
            window, total = place, 0
        total += point.passed
        numbers.append(total - (point.passed > 0))
    return numbers


def _leaking(points: Sequence[Point], rate: float) -> list[float]:
    """Return for each point the level of a bucket that leaks at that rate, in tenths."""
    levels: list[float] = []
    level, at = 0.0, points[0].at
    for point in points:
        level = max(0.0, level - (point.since - at) * rate)
        if point.passed:  # evenly, so that it leaks between them
            level = max(1.0, level + point.passed - (point.at - point.since) * rate)
        at = point.at
        levels.append(round(level - (point.passed > 0), 1))
    return levels


def _divide(points: Sequence[Point], numbers: Sequence[float], recall: float = _EXPLAINED) -> _Divided:
    pairs = zip(numbers, points, strict=True)
    return _best([(number, float(point.refused > 0), float(point.passed)) for number, point in pairs], recall)


def _best(samples: list[tuple[float, float, float]], recall: float) -> _Divided:
    """Find the threshold that divides samples best, each a number and how many were refused and passed."""
    refused = sum(sample[1] for sample in samples)
    passed = sum(sample[2] for sample in samples)
    samples.sort(reverse=True)
    chance = _likelihood(refused, passed)
    best = _Divided()
    above = below = 0.0  # refused and passed, at this number or above
    for at, (number, more, fewer) in enumerate(samples):
        above += more
        below += fewer
        if at + 1 < len(samples) and samples[at + 1][0] == number:
            continue
        if above >= recall * refused > 0 and above * passed > below * refused:
            rest = _likelihood(max(0.0, refused - above), passed - below)
            gain = _likelihood(above, below) + rest - chance
            if gain > best.gain:
                best = _Divided(gain, number, above / (above + below))
    return best


def _likelihood(refused: float, passed: float) -> float:
    """Return the log-likelihood of so many of each, at just that share."""
    both = refused + passed
    return sum(part * math.log(part / both) for part in (refused, passed) if part > 0)
