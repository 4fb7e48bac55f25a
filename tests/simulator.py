"""A model of one client and one rate-limited server in virtual time, and the table of cases it is run on.

The client is ours in outline: buckets, sixteen slots, the pause gate and its back-off, the controller.
It decides what the server says at the moment a request arrives, so hours pass in milliseconds. Run as a
script it prints the table of `docs/quota.md`.
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from leadstatus_async import RateLimit, RetryPolicy
from leadstatus_async._state.rate import Controller
from leadstatus_async._state.sizes import learned_size, sizes
from leadstatus_async._state.stated import Stated
from leadstatus_async._state.throttle import ThrottleRun
from leadstatus_async._steps.decide import stated_pause
from leadstatus_async._steps.headers import RateHint
from leadstatus_async.testing.quota import ConcurrencyLimit, Decision, FixedWindow, SlidingWindow, TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

POLICY = RetryPolicy()
SLOTS = 16
SEEDS = range(12)


@dataclass
class Nginx:
    """nginx's `limit_req` with `burst` and `nodelay`: what is above the rate may not exceed the burst."""

    rate: float
    burst: int
    _excess: float = 0.0
    _at: float | None = None

    def admit(self, now: float) -> Decision:
        """Decide about a request that comes at `now`."""
        passed = 0.0 if self._at is None else now - self._at
        excess = 0.0 if self._at is None else max(0.0, self._excess - passed * self.rate + 1)
        if excess > self.burst:
            return Decision(admitted=False, retry_after=(excess - self.burst) / self.rate)
        self._excess, self._at = excess, now
        return Decision(admitted=True)


@dataclass
class Locking:
    """A limit after each 429 of which nobody passes for `seconds`; if `stern`, asking prolongs that."""

    limit: Any
    seconds: float
    stern: bool = False
    lockouts: int = 0
    _until: float = -math.inf

    def admit(self, now: float) -> Decision:
        """Decide about a request that comes at `now`."""
        if now < self._until:
            if self.stern:
                self._until = now + self.seconds
            return Decision(admitted=False, retry_after=self._until - now)
        decision = self.limit.admit(now)
        if decision.admitted:
            return decision
        self._until = now + self.seconds
        self.lockouts += 1
        return Decision(admitted=False, retry_after=self.seconds)


@dataclass
class Gcra:
    """The generic cell rate algorithm: a bucket that is told by when it will be empty."""

    rate: float
    burst: int
    _due: float = -math.inf

    def admit(self, now: float) -> Decision:
        """Decide about a request that comes at `now`."""
        due = max(self._due, now)
        wait = due - now - (self.burst - 1) / self.rate
        if wait > 1e-9:
            return Decision(admitted=False, retry_after=wait)
        self._due = due + 1 / self.rate
        return Decision(admitted=True)


@dataclass
class Chance:
    """A server that refuses a share of all requests, whatever is sent."""

    share: float
    dice: random.Random

    def admit(self, now: float) -> Decision:
        """Decide about a request that comes at `now`."""
        return Decision(admitted=self.dice.random() >= self.share, retry_after=1.0)


@dataclass
class AtOnce(ConcurrencyLimit):
    """A server that works on so many requests at once, and refuses others without delay."""

    _ends: list[float] = field(default_factory=list[float])

    def admit(self, now: float) -> Decision:
        """Decide about a request that comes at `now`; `works` tells how long it stays."""
        while self._ends and self._ends[0] <= now:
            heapq.heappop(self._ends)
            self.ended()
        return super().admit(now)

    def works(self, until: float) -> None:
        """Be busy until then with the request that was admitted last."""
        heapq.heappush(self._ends, until)


@dataclass
class Late:
    """A limit whose windows begin at `since`, and not at whole multiples of their length."""

    limit: Any
    since: float

    def admit(self, now: float) -> Decision:
        """Decide about a request that comes at `now`."""
        return self.limit.admit(now - self.since)


@dataclass
class Changing:
    """Limits that replace one another: pairs of the time from which one holds, and the limit."""

    plan: list[tuple[float, Any]]

    def admit(self, now: float) -> Decision:
        """Decide about a request that comes at `now`."""
        return next(limit for since, limit in reversed(self.plan) if now >= since).admit(now)


class Bucket:
    """A token bucket that a pause leaves with one token at most."""

    def __init__(self, now: float, capacity: float, drip: float) -> None:
        self.capacity, self.drip, self.tokens, self.at = capacity, drip, capacity, now
        self.opens = -math.inf

    def settle(self, now: float) -> None:
        """Credit what has dripped until `now`."""
        self.tokens = min(self.capacity, self.tokens + (now - self.at) * self.drip)
        if now >= self.opens > self.at:
            self.tokens = min(self.tokens, 1 + (now - self.opens) * self.drip)
        self.at = now

    def due(self, now: float) -> float:
        """Return when the next token is there."""
        self.settle(now)
        late = max(now, self.opens)
        return late + max(0.0, 1 - self.tokens - (late - now) * self.drip) / self.drip


@dataclass
class Outcome:
    """What became of a job.

    Attributes:
        answered, refused: requests.
        seconds: from start to the last answer.
        paused: seconds for which the gate was shut.
        given_up: whether nothing but 429s came for `max_outage`.
        rates: when the rate changed, and to what.
    """

    answered: int = 0
    refused: int = 0
    seconds: float = 0.0
    paused: float = 0.0
    given_up: bool = False
    rates: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])


class Client:
    """The model of the client.

    Args:
        server: has `admit(now) -> Decision`.
        limit: as configured.
        start: virtual time of the first request.
        seed: of latencies, of late timers and of the jitter of pauses.
        latency: seconds there and back, on average; half to one and a half times that.
        stated: whether a 429 states its pause, in whole seconds.
        hints: makes of a decision what its rate-limit headers say.
    """

    def __init__(
        self,
        server: Any,
        limit: RateLimit,
        *,
        start: float = 0.0,
        seed: int = 0,
        latency: float = 0.02,
        stated: bool = False,
        hints: Callable[[Decision], RateHint] | None = None,
    ) -> None:
        self.server, self.limit, self.now, self.start = server, limit, start, start
        self.controller, self.stated = Controller(limit.rate), Stated()
        self._buckets = [Bucket(start, *sizes(limit))]
        self._dice = random.Random(seed)
        self._latency, self._stated, self._hints = latency, stated, hints
        self._flying: list[tuple[float, int, float, Decision]] = []
        self._run = ThrottleRun()
        self._paused_until = self._latest = -math.inf
        self._serial = 0
        self.outcome = Outcome()

    def ask(self, requests: int) -> Outcome:
        """Send so many requests, each until it is answered."""
        outcome = self.outcome
        waiting = requests
        goal = outcome.answered + requests
        while outcome.answered < goal and not outcome.given_up:
            due = math.inf
            if waiting and len(self._flying) < (self.controller.slots or SLOTS):
                self.stated.demand = waiting
                due = max([self._paused_until, *(bucket.due(self.now) for bucket in self._buckets)])
                stop = self.now + self.stated.wait(self.now)
                if due < stop < min([math.inf, *(flight[0] for flight in self._flying[:1])]):
                    self.now = stop + 1e-6  # and look again: nobody is promised a turn
                    continue
                due = max(due, stop)
            if self._flying and self._flying[0][0] <= due:
                waiting += not self._receive()
            else:
                self._send(due)
                waiting -= 1
        outcome.seconds = self.now - self.start
        return outcome

    def _send(self, due: float) -> None:
        if due > self.now:
            self.now = due + self._dice.random() * 0.001  # timers are late
        self.stated.granted(self.now)
        for bucket in self._buckets:
            bucket.settle(self.now)
            bucket.tokens -= 1
        latency = self._latency * (0.5 + self._dice.random())
        busy = isinstance(self.server, AtOnce)  # nearly all of the time is its work, then
        self._latest = max(
            self._latest, self.now + latency * (0.05 if busy else 0.5)
        )  # kinds want them in order
        back = max(self.now + latency, self._latest)
        decision = self.server.admit(self._latest)
        if busy and decision.admitted:
            self.server.works(back - 0.1 * latency)
        elif busy:
            back = self._latest + 0.005
        self._serial += 1
        heapq.heappush(self._flying, (back, self._serial, self.now, decision))

    def _receive(self) -> bool:
        self.now, _, sent_at, decision = heapq.heappop(self._flying)
        hints = [self._hints(decision)] if self._hints else []
        before = self.controller.rate
        status = 200 if decision.admitted else 429
        hint = self.stated.observe(self.now, sent_at, status, hints)
        demand = self.stated.demand
        self.controller.observe(
            self.now, status, sent_at, hint, demand=demand, paused_until=self._paused_until
        )
        if self.controller.rate != before:
            self._follow(self.controller.rate)
        if decision.admitted:
            self.outcome.answered += 1
            self._run.passed(sent_at)
        else:
            self.outcome.refused += 1
            # In whole seconds, as nearly all servers state it, and rounded up.
            self._throttled(sent_at, math.ceil(decision.retry_after) if self._stated else None)
        return decision.admitted

    def _follow(self, rate: float) -> None:
        self.outcome.rates.append((self.now - self.start, rate))
        plain, *learned = self._buckets
        bucket = learned[0] if learned else Bucket(self.now, 1.0, rate)
        bucket.settle(self.now)
        bucket.drip = rate
        bucket.capacity = learned_size(rate)
        self._buckets = [plain] if rate >= self.limit.rate else [plain, bucket]

    def _throttled(self, sent_at: float, stated: float | None) -> None:
        """Shut the gate, as the engine does."""
        before = self._run.count
        over = self._run.note(self.now, sent_at, stated)
        self.outcome.given_up = over > POLICY.max_outage
        if stated:
            pause = stated_pause(stated, POLICY, self._dice.random())
        elif self._run.count > before:
            pause = self._run.pause(over, POLICY, self._dice.random(), self.controller.first_pause)
        else:
            return
        until = self.now + pause
        if until > self._paused_until:
            self.outcome.paused += until - max(self.now, self._paused_until)
            self._paused_until = until
            for bucket in self._buckets:
                bucket.opens = until


def whole_seconds(decision: Decision) -> RateHint:
    """Read `X-RateLimit-*` as most send it: a reset in whole seconds, rounded up, and no window."""
    reset = float(math.ceil(decision.reset))
    return RateHint(limit=float(decision.limit), remaining=float(decision.remaining), reset=reset)


def per_second(decision: Decision) -> RateHint:
    """Read the IETF draft's headers of a limit per second."""
    return RateHint(
        limit=float(decision.limit),
        window=1.0,
        remaining=float(decision.remaining),
        reset=float(math.ceil(decision.reset)),
    )


@dataclass(frozen=True)
class Case:
    """A server, what the client was told, and what the outcome may be.

    Attributes:
        name: of server and policy, for the table.
        server: makes it; takes the time of the first request.
        limit: as configured.
        requests: to be answered.
        ideal: seconds they would take at the server's limit.
        slack: of `ideal` at most, without the time for which lock-outs shut the gate.
        share: of requests refused, at most.
        options: of the client.
    """

    name: str
    server: Callable[[float], Any]
    limit: RateLimit
    requests: int
    ideal: float
    slack: float = 1.2
    share: float = 0.03
    options: dict[str, Any] = field(default_factory=dict[str, Any])


def changing(*plan: tuple[float, int], kind: Any = FixedWindow) -> Callable[[float], Changing]:
    """Return a maker of windows of a second that change: pairs of seconds and rate."""
    return lambda start: Changing([(start + since, kind(rate)) for since, rate in plan])


STATED = {"stated": True}
FAR = RateLimit(100)
CASES = [
    Case("fixed window, 40/s", lambda _: FixedWindow(40), FAR, 800, 20),
    Case("the same, `Retry-After`", lambda _: FixedWindow(40), FAR, 800, 20, slack=1.25, options=STATED),
    Case(
        "the same, 100 ms away",
        lambda _: FixedWindow(40),
        FAR,
        800,
        20,
        share=0.045,
        options={"latency": 0.1},
    ),
    Case("the same, 8,000 requests", lambda _: FixedWindow(40), FAR, 8000, 200, slack=1.1, share=0.005),
    Case("sliding window, 40/s", lambda _: SlidingWindow(40), FAR, 800, 20),
    Case("the same, `Retry-After`", lambda _: SlidingWindow(40), FAR, 800, 20, options=STATED),
    Case("token bucket, 40/s, 10 at once", lambda _: TokenBucket(40, 10), FAR, 800, 20),
    Case("token bucket, 40/s, 40 at once", lambda _: TokenBucket(40, 40), FAR, 800, 19),
    Case("token bucket, 40/s, 5 at once", lambda _: TokenBucket(40, 5), FAR, 800, 20),
    Case("token bucket, 50/s, 5 at once", lambda _: TokenBucket(50, 5), RateLimit(60), 800, 16, slack=1.25),
    Case("nginx, 50 r/s, burst 5", lambda _: Nginx(50, 5), RateLimit(200), 800, 16),
    Case("nginx, 50 r/s, burst 2", lambda _: Nginx(50, 2), RateLimit(100), 800, 16),
    # What changes is taken for chance now and then, which is found out by going faster.
    Case("40/s, then 20/s from 10 s on", changing((0, 40), (10, 20)), FAR, 800, 30),
    Case(
        "40/s, 20/s from 5 s, 40/s from 15 s", changing((0, 40), (5, 20), (15, 40)), FAR, 800, 25, share=0.04
    ),
    Case("20/s, then 40/s from 10 s on", changing((0, 20), (10, 40)), FAR, 800, 25),
    Case(
        "sliding, 40/s, 20/s from 5 s, 40/s from 15 s",
        changing((0, 40), (5, 20), (15, 40), kind=SlidingWindow),
        FAR,
        800,
        25,
        slack=1.25,
    ),
    Case("40/s told, 20/s from 5 s to 15 s", changing((0, 40), (5, 20), (15, 40)), RateLimit(40), 800, 25),
    Case(
        "40/s, then 20/s from 10 s on, `Retry-After`",
        changing((0, 40), (10, 20)),
        FAR,
        800,
        30,
        slack=1.45,
        options=STATED,
    ),
    Case(
        "20/s, then 40/s from 10 s on, `Retry-After`",
        changing((0, 20), (10, 40)),
        FAR,
        800,
        25,
        slack=1.45,
        options=STATED,
    ),
    Case(
        "40/s, locked 5 s by a 429, stated",
        lambda _: Locking(FixedWindow(40), 5),
        FAR,
        800,
        20,
        options=STATED,
    ),
    Case("40/s, locked 30 s, stated", lambda _: Locking(FixedWindow(40), 30), FAR, 800, 20, options=STATED),
    Case("40/s, locked 5 s", lambda _: Locking(FixedWindow(40), 5), FAR, 800, 20),
    Case(
        "the same, prolonged by asking",
        lambda _: Locking(FixedWindow(40), 5, stern=True),
        FAR,
        800,
        20,
    ),
    Case("40/s, locked 30 s", lambda _: Locking(FixedWindow(40), 30), FAR, 800, 20),
    Case("the same, prolonged by asking", lambda _: Locking(FixedWindow(40), 30, stern=True), FAR, 800, 20),
    Case(
        "40/s, locked 30 s, stated, far too fast",
        lambda _: Locking(FixedWindow(40), 30),
        RateLimit(200),
        800,
        20,
        options=STATED,
    ),
    Case("10/s, locked 5 s", lambda _: Locking(FixedWindow(10), 5), FAR, 800, 80),
    Case(
        "20 per 2 s, locked 30 s, stated",
        lambda _: Locking(FixedWindow(20, 2), 30),
        RateLimit(20),
        1000,
        100,
        options=STATED,
    ),
    Case("20 per 2 s, fixed", lambda _: FixedWindow(20, 2), RateLimit(33), 1000, 100),
    Case(
        "60 per 60 s, fixed, `Retry-After`",
        lambda _: FixedWindow(60, 60),
        RateLimit(10),
        1200,
        1200,
        options=STATED,
    ),
    Case("60 per 60 s, fixed", lambda _: FixedWindow(60, 60), RateLimit(10), 1200, 1200),
    Case(
        "fixed, 40/s, IETF headers",
        lambda _: FixedWindow(40),
        FAR,
        800,
        20,
        options={"hints": per_second},
        share=0.01,
    ),
    Case(
        "fixed, 40/s, `X-RateLimit` headers",
        lambda _: FixedWindow(40),
        FAR,
        800,
        20,
        slack=1.25,
        options={"hints": whole_seconds, "stated": True},
    ),
    Case(
        "sliding, 40/s, told 40", lambda _: SlidingWindow(40), RateLimit(40), 800, 20, slack=1.05, share=0.0
    ),
]


LIMITS = [(20, 2.0), (40, 1.0), (100, 10.0), (300, 60.0), (60, 60.0)]


@dataclass(frozen=True)
class Kind:
    """A kind of server, of which one is drawn for each seed, with what it is told and asked.

    Attributes:
        name: for the table.
        draw: makes a case of dice.
        mean, worst: time over the ideal that is promised, of the seeds; half a window of a minute is
            allowed for learning, and pauses do not count where refusals come by chance.
        refused: share of requests refused that is promised, on average.
    """

    name: str
    draw: Callable[[random.Random], Case]
    mean: float = 1.1
    worst: float = 1.25
    refused: float = 0.03


def per_window(kind: str) -> Callable[[random.Random], Case]:
    """Draw a limit about one of five, by windows or buckets, and a rate of 1.5 to 10 times that."""

    def draw(dice: random.Random) -> Case:
        number, per = dice.choice(LIMITS)
        number = max(5, round(number * dice.uniform(0.7, 1.4)))
        rate = number / per
        burst = dice.choice({"bucket": [3, 5, 10, number], "nginx": [2, 5, 10]}.get(kind, [2, 3, 5, 10]))
        made: dict[str, Callable[[float], Any]] = {
            "fixed": lambda _: FixedWindow(number, per),
            "sliding": lambda _: SlidingWindow(number, per),
            "bucket": lambda _: TokenBucket(rate, burst),
            "gcra": lambda _: Gcra(rate, burst),
            "nginx": lambda _: Nginx(rate, burst),
        }
        requests = max(600, 10 * number)
        ideal = (requests - (0 if kind in {"fixed", "sliding"} else burst)) / rate
        learning = per / 2 if per > 30 else 0.0
        return Case(kind, made[kind], RateLimit(rate * dice.uniform(1.5, 10)), requests, ideal + learning)

    return draw


def by_chance(share: float, **options: Any) -> Callable[[random.Random], Case]:
    """Draw about that share of refusals, and a rate."""

    def draw(dice: random.Random) -> Case:
        told, latency, requests = dice.choice([20, 50, 100, 200]), dice.choice([0.02, 0.05, 0.1]), 1000
        part = share * dice.uniform(0.7, 1.4)
        ideal = requests / min(told, SLOTS / latency)
        options["latency"] = latency
        return Case("", lambda _: Chance(part, dice), RateLimit(told), requests, ideal, options=dict(options))

    return draw


def at_once(most: int) -> Callable[[random.Random], Case]:
    """Draw a time that each request takes, and a rate of 1.5 to 10 times what goes."""

    def draw(dice: random.Random) -> Case:
        latency = dice.uniform(0.04, 0.25)
        told = RateLimit(most / latency * dice.uniform(1.5, 10))
        return Case("", lambda _: AtOnce(most), told, 600, 600 * latency / most, options={"latency": latency})

    return draw


def window(
    least: int, most: int, requests: int, over: float = 5.0, **options: Any
) -> Callable[[random.Random], Case]:
    """Draw a window of a second for so many requests, and a rate of 1.5 to `over` times that."""

    def draw(dice: random.Random) -> Case:
        number = dice.randint(least, most)
        kind = dice.choice([FixedWindow, SlidingWindow])
        told = RateLimit(number * (dice.uniform(1.5, over) if over > 1 else 1.0))
        return Case("", lambda _: kind(number), told, requests * number, requests, options=options)

    return draw


def seldom(**options: Any) -> Callable[[random.Random], Case]:
    """Draw a window of about ten seconds for one request, told ten a second."""

    def draw(dice: random.Random) -> Case:
        per = dice.uniform(7, 14)
        kind = dice.choice([FixedWindow, SlidingWindow])
        return Case("", lambda _: kind(1, per), RateLimit(10), 100, 100 * per, options=options)

    return draw


def stating(*, fits: bool) -> Callable[[random.Random], Case]:
    """Draw a fixed window, used in part, whose headers state what remains, and a job.

    The ideal is to use up each window, at the rate that is told.
    """

    def draw(dice: random.Random) -> Case:
        kinds = [(900, 600), (5000, 3600), (10_000, 3600), (50_000, 86_400)]
        number, per = dice.choice(kinds if fits else [(20, 10), (60, 60), (600, 300), *kinds])
        used, over = int(number * dice.uniform(0.1, 0.95)), per * dice.uniform(0.05, 1.0)
        told = max(1, round(number / per * dice.uniform(5, 10)))
        left = number - used
        requests = int(left * dice.uniform(0.3, 1.0)) if fits else left + int(number * dice.uniform(0.1, 3.0))
        beyond = max(0, requests - left)
        windows = beyond // number
        ideal = requests / told if fits else over + windows * per + (beyond - windows * number) / told

        def server(start: float) -> Late:
            limit = Late(FixedWindow(number, per), start + over)
            for _ in range(used):
                limit.admit(start)
            return limit

        return Case("", server, RateLimit(told), requests, ideal, options={"hints": whole_seconds})

    return draw


KINDS = [
    Kind("fixed windows", per_window("fixed")),
    Kind("sliding windows", per_window("sliding"), mean=1.15),
    Kind("token buckets", per_window("bucket")),
    Kind("GCRA", per_window("gcra"), worst=1.35),
    Kind("nginx", per_window("nginx"), worst=1.35, refused=0.035),
    Kind("1% refused by chance", by_chance(0.01), mean=1.15, worst=1.3),
    Kind("5% refused by chance", by_chance(0.05), mean=1.25, worst=1.65, refused=0.06),
    Kind("1% by chance, `Retry-After`", by_chance(0.01, stated=True), mean=1.15, worst=1.3),
    Kind("5% by chance, `Retry-After`", by_chance(0.05, stated=True), mean=1.25, worst=1.65, refused=0.06),
    Kind("1 at once", at_once(1), worst=1.3),
    Kind("4 at once", at_once(4), worst=1.35),
    Kind("8 at once", at_once(8), worst=1.35),
    Kind("1 per 10 s", seldom(), mean=1.2, worst=1.5, refused=0.2),
    Kind("1 per 10 s, `Retry-After`", seldom(stated=True), mean=1.35, worst=1.8, refused=0.15),
    Kind(
        "500 to 2,000 a second, 1 ms away",
        window(500, 2000, 10, latency=0.001),
        mean=1.2,
        worst=1.6,
        refused=0.005,
    ),
    Kind(
        "25 to 45 a second, 300 ms away", window(25, 45, 20, latency=0.3), mean=1.25, worst=1.4, refused=0.05
    ),
    Kind("headers of an hour or so, a job that fits", stating(fits=True), mean=1.02, worst=1.03, refused=0.0),
    Kind("headers of 10 s to a day, a job that does not", stating(fits=False), worst=1.3, refused=0.0),
    Kind("told the truth", window(20, 60, 20, over=1.0), mean=1.03, worst=1.05, refused=0.0),
]


def kind_row(kind: Kind, seeds: Sequence[int] = SEEDS) -> tuple[list[float], list[float]]:
    """Run what is drawn of a kind once for each seed; return times over the ideal, and shares refused."""
    times: list[float] = []
    shares: list[float] = []
    for seed in seeds:
        dice = random.Random(f"{kind.name} {seed}")
        start = 1000 + 60 * dice.random()
        case = kind.draw(dice)
        run = Client(case.server(start), case.limit, start=start, seed=seed, **case.options).ask(
            case.requests
        )
        assert run.answered == case.requests, f"{kind.name}, seed {seed}"
        spent = run.seconds - (run.paused if "chance" in kind.name else 0.0)
        times.append(spent / case.ideal)
        shares.append(run.refused / (run.refused + run.answered))
    return times, shares


def told_kind(kind: Kind, times: list[float], shares: list[float]) -> str:
    """Return the line of the table for a kind."""
    mean, refused = sum(times) / len(times), sum(shares) / len(shares)
    return f"| {kind.name} | {mean:.2f} ({max(times):.2f}) | {refused:.1%} ({max(shares):.1%}) |"


@dataclass
class Row:
    """The worst and the mean of a case over the seeds."""

    case: Case
    runs: list[Outcome]
    lockouts: list[int]

    @property
    def times(self) -> list[float]:
        """Seconds over ideal, without what lock-outs shut the gate for."""
        spent = [
            run.seconds - (run.paused if locked else 0.0)
            for run, locked in zip(self.runs, self.lockouts, strict=True)
        ]
        return [seconds / self.case.ideal for seconds in spent]

    @property
    def shares(self) -> list[float]:
        """Refused of all requests."""
        return [run.refused / (run.refused + run.answered) for run in self.runs]

    def __str__(self) -> str:
        mean = [sum(values) / len(values) for values in (self.times, self.shares)]
        locked = str(max(self.lockouts)) if max(self.lockouts) else ""
        return (
            f"| {self.case.name} | {self.case.limit.rate:g}/s | {mean[0]:.2f} ({max(self.times):.2f}) "
            f"| {mean[1]:.2%} ({max(self.shares):.2%}) | {locked} |"
        )


def play(case: Case) -> Row:
    """Run a case once for each seed, at as many phases of the server's windows."""
    row = Row(case, [], [])
    for seed in SEEDS:
        start = 1000 + 60 * (seed * 0.6180339887 % 1)
        server = case.server(start)
        row.runs.append(Client(server, case.limit, start=start, seed=seed, **case.options).ask(case.requests))
        row.lockouts.append(getattr(server, "lockouts", 0))
    return row


if __name__ == "__main__":
    for case in CASES:
        print(play(case))
    print()
    for kind in KINDS:
        print(told_kind(kind, *kind_row(kind)))
