"""How the server fares, judged from its answers: plan, then act.

Theory of operation. Every request that is sent is told here twice: when it departs (`departed`), and when
it ends, in exactly one of three ways (`answered`, `failed`, `untold`). The reply to the end is a
`Ruling`, a value: what becomes of the request itself, and what everybody else has to bear. Nothing is done
here; whoever asked carries the ruling out. Three bounds hold over a whole session:

1. The quota. A 429 closes the pause gate for everybody, and costs neither attempts nor budget. A run
   of nothing but 429s is given up after `max_outage` seconds beyond what the server itself stated, or once
   ten of the pauses that it stated were kept in vain.
2. The budget. A retry costs one, an answer refills a tenth, so that a failing server is not hit harder.
3. The outage. Five failures in a row of the server, or of the way to it, stop all sending; then one probe at
   a time goes out, and its answer ends it. Callers wait for that, up to `max_outage` seconds: web requests
   only until the first probe fails, or for a few seconds.

A lost connection may tell nothing of the server: a pool holds connections that it has closed meanwhile.
A request's first is therefore not counted, up to as many in a row as a pool may hold, except in an outage.

This is the only writer of a request's history (its attempts, disconnects, since when it fails and waits),
and the only owner of `Outage`, `ThrottleRun` and `RetryBudget`. Clock and dice are arguments.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from leadstatus_async._state.outage import Outage, counts
from leadstatus_async._state.throttle import RetryBudget, ThrottleRun
from leadstatus_async._steps.decide import Again, Fail, Split, Stop, Throttled, decide, stated_pause
from leadstatus_async._steps.decipher import Failure, Sort
from leadstatus_async.errors import LeadStatusError, LimiterError, RateLimitError, SessionClosedError
from leadstatus_async.events import OutageEnded, OutageStarted

if TYPE_CHECKING:
    from leadstatus_async._state.request import Request
    from leadstatus_async.policy import RetryPolicy

_LONGEST_PAUSE = 86_400.0  # seconds: a server that says more than a day is asked again, all the same
WEB_REQUEST = 4.5  # seconds for which an outage holds a get that waits: less than the five it is promised


_OURS = (SessionClosedError, LimiterError, RateLimitError)  # the last, if it is no answer: a pause of ours


class Held(msgspec.Struct, frozen=True):
    """Send again when the outage is over, or, with `first`, as its next probe."""

    first: bool


Then = Again | Held | Throttled | Split | Fail | Stop


class Ruling(msgspec.Struct, frozen=True):
    """What the end of a request means: for itself, and for everybody else.

    Attributes:
        then: what becomes of it; None if it has its rows, or nobody waits for it.
        pause: seconds for which the pause gate closes; 0.0 for none.
        give_up: what everything that waits fails with.
        give_up_gets: what the gets that wait fail with.
        events: what observers are told.
    """

    then: Then | None = None
    pause: float = 0.0
    give_up: LeadStatusError | None = None
    give_up_gets: LeadStatusError | None = None
    events: tuple[OutageStarted | OutageEnded, ...] = ()


NOTHING = Ruling()


class Health:
    """The server as this session has seen it.

    Args:
        policy: the bounds.
        pool: connections that may have grown stale at once.

    Attributes:
        answers: requests that brought rows.
    """

    def __init__(self, policy: RetryPolicy, pool: int) -> None:
        self.answers = 0
        self._policy = policy
        self._pool = pool
        self._outage = Outage(policy)
        self._throttle = ThrottleRun()
        self._budget = RetryBudget(policy.budget)
        self._served_at = -math.inf  # when the latest of the requests that were answered was sent
        self._excused = 0  # connections lost since the last answer that may have been stale ones
        self._paid = 0  # retries paid for by those who wait whether this will be an outage
        self._last_error = LeadStatusError()
        self._ends_at = self._gets_until = math.inf
        self._news: list[OutageStarted | OutageEnded] = []  # kept until a ruling tells it

    # What is asked before sending

    @property
    def stopped(self) -> bool:
        """Whether nothing but probes may go out."""
        return self._outage.stopped_at is not None

    def stopped_for(self, now: float) -> float:
        """Return the seconds for which sending is stopped: 0.0 if not, infinity while a probe is out."""
        return self._outage.wait(now)

    @property
    def alarm(self) -> float:
        """When `tick` is due; infinity if never."""
        return min(self._ends_at, self._gets_until)

    def tick(self, now: float) -> Ruling:
        """Rule on what has waited long enough for the end of an outage."""
        if now >= self._ends_at:
            return self._give_up(now)
        if now >= self._gets_until:
            self._gets_until = now + WEB_REQUEST
            return Ruling(give_up_gets=self._last_error)
        return NOTHING

    def rest(self) -> None:
        """Note that nobody waits any more: whoever comes next has the whole of `max_outage` before it."""
        self._ends_at = self._gets_until = math.inf

    def close(self, now: float) -> Ruling:
        """End an outage, if there is one: nobody will see its end any more."""
        self._end(now, answered=False)
        return self._ruling()

    # What is told of each request

    def departed(self, now: float, request: Request) -> Ruling:
        """Note that a request goes out."""
        request.attempts += 1
        request.waited += now - request.ready_at
        request.retried = False
        if self._outage.sent(now, request):
            self._news.append(OutageStarted(type(self._last_error).__name__))
            self._budget.refund(self._paid)  # now it is an outage, and waiting for its end is no retry
            self._paid = 0
        if self._outage.stopped_at is not None:
            self._gets_until = min(self._gets_until, now + WEB_REQUEST)
        return self._ruling()

    def answered(self, now: float, request: Request, sent_at: float) -> Ruling:
        """Note that a request brought rows."""
        self._alive(now, request, sent_at)
        self._budget.earn()
        self.answers += 1
        self._served_at = max(self._served_at, sent_at)
        return self._ruling()

    def untold(self, now: float, request: Request) -> Ruling:
        """Note that a request ended without an answer: cut off, or lost to a bug. A probe frees the way."""
        self._outage.untold(now, request)
        return self._ruling()

    def failed(
        self,
        now: float,
        request: Request,
        failure: Failure,
        sent_at: float,
        *,
        dice: float,
        max_attempts: int | None = None,
        wanted: bool = True,
        hidden: int = 0,
        remaining: float | None = None,
        first_pause: float | None = None,
        divisible: bool = False,
    ) -> Ruling:
        """Note that a request failed, and rule on it.

        Args:
            now: when, in seconds.
            request: which.
            failure: in what it ended.
            sent_at: when it was sent.
            dice: a random number in [0, 1).
            max_attempts: how often its call lets it be sent; None for the session's number.
            wanted: whether anybody still waits for it; nothing becomes of it, and nothing is paid, if not.
            hidden: requests that aiohttp sent besides (a3); each was an attempt.
            first_pause: seconds that a pause of ours need last at first, where it is known why it is refused.
            remaining: seconds until its call's deadline; None without one.
            divisible: as `decide` has it.
        """
        most = self._policy.max_attempts if max_attempts is None else max_attempts
        request.failed_at = min(request.failed_at, now)
        request.ready_at = now
        stale = failure.early and self._may_be_stale(request, failure)
        request.attempts += hidden
        self._note_disconnect(request, failure, most)
        pause = 0.0
        too_long = (failure.retry_after or 0.0) > self._policy.max_retry_after  # of a 429 or 503
        give_up = failure.error if too_long else None
        if failure.sort is Sort.THROTTLED:
            self._outage.untold(now, request)
            if self._throttle.gave_up_on(sent_at):  # it was in flight then, and is not to ask again
                return self._ruling(Fail() if wanted else None)
            pause, over = self._throttled(now, failure, sent_at, dice, first_pause)
            if self._throttle.hopeless(over, self._policy.max_outage):
                self._throttle.give_up(now)
                return self._ruling(Fail() if wanted else None, pause, failure.error)
        elif isinstance(failure.error, _OURS):  # it tells nothing of the server
            self._outage.untold(now, request)
        elif stale:
            self._outage.again(now, request)
        elif counts(failure):
            if failure.retry_after is not None:  # of a 503, as `decipher` has it
                pause = stated_pause(failure.retry_after, self._policy, dice)
            held = self._count(now, request, failure, hidden, most, wanted=wanted)
            if held is not None:
                return msgspec.structs.replace(
                    held, pause=min(pause, _LONGEST_PAUSE), give_up=held.give_up or give_up
                )
        else:
            self._alive(now, request, sent_at)
        then = None
        if wanted:
            then = decide(
                failure,
                self._policy,
                max_attempts=most,
                attempts=most if request.final_attempt else request.attempts,
                stale=stale,
                afford=self._budget.spend,
                remaining=remaining,
                dice=dice,
                divisible=divisible and not request.final_attempt,
            )
            request.retried = isinstance(then, Again)
        return self._ruling(then, min(pause, _LONGEST_PAUSE), give_up)

    # Bound 1: the quota

    def _throttled(
        self, now: float, failure: Failure, sent_at: float, dice: float, first: float | None
    ) -> tuple[float, float]:
        """Return the pause that a 429 asks for, and for how long nothing else has come without excuse."""
        before = self._throttle.count
        over = self._throttle.note(now, sent_at, failure.retry_after)
        if failure.retry_after:
            return min(stated_pause(failure.retry_after, self._policy, dice), _LONGEST_PAUSE), over
        if self._throttle.count > before:
            return min(self._throttle.pause(over, self._policy, dice, first), _LONGEST_PAUSE), over
        return 0.0, over  # it belongs to a pause that stands

    # Bound 3: the outage

    def _alive(self, now: float, request: Request, sent_at: float) -> None:
        """Note an answer that shows the server up and not throttling."""
        self._throttle.passed(sent_at)
        self._excused = 0
        if self._outage.probes(request):
            self._end(now, answered=True)
        self._outage.answered(now, request, sent_at)

    def _note_disconnect(self, request: Request, failure: Failure, most: int) -> None:
        """Count a lost connection; one that is known to be stale costs not even an attempt."""
        if failure.stale and most > 1:
            request.attempts -= 1
        elif failure.early:
            request.disconnects += 1

    def _may_be_stale(self, request: Request, failure: Failure) -> bool:
        """Whether losing a connection tells nothing of the server (a20)."""
        if failure.stale:
            return True
        if self._outage.stopped_at is not None or request.disconnects or self._excused >= self._pool:
            return False
        self._excused += 1
        return True

    def _count(
        self, now: float, request: Request, failure: Failure, hidden: int, most: int, *, wanted: bool
    ) -> Ruling | None:
        """Count a failure towards an outage; a ruling if there is one and the request waits for its end.

        Others that were sent since a request first failed, and answered, show that it fails by itself.
        """
        begins = self._outage.stopped_at is None
        if begins and self._served_at > request.failed_at:
            return None
        was_probe = self._outage.failed(now, request, request.origin or request)
        self._last_error = failure.error
        if self._outage.stopped_at is None:
            return None
        self._ends_at = min(self._ends_at, now + self._policy.max_outage)
        self._gets_until = min(self._gets_until, now + WEB_REQUEST)
        if not wanted or failure.sort is not Sort.PASSING:
            return None
        if most > 1:  # else it fails, whatever it was
            if was_probe and self._outage.ever_answered:  # probes cost nothing, once the server has answered
                request.attempts -= 1 + hidden
            if begins:  # whoever notices it is not to lose its leads for that
                request.attempts = min(request.attempts, most - 1)
        if request.final_attempt or request.attempts >= most:
            # While the server has never answered, probes are the attempts of one request; when they are
            # spent, so is the outage. One of an impatient call fails alone.
            patient = request.final_attempt or most >= self._policy.max_attempts
            lost = self._give_up(now) if was_probe and patient else Ruling()
            return msgspec.structs.replace(lost, then=Fail())
        if not (was_probe or self._afforded()):
            return None
        request.retried = True
        gets = failure.error if was_probe and self._outage.announced else None
        return Ruling(Held(first=not self._outage.ever_answered), give_up_gets=gets)

    def _afforded(self) -> bool:
        """Whether a request may wait for the end: before the first probe it pays, as for any retry."""
        if self._outage.announced:
            return True
        paid = self._budget.spend()
        self._paid += paid
        return paid

    def _give_up(self, now: float) -> Ruling:
        """End the outage without an answer: everything that waits fails with the last error."""
        self._end(now, answered=False)
        self._outage.reset()
        return self._ruling(give_up=self._last_error)

    def _end(self, now: float, *, answered: bool) -> None:
        stopped_at, announced = self._outage.stopped_at, self._outage.announced
        if stopped_at is None:
            return
        self._paid = 0
        self.rest()
        self._outage.reset()
        if announced:
            self._news.append(OutageEnded(now - stopped_at, answered))

    def _ruling(
        self,
        then: Then | None = None,
        pause: float = 0.0,
        give_up: LeadStatusError | None = None,
    ) -> Ruling:
        """Return a ruling that tells what has not been told."""
        if not self._news:
            return Ruling(then, pause, give_up) if then or pause or give_up else NOTHING
        events, self._news = tuple(self._news), []
        return Ruling(then, pause, give_up, events=events)
