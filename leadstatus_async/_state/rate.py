"""At which rate to go on, judged from the answers: the controller behind a limiter.

Theory of operation. Nobody knows the true limit, and only a refusal says that there is one. So all is learned
from three facts about each answer: when its request was sent, when it came, whether it was refused. Two
things are made of them. One is a circle, which needs no reasons:

1. *Cruising* at the configured rate, or at what settled below a ceiling.
2. *An episode* begins with a 429: the rate is cut, once. Until the first success of a request that was sent
   after the cut, further 429s only pause: a lock-out is no reason to cut again.
3. *Going on*: what was really admitted in the second before, where it can be believed, is the ceiling now.
   The rate begins below it and settles just under it.
4. *A probe*, after a while below the ceiling, goes beyond it. What is confirmed is the new ceiling; a
   refusal is another episode, and makes the next probe rarer, by what it cost: a lock-out more than a pause.

The other asks why (`explain`), whenever an episode ends. The circle is good at limits that show within a
second, so these are left to it. What else is explained is done instead: a window or bucket that takes
longer is kept to; too many at once are answered by fewer slots; for chance nothing is slowed, since that
helps nobody. The latter two are trials: if refusals go on, they are disbelieved, and must be shown better.
A rate is raised by degrees where it is chance: others who use the quota look the same, until one is faster.

A 503 may be a refusal or a server in trouble: it slows nothing by itself, but counts as soon as a limit
explains it. Rate-limit headers may slow it from the first answer on (d7), never past the configured rate.
Values in, values out: the clock is an argument, and pauses are made elsewhere. `docs/quota.md` shows what
comes of it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from leadstatus_async._state.explain import LUCK, Doubts, Explanation, explain
from leadstatus_async._state.record import Record
from leadstatus_async._state.sizes import sizes
from leadstatus_async._state.stated import as_policy, told_by_headers
from leadstatus_async._state.throttle import LOCK_OUT
from leadstatus_async._steps.headers import suggested_rate
from leadstatus_async.learned import Suggestion
from leadstatus_async.policy import RateLimit

if TYPE_CHECKING:
    from leadstatus_async._steps.headers import RateHint

# Chosen by simulation over the kinds of servers and policies in docs/quota.md, not by taste.
_DEEPEST_CUT = 0.5  # of the rate that failed
_CREDIBLE = 0.35, 0.85  # of the rate that failed: the share admitted in a second that shows the limit
_BELOW = 0.97  # of the ceiling: where the rate settles
_WARY = 0.9  # after a lock-out: of what the last second admitted, to go on with, and of a ceiling not shown
_LEAST = 0.1  # of the rate that failed: if nearly nothing was admitted
_BETWEEN = 0.5  # of the way from what passed on average to there: where to go on while neither is certain
_SETTLING = 5.0  # seconds in which two thirds of the rest of the way are made
_CLIMB = 0.2  # a probe grows by so much per second
_SAME, _MORE = 1.1, 1.25  # of the ceiling: no more in a probe's last second but one, and last, confirms it
_PATIENCE, _LONGEST, _RARER = 3.0, 60.0, 1.4  # seconds below the ceiling before a probe: first, last, growth
_SHARE = 0.02  # of all requests: what probes that are refused may cost, where the way is long
_COST = 10.0  # a pause of a second is risked every ten seconds, a lock-out of 5 s every twenty minutes,
_RARELY = 3600.0  # and none more than once an hour: cost times the cube of the seconds of the episode
_IDLE = 2.0  # seconds without a request that end a stretch of work
_BUSY = 16  # answers: enough to measure by; also the requests in flight that growth is credited for
_SLOWEST = 1 / 60  # requests per second: below that it is for the pauses to hold back
_TOLD = 0.05  # changes of the rate smaller than this are not worth re-timing those who wait
_WOBBLE = 0.25  # nor are smaller ones of what headers suggest, which each answer counts anew
_REFUSED, _MAYBE = (429, 503), 503  # what may be a refusal, and which of it may be something else
_DOUBLY = 2.0  # what may be no refusal must be explained so much better
_BEHIND = 3  # requests that passed behind each that was refused: going slower would not have helped
_AGREES = 0.8  # of the share that passed behind it, and the rate that failed: that much was admitted
_TRIAL = 2  # refusals after which a trial may have failed
_MOST, _TOLERATED = 0.07, 0.02  # shares of refusals that may go on: by chance, and with fewer slots
_SPREAD = 1.35  # roots of what is expected: so many more may be refused
_KEPT = 100  # requests that pass before more slots are tried: one in a hundred may be refused for that
_BEYOND = 1.15  # of what an explanation allows in its time: that passed, so it is none
_MARGIN = 1.01  # of the rate at which a bucket leaks: requests arrive less evenly than they are sent
_MOMENT, _END = 0.1, 0.1  # seconds of a first pause where it is known why; or of a window, at whose end it is
_SECOND = 1.0  # in which a limit is seen by itself
_WINDOWS = 3.0  # that are kept to before a probe
_SHOWN, _MODEST = 5.0, 0.95  # seconds after which a rate may be stated, and how much of it
_LONGER = 1.5  # than refusals were apart before: that without one shows what may be stated
_PERIODS, _WHOLE = (1.0, 10.0, 60.0, 600.0, 3600.0), 100  # of a suggestion: the shortest that holds so many
_STRETCH = 2.0  # seconds of which each request is remembered


class Controller(msgspec.Struct):
    """The rate of one quota, as far as it is known; a plain value, which may go to bytes and back.

    Args:
        configured_rate: requests per second that `rate` never exceeds.

    Attributes:
        rate: requests per second to go at; the configured rate while nothing better is known.
        ceiling: the rate at which the server said 429, or what it admitted in the second before if that
            is less and can be believed, or what an explanation allows; None if never, or when it has
            been disproved.
        why: why requests were refused, if that can be told.
        reason: why the rate is below the configured one, or what else is done about refusals; "" if nothing.
        record: all that was seen, for `explain`.
        doubts: what speaks against explanations.
        learned: the rate without what headers suggest.
        aim: where it settles.
        hinted, hinted_until: the rate that headers suggest, and when their window is over.
        policy: the limit that they state, as far as its window is told.
        episode: that which goes on.
        stretch: what was admitted since the last one.
        fresh: requests sent before that went at a rate that has been given up since.
        grown_at: when the rate was last seen to.
        held: seconds of work since it was found.
        patience: after how many of them a probe begins.
        adopted_at: when the explanation was adopted.
        shown: what may be stated next time.
        tried: slots beyond those that are known to pass.
        apart: seconds between refusals at rates that were kept to, or of one episode, at most.
        refused_at: when the latest refusal came that was cut for.
        kept: requests that passed since the last that was refused.
        missed: requests refused since the explanation was adopted.
        doubled: requests that passed while the rate is raised by degrees, since that helps if it is chance.
    """

    configured_rate: float
    rate: float = 0.0
    ceiling: float | None = None
    why: Explanation | None = None
    reason: str = ""
    record: Record = msgspec.field(default_factory=Record)
    doubts: Doubts = msgspec.field(default_factory=Doubts)
    learned: float = 0.0
    aim: float = math.inf
    hinted: float = math.inf
    hinted_until: float = math.inf
    policy: RateLimit | None = None
    episode: _Episode | None = None
    stretch: _Stretch = msgspec.field(default_factory=lambda: _Stretch())  # noqa: PLW0108 - defined below
    fresh: float = -math.inf
    grown_at: float = 0.0
    held: float = 0.0
    patience: float = _PATIENCE
    adopted_at: float = -math.inf
    shown: Suggestion | None = None
    tried: int = 0
    apart: float = 0.0
    refused_at: float = math.inf
    kept: int = 0
    doubled: int = 0
    missed: int = 0

    def __post_init__(self) -> None:
        if not self.rate:
            self.rate = self.learned = self.configured_rate

    @property
    def kept_to(self) -> Explanation | None:
        """The limit that is kept to because it explains the refusals; None if the circle finds the rate."""
        return self.why if self.why is not None and self.why.is_rate and self.why.acts else None

    @property
    def slots(self) -> int | None:
        """How many requests may be in flight; None for as many as one likes."""
        if self.why is None or self.why.kind != "at once":
            return None
        return int(self.why.number) + self.tried

    @property
    def first_pause(self) -> float | None:
        """Seconds that a pause need last at most, unless it is in vain; None if that is not known."""
        if self.why is None or not self.why.acts:
            return None
        return max(_MOMENT, _END * self.why.per if self.why.kind == "window" else 0.0)

    @property
    def suggestion(self) -> Suggestion | None:
        """What to state next time; None while nothing can be told, or nothing would help."""
        if self.slots is not None:
            return Suggestion(concurrency=self.slots - self.tried) if self.kept >= _BUSY else None
        if self.policy is not None and self.rate == self.hinted:
            return Suggestion(self.policy)
        return self.shown

    def _show(self) -> Suggestion | None:
        """Return what the rate that has been held shows; None while that is not long enough."""
        if self.ceiling is None or self.held < max(_SHOWN, _LONGER * self.apart):
            return None
        why = self.why
        if why is not None and why.kind == "window" and why.rate <= self.ceiling:
            return Suggestion(RateLimit(why.number, per=why.per)) if self.held >= 2 * why.per else None
        return Suggestion(_stated(_MODEST * min(self.aim, self.learned)))  # a probe goes beyond it

    def observe(
        self,
        now: float,
        status: int,
        sent_at: float,
        hint: RateHint | None = None,
        *,
        demand: float = math.inf,
        paused_until: float = math.inf,
    ) -> None:
        """Learn from an answer.

        Args:
            now: when it came, in seconds on the clock that `sent_at` is on.
            status: of the answer. A 503 may be a refusal or a server in trouble, so that it slows nothing
                until it is explained; any other 5xx says nothing about the rate.
            sent_at: when its request was sent.
            hint: what its rate-limit headers say, of a window of a second or two, or of no window at all.
            demand: requests that wait; a hint that leaves as many slows nothing.
            paused_until: end of the last pause; when nothing was sent after that, nobody was kept from it.
        """
        self.hinted = math.inf if hint is None else self._heed(hint, now, demand)
        self.hinted_until = now + hint.reset if hint is not None and hint.reset else math.inf
        jump = False
        if status in _REFUSED:
            news = self.record.refused(now, sent_at, self.rate)
            self.kept = 0
            jump = self._refused(now, sent_at, certain=status != _MAYBE, news=news)
        elif status < 500:
            self.record.passed(now, sent_at, self.rate)
            self.kept += 1
            jump = self._admitted(now, sent_at, paused_until)
        self._publish(jump=jump)

    def expire(self, now: float) -> bool:
        """Forget a hint about a window that is over; True if the rate is another one then."""
        if now < self.hinted_until:
            return False
        before, self.hinted, self.hinted_until = self.rate, math.inf, math.inf
        self._publish(jump=True)
        return self.rate != before

    def _heed(self, hint: RateHint, now: float, demand: float) -> float:
        """Return the rate that headers suggest: slower than configured, but never a stop."""
        least = min(1.0, self.configured_rate)
        policy = self.policy = as_policy(hint.limit, hint.window)
        if hint.remaining is None and policy is not None:  # what remains is ours to count
            left = policy.max_rate - self.record.between(now - policy.per, now)
            least = self.slowest if self.record.refusals else least  # it is meant for us, as it seems
            return math.inf if left >= demand else max(policy.rate, least)
        # Whole seconds are rounded up: at the last one nobody knows how much of it is left.
        reset = hint.reset - 1 if hint.reset and hint.reset > 1 else None
        stated = suggested_rate(msgspec.structs.replace(hint, reset=reset))
        if stated is None or (hint.remaining is not None and hint.remaining >= demand):
            return math.inf
        return max(stated, least)

    def _refused(self, now: float, sent_at: float, *, certain: bool, news: bool) -> bool:
        """Cut, unless this refusal belongs to an episode already seen, or going slower is no use."""
        if self.episode is not None:
            self.episode.refusals += 1
            self.episode.refused_at = now
            if self.episode.certain or not certain:
                return False
        elif sent_at < self.fresh or self._still_holds(now, news=news):
            return False
        failed = min(self.rate, 2 * self.stretch.rate(now))
        confirmed = self.probing and self.ceiling is not None and self._confirms(self.ceiling, sent_at)
        self.episode = _Episode(now, sent_at, failed, self.probing, confirmed, certain, refused_at=now)
        if not certain:
            return False
        if not self.probing:
            self.apart = max(self.apart, now - self.refused_at)
            self.shown = None
        self.refused_at = now
        if self.kept_to is not None and not self.probing:  # it was kept to, and refused
            self.doubts.too_fast = min(self.doubts.too_fast, self.rate)
            self.doubts.hope /= 2
        self.ceiling = self.ceiling if confirmed else failed
        # One request at a time, if that is slower, until one passes: what is in flight may be refused.
        self.learned = max(min(_DEEPEST_CUT * failed, max(1.0, 1 / max(1e-3, now - sent_at))), self.slowest)
        return True

    def _still_holds(self, now: float, *, news: bool) -> bool:
        """Whether refusals are explained by what going slower does not help; that is on trial."""
        before = self.why
        if before is None or before.is_rate:
            return False
        self.missed += 1
        if not news:  # sixteen in flight that are refused are asked about once
            return True
        if self.tried:  # more than was found: that confirms it
            self.tried, self.held, self.patience = 0, 0.0, min(_LONGEST, _RARER * self.patience)
            return True
        failed = self._in_vain(before, now)
        why, luck = None, _DOUBLY * LUCK
        if self.missed > _TRIAL:  # what came since may tell more
            why = explain(self.record, now, self.doubts, self.adopted_at, luck)
        if why is None or not why.is_rate:
            why = explain(self.record, now, self.doubts, luck=luck)
        if failed or (why is not None and why.is_rate):
            self.doubts.tried_at = now
            self.doubts.refusals += 0 if before.kind == "at once" else 1
            self.doubts.at_once *= 1 if before.kind == "chance" else 2
        if failed and why is not None and why.kind == before.kind == "chance":
            why = None
        if not failed and (why is None or why.kind == before.kind):
            why = before
        self.why = why
        return self.why is not None and not self.why.is_rate

    def _in_vain(self, why: Explanation, now: float) -> bool:
        """Whether more are refused than there would be if an explanation on trial were true."""
        share = min(why.number, _MOST) if why.kind == "chance" else _TOLERATED
        expected = share * (self.missed + self.record.between(self.adopted_at, now))
        return self.missed >= _TRIAL and self.missed > 1 + expected + _SPREAD * math.sqrt(expected)

    def _confirms(self, ceiling: float, until: float) -> bool:
        """Whether no more passed until then than that lets pass: windows have edges, buckets bursts."""
        before, last = (self.stretch.admitted(until - ago, until - ago + 1.0) for ago in (2.0, 1.0))
        return before <= _SAME * ceiling + 1 and last <= _MORE * ceiling + 1

    def _admitted(self, now: float, sent_at: float, paused_until: float) -> bool:
        episode = self.episode
        rested = episode is None and self.stretch.last < paused_until <= sent_at
        self.stretch.add(sent_at, None if episode else self.rate)
        if rested:  # what was in flight has ended the episode, and the pause came after that
            self.stretch.restart(sent_at)
        if episode is None:
            self._grow(now)
        elif sent_at < episode.began:
            episode.behind += sent_at > episode.sent_at
        else:
            self.episode = None
            why = self._explained(now, LUCK if episode.certain else _DOUBLY * LUCK)
            if not episode.certain and (why is None or why.kind == "chance"):
                return False  # a server in trouble, for all that is known
            over = min(now, paused_until + _IDLE)
            dear = over - episode.began > LOCK_OUT
            self.why = why
            if why is not None and why.acts:
                self._adopt(why, now, episode.failed)
            else:
                self._resume(episode, sent_at, wary=dear and not episode.probed)
            self.patience = self._worth(episode, over - (episode.began if dear else episode.refused_at))
            if not episode.probed:
                self.apart = max(self.apart, now - episode.began)
            self.fresh = self.grown_at = now
            self.held = 0.0
            self.stretch.restart(sent_at, resumed=sent_at - episode.sent_at < _SECOND)
            return True
        return False

    def _explained(self, now: float, luck: float) -> Explanation | None:
        """Explain the refusals; a limit that the latest of them is far below has been another one."""
        why = explain(self.record, now, self.doubts, luck=luck)
        if why is not None and why.outdated:
            firsts = [point.at for point in self.record.points() if point.refused == 1]
            self.record.forget(math.nextafter(firsts[-2], math.inf))
            self.doubts = Doubts()
            return None
        return why

    def _adopt(self, why: Explanation, now: float, failed: float) -> None:
        """Do what an explanation asks for."""
        self.adopted_at, self.tried, self.missed = now, 0, 0
        if why.is_rate:
            self.ceiling = why.rate
            window = why.kind == "window"
            kept = sizes(RateLimit(why.number, per=why.per))[1] if window else why.rate / _MARGIN
            self.learned = self.aim = min(kept, self.configured_rate)
        else:
            # By degrees: if it is no chance, but a limit or others who use the quota, that costs little.
            chance = why.kind == "chance"
            self.ceiling, self.learned = None, failed if chance else self.configured_rate
            self.aim, self.doubled = math.inf, 0

    def _resume(self, episode: _Episode, sent_at: float, *, wary: bool) -> None:
        """End an episode: from now on at what was admitted, as far as that can be believed."""
        failed, until = episode.failed, episode.sent_at
        second = self.stretch.admitted(until - _SECOND, until)
        least, most = (part * failed for part in _CREDIBLE)
        # A second in which an episode ended shows no limit: nobody was asking for a part of it.
        whole = not self.stretch.resumed or self.stretch.lasted(until) >= _SECOND
        # Nor did one of which little was admitted, if most of what was sent behind the refused one was.
        passing = episode.behind >= _BEHIND * episode.refusals
        part = episode.behind / (episode.behind + episode.refusals)
        whole &= not passing or second >= _AGREES * part * failed
        shown = least <= second <= most and not episode.confirmed and whole
        if second >= least and not episode.confirmed and whole:
            self.ceiling = min(failed, second)
        self.aim = (_WARY if wary and not shown else _BELOW) * (self.ceiling or failed)
        climbed = episode.probed and not episode.confirmed
        rate = self.aim if shown or climbed else min(self._borne(episode, sent_at, second), self.aim)
        if passing:
            rate = self.aim  # what was sent behind it passed: going slower would not have helped
        if wary:
            rate = min(rate, max(_WARY * second, _LEAST * failed))
        self.learned = max(rate, self.slowest)

    def _worth(self, episode: _Episode, cost: float) -> float:
        """Return the seconds before the next probe: the more seconds an episode costs, the rarer."""
        limit = self.kept_to
        if limit is not None and not episode.probed and cost <= limit.per:
            cost = 0.0  # it was not known what to keep to, then
        again = episode.confirmed if limit is None else episode.probed
        patience = min(_LONGEST, _RARER * max(_PATIENCE, self.patience)) if again else _PATIENCE
        refused = episode.refusals / (_SHARE * self.aim) if episode.probed else 0.0
        windows = _WINDOWS * limit.per if limit is not None and limit.kind == "window" else 0.0
        return max(patience, windows, min(_RARELY, max(refused, _COST * cost**3)))

    def _borne(self, episode: _Episode, sent_at: float, second: float) -> float:
        """Return the rate that the server is likely to bear, where the last second does not show it."""
        until = episode.sent_at
        lasted = self.stretch.lasted(until)
        average = max(self.stretch.goodput(sent_at), _DEEPEST_CUT * episode.failed)
        if episode.confirmed:
            return max(average, second)
        if lasted < 1.0:
            return average
        if lasted < 2.0:
            return average + _BETWEEN * max(0.0, self.aim - average)
        return max(average, self.stretch.admitted(until - 2.0, until - 1.0))

    def _grow(self, now: float) -> None:
        """Settle below the ceiling, and probe beyond it when that has lasted; only work counts as time."""
        if self.why is not None and self.why.kind == "chance" and self.learned < self.configured_rate:
            self.doubled += 1
            if self.doubled % _BUSY == 0:
                self.learned = min(2 * self.learned, self.configured_rate)
            return
        if self.ceiling is None and self.slots is None:
            return
        step = min(max(0.0, now - self.grown_at), _BUSY / self.rate)
        self.grown_at = now
        self.held += step
        if self.why is not None and self.slots is not None:
            self._widen(now, self.why)
            return
        if self.kept % _BUSY == 0:
            self.shown = self._show() or self.shown
        if self.probing:
            why = self.kept_to
            window = why.per if why is not None and why.kind == "window" and why.usual else _SECOND
            self.learned *= math.exp(_CLIMB * step / window)
            if why is not None and self.record.between(now - why.per, now) > _BEYOND * why.rate * why.per + 1:
                self.why = self.shown = None  # it bears more than that, by now
                self.record.forget(now)
                self.doubts = Doubts()
        else:
            gap = max(0.0, self.aim - self.learned) * math.exp(-step / _SETTLING)
            self.learned = max(self.learned, self.aim - (gap if gap > 0.01 * self.aim else 0.0))
        self.learned = min(self.learned, self.configured_rate)
        # A ceiling just below the configured rate is not disproved by having been climbed past for a moment.
        if self.learned == self.configured_rate and self.held >= self.patience + _PATIENCE:
            self.ceiling = None

    def _widen(self, now: float, why: Explanation) -> None:
        """Try some more at once where fewer have held for long; beyond a hundred there is no such limit."""
        if not self.probing or self.kept < _KEPT:
            return
        number = why.number + self.tried  # which have passed
        self.why = msgspec.structs.replace(why, number=number)
        self.tried, self.held, self.kept = max(1, int(number) // 4), 0.0, 0
        if number > _KEPT:
            self.why, self.tried = None, 0
            self.record.forget(now)

    @property
    def probing(self) -> bool:
        """Whether it goes beyond what is known to pass."""
        return self.held >= self.patience

    @property
    def slowest(self) -> float:
        """Requests per second that a cut never goes below."""
        return min(_SLOWEST, self.configured_rate)

    def _publish(self, *, jump: bool) -> None:
        """Let `rate` follow: at once after a cut and where it comes to rest, else in steps worth telling."""
        wanted = min(self.learned, self.hinted, self.configured_rate)
        at_rest = wanted in {self.aim, self.configured_rate}
        least = _WOBBLE if wanted == self.hinted else _TOLD
        if jump or at_rest or abs(wanted - self.rate) >= least * self.rate:
            self.rate = wanted
        if self.why is not None and not self.why.is_rate:
            self.reason = str(self.why)
        elif self.rate == self.configured_rate:
            self.reason = ""
        elif self.hinted < self.learned:
            self.reason = told_by_headers(self.policy)
        elif self.why is not None and self.episode is None:
            self.reason = str(self.why)
        else:
            self.reason = f"HTTP 429 at {self.ceiling or self.rate:.3g}/s"


class _Episode(msgspec.Struct):
    """A run of 429s that one cut answers.

    Attributes:
        began: when the first 429 came.
        sent_at: when its request was sent.
        failed: the rate that failed.
        probed: whether that was above a ceiling known before.
        confirmed: whether it only confirmed that.
        certain: whether anything but a 503 was among them.
        refused_at: when the latest 429 came.
        refusals: 429s so far.
        behind: requests that were sent after the first of them, before it was known, and passed.
    """

    began: float
    sent_at: float
    failed: float
    probed: bool
    confirmed: bool
    certain: bool
    refused_at: float
    refusals: int = 1
    behind: int = 0


class _Stretch(msgspec.Struct):
    """What was admitted since the last episode, or since the client was last idle.

    Attributes:
        recent: when the requests of the last two seconds were sent.
        began, last: when the first and the last were.
        count: how many.
        resumed: whether it follows an episode of less than a second.
    """

    recent: list[float] = []
    began: float = -math.inf
    last: float = -math.inf
    count: int = 0
    resumed: bool = False

    def add(self, sent_at: float, rate: float | None) -> None:
        """Count an admitted request; `rate` is None in an episode, whose pauses are no idling."""
        self.recent.append(sent_at)
        if rate is None:
            self.count += 1
            return
        if self.recent[0] < sent_at - 2 * _STRETCH:  # not at each, which would copy them each time
            self.recent = [sent for sent in self.recent if sent >= sent_at - _STRETCH]
        if sent_at - self.last > max(_IDLE, 4 / rate):
            self.restart(sent_at)
        else:
            self.count += 1
            self.last = max(self.last, sent_at)

    def restart(self, sent_at: float, *, resumed: bool = False) -> None:
        """Count from the request sent at `sent_at` on."""
        self.resumed = resumed
        self.began = self.last = sent_at
        self.count = 1

    def lasted(self, until: float) -> float:
        """Return for how many seconds it had been going on then; 0.0 if nothing was admitted yet."""
        return until - self.began if self.began > -math.inf else 0.0

    def rate(self, now: float) -> float:
        """Return requests per second so far; infinity if too few to tell."""
        return self.count / max(1e-3, now - self.began) if self.count >= _BUSY else math.inf

    def goodput(self, until: float) -> float:
        """Return requests admitted per second until `until`, pauses included."""
        return self.count / max(1e-3, until - self.began)

    def admitted(self, since: float, until: float) -> float:
        """Return how many of those sent since then until then were admitted, in the last two seconds."""
        return float(sum(since < sent_at <= until for sent_at in self.recent))


def _stated(rate: float) -> RateLimit:
    """Return a limit for a rate as one states it: a whole number, and no more than a percent less."""
    per = next((per for per in _PERIODS if rate * per >= _WHOLE), _PERIODS[-1])
    return RateLimit(max(1, math.floor(rate * per)), per=per)
