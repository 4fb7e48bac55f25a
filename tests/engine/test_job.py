"""A job: every lead it was given has one outcome in the end, whatever it is told, and its figures add up."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leadstatus_async._engine.job import Job
from leadstatus_async._state.deadline import Deadline
from leadstatus_async._state.patience import Patience
from leadstatus_async._state.tally import Tally
from leadstatus_async._steps.chunk import Limits, endpoint
from leadstatus_async._steps.decipher import Failure, Sort
from leadstatus_async._steps.merge import Merged
from leadstatus_async.errors import (
    BadRequestError,
    DeadlineExceededError,
    RateLimitError,
    ServerError,
    SessionClosedError,
)
from leadstatus_async.models import LeadStatus, WorkflowStatus

WHERE = endpoint("", "acc", "camp", "comma")


class Told:
    """A job of leads `0`, `1`, ... and what it delivers."""

    def __init__(self, leads=10, chunk_size=3, **options):
        self.outcomes = {}
        self.total = Tally()
        self.job = Job(
            WHERE,
            Limits(chunk_size, 4000),
            Patience(30.0, 5),
            self.deliver,
            (self.total,),
            tuple,
            now=0.0,
            **options,
        )
        self.job.backlog.add([str(number) for number in range(leads)], 0.0)

    def deliver(self, first, outcomes):
        for position, outcome in enumerate(outcomes, first):
            assert position not in self.outcomes, "delivered twice"
            assert outcome.lead_id == str(position)
            self.outcomes[position] = outcome

    def send(self, now=0.0):
        """Let the next request go; return it, or None if what was to go has to be planned anew first."""
        granted = self.job.take(now)
        if granted is None:
            return None
        _, request = granted
        self.job.departs(request, now)
        request.attempts += 1
        return request

    def answer(self, request, trace_id=None):
        """Answer a request with a row for each lead."""
        assert self.job.backlog.returned(request)
        rows = [LeadStatus(lead_id, WorkflowStatus.PENDING) for lead_id in request.ids]
        self.job.answered(request, Merged(rows), trace_id)


def run(main):
    """Run a test in an event loop, which futures belong to."""

    async def within():
        main()

    asyncio.run(within())


def test_answered_and_failed():
    """Each request's outcomes are delivered with it; the error carries its leads, attempts and waiting."""

    def main():
        told = Told()
        first, second = told.send(), told.send()
        told.answer(second)
        assert sorted(told.outcomes) == [3, 4, 5]
        first.attempts, first.waited = 5, 12.5
        error = ServerError(500)
        told.job.backlog.returned(first)
        told.job.failed(first, error)
        assert [told.outcomes[position].error for position in range(3)] == [error] * 3
        assert (error.lead_ids, error.attempts, error.waited) == (("0", "1", "2"), 5, 12.5)
        assert not told.job.done.done()
        for figures in (told.job.tally, told.total):
            assert (figures.requests, figures.leads, figures.failures) == (2, 3, 3)

    run(main)


def test_a_refused_lead_carries_its_requests_figures():
    """Refused alone, it fails with its own attempts and waiting."""

    def main():
        told = Told(2, 1)
        request = told.send()
        request.attempts, request.waited = 2, 1.5
        error = BadRequestError(400)
        told.job.backlog.returned(request)
        told.job.refused(request, Failure(error, Sort.REFUSED))
        assert (error.lead_ids, error.attempts, error.waited) == (("0",), 2, 1.5)
        assert told.job.tally.splits == 0

    run(main)


def test_splits_are_counted_whenever_they_happen():
    """The end of one bisection begins the next one."""

    def main():
        told = Told(8, 4)
        for request in (told.send(), told.send()):
            told.job.backlog.returned(request)
            told.job.refused(request, Failure(BadRequestError(400), Sort.REFUSED))
        assert told.job.tally.splits == 1
        told.answer(told.send())
        half = told.send()
        told.job.backlog.returned(half)
        told.job.failed(half, ServerError(500))
        assert told.job.tally.splits == told.total.splits == 2

    run(main)


def test_given_up():
    """What waits fails with figures of the whole job; what is in flight has one last chance."""

    def main():
        told = Told()
        first, second = told.send(), told.send()
        told.job.backlog.returned(second)
        told.job.backlog.back_off(second)
        error = RateLimitError(429)
        told.job.give_up(error)
        assert sorted(told.outcomes) == [3, 4, 5, 6, 7, 8, 9]
        assert error.lead_ids == tuple(str(number) for number in range(3, 10))
        assert error.attempts == 2
        assert first.final_attempt
        assert not told.job.done.done()
        told.answer(first)
        assert told.job.done.done()
        told.job.give_up(ServerError(500))
        told.job.stop(ServerError(500))
        assert told.job.error is None, "it was over"

    run(main)


def test_stopped():
    """Every lead without an outcome fails, on its way or not, and nothing may go or be added any more."""

    def main():
        told = Told(growing=True)
        told.send()
        error = SessionClosedError("closed")
        told.job.stop(error)
        assert len(told.outcomes) == 10
        assert told.job.error is error
        assert told.job.done.done()
        assert not told.job.sendable
        assert told.job.take(0.0) is None

    run(main)


@pytest.mark.parametrize(
    ("allowed", "kept"), [(10.0, 10), (3.0, 9), (1.5, 3), (0.5, 0)], ids=["enough", "some", "one", "none"]
)
def test_trimmed_to_its_deadline(allowed, kept):
    """At a request a second, what can be asked in time is, and the rest fails now."""

    def main():
        told = Told(deadline=Deadline(allowed, 100 + allowed))
        told.job.trim(100.0, lambda requests: float(requests))
        assert told.job.backlog.open == kept
        assert sorted(told.outcomes) == list(range(kept, 10))
        for outcome in told.outcomes.values():
            assert isinstance(outcome.error, DeadlineExceededError)
            assert outcome.error.needed == 4.0
        assert told.job.done.done() is (kept == 0)

    run(main)


@pytest.mark.parametrize(
    "options", [{}, {"growing": True, "deadline": Deadline(1, 1)}], ids=["no deadline", "growing"]
)
def test_not_trimmed(options):
    """Without a deadline, or while nobody knows how much is to come."""

    def main():
        told = Told(**options)
        told.job.trim(0.0, lambda requests: 100.0 * requests)
        assert not told.outcomes

    run(main)


def test_a_bug_is_told_once():
    """The first one, and not after the end."""

    def main():
        told = Told(1)
        told.job.crash(KeyError("first"))
        told.job.crash(KeyError("second"))
        assert str(told.job.done.exception()) == "'first'"
        over = Told(0)
        over.job.settle()
        over.job.crash(KeyError("late"))
        over.job.trim(0.0, lambda requests: 0.0)
        assert over.job.done.exception() is None

    run(main)


def test_trace_ids_are_kept_where_they_are_wanted():
    """A stream without end must not collect them."""

    def main():
        told, other = Told(), Told()
        told.job.trace_ids = []
        told.answer(told.send(), "t1")
        told.answer(told.send(), None)
        other.answer(other.send(), "t2")
        assert (told.job.trace_ids, other.job.trace_ids) == (["t1"], None)

    run(main)


def test_until():
    """Whoever waits for it says how long; the deadline, if nobody does."""

    def main():
        assert Told().job.until is None
        assert Told(deadline=Deadline(2, 12)).job.until == 12
        assert Told(until=lambda: 7.0).job.until == 7.0

    run(main)


def test_waiting_is_counted_once():
    """Requests that wait side by side do not add up: only the time since the last one went counts."""

    def main():
        told = Told()
        told.send(now=5.0)
        told.send(now=6.0)
        assert told.job.tally.waited == told.total.waited == 6.0

    run(main)


@given(st.integers(0, 30), st.integers(1, 6), st.integers(0, 2**32))
def test_any_story(leads, chunk_size, seed):
    """Answers, failures, refusals, back-offs, growth and giving up in any order: one outcome each."""
    dice = random.Random(seed)

    def main():
        told = Told(leads, chunk_size, growing=True)
        job, out, resting, size = told.job, [], [], leads
        while not job.done.done():
            kind = dice.randrange(12)
            if job.sendable and kind < 4:
                request = told.send()
                out += [request] if request else []
            elif out and kind < 9:
                request = out.pop(dice.randrange(len(out)))
                if kind < 6:
                    told.answer(request)
                    continue
                assert job.backlog.returned(request)
                if kind == 6:
                    job.failed(request, ServerError(500))
                elif kind == 7:
                    job.refused(request, Failure(BadRequestError(400), Sort.REFUSED))
                else:
                    job.backlog.back_off(request)
                    resting.append(request)
            elif resting and kind < 10:
                job.backlog.again(resting.pop())
            elif kind == 10 and size < 40:
                job.backlog.add([str(number) for number in range(size, size + 3)], 0.0)
                size += 3
            elif kind == 11 and dice.random() < 0.1:
                resting.clear()
                job.give_up(ServerError(503))
            elif kind == 11 or size >= 40:
                job.backlog.growing = False
                job.settle()
        assert sorted(told.outcomes) == list(range(size))
        failures = sum(not outcome.ok for outcome in told.outcomes.values())
        for figures in (job.tally, told.total):
            assert (figures.leads, figures.failures) == (size - failures, failures)

    run(main)
