"""At which rate to go on, judged from the answers: the controller behind a limiter.

Theory of operation. Nobody knows the true limit, and only a 429 says that it is lower than what was
configured. So all is learned from three facts about each answer: when its request was sent, when it came,
whether it was a 429. The state goes around this circle:

1. *Cruising* at the configured rate, or at what settled below a ceiling.
2. *An episode* begins with a 429: the rate is cut, once. Until the first success of a request that was sent
   after the cut, further 429s only pause: a lock-out is no reason to cut again.
3. *Going on*: what was really admitted in the second before, where it can be believed, is the ceiling now.
   The rate begins below it and settles just under it.
4. *A probe*, after a while below the ceiling, goes beyond it. What is confirmed is the new ceiling; a
   refusal is another episode, and makes the next probe rarer, by what it cost: a lock-out more than a pause.

Rate-limit headers may slow it from the first answer on (d7), never past the configured rate. Values in,
values out: the clock is an argument, and pauses are made elsewhere. `docs/quota.md` shows what comes of it.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from leadstatus_async._state.throttle import LOCK_OUT
from leadstatus_async._steps.headers import suggested_rate

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
_LONG = 2.0  # seconds: a reset further away than that shows that the window is no matter of one second


class Controller:
    """The rate of one quota, as far as it is known.

    Args:
        configured_rate: requests per second that `rate` never exceeds.

    Attributes:
        rate: requests per second to go at; the configured rate while nothing better is known.
        ceiling: the rate at which the server said 429, or what it admitted in the second before if that
            is less and can be believed; None if never, or when it has been disproved.
        reason: why the rate is below the configured one; "" if it is not.
    """

    def __init__(self, configured_rate: float) -> None:
        self.rate = self._configured = self._learned = configured_rate
        self.ceiling: float | None = None
        self.reason = ""
        self._hinted = self._hinted_until = math.inf
        self._longest_reset = 0.0
        self._episode: _Episode | None = None
        self._stretch = _Stretch()
        self._fresh = -math.inf  # requests sent earlier went at a rate that has been given up since
        self._aim = math.inf
        self._grown_at = self._held = 0.0
        self._patience = _PATIENCE

    def observe(
        self,
        now: float,
        status: int,
        sent_at: float,
        hint: RateHint | None = None,
        *,
        paused_until: float = math.inf,
    ) -> None:
        """Learn from an answer.

        Args:
            now: when it came, in seconds on the clock that `sent_at` is on.
            status: of the answer; a 5xx says nothing about the rate.
            sent_at: when its request was sent.
            hint: what its rate-limit headers say.
            paused_until: end of the last pause; when nothing was sent after that, nobody was kept from it.
        """
        self._hinted = math.inf if hint is None else self._heed(hint)
        self._hinted_until = now + hint.reset if hint is not None and hint.reset else math.inf
        jump = False
        if status == 429:
            jump = self._refused(now, sent_at)
        elif status < 500:
            jump = self._admitted(now, sent_at, paused_until)
        self._publish(jump=jump)

    def expire(self, now: float) -> bool:
        """Forget a hint about a window that is over; True if the rate is another one then."""
        if now < self._hinted_until:
            return False
        before, self._hinted, self._hinted_until = self.rate, math.inf, math.inf
        self._publish(jump=True)
        return self.rate != before

    def _heed(self, hint: RateHint) -> float:
        """Return the rate that headers suggest: slower than configured, but never a stop."""
        reset = hint.reset
        if reset is not None:
            # Whole seconds are rounded up: at the last one nobody knows how much of it is left.
            self._longest_reset = max(self._longest_reset, reset)
            reset = reset - 1 if reset > 1 else 1.0 if self._longest_reset > _LONG else None
        stated = suggested_rate(msgspec.structs.replace(hint, reset=reset))
        return math.inf if stated is None else max(stated, min(1.0, self._configured))

    def _refused(self, now: float, sent_at: float) -> bool:
        """Cut, unless this 429 belongs to an episode already seen."""
        if self._episode is not None:
            self._episode.refusals += 1
            self._episode.refused_at = now
            return False
        if sent_at < self._fresh:
            return False
        failed = min(self.rate, 2 * self._stretch.rate(now))
        confirmed = self._probing and self.ceiling is not None and self._confirms(self.ceiling, sent_at)
        self._episode = _Episode(now, sent_at, failed, self._probing, confirmed, refused_at=now)
        self.ceiling = self.ceiling if confirmed else failed
        # One request at a time, if that is slower, until one passes: what is in flight may be refused.
        self._learned = max(min(_DEEPEST_CUT * failed, max(1.0, 1 / max(1e-3, now - sent_at))), self._slowest)
        return True

    def _confirms(self, ceiling: float, until: float) -> bool:
        """Whether no more passed until then than that lets pass: windows have edges, buckets bursts."""
        before, last = (self._stretch.admitted(until - ago, until - ago + 1.0) for ago in (2.0, 1.0))
        return before <= _SAME * ceiling + 1 and last <= _MORE * ceiling + 1

    def _admitted(self, now: float, sent_at: float, paused_until: float) -> bool:
        episode = self._episode
        self._stretch.add(sent_at, None if episode else self.rate)
        if episode is None:
            self._grow(now)
        elif sent_at >= episode.began:
            over = min(now, paused_until + _IDLE)
            dear = over - episode.began > LOCK_OUT
            self._resume(episode, now, sent_at, wary=dear and not episode.probed)
            self._patience = self._worth(episode, over - (episode.began if dear else episode.refused_at))
            return True
        return False

    def _resume(self, episode: _Episode, now: float, sent_at: float, *, wary: bool) -> None:
        """End an episode: from now on at what was admitted, as far as that can be believed."""
        failed, until = episode.failed, episode.sent_at
        second = self._stretch.admitted(until - 1.0, until)
        least, most = (part * failed for part in _CREDIBLE)
        shown = least <= second <= most and not episode.confirmed
        if second >= least and not episode.confirmed:
            self.ceiling = min(failed, second)
        self._aim = (_WARY if wary and not shown else _BELOW) * (self.ceiling or failed)
        climbed = episode.probed and not episode.confirmed
        rate = self._aim if shown or climbed else min(self._borne(episode, sent_at, second), self._aim)
        if wary:
            rate = min(rate, max(_WARY * second, _LEAST * failed))
        self._learned = max(rate, self._slowest)
        self._episode = None
        self._fresh = self._grown_at = now
        self._held = 0.0
        self._stretch.restart(sent_at)

    def _worth(self, episode: _Episode, cost: float) -> float:
        """Return the seconds before the next probe: the more seconds an episode costs, the rarer."""
        patience = min(_LONGEST, _RARER * max(_PATIENCE, self._patience)) if episode.confirmed else _PATIENCE
        refused = episode.refusals / (_SHARE * self._aim) if episode.probed else 0.0
        return max(patience, min(_RARELY, max(refused, _COST * cost**3)))

    def _borne(self, episode: _Episode, sent_at: float, second: float) -> float:
        """Return the rate that the server is likely to bear, where the last second does not show it."""
        until = episode.sent_at
        lasted = self._stretch.lasted(until)
        average = max(self._stretch.goodput(sent_at), _DEEPEST_CUT * episode.failed)
        if episode.confirmed:
            return max(average, second)
        if lasted < 1.0:
            return average
        if lasted < 2.0:
            return average + _BETWEEN * max(0.0, self._aim - average)
        return max(average, self._stretch.admitted(until - 2.0, until - 1.0))

    def _grow(self, now: float) -> None:
        """Settle below the ceiling, and probe beyond it when that has lasted; only work counts as time."""
        if self.ceiling is None:
            return
        step = min(max(0.0, now - self._grown_at), _BUSY / self.rate)
        self._grown_at = now
        self._held += step
        if self._probing:
            self._learned *= math.exp(_CLIMB * step)
        else:
            gap = max(0.0, self._aim - self._learned) * math.exp(-step / _SETTLING)
            self._learned = max(self._learned, self._aim - (gap if gap > 0.01 * self._aim else 0.0))
        self._learned = min(self._learned, self._configured)
        # A ceiling just below the configured rate is not disproved by having been climbed past for a moment.
        if self._learned == self._configured and self._held >= self._patience + _PATIENCE:
            self.ceiling = None

    @property
    def _probing(self) -> bool:
        return self._held >= self._patience

    @property
    def _slowest(self) -> float:
        return min(_SLOWEST, self._configured)

    def _publish(self, *, jump: bool) -> None:
        """Let `rate` follow: at once after a cut and where it comes to rest, else in steps worth telling."""
        wanted = min(self._learned, self._hinted, self._configured)
        at_rest = wanted in {self._aim, self._configured}
        least = _WOBBLE if wanted == self._hinted else _TOLD
        if jump or at_rest or abs(wanted - self.rate) >= least * self.rate:
            self.rate = wanted
        if self.rate == self._configured:
            self.reason = ""
        elif self._hinted < self._learned:
            self.reason = "rate-limit headers"
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
        refused_at: when the latest 429 came.
        refusals: 429s so far.
    """

    began: float
    sent_at: float
    failed: float
    probed: bool
    confirmed: bool
    refused_at: float
    refusals: int = 1


class _Stretch:
    """What was admitted since the last episode, or since the client was last idle."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque()  # when the requests of the last two seconds were sent
        self._began = self._last = -math.inf
        self._count = 0

    def add(self, sent_at: float, rate: float | None) -> None:
        """Count an admitted request; `rate` is None in an episode, whose pauses are no idling."""
        self._recent.append(sent_at)
        if rate is None:
            self._count += 1
            return
        while self._recent[0] < sent_at - 2.0:
            self._recent.popleft()
        if sent_at - self._last > max(_IDLE, 4 / rate):
            self.restart(sent_at)
        else:
            self._count += 1
            self._last = max(self._last, sent_at)

    def restart(self, sent_at: float) -> None:
        """Count from the request sent at `sent_at` on."""
        self._began = self._last = sent_at
        self._count = 1

    def lasted(self, until: float) -> float:
        """Return for how many seconds it had been going on then; 0.0 if nothing was admitted yet."""
        return until - self._began if self._began > -math.inf else 0.0

    def rate(self, now: float) -> float:
        """Return requests per second so far; infinity if too few to tell."""
        return self._count / max(1e-3, now - self._began) if self._count >= _BUSY else math.inf

    def goodput(self, until: float) -> float:
        """Return requests admitted per second until `until`, pauses included."""
        return self._count / max(1e-3, until - self._began)

    def admitted(self, since: float, until: float) -> float:
        """Return how many of those sent since then until then were admitted, in the last two seconds."""
        return float(sum(since < sent_at <= until for sent_at in self._recent))
