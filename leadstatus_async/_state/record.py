"""What was sent and what became of it: the observations that a limit is inferred from.

A long record in little space: requests that passed are kept as runs, sent evenly from one moment to
another, since a limiter sends evenly; old runs grow coarse, as their age allows. Refusals are few, and kept.
How many were in flight is known only when all of those have been answered, so it is counted as they come.
Everything is a plain value on one clock, in seconds, and may have been observed by several processes.
"""

from __future__ import annotations

import msgspec

_RUNS, _REFUSALS, _FLIGHTS = 256, 64, 32  # what is kept of each
_EVENLY = 2.5  # times the usual distance: a longer one begins another run
_AT_ONCE = 0.001  # seconds: what is sent closer together is no matter of distances
_SAME_RATE = 1.25  # a run is of one rate, or nearly
_COARSE = 32  # times as old as they are long, together: runs that may become one
_MANY = 500.0  # flights counted: halved then, so that what is long past fades
_POINTS = 256  # in which runs are told, about
_EPISODES = 8  # that are told


class Run(msgspec.Struct):
    """Requests that passed.

    Attributes:
        start, end: when the first and the last were sent.
        count: how many.
        rate: requests per second that the client went at.
    """

    start: float
    end: float
    count: int
    rate: float


class Refusal(msgspec.Struct):
    """A request that was refused.

    Attributes:
        sent_at: when it was sent.
        came_at: when that was known.
        rate: requests per second that the client went at.
    """

    sent_at: float
    came_at: float
    rate: float


class Flight(msgspec.Struct):
    """A request that was answered.

    Attributes:
        sent_at, came_at: between which times it was in flight.
        number: how many were when it was sent, itself included.
        refused: whether it was.
    """

    sent_at: float
    came_at: float
    number: int
    refused: bool


class Point(msgspec.Struct, gc=False):
    """A moment of the record.

    Attributes:
        at: when.
        since: when the first of those was sent that passed until then.
        passed: how many did; 0 for a refusal.
        refused: 1 for the first after something had passed, 2 for further ones, else 0.
        rate: requests per second that the client went at.
    """

    at: float
    since: float
    passed: int
    refused: int
    rate: float


class Record(msgspec.Struct):
    """The observations; see above."""

    runs: list[Run] = []
    refusals: list[Refusal] = []
    flights: list[Flight] = []
    numbers: dict[int, list[float]] = {}  # passed and refused, by how many were in flight; flights gone by

    def passed(self, now: float, sent_at: float, rate: float) -> None:
        """Note a request that passed, whose answer came now."""
        if self.refusals:
            self._flown(sent_at, now, refused=False)
        runs = self.runs
        if runs:
            last = runs[-1]
            distance = sent_at - last.end
            divided = self.refusals and last.end < self.refusals[-1].sent_at < sent_at
            even = last.rate < _SAME_RATE * rate < _SAME_RATE**2 * last.rate
            if not divided and (distance <= _AT_ONCE or (even and distance <= self._usual(last))):
                last.end = max(last.end, sent_at)
                last.count += 1
                return
        runs.append(Run(sent_at, sent_at, 1, rate))
        if len(runs) > _RUNS:
            self._coarsen(sent_at)

    def refused(self, now: float, sent_at: float, rate: float) -> bool:
        """Note a request that was refused, as is known now.

        Returns:
            Whether that is news: one that was sent before the last refusal was known says the same again.
        """
        self._flown(sent_at, now, refused=True)
        if self.refusals and sent_at < self.refusals[-1].came_at:
            return False
        self.refusals.append(Refusal(sent_at, now, rate))
        del self.refusals[:-_REFUSALS]
        return True

    def forget(self, before: float) -> None:
        """Forget what was sent before that."""
        for run in self.runs:
            if run.start < before <= run.end:
                run.count = 1 + round((run.count - 1) * (run.end - before) / (run.end - run.start))
                run.start = before
        self.runs = [run for run in self.runs if run.end >= before]
        self.refusals = [refusal for refusal in self.refusals if refusal.sent_at >= before]
        self.flights = [flight for flight in self.flights if flight.sent_at >= before]
        self.numbers = {}

    def between(self, since: float, until: float) -> float:
        """Return about how many that passed were sent after `since` and until then."""
        total = 0.0
        for run in reversed(self.runs):
            if run.end <= since:
                break
            if run.start <= until:
                length = run.end - run.start
                part = (min(until, run.end) - max(since, run.start)) / length if length else 1.0
                total += 1.0 + part * (run.count - 1)
        return total

    def points(self) -> list[Point]:
        """Return the record since the ninth but last episode, in order of time."""
        parts = max(1, _POINTS // max(1, len(self.runs)))
        points = [Point(refusal.sent_at, refusal.sent_at, 0, 1, refusal.rate) for refusal in self.refusals]
        for run in self.runs:
            points += _told(run, min(run.count, parts))
        points.sort(key=_when)
        before = 0
        begins = [0]
        for at, point in enumerate(points):
            if point.refused:
                point.refused = 2 if before else 1
            elif before:
                begins.append(at)
            before = point.refused
        return points[begins[-_EPISODES - 1] if len(begins) > _EPISODES else 0 :]

    def in_flight(self) -> list[tuple[float, float, float]]:
        """Return how many were in flight, and of those sent then, how many were refused and passed."""
        numbers = {number: list(counts) for number, counts in self.numbers.items()}
        for flight in self.flights:
            numbers.setdefault(flight.number, [0.0, 0.0])[flight.refused] += 1
        return [(float(number), refused, passed) for number, (passed, refused) in numbers.items()]

    def _usual(self, run: Run) -> float:
        """Return the distance after which a request still belongs to a run."""
        if run.count > 1:
            return _EVENLY * (run.end - run.start) / (run.count - 1) + _AT_ONCE
        before = self.runs[-2] if len(self.runs) > 1 else run
        usual = run.start - before.end if before.count == 1 else 0.0
        return _EVENLY * max(1 / run.rate, usual) + _AT_ONCE

    def _coarsen(self, now: float) -> None:
        """Make neighbours one that are short for their age; if that is not enough, forget the oldest."""
        coarse: list[Run] = []
        for run in self.runs:
            before = coarse[-1] if coarse else None
            if before is not None and _COARSE * (run.end - before.start) <= now - before.start:
                before.end = max(before.end, run.end)
                before.count += run.count
            else:
                coarse.append(run)
        self.runs = coarse[-_RUNS * 3 // 4 :]

    def _flown(self, sent_at: float, came_at: float, *, refused: bool) -> None:
        number = 1
        for other in self.flights:
            if sent_at < other.sent_at:
                other.number += 1
            elif other.came_at > sent_at:
                number += 1
        self.flights.append(Flight(sent_at, came_at, number, refused))
        if len(self.flights) > _FLIGHTS:
            flight = self.flights.pop(0)
            counts = self.numbers.setdefault(flight.number, [0.0, 0.0])
            counts[flight.refused] += 1
            if counts[0] > _MANY:
                self.numbers = {number: [a / 2, b / 2] for number, (a, b) in self.numbers.items()}


def _when(point: Point) -> float:
    return point.at


def _told(run: Run, parts: int) -> list[Point]:
    """Tell a run in so many parts, each at the time of its last request."""
    points: list[Point] = []
    done = 0
    each = (run.end - run.start) / max(1, run.count - 1)
    for part in range(1, parts + 1):
        count = run.count * part // parts - done
        since = run.start + each * done
        done += count
        points.append(Point(run.start + each * (done - 1), since, count, 0, run.rate))
    return points
