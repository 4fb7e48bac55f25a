"""Whether the server is down: a state machine without a clock.

Five failures in a row of the server or of the way to it, from at least two requests, stop all
sending; more where failing is usual, so that chance is not taken for an outage. Then one probe at a
time goes out, at a growing interval, and its answer ends it. The first probe is what makes it an
outage. What is in flight may still be answered by a server that takes nothing new, as one does that
shuts down: such an answer lets one request try at once, and where that is answered it was no outage.
Whether a failure is one of those counted is `counts`; the shell waits, sends and gives up.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from leadstatus_async._steps.decipher import Sort
from leadstatus_async.errors import APIConnectionError, ServerError

if TYPE_CHECKING:
    from leadstatus_async._steps.decipher import Failure
    from leadstatus_async.policy import RetryPolicy

RUN = 5
_CHANCE = 1e-5  # how likely a run may be by chance, where a share of all requests fails anyway
_LONGEST_RUN = 40  # is an outage, whatever was usual before
_MEMORY = 0.05  # weight of one answer in that share
PROBE_INTERVAL = 4.5  # seconds between two probes at most: a server that is back is noticed within five


def counts(failure: Failure) -> bool:
    """Whether `failure` is of the server or of the way to it: 5xx, connection, timeout, somebody's page."""
    if failure.sort is Sort.FATAL:
        return False
    not_the_api = failure.page or (failure.disbelieved and failure.sort is Sort.PASSING)
    return not_the_api or isinstance(failure.error, ServerError | APIConnectionError)


class Outage:
    """The run of failures, and the outage it may have become.

    Attributes:
        stopped_at: since when nothing but probes may go out; None while all may.
    """

    __slots__ = (
        "_began",
        "_failures",
        "_first",
        "_last_answer",
        "_next_probe",
        "_passed",
        "_policy",
        "_probe",
        "_probed_at",
        "_probes",
        "_run",
        "_several",
        "_trial",
        "_usual",
        "stopped_at",
    )

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._last_answer: float | None = None
        self._usual = 0.0  # share of failures in what has been accounted for
        self._began = 0.0  # when the first of the failures came that have not
        self.reset()

    def reset(self) -> None:
        """Start afresh, as after giving up."""
        self._run = 0
        self._failures = self._passed = 0  # answers not accounted for yet
        self._first: object = None
        self._several = False
        self.stopped_at: float | None = None
        self._probes = 0
        self._probe: object = None
        self._trial = False  # the next to go only tries whether it is one
        self._probed_at = self._next_probe = 0.0

    @property
    def enabled(self) -> bool:
        """Whether the policy has the rule at all."""
        return self._policy.max_outage > 0 and self._policy.max_attempts > 1

    @property
    def announced(self) -> bool:
        """Whether a probe has gone out, which makes it an outage."""
        return self._probes > 0

    @property
    def ever_answered(self) -> bool:
        """Whether the session ever had a success; until then probes count as attempts of one request."""
        return self._last_answer is not None

    def failed(self, now: float, request: object, origin: object) -> bool:
        """Note a failure that `counts`; True if it was the probe's.

        Args:
            now: when it came, in seconds.
            request: whose it was.
            origin: what that is a part of, if it was cut: its parts are not several requests.
        """
        if not self.enabled:
            return False
        was_probe = self.probes(request)
        if was_probe:
            self._over(now)
        self._run += 1
        if not self._failures:
            self._began = now
        self._failures += 1
        self._first = self._first or origin
        self._several |= origin is not self._first
        if self.stopped_at is None and self._run >= self._enough() and self._several:
            self.stopped_at = now
            since = now if self._last_answer is None else self._last_answer
            self._next_probe = max(now, since + self._policy.base_delay)
        return was_probe

    def probes(self, request: object) -> bool:
        """Whether `request` is the probe on its way."""
        return self._probe is not None and request is self._probe

    def answered(self, now: float, request: object, sent_at: float) -> None:
        """Note any other answer but a 429: the run is over, and the outage with it.

        Of a request that was sent before sending stopped, it only lets one request try at once.
        """
        self._last_answer = now
        if self.stopped_at is None:
            self._run, self._first, self._several = 0, None, False
            self._learn(sent_at)
        elif self.probes(request):
            self.reset()
        elif self._probe is None:
            self._trial, self._next_probe = True, now

    def _learn(self, sent_at: float) -> None:
        """Learn what share usually fails, but not from a server that only finishes what it has begun."""
        self._passed += 1
        if self._failures and sent_at <= self._began:
            return
        answers = self._failures + self._passed
        weight = 1.0 - (1.0 - _MEMORY) ** answers
        self._usual += weight * (self._failures / answers - self._usual)
        self._failures = self._passed = 0

    def untold(self, now: float, request: object) -> None:
        """Note that a request ended without telling anything: a 429, or cut off by its caller."""
        if self.probes(request):
            self._over(now)

    def again(self, now: float, request: object) -> None:
        """Note that a request met a stale connection: the probe, if it was that, may be sent again."""
        if self.probes(request):
            self._probe, self._next_probe = None, now

    def wait(self, now: float) -> float:
        """Return the seconds until a request may go: 0.0 now, infinity while a probe is on its way."""
        if self.stopped_at is None:
            return 0.0
        return math.inf if self._probe is not None else max(0.0, self._next_probe - now)

    def sent(self, now: float, request: object) -> bool:
        """Note that a request goes out; True if it is the first probe, which makes it an outage."""
        if self.stopped_at is None:
            return False
        self._probe, self._probed_at = request, now
        if self._trial:
            self._trial = False
            return False
        self._probes += 1
        return self._probes == 1

    def _enough(self) -> int:
        """Return how many failures in a row are no chance any more."""
        if self._usual <= 0.0:
            return RUN
        return min(_LONGEST_RUN, max(RUN, math.ceil(math.log(_CHANCE) / math.log(self._usual))))

    def _over(self, now: float) -> None:
        """Take it that the probe is back: the interval to the next counts from when it was sent."""
        cap = min(PROBE_INTERVAL, self._policy.max_delay)
        interval = min(cap, self._policy.base_delay * 2.0 ** min(self._probes, 60))
        self._probe, self._next_probe = None, max(now, self._probed_at + interval)
