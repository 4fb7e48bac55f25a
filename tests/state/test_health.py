"""How the server fares, judged from its answers: each rule a row, on a clock that is driven by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leadstatus_async._state.health import WEB_REQUEST, Health, Held, Ruling
from leadstatus_async._state.request import Request
from leadstatus_async._steps.decide import Again, Fail, Split, Stop, Throttled
from leadstatus_async._steps.decipher import Failure, Sort
from leadstatus_async.errors import (
    APIConnectionError,
    AuthenticationError,
    BadRequestError,
    LimiterError,
    RateLimitError,
    ServerError,
    SessionClosedError,
)
from leadstatus_async.events import OutageEnded, OutageStarted
from leadstatus_async.policy import RetryPolicy

POLICY = RetryPolicy(base_delay=0.5, max_attempts=5, budget=10, max_outage=60, max_retry_after=120)
DOWN = Failure(ServerError(500), Sort.PASSING)
LOST = Failure(APIConnectionError("lost"), Sort.PASSING, early=True)
STALE = Failure(APIConnectionError("stale"), Sort.PASSING, early=True, stale=True)
TOLD = Failure(ServerError(503), Sort.PASSING, 7.0)
THROTTLED = Failure(RateLimitError(429), Sort.THROTTLED)
CLOSED = Failure(SessionClosedError("closed"), Sort.FATAL)
BROKEN = Failure(LimiterError("gone"), Sort.FINAL)
PAUSED = Failure(RateLimitError(429, retry_after=500.0), Sort.FINAL)  # ours, before anything was sent


class Story:
    """A session's health, and a clock."""

    def __init__(self, policy=POLICY, pool=4):
        self.health = Health(policy, pool)
        self.now = 100.0

    def request(self):
        return Request(0, ["x"], self.now)

    def send(self, request, took=0.1):
        """Let a request depart, and time pass."""
        self.sent_at = self.now
        ruling = self.health.departed(self.now, request)
        self.now += took
        return ruling

    def fails(self, failure, request=None, **facts):
        """Let a request be sent and fail."""
        request = request or self.request()
        self.send(request)
        facts = {"dice": 0.5, **facts}
        return self.health.failed(self.now, request, failure, self.sent_at, **facts)

    def answers(self, request=None):
        """Let a request be sent and bring rows."""
        request = request or self.request()
        self.send(request)
        return self.health.answered(self.now, request, self.sent_at)

    def falls(self):
        """Let five requests fail, after one answer; return them."""
        self.answers()
        requests = [self.request() for _ in range(5)]
        for request in requests:
            self.fails(DOWN, request)
        return requests

    def probe(self):
        """Wait until the next probe is due, and let it go."""
        self.now += self.health.stopped_for(self.now)
        request = self.request()
        return request, self.send(request)


def test_history():
    """A request's attempts and waiting are counted when it departs and when it fails."""
    story, request = Story(), None
    request = story.request()
    story.now += 2
    assert story.fails(DOWN, request) == Ruling(Again(0.25))
    assert (request.attempts, request.waited, request.retried, request.ready_at) == (1, 2.0, True, story.now)
    assert request.failed_at == story.now
    first = story.now
    story.now += 3
    assert story.fails(DOWN, request) == Ruling(Again(0.5))
    assert (request.attempts, request.waited, request.failed_at) == (2, 5.0, first)
    assert story.answers(request) == Ruling()
    assert (request.attempts, request.retried) == (3, False)
    assert story.health.answers == 1


@pytest.mark.parametrize(
    ("failure", "then"),
    [
        (Failure(AuthenticationError(401), Sort.FATAL), Stop()),
        (Failure(BadRequestError(400), Sort.REFUSED), Split()),
        (Failure(BadRequestError(400), Sort.OVERSIZE), Split()),
        (Failure(ServerError(501), Sort.FINAL), Fail()),
        (DOWN, Again(0.25)),
        (STALE, Again(0.0)),
        (LOST, Again(0.0)),
        (THROTTLED, Throttled()),
        (TOLD, Again(7.35)),
        (CLOSED, Stop()),
    ],
    ids=["401", "400", "414", "501", "500", "stale", "lost", "429", "503 stated", "closed"],
)
def test_what_becomes_of_a_request(failure, then):
    """The verdict of `decide`, in a ruling; nobody else is concerned but by a pause."""
    ruling = Story().fails(failure)
    assert ruling.then == then
    assert (ruling.give_up, ruling.give_up_gets, ruling.events) == (None, None, ())
    assert (ruling.pause > 0) == (failure in (THROTTLED, TOLD))


def test_pauses():
    """Stated ones as stated, jitter upward; one for all the 429s of a moment; then a longer one."""
    story = Story()
    first, second, third = story.request(), story.request(), story.request()
    for request in (first, second):
        story.health.departed(story.now, request)
    sent_at = story.now
    story.now += 0.1
    assert story.health.failed(story.now, first, THROTTLED, sent_at, dice=1.0).pause == pytest.approx(0.25)
    assert story.health.failed(story.now, second, THROTTLED, sent_at, dice=1.0).pause == 0.0
    story.now += 0.3
    assert story.fails(THROTTLED, third, dice=1.0).pause == pytest.approx(0.25 * 1.7)
    assert story.fails(Failure(RateLimitError(429), Sort.THROTTLED, 9.0), dice=1.0).pause == pytest.approx(
        9.9
    )
    assert story.fails(Failure(RateLimitError(429), Sort.THROTTLED, 1e9), dice=0.0).pause == 86_400.0
    assert (first.retried, first.attempts) == (False, 1)


@pytest.mark.parametrize("failure", [RateLimitError, ServerError])
def test_too_long_a_pause_is_nobodys_to_wait_for(failure):
    """Beyond `max_retry_after` everything that waits fails at once, with the error that has the value."""
    status, sort = (429, Sort.THROTTLED) if failure is RateLimitError else (503, Sort.PASSING)
    error = failure(status, retry_after=121)
    ruling = Story().fails(Failure(error, sort, 121.0))
    assert (ruling.then, ruling.give_up) == (Fail(), error)


def test_too_long_a_pause_ends_waiting_in_an_outage_too():
    """A 503 that states it gives everything up at once, with the value."""
    story = Story()
    story.falls()
    error = ServerError(503, retry_after=3600)
    probe, _ = story.probe()
    ruling = story.health.failed(
        story.now, probe, Failure(error, Sort.PASSING, 3600.0), story.sent_at, dice=0.5
    )
    assert (ruling.give_up, ruling.pause) == (error, 3600.0)


def test_endless_429s_are_given_up():
    """After `max_outage` seconds of nothing else, whatever the concurrency; then it begins anew."""
    story = Story()
    began, rulings = story.now, []
    while not rulings or rulings[-1].give_up is None:
        rulings.append(story.fails(THROTTLED))
        story.now += rulings[-1].pause
    assert 60 <= story.now - began <= 95
    assert (rulings[-1].then, rulings[-1].give_up) == (Fail(), THROTTLED.error)
    assert story.fails(THROTTLED).give_up is None


def test_budget():
    """A retry costs one, an answer refills a tenth; a 429 and what nobody waits for cost nothing."""
    story = Story(RetryPolicy(budget=2))
    for _ in range(5):
        assert story.fails(THROTTLED).then == Throttled()
        assert story.fails(DOWN, wanted=False).then is None
        story.answers()
    retries = [story.fails(DOWN).then for _ in range(3)]
    assert [type(one) for one in retries] == [Again, Again, Fail]
    for _ in range(10):
        story.answers()
    assert isinstance(story.fails(DOWN).then, Again)
    assert isinstance(story.fails(DOWN).then, Fail)


def test_a_stale_connection_costs_nothing():
    """One that had served another request; of others a request's first, up to a pool of them in a row."""
    story = Story(pool=2)
    request = story.request()
    assert story.fails(STALE, request).then == Again(0.0)
    assert request.attempts == 0
    assert [story.fails(LOST).then for _ in range(2)] == [Again(0.0)] * 2
    assert isinstance(story.fails(LOST).then, Again)
    assert story.fails(LOST).then != Again(0.0)
    story.answers()
    again = story.request()
    assert story.fails(LOST, again).then == Again(0.0)
    assert story.fails(LOST, again).then != Again(0.0)


def test_what_aiohttp_sent_besides_is_an_attempt():
    """On a borrowed session a lost connection may have been two; whether a retry is left goes by both."""
    story = Story()
    request = story.request()
    story.fails(LOST, request, hidden=1)
    assert (request.attempts, request.disconnects) == (2, 1)
    story.fails(DOWN, request, hidden=1)
    assert (request.attempts, request.disconnects) == (4, 1)


def test_an_outage_stops_all_sending():
    """The fifth failure in a row, from at least two requests, is held for the end, and keeps its last try."""
    story = Story()
    story.answers()
    requests = [story.request() for _ in range(5)]
    requests[4].attempts = 4
    rulings = [story.fails(DOWN, request) for request in requests]
    assert [type(ruling.then) for ruling in rulings] == [Again] * 4 + [Held]
    assert rulings[-1] == Ruling(Held(first=False))
    assert requests[4].attempts == 4
    assert story.health.stopped_for(story.now) > 0
    assert story.health.alarm < math.inf


def test_one_request_alone_makes_no_outage():
    """However often it fails: it may be that one."""
    story = Story(RetryPolicy(max_attempts=20, budget=100))
    story.answers()
    request = story.request()
    assert all(isinstance(story.fails(DOWN, request).then, Again) for _ in range(10))
    assert story.health.stopped_for(story.now) == 0.0


def test_others_that_are_answered_show_that_it_fails_by_itself():
    """A request that fails while others are answered counts towards no outage."""
    story = Story(RetryPolicy(max_attempts=20, budget=100))
    poison = [story.request() for _ in range(3)]
    for _ in range(5):
        for request in poison:
            assert isinstance(story.fails(DOWN, request).then, Again)
        story.answers()
    assert story.health.stopped_for(story.now) == 0.0


def test_probes():
    """The first is told, and makes it an outage; one at a time; a failed one fails the gets that wait."""
    story = Story()
    story.falls()
    probe, ruling = story.probe()
    assert ruling.events == (OutageStarted("ServerError"),)
    assert story.health.stopped_for(story.now) == math.inf
    ruling = story.health.failed(story.now, probe, DOWN, story.sent_at, dice=0.5)
    assert (ruling.then, ruling.give_up_gets, ruling.events) == (Held(first=False), DOWN.error, ())
    assert probe.attempts == 0, "probes cost nothing"
    assert 0 < story.health.stopped_for(story.now) < math.inf
    probe, ruling = story.probe()
    assert ruling.events == ()
    ruling = story.health.answered(story.now, probe, story.sent_at)
    (ended,) = ruling.events
    assert isinstance(ended, OutageEnded)
    assert ended.answered
    assert (story.health.stopped_for(story.now), story.health.alarm) == (0.0, math.inf)


@pytest.mark.parametrize("how", ["untold", "429", "closed", "stale", "broken", "paused"])
def test_a_lost_probe_frees_the_way(how):
    """Cut off, refused for the rate, closed by us, or on a stale connection: the next one may go."""
    story = Story()
    story.falls()
    probe, _ = story.probe()
    if how == "untold":
        assert story.health.untold(story.now, probe) == Ruling()
    else:
        kinds = {"429": THROTTLED, "closed": CLOSED, "stale": STALE, "broken": BROKEN, "paused": PAUSED}
        failure = kinds[how]
        story.health.failed(story.now, probe, failure, story.sent_at, dice=0.5)
    assert story.health.stopped, "it was no answer"
    assert story.health.stopped_for(story.now) < math.inf
    story.probe()


def test_an_outage_is_given_up():
    """After `max_outage` seconds everything that waits fails with the last error, and it begins anew."""
    story = Story()
    story.falls()
    story.probe()
    story.health.rest()
    assert story.health.alarm == math.inf, "nobody waits"
    story.fails(DOWN)
    began = story.now
    assert story.health.tick(story.now) == Ruling(), "too early"
    assert story.health.alarm == story.sent_at + WEB_REQUEST
    story.now = began + WEB_REQUEST
    assert story.health.tick(story.now) == Ruling(give_up_gets=DOWN.error)
    assert story.health.alarm == story.now + WEB_REQUEST
    story.now = began + 60
    ruling = story.health.tick(story.now)
    assert ruling.give_up is DOWN.error
    (ended,) = ruling.events
    assert not ended.answered
    assert (story.health.stopped_for(story.now), story.health.alarm) == (0.0, math.inf)


def test_a_session_without_success_gives_up_with_its_attempts():
    """Probes are then the attempts of one request; when they are spent, so is the outage."""
    story = Story()
    requests = [story.request() for _ in range(5)]
    for request in requests:
        ruling = story.fails(DOWN, request)
    assert ruling.then == Held(first=True)
    rulings = []
    while not rulings or rulings[-1].give_up is None:
        story.now += story.health.stopped_for(story.now)
        rulings.append(story.fails(DOWN, requests[4]))
    assert [one.then for one in rulings] == [Held(first=True)] * (len(rulings) - 1) + [Fail()]
    assert requests[4].attempts == 5
    assert story.health.stopped_for(story.now) == 0.0


def test_what_waits_pays_until_it_is_an_outage():
    """Waiting for the first probe costs budget like a retry, and is paid back when it is one."""
    story = Story(RetryPolicy(budget=6))
    story.answers()
    requests = [story.request() for _ in range(8)]
    for request in requests:
        story.send(request, took=0.0)
    failed = [story.health.failed(story.now, one, DOWN, story.sent_at, dice=0.5) for one in requests]
    kinds = [type(ruling.then) for ruling in failed]
    assert kinds == [Again] * 4 + [Held] * 2 + [Fail] * 2
    probe, _ = story.probe()
    assert isinstance(story.fails(DOWN).then, Held), "paid back, and free from now on"
    story.health.answered(story.now, probe, story.sent_at)


def test_what_nobody_waits_for_is_noted_all_the_same():
    """Its failure counts towards an outage, its 429 pauses, its bill is nobody's."""
    story = Story()
    story.answers()
    for _ in range(5):
        ruling = story.fails(DOWN, wanted=False)
        assert ruling == Ruling()
    assert story.health.stopped_for(story.now) > 0
    assert Story().fails(THROTTLED, wanted=False).pause > 0
    last = story.request()
    last.final_attempt = True
    assert story.fails(DOWN, last).then == Fail(), "what else waited has been given up"


def test_closing_ends_an_outage():
    """Nobody will see its end any more; one that never had a probe is not told."""
    story = Story()
    story.falls()
    assert story.health.close(story.now) == Ruling()
    story.falls()
    story.probe()
    (ended,) = story.health.close(story.now).events
    assert not ended.answered
    assert story.health.close(story.now) == Ruling()


steps = st.lists(
    st.tuples(
        st.sampled_from(["answered", "untold", "down", "lost", "throttled", "told", "tick", "wait"]),
        st.integers(0, 3),
        st.booleans(),
    ),
    max_size=60,
)


@given(steps=steps, dice=st.floats(0, 0.999))
def test_no_story_silences_a_session(steps, dice):
    """Whatever happens in whatever order: once nothing is on its way, sending goes on in a bounded time."""
    story = Story()
    failures = {"down": DOWN, "lost": LOST, "throttled": THROTTLED, "told": TOLD}
    away, outages = {}, 0
    for what, which, wanted in steps:
        if what == "wait":
            story.now += which
        elif what == "tick":
            outages -= len(story.health.tick(story.now).events)
        elif which in away:
            request, sent_at = away.pop(which)
            if what == "answered":
                ruling = story.health.answered(story.now, request, sent_at)
            elif what == "untold":
                ruling = story.health.untold(story.now, request)
            else:
                ruling = story.health.failed(
                    story.now, request, failures[what], sent_at, dice=dice, wanted=wanted
                )
            outages -= len(ruling.events)
        elif story.health.stopped_for(story.now) == 0.0:
            away[which] = story.request(), story.now
            outages += len(story.health.departed(story.now, away[which][0]).events)
        assert outages in (0, 1), "begun and ended in turn"
    for request, _ in away.values():
        story.health.untold(story.now, request)
    assert story.health.stopped_for(story.now) <= 20
    story.now += story.health.stopped_for(story.now)
    assert story.health.stopped_for(story.now) == 0.0
