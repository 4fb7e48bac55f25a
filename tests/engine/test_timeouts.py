"""One timer over all attempts: each ends when it has taken too long, and none before."""

from __future__ import annotations

import asyncio

import pytest

from leadstatus_async._engine.transport.timeouts import Timeouts
from tests.virtual_time import run


async def attempt(timeouts, seconds):
    """Make an attempt that would take so long; return how long it took, and whether it was too long."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    began = loop.time()
    timeouts.begin(task, 3.0)
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        assert timeouts.end(task)
        task.uncancel()
        return round(loop.time() - began, 3), True
    assert not timeouts.end(task)
    return round(loop.time() - began, 3), False


@pytest.mark.parametrize("early", [0.0, 0.001], ids=["asyncio", "timers that fire early, as libuv's"])
def test_each_has_its_time(early):
    """Begun one after another, answered in any order: those that take longer than allowed are ended then."""

    async def main():
        timeouts = Timeouts()
        attempts = []
        for seconds in (9.0, 1.0, 2.9, 3.1, 0.5, 30.0):
            attempts.append(asyncio.create_task(attempt(timeouts, seconds)))
            await asyncio.sleep(1)
        took = await asyncio.gather(*attempts)
        assert [late for _, late in took] == [True, False, False, True, False, True]
        assert [seconds for seconds, _ in took] == pytest.approx([3.0, 1.0, 2.9, 3.0, 0.5, 3.0], abs=0.003)
        await asyncio.sleep(10)
        assert await attempt(timeouts, 4.0) == (pytest.approx(3.0, abs=0.003), True), "after a rest, too"
        timeouts.close()

    run(main, early=early)


def test_it_keeps_one_timer():
    """However many attempts there are, and none once it has rung with nobody there."""

    async def main():
        timeouts = Timeouts()
        for _ in range(100):
            await attempt(timeouts, 0.001)
        loop = asyncio.get_running_loop()
        assert len([handle for handle in loop._scheduled if not handle.cancelled()]) == 1
        await asyncio.sleep(5)
        assert not loop._scheduled
        timeouts.close()

    run(main)
