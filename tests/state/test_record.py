"""The record of what was sent: what is kept, counted, told and forgotten."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leadstatus_async._state.record import Record


def passed(record, times, rate=10.0, latency=0.01):
    """Let requests pass that were sent then."""
    for sent_at in times:
        record.passed(sent_at + latency, sent_at, rate)


def told(record):
    """Return the points as plain values."""
    return [(round(point.at, 3), point.passed, point.refused) for point in record.points()]


def test_what_is_sent_evenly_is_one_run():
    """A thousand requests, ten a second, are one run, and any part of it is counted."""
    record = Record()
    passed(record, [number / 10 for number in range(1000)])
    assert [(run.start, run.end, run.count) for run in record.runs] == [(0.0, 99.9, 1000)]
    assert record.between(49.95, 59.95) == pytest.approx(100, abs=1.1)
    assert record.between(-1, 1000) == 1000
    assert record.between(200, 300) == 0


def test_a_run_is_forgotten_up_to_a_moment():
    """What was sent before goes, the rest of the run stays."""
    record = Record()
    passed(record, [number / 10 for number in range(100)])
    record.forget(5.0)
    assert record.between(-1, 10) == 50


def test_a_pause_or_another_rate_begins_a_run():
    """What stopped, or went at another rate, is told apart; what is sent in one moment is not."""
    record = Record()
    passed(record, [0.0, 0.1, 0.2, 2.0, 2.1])
    passed(record, [2.2, 2.22, 2.24], rate=50.0)
    passed(record, [2.24, 2.24, 2.2405], rate=10.0)
    assert [run.count for run in record.runs] == [3, 2, 6]
    assert record.between(0.2, 2.0) == 1


def test_who_is_slower_than_allowed_is_even_too():
    """Where answers, not the rate, decide when the next is sent, the first distance tells what is usual."""
    record = Record()
    passed(record, [float(number) for number in range(50)], rate=100.0)
    assert [run.count for run in record.runs] == [1, 49]


def test_a_long_record_grows_coarse_and_not_long():
    """Thousands of runs become a few hundred; what is old is counted nearly as well."""
    record = Record()
    for minute in range(2000):
        passed(record, [60.0 * minute, 60.0 * minute + 0.1, 60.0 * minute + 0.2])
    assert len(record.runs) <= 256
    assert record.between(60_000, 120_000) == pytest.approx(3000, rel=0.05)


def test_refusals_of_one_flight_are_one():
    """Requests sent before the first refusal was known say the same once more."""
    record = Record()
    passed(record, [0.0, 0.1, 0.2])
    for sent_at in (0.3, 0.31, 0.32):
        record.refused(0.35, sent_at, 10.0)
    record.refused(1.05, 1.0, 10.0)
    passed(record, [2.0])
    record.refused(2.15, 2.1, 10.0)
    assert told(record)[3:] == [(0.3, 0, 1), (1.0, 0, 2), (2.0, 1, 0), (2.1, 0, 1)]


def test_the_ninth_episode_pushes_the_first_out():
    """What is told begins with the ninth but last stretch; only so many refusals are kept."""
    record = Record()
    for number in range(100):
        passed(record, [float(number)])
        record.refused(number + 0.51, number + 0.5, 10.0)
    assert len(record.refusals) == 64
    assert sum(point.refused for point in record.points()) == 9
    record.forget(98.0)
    assert told(record) == [(98.0, 1, 0), (98.5, 0, 1), (99.0, 1, 0), (99.5, 0, 1)]
    assert record.in_flight() == [(1.0, 2.0, 2.0)]


def test_how_many_were_in_flight_is_known_when_they_are_back():
    """Three sent together, of which the last is refused, long before the others are answered."""
    record = Record()
    record.refused(0.03, 0.02, 10.0)
    record.passed(0.10, 0.00, 10.0)
    record.passed(0.11, 0.01, 10.0)
    assert sorted(record.in_flight()) == [(1.0, 0.0, 1.0), (2.0, 0.0, 1.0), (3.0, 1.0, 0.0)]


def test_flights_long_past_fade():
    """Their counts are halved now and then, so that what is new outweighs them."""
    record = Record()
    record.refused(0.01, 0.0, 10.0)
    passed(record, [number / 10 for number in range(1, 2000)])
    counts = {number: (refused, passed) for number, refused, passed in record.in_flight()}
    assert counts[1.0][1] < 600
    assert counts[1.0][0] < 1


@given(st.lists(st.tuples(st.floats(0, 3600), st.floats(0.001, 5), st.booleans()), max_size=80))
def test_whatever_is_observed_goes_to_bytes_and_back(answers):
    """Any order of times: points are in order, counts are kept, and the record is a plain value."""
    record = Record()
    for sent_at, seconds, refused in answers:
        (record.refused if refused else record.passed)(sent_at + seconds, sent_at, 10.0)
    points = record.points()
    assert [point.at for point in points] == sorted(point.at for point in points)
    assert sum(run.count for run in record.runs) == sum(not refused for *_, refused in answers)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=Record) == record
