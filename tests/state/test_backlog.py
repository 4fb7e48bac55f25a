"""Which leads of one call are unsent, on their way, refused or answered, and what refusals teach."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leadstatus_async._state.backlog import REFUSALS_WITHOUT_A_ROW, Backlog
from leadstatus_async._steps.chunk import Limits, endpoint
from leadstatus_async._steps.decipher import BadRow, Failure, Rows, Sort
from leadstatus_async._steps.merge import Merged, merge
from leadstatus_async.errors import (
    APIConnectionError,
    BadRequestError,
    DeadlineExceededError,
    LeadStatusError,
    RequestTooLargeError,
    ResponseDecodeError,
    ServerError,
)
from leadstatus_async.models import LeadFailure, LeadStatus, WorkflowStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leadstatus_async._state.backlog import Leads
    from leadstatus_async._state.request import Request

WHERE = endpoint("", "acc", "cam", "comma")
PREFIX = len(WHERE.prefix)
TOO_LONG, TOO_MANY = Sort.OVERSIZE, Sort.REFUSED


def names(count: int) -> list[str]:
    """Return distinct IDs of five bytes each, comma included."""
    return [f"{number:04d}" for number in range(count)]


def size(count: int) -> int:
    """Return the bytes of a target of so many `names`."""
    return PREFIX + 5 * count - 1


class Ledger:
    """A backlog, and the outcomes of its leads, entered as a job does.

    Attributes:
        lead_ids: by position.
        outcomes: as many; None while open.
    """

    def __init__(self, lead_ids: Sequence[str], limits: Limits, now: float = 0.0) -> None:
        self.backlog = Backlog(WHERE, limits)
        self.backlog.add(list(lead_ids), now)
        self.lead_ids = lead_ids
        self.outcomes: list[LeadStatus | LeadFailure | None] = [None] * len(lead_ids)

    def __getattr__(self, name: str) -> Any:
        """Ask the backlog."""
        return getattr(self.backlog, name)

    @property
    def failed(self) -> int:
        """How many leads have failed."""
        return sum(outcome is not None and not outcome.ok for outcome in self.outcomes)

    def retry(self, chunk: Request, *, first: bool = False) -> None:
        """Send a chunk again."""
        self.backlog.returned(chunk)
        self.backlog.again(chunk, first=first)

    def rest(self, chunk: Request) -> None:
        """Let a chunk back off."""
        self.backlog.returned(chunk)
        self.backlog.back_off(chunk)

    def answered(self, chunk: Request, merged: Merged) -> None:
        """Enter the outcomes of a chunk."""
        self.backlog.returned(chunk)
        self.outcomes[chunk.start : chunk.start + len(chunk)] = merged.outcomes
        self.backlog.answered(chunk, rows=merged.failed < len(chunk))

    def fail(self, chunk: Request, error: LeadStatusError) -> None:
        """Fail a chunk."""
        self.backlog.returned(chunk)
        self.backlog.failed(chunk)
        self._enter(error, [(chunk.start, chunk.ids)])

    def rejected(self, chunk: Request, failure: Failure) -> None:
        """Take it that a chunk was refused."""
        self.backlog.returned(chunk)
        if self.backlog.refused(chunk, failure):
            self._enter(failure.error, [(chunk.start, chunk.ids)])

    def fail_rest(self, error: LeadStatusError, spare: Sequence[Request] = ()) -> None:
        """Fail everything but what is on its way."""
        for chunk in [chunk for chunk in self.backlog.in_flight if chunk not in spare]:
            self.rest(chunk)
        self._enter(error, self.backlog.drain(in_flight=False))

    def fail_beyond(self, requests: int, error: LeadStatusError) -> None:
        """Fail what the next so many requests do not reach."""
        self._enter(error, self.backlog.drain_beyond(requests))

    def _enter(self, error: LeadStatusError, leads: Sequence[Leads]) -> None:
        error.lead_ids = tuple(lead_id for _, ids in leads for lead_id in ids)
        for start, ids in leads:
            self.outcomes[start : start + len(ids)] = [LeadFailure(lead_id, error) for lead_id in ids]


def open_ledger(count: int, chunk_size: int = 100, max_url_bytes: int = 4000) -> tuple[Ledger, Limits]:
    """Return a ledger of `count` leads and the session's limits it goes by."""
    limits = Limits(chunk_size, max_url_bytes)
    return Ledger(names(count), limits), limits


def asked(ledger: Ledger, chunk: Request) -> Sequence[str]:
    """Return the IDs of a chunk."""
    assert chunk.ids == ledger.lead_ids[chunk.start : chunk.start + len(chunk)]
    return chunk.ids


def answer(ledger: Ledger, chunk: Request) -> None:
    """Answer a chunk with a row for each lead."""
    rows = [LeadStatus(lead_id, WorkflowStatus.PENDING) for lead_id in asked(ledger, chunk)]
    ledger.answered(chunk, merge(asked(ledger, chunk), Rows(rows, clean=True)))


def refusal(sort: Sort) -> Failure:
    """Return what a server refuses a request with."""
    if sort is TOO_LONG:
        return Failure(RequestTooLargeError(414), TOO_LONG)
    return Failure(BadRequestError(400, "VALIDATION_ERROR", "leadIds is invalid"), sort)


def refuse(ledger: Ledger, chunk: Request, sort: Sort = TOO_MANY) -> None:
    """Refuse a chunk."""
    ledger.rejected(chunk, refusal(sort))


def take(ledger: Ledger | Backlog) -> Request:
    """Take a chunk that must be there."""
    chunk = ledger.take()
    assert chunk is not None
    return chunk


def spans(chunks: Sequence[Request]) -> list[tuple[int, int]]:
    """Return where chunks begin and end."""
    return [(chunk.start, chunk.start + len(chunk)) for chunk in chunks]


def oks(ledger: Ledger) -> list[bool | None]:
    """Return how each lead stands: True for a status, False for a failure, None if open."""
    return [None if outcome is None else outcome.ok for outcome in ledger.outcomes]


class Server:
    """A model of a server: refuses too many, too long, and bad IDs; answers the rest."""

    def __init__(self, max_count: int = 10**9, max_bytes: int = 10**9, bad: Sequence[str] = ()) -> None:
        self.max_count = max_count
        self.max_bytes = max_bytes
        self.bad = set(bad)

    def verdict(self, lead_ids: Sequence[str], target: str) -> Sort | None:
        """Return how a request is refused; None if it is answered."""
        if len(target) > self.max_bytes:
            return TOO_LONG
        return TOO_MANY if len(lead_ids) > self.max_count or self.bad & set(lead_ids) else None


class Driver:
    """Drives a ledger as a call does, in an order that dice choose, and checks it at every step.

    Attributes:
        flying: chunks sent and not back.
        resting: chunks that wait out a back-off.
        requests: how many were sent.
        answered: whether any was answered with a row.
    """

    def __init__(
        self, ledger: Ledger, limits: Limits, server: Server, dice: random.Random, concurrency: int
    ) -> None:
        self.ledger = ledger
        self.limits = limits
        self.server = server
        self.dice = dice
        self.concurrency = concurrency
        self.flying: list[Request] = []
        self.resting: list[Request] = []
        self.requests = 0
        self.answered = False
        self.seen: list[object] = [None] * len(ledger.lead_ids)

    def run(self, mishap: Callable[[Driver, Request], bool] = lambda driver, chunk: False) -> None:
        """Go on until nothing can happen any more; `mishap` may take a chunk that is back for itself."""
        while self.step(mishap):
            self.check()
        self.check()
        assert self.ledger.open == 0, "the call would hang"
        assert not self.ledger.sendable
        assert self.ledger.take() is None

    def step(self, mishap: Callable[[Driver, Request], bool]) -> bool:
        """Do one thing that can be done; False if there is none."""
        ways: list[Callable[[], None]] = []
        if self.ledger.sendable and len(self.flying) < self.concurrency:
            ways.append(self.send)
        if self.flying:
            ways.append(lambda: self.land(mishap))
        if self.resting:
            ways.append(lambda: self.ledger.retry(self.pick(self.resting)))
        if not ways or (self.ledger.hopeless and not self.give_up()):
            return False
        self.dice.choice(ways)()
        return True

    def pick(self, chunks: list[Request]) -> Request:
        """Take out any of the chunks."""
        return chunks.pop(self.dice.randrange(len(chunks)))

    def send(self) -> None:
        """Send what the ledger hands out."""
        chunk = self.ledger.take()
        if chunk is None:
            assert self.flying or self.resting or self.ledger.open == 0, "nothing would ever wake the call"
            return
        chunk.attempts += 1
        self.requests += 1
        assert self.limits.allow(len(chunk), len(chunk.target))
        assert chunk.target == WHERE.target(asked(self.ledger, chunk))
        self.flying.append(chunk)

    def land(self, mishap: Callable[[Driver, Request], bool]) -> None:
        """Let a request end."""
        chunk = self.pick(self.flying)
        if mishap(self, chunk):
            return
        sort = self.server.verdict(asked(self.ledger, chunk), chunk.target)
        if sort is not None:
            refuse(self.ledger, chunk, sort)
        else:
            answer(self.ledger, chunk)
            self.answered = True

    def give_up(self) -> bool:
        """End as a call whose requests the server does not accept at all."""
        assert not self.answered
        assert self.ledger.hopeless is not None
        self.ledger.fail_rest(self.ledger.hopeless)
        self.flying.clear()
        self.resting.clear()
        return False

    def check(self) -> None:
        """Check that every position is in one place only, and that what is settled stays."""
        ledger = self.ledger
        for before, now in zip(self.seen, ledger.outcomes, strict=True):
            assert before is None or before is now, "an outcome was replaced"
        self.seen = list(ledger.outcomes)
        places = [place for start, stop in spans(self.flying + self.resting) for place in range(start, stop)]
        assert len(places) == len(set(places)), "a lead is on its way twice"
        assert all(ledger.outcomes[place] is None for place in places), "a settled lead is on its way"
        for place, outcome in enumerate(ledger.outcomes):
            assert outcome is None or outcome.lead_id == ledger.lead_ids[place]
        assert ledger.open == sum(outcome is None for outcome in ledger.outcomes)
        assert ledger.failed == sum(outcome is not None and not outcome.ok for outcome in ledger.outcomes)


def mishaps(driver: Driver, chunk: Request) -> bool:
    """Let one request in three fail, be retried at once, first or later, be cut, or see all turned away."""
    match driver.dice.randrange(24):
        case 0:
            driver.ledger.fail(chunk, ServerError(500))
        case 1 | 2:
            driver.resting.append(chunk)
            driver.ledger.rest(chunk)
        case 3 | 4:
            driver.ledger.retry(chunk)
        case 5:
            driver.ledger.retry(chunk, first=True)
        case 6 if len(chunk) > 1:
            driver.ledger.rejected(chunk, Failure(ServerError(500), Sort.PASSING))
        case 7:
            driver.flying.append(chunk)
            driver.resting.clear()
            driver.ledger.fail_rest(APIConnectionError("turned away"), spare=driver.flying)
            driver.flying.remove(chunk)
            driver.ledger.retry(chunk)
        case _:
            return False
    return True


servers = st.builds(
    lambda count, room, bad: Server(count, PREFIX + room, [f"{number:04d}" for number in bad]),
    st.integers(1, 40),
    st.integers(4, 200),
    st.sets(st.integers(0, 60), max_size=4),
)
shapes = st.tuples(st.integers(0, 60), st.integers(1, 20), st.integers(0, 150), st.integers(1, 6))
dice_ = st.randoms(use_true_random=False)


@given(servers, shapes, dice_)
def test_every_lead_is_settled_as_the_server_has_it(server, shape, dice):
    """In any order of answers, good leads are answered, bad ones fail, and limits are learned."""
    count, chunk_size, room, concurrency = shape
    ledger, limits = open_ledger(count, chunk_size, PREFIX + room)
    driver = Driver(ledger, limits, server, dice, concurrency)
    driver.run()
    if ledger.hopeless is None:
        assert oks(ledger) == [lead_id not in server.bad for lead_id in ledger.lead_ids]
    assert limits.chunk_size == chunk_size or server.max_count / 2 <= limits.chunk_size <= server.max_count
    assert limits.max_url_bytes == PREFIX + room or limits.max_url_bytes >= server.max_bytes // 2
    assert driver.requests <= count + 2 * ledger.splits + 1 + concurrency * (1 + ledger.splits)


@settings(max_examples=300)
@given(servers, shapes, dice_)
def test_no_lead_is_lost_in_any_mishap(server, shape, dice):
    """Failures, retries, splits and turn-aways at any moment settle each lead exactly once."""
    count, chunk_size, room, concurrency = shape
    ledger, limits = open_ledger(count, chunk_size, PREFIX + room)
    Driver(ledger, limits, server, dice, concurrency).run(mishaps)
    assert limits.chunk_size == chunk_size or server.max_count / 2 <= limits.chunk_size <= server.max_count


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("max_count", [99, 50, 33, 10, 1])
def test_lower_count_costs_a_lesson_not_one_per_chunk(max_count, seed):
    """30,000 leads, 16 at a time, against a lower count: a handful of splits and no failure."""
    ledger = Ledger([f"{number:05d}" for number in range(30_000)], limits := Limits(100, 4000))
    driver = Driver(ledger, limits, Server(max_count), random.Random(seed), 16)
    driver.check = lambda: None  # 30,000 leads at each step are too many
    driver.run()
    assert ledger.failed == 0
    assert ledger.splits <= 8
    assert max_count / 2 <= limits.chunk_size <= max_count
    assert driver.requests <= 30_000 / limits.chunk_size + 16 + 3 * ledger.splits


@pytest.mark.parametrize("seed", range(5))
def test_shorter_urls_cost_a_lesson_not_one_per_chunk(seed):
    """30,000 leads against a server of 500 bytes: a split for each halving, and no failure."""
    ledger = Ledger([f"{number:024d}" for number in range(30_000)], limits := Limits(100, 4000))
    driver = Driver(ledger, limits, Server(max_bytes=500), random.Random(seed), 16)
    driver.check = lambda: None
    driver.run()
    assert (ledger.failed, ledger.splits) == (0, 3)
    assert 250 <= limits.max_url_bytes <= 500


@pytest.mark.parametrize("seed", range(5))
def test_bad_ids_cost_their_own_path_only(seed):
    """Ten bad IDs among 30,000 fail, each found by bisection; nothing is learned and nobody else fails."""
    dice = random.Random(seed)
    lead_ids = [f"{number:05d}" for number in range(30_000)]
    bad = dice.sample(lead_ids, 10)
    ledger = Ledger(lead_ids, limits := Limits(100, 4000))
    driver = Driver(ledger, limits, Server(bad=bad), dice, 16)
    driver.check = lambda: None
    driver.run()
    assert sorted(outcome.lead_id for outcome in ledger.outcomes if not outcome.ok) == sorted(bad)
    assert ledger.splits <= 10 * 7
    assert limits.chunk_size == 100


def test_nothing_to_ask():
    """A call without leads has nothing to send and is done."""
    ledger, _ = open_ledger(0)
    assert (ledger.open, ledger.sendable, ledger.take()) == (0, False, None)


def test_fresh_chunks_are_planned_when_taken():
    """Each chunk goes by the limits of its moment, in order, and was ready from the start."""
    limits = Limits(4, 4000)
    ledger = Ledger(names(9), limits, 7.5)
    first = take(ledger)
    limits.chunk_size = 2
    rest = [take(ledger), take(ledger), take(ledger)]
    assert spans([first, *rest]) == [(0, 4), (4, 6), (6, 8), (8, 9)]
    assert first.target == WHERE.target(names(4))
    assert (len(first), first.attempts, first.waited, first.ready_at, first.retried) == (
        4,
        0,
        0.0,
        7.5,
        False,
    )
    assert not ledger.sendable
    assert ledger.take() is None


def test_fresh_goes_before_retries():
    """A retry waits until every fresh chunk has gone; retries then go in their order."""
    ledger, _ = open_ledger(8, 2)
    first, second = take(ledger), take(ledger)
    ledger.retry(second)
    ledger.retry(first)
    assert spans([take(ledger) for _ in range(4)]) == [(4, 6), (6, 8), (2, 4), (0, 2)]


def test_retry_is_the_same_request():
    """A retry keeps its target, attempts and waiting."""
    ledger, _ = open_ledger(2)
    chunk = take(ledger)
    chunk.attempts, chunk.waited, target = 3, 1.5, chunk.target
    ledger.retry(chunk)
    assert ledger.sendable
    assert take(ledger) is chunk
    assert (chunk.attempts, chunk.waited, chunk.target) == (3, 1.5, target)


def test_first_goes_before_everything():
    """A chunk put back as the first one goes before fresh chunks, halves and retries."""
    ledger, _ = open_ledger(8, 2)
    chunk, other, refused = take(ledger), take(ledger), take(ledger)
    refuse(ledger, refused)
    ledger.retry(other)
    ledger.retry(chunk, first=True)
    assert spans([take(ledger) for _ in range(5)]) == [(0, 2), (4, 5), (5, 6), (6, 8), (2, 4)]


def test_retry_that_outgrew_the_limits_is_planned_anew():
    """A chunk that waited for its retry while the limits fell goes out as smaller, new requests."""
    ledger, limits = open_ledger(4, 4)
    chunk = take(ledger)
    chunk.attempts = 2
    ledger.retry(chunk)
    limits.chunk_size = 3
    again = [take(ledger), take(ledger)]
    assert spans(again) == [(0, 3), (3, 4)]
    assert [one.attempts for one in again] == [0, 0]
    assert ledger.splits == 0


def test_enveloped_400_is_bisected():
    """A chunk refused by a 400 of ours is cut in two, the larger half first; both are new requests."""
    ledger, limits = open_ledger(5, 5)
    chunk = take(ledger)
    chunk.attempts, chunk.failed_at = 3, 17.0
    refuse(ledger, chunk)
    halves = [take(ledger), take(ledger)]
    assert spans(halves) == [(0, 3), (3, 5)]
    assert [(half.attempts, half.failed_at) for half in halves] == [(0, 17.0), (0, 17.0)]
    assert [half.target for half in halves] == [WHERE.target(names(3)), WHERE.target(names(5)[3:])]
    assert ledger.splits == 1
    assert limits.chunk_size == 5


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_good_halves_teach_the_count(order):
    """If both halves succeed, the count was refused: `chunk_size` becomes the larger half's."""
    ledger, limits = open_ledger(5, 5)
    refuse(ledger, take(ledger))
    halves = [take(ledger), take(ledger)]
    answer(ledger, halves[order[0]])
    assert limits.chunk_size == 5
    answer(ledger, halves[order[1]])
    assert limits.chunk_size == 3
    assert ledger.open == 0


def test_count_learned_never_grows():
    """What another call has learned meanwhile is not unlearned."""
    ledger, limits = open_ledger(10, 10)
    refuse(ledger, take(ledger))
    halves = [take(ledger), take(ledger)]
    limits.chunk_size = 2
    for half in halves:
        answer(ledger, half)
    assert limits.chunk_size == 2


@pytest.mark.parametrize(
    "when", ["before the halves", "between", "while it waits", "before its sibling's halves"]
)
def test_something_larger_accepted_teaches_nothing(when):
    """If something larger than the halves was accepted meanwhile, it was not the count."""
    ledger, limits = open_ledger(24, 8)
    first, second, larger = take(ledger), take(ledger), take(ledger)
    refuse(ledger, first)
    if when == "while it waits":
        refuse(ledger, second)
        answer(ledger, larger)
    halves = [take(ledger), take(ledger)]
    if when == "before the halves":
        answer(ledger, larger)
    answer(ledger, halves[0])
    if when == "between":
        answer(ledger, larger)
    if when == "before its sibling's halves":
        refuse(ledger, halves[1])
        halves = [take(ledger), take(ledger)]
        answer(ledger, halves[0])
    answer(ledger, halves[1])
    assert limits.chunk_size == 8
    if when == "while it waits":
        for half in (take(ledger), take(ledger)):
            answer(ledger, half)
        assert limits.chunk_size == 8


def test_something_as_large_as_the_halves_accepted_teaches_all_the_same():
    """What is accepted meanwhile and no larger than the halves says nothing against the lesson."""
    ledger, limits = open_ledger(12, 8)
    first, rest = take(ledger), take(ledger)
    refuse(ledger, first)
    answer(ledger, rest)
    for half in (take(ledger), take(ledger)):
        answer(ledger, half)
    assert limits.chunk_size == 4


@pytest.mark.parametrize("outcome", ["failed", "refused", "too long"])
def test_one_bad_half_teaches_nothing(outcome):
    """If either half does not succeed, no count is learned."""
    ledger, limits = open_ledger(4, 4)
    refuse(ledger, take(ledger))
    good, bad = take(ledger), take(ledger)
    answer(ledger, good)
    if outcome == "failed":
        ledger.fail(bad, ServerError(500))
    else:
        refuse(ledger, bad, TOO_MANY if outcome == "refused" else TOO_LONG)
    while ledger.open:
        answer(ledger, take(ledger))
    assert limits.chunk_size == 4


def test_half_that_is_retried_still_counts():
    """A half keeps its place in the lesson, and its turn before fresh chunks, through a retry."""
    ledger, limits = open_ledger(6, 4)
    refuse(ledger, take(ledger))
    first, second = take(ledger), take(ledger)
    answer(ledger, first)
    ledger.retry(second)
    assert take(ledger) is second
    answer(ledger, second)
    assert limits.chunk_size == 2


def test_one_bisection_at_a_time():
    """While one chunk is bisected, others refused wait whole, and nothing fresh is sent; retries are."""
    ledger, limits = open_ledger(40, 8)
    *refused, retried = (take(ledger) for _ in range(4))
    for chunk in refused:
        refuse(ledger, chunk)
    halves = [take(ledger), take(ledger)]
    assert spans(halves) == [(0, 4), (4, 8)]
    assert not ledger.sendable
    assert ledger.take() is None
    ledger.retry(retried)
    assert ledger.sendable
    assert take(ledger) is retried
    assert ledger.splits == 1
    for half in halves:
        answer(ledger, half)
    assert limits.chunk_size == 4
    assert ledger.splits == 1
    assert sorted(spans([take(ledger) for _ in range(6)])) == [
        (start, start + 4) for start in [8, 12, 16, 20, 32, 36]
    ]


def test_waiting_chunk_is_bisected_next():
    """When a bisection ends without a lesson, the next refused chunk takes its turn."""
    ledger, _ = open_ledger(16, 8)
    first, second = take(ledger), take(ledger)
    refuse(ledger, first)
    refuse(ledger, second)
    answer(ledger, take(ledger))
    ledger.fail(take(ledger), ServerError(500))
    assert spans([take(ledger), take(ledger)]) == [(8, 12), (12, 16)]
    assert ledger.splits == 2


def test_refused_half_goes_before_other_chunks():
    """The halves of what was refused are cut before chunks that wait: a lower limit is known the sooner."""
    ledger, _ = open_ledger(16, 8)
    first, second = take(ledger), take(ledger)
    refuse(ledger, first)
    refuse(ledger, second)
    for half in (take(ledger), take(ledger)):
        refuse(ledger, half)
    assert spans([take(ledger), take(ledger)]) == [(4, 6), (6, 8)]


def test_refused_for_its_size():
    """Refused for its size: `max_url_bytes` becomes half the refused target, and it is planned anew."""
    ledger, limits = open_ledger(100)
    chunk = take(ledger)
    refuse(ledger, chunk, TOO_LONG)
    assert limits.max_url_bytes == size(100) // 2
    assert limits.chunk_size == 100
    assert ledger.splits == 1
    again = take(ledger)
    assert again.start == 0
    assert len(again.target) <= size(100) // 2 < len(again.target) + 5


@pytest.mark.parametrize("sort", [TOO_LONG, TOO_MANY])
def test_stale_refusal(sort):
    """A refusal of a request larger than the limit now in force teaches nothing and is no split."""
    ledger, limits = open_ledger(20, 10)
    first, second = take(ledger), take(ledger)
    refuse(ledger, first, TOO_LONG)
    learned = limits.max_url_bytes
    refuse(ledger, second, sort)
    assert (limits.max_url_bytes, limits.chunk_size, ledger.splits) == (learned, 10, 1)
    limits.max_url_bytes, limits.chunk_size = 4000, 5
    assert spans([take(ledger) for _ in range(4)]) == [(10, 15), (15, 20), (0, 5), (5, 10)]


def test_sixteen_refused_for_size_are_one_lesson():
    """Of sixteen requests in flight refused together, one halves the limit; the others are stale."""
    ledger, limits = open_ledger(1600)
    for chunk in [take(ledger) for _ in range(16)]:
        refuse(ledger, chunk, TOO_LONG)
    assert ledger.splits == 1
    assert limits.max_url_bytes == size(100) // 2


@pytest.mark.parametrize("sort", [TOO_LONG, TOO_MANY])
def test_refused_single_lead(sort):
    """A refused single ID is that lead's failure and teaches nothing; the others are answered."""
    ledger, limits = open_ledger(3, 1)
    chunk = take(ledger)
    refuse(ledger, chunk, sort)
    assert (limits.chunk_size, limits.max_url_bytes, ledger.splits) == (1, 4000, 0)
    answer(ledger, take(ledger))
    answer(ledger, take(ledger))
    assert oks(ledger) == [False, True, True]


def test_single_lead_beyond_the_limits_is_sent():
    """A single ID is sent whatever the limit has become: it cannot be made smaller, and is never stale."""
    ledger, limits = open_ledger(1)
    chunk = take(ledger)
    limits.max_url_bytes = 1
    ledger.retry(chunk)
    assert take(ledger) is chunk
    refuse(ledger, chunk, TOO_LONG)
    assert (ledger.open, ledger.failed, limits.max_url_bytes) == (0, 1, 1)


def exhaust(ledger: Ledger, sort: Sort) -> int:
    """Refuse everything until the ledger gives up; return how many refusals that took."""
    refusals = 0
    while ledger.hopeless is None:
        refuse(ledger, take(ledger), sort)
        refusals += 1
    return refusals


@pytest.mark.parametrize("sort", [TOO_LONG, TOO_MANY])
def test_request_itself_is_refused(sort):
    """After 20 splits or refused single IDs without a row, the refusal is that of the request itself."""
    ledger, limits = open_ledger(10_000)
    refusals = exhaust(ledger, sort)
    assert ledger.splits + ledger.failed == REFUSALS_WITHOUT_A_ROW == 20
    assert refusals <= 40
    assert type(ledger.hopeless) is type(refusal(sort).error)
    assert (limits.chunk_size, limits.max_url_bytes) == (100, 4000)


def test_request_itself_error_is_its_own():
    """The error of the rest is not the object of a lead that failed before: its figures differ."""
    ledger, _ = open_ledger(100, 1)
    exhaust(ledger, TOO_MANY)
    assert ledger.failed == 20
    ledger.fail_rest(ledger.hopeless)
    assert ledger.outcomes[19].error.lead_ids == ("0019",)
    assert ledger.outcomes[20].error is ledger.hopeless
    assert ledger.hopeless.lead_ids == tuple(names(100)[20:])


def test_a_single_row_shows_that_requests_are_accepted():
    """After one row, no number of refusals gives the call up."""
    ledger, _ = open_ledger(100, 1)
    answer(ledger, take(ledger))
    for _ in range(99):
        refuse(ledger, take(ledger))
    assert ledger.hopeless is None
    assert (ledger.open, ledger.failed) == (0, 99)


def test_answer_without_a_row_is_none():
    """An answer that has no row for any lead does not show that requests are accepted."""
    ledger, _ = open_ledger(100, 1)
    chunk = take(ledger)
    ledger.answered(chunk, merge(asked(ledger, chunk), Rows([], clean=True)))
    exhaust(ledger, TOO_MANY)
    assert ledger.failed == 21


def test_answer_with_failures():
    """Missing and malformed rows are failures of their leads; the rest of the answer stands."""
    ledger, _ = open_ledger(3)
    rows = [LeadStatus("0000", WorkflowStatus.PENDING), BadRow("0001", ResponseDecodeError("bad"))]
    chunk = take(ledger)
    ledger.answered(chunk, merge(asked(ledger, chunk), Rows(rows)))
    assert oks(ledger) == [True, False, False]
    assert (ledger.open, ledger.failed) == (0, 2)


def test_rest_fails_but_for_what_is_spared():
    """Turning away fails what waits anywhere, answered and spared leads apart, and names the leads."""
    ledger, _ = open_ledger(24, 4)
    answered, flying, refused, resting, again = (take(ledger) for _ in range(5))
    answer(ledger, answered)
    refuse(ledger, refused)
    half = take(ledger)
    ledger.retry(again)
    error = DeadlineExceededError("late")
    ledger.fail_rest(error, spare=[half, flying])
    assert oks(ledger) == [True] * 4 + [None] * 4 + [None] * 2 + [False] * 14
    assert error.lead_ids == tuple(names(24)[10:])
    assert resting.start == 12
    assert ledger.take() is None
    answer(ledger, half)
    refuse(ledger, flying)
    for chunk in (take(ledger), take(ledger)):
        answer(ledger, chunk)
    assert ledger.open == 0


def test_spared_half_teaches_nothing():
    """A half whose sibling was turned away is no half any more, and closes nothing."""
    ledger, limits = open_ledger(8, 8)
    refuse(ledger, take(ledger))
    half = take(ledger)
    ledger.fail_rest(LeadStatusError("away"), spare=[half])
    refuse(ledger, half)
    first, second = take(ledger), take(ledger)
    answer(ledger, first)
    answer(ledger, second)
    assert (ledger.open, limits.chunk_size) == (0, 2)


def test_spared_halves_close_nobody_elses_bisection():
    """Both halves of a bisection that was turned away succeed: nothing is learned, and others still wait."""
    ledger, limits = open_ledger(24, 8)
    first, second, third = (take(ledger) for _ in range(3))
    refuse(ledger, first)
    halves = [take(ledger), take(ledger)]
    ledger.fail_rest(LeadStatusError("away"), spare=[*halves, second, third])
    refuse(ledger, second)
    refuse(ledger, third)
    for half in halves:
        answer(ledger, half)
    assert (limits.chunk_size, ledger.splits) == (8, 2)
    assert spans([take(ledger), take(ledger)]) == [(8, 12), (12, 16)]
    assert ledger.take() is None


def test_lasting_500_is_cut_without_a_lesson():
    """A 500 on a chunk is bisected like a 400, but two good halves say nothing about the count."""
    ledger, limits = open_ledger(8, 8)
    ledger.rejected(take(ledger), Failure(ServerError(500), Sort.PASSING))
    assert ledger.splits == 1
    for half in (take(ledger), take(ledger)):
        answer(ledger, half)
    assert (ledger.open, limits.chunk_size) == (0, 8)


def test_halves_shrink_with_the_limits():
    """Halves that no longer fit, because the limit fell meanwhile, are planned anew with what waits."""
    ledger, limits = open_ledger(16, 8)
    first, second = take(ledger), take(ledger)
    refuse(ledger, first)
    refuse(ledger, second)
    limits.chunk_size = 2
    taken = [take(ledger) for _ in range(8)]
    assert sorted(spans(taken)) == [(start, start + 2) for start in range(0, 16, 2)]
    assert ledger.splits == 1


def test_shared_limits_reach_other_calls():
    """What one call learns, a later and a concurrent call of the session go by."""
    limits = Limits(100, 4000)
    one, other = (Ledger(names(300), limits) for _ in range(2))
    chunk, stale = take(one), take(other)
    refuse(one, chunk, TOO_LONG)
    refuse(other, stale, TOO_LONG)
    assert (one.splits, other.splits) == (1, 0)
    assert len(take(other).target) <= limits.max_url_bytes == size(100) // 2
    assert len(take(Ledger(names(300), limits)).target) <= limits.max_url_bytes


def test_merged_is_taken_as_it_is():
    """The outcomes of an answer are entered as merged, without a look at their order again."""
    ledger, _ = open_ledger(2)
    outcomes = [LeadStatus("0000", WorkflowStatus.PENDING), LeadStatus("0001", WorkflowStatus.STOPPED)]
    ledger.answered(take(ledger), Merged(outcomes))
    assert ledger.outcomes == outcomes


def test_fail_beyond_keeps_what_the_next_requests_reach():
    """With leads in several ranges, those within reach stay and the others fail at once (b11)."""
    ledger, limits = open_ledger(25, 10)
    chunk = take(ledger)
    limits.chunk_size = 5
    refuse(ledger, chunk)  # stale: its leads are planned anew
    assert ledger.requests_left == 5
    error = DeadlineExceededError("late")
    ledger.fail_beyond(3, error)
    assert error.lead_ids == tuple(names(25)[15:])
    assert oks(ledger) == [None] * 15 + [False] * 10
    assert (ledger.open, ledger.requests_left) == (15, 3)
    ledger.fail_beyond(0, DeadlineExceededError("late"))
    assert (ledger.open, ledger.requests_left) == (0, 0)


def grown(*blocks: int, chunk_size: int = 4, max_url_bytes: int = 4000) -> Backlog:
    """Return a growing backlog to which blocks of so many leads were added, each a second after the other."""
    backlog = Backlog(WHERE, Limits(chunk_size, max_url_bytes), growing=True)
    lead_ids = iter(names(sum(blocks)))
    for second, count in enumerate(blocks):
        added = [next(lead_ids) for _ in range(count)]
        assert backlog.add(added, float(second)) == sum(blocks[:second])
    return backlog


@pytest.mark.parametrize(
    ("blocks", "spans_"),
    [
        ((4, 4), [(0, 4), (4, 8)]),
        ((3, 4, 2), [(0, 4), (4, 8), (8, 9)]),
        ((1, 1, 1, 1, 1), [(0, 4), (4, 5)]),
        ((0, 2, 0, 9), [(0, 4), (4, 8), (8, 11)]),
    ],
    ids=["even", "uneven", "one by one", "empty"],
)
def test_requests_reach_across_blocks(blocks, spans_):
    """Leads added apart travel together, in their order, since neighbours are neighbours."""
    backlog = grown(*blocks)
    requests = [take(backlog) for _ in spans_]
    assert spans(requests) == spans_
    assert [request.ids for request in requests] == [names(sum(blocks))[a:b] for a, b in spans_]
    assert all(request.target == WHERE.target(request.ids) for request in requests)
    assert backlog.take() is None


def test_leads_wait_since_they_were_added():
    """A request is ready since its first lead was."""
    backlog = grown(4, 2, 2, 1)
    assert [take(backlog).ready_at for _ in range(3)] == [0.0, 1.0, 3.0]


def test_bytes_bound_requests_across_blocks():
    """What a block has left over when its request is full goes out with the next block's."""
    backlog = grown(4, 4, max_url_bytes=size(3))
    assert spans([take(backlog) for _ in range(3)]) == [(0, 3), (3, 6), (6, 8)]


@pytest.mark.parametrize(
    ("fresh", "filling", "out", "sendable"),
    [
        (0, False, None, False),
        (1, False, "in flight", True),
        (1, True, None, True),
        (1, True, "in flight", False),
        (1, True, "backing off", False),
        (1, True, "again", True),  # the request that is to go again goes, alone
        (4, True, "in flight", True),
    ],
)
def test_a_partly_filled_request_waits_for_more(fresh, filling, out, sendable):
    """Where more comes at once, and something is on its way already; a full one never waits."""
    backlog = grown(4) if out else grown()
    if out:
        request = take(backlog)
        if out != "in flight":
            backlog.returned(request)
            (backlog.again if out == "again" else backlog.back_off)(request)
    backlog.add([f"more{number}" for number in range(fresh)], 9.0)
    backlog.filling = filling
    assert backlog.sendable is sendable
    taken = backlog.take()
    assert (taken is not None) is sendable
    assert out != "again" or taken.start == 0


def test_a_growing_backlog_is_not_done_before_it_ends():
    """All leads have outcomes, and more may come."""
    backlog = grown(2)
    request = take(backlog)
    assert backlog.returned(request)
    assert not backlog.returned(request), "once"
    backlog.answered(request, rows=True)
    assert (backlog.size, backlog.open, backlog.done) == (2, 0, False)
    backlog.growing = False
    assert backlog.done


def test_about_how_many_requests_could_go():
    """Full and partly filled ones, retries and halves."""
    backlog = grown(9)
    assert backlog.requests == 3
    first, second = take(backlog), take(backlog)
    assert backlog.requests == 1
    backlog.returned(first)
    backlog.again(first)
    backlog.returned(second)
    backlog.refused(second, refusal(TOO_MANY))
    assert backlog.requests == 4
