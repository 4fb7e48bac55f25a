"""Records of a source that somebody else writes."""

from __future__ import annotations

import asyncio
import threading

import pytest

from leadstatus_async.cli.pump import _ROOM, Pump, Shared


async def test_all_of_it_in_order_and_never_far_ahead():
    """A reader that is slow holds the source back."""
    taken = []

    def source():
        for number in range(3 * _ROOM):
            taken.append(number)
            yield number

    pump, found = Pump(source()), []
    async for number in pump:
        found.append(number)
        assert len(taken) <= len(found) + _ROOM + 2
    assert found == list(range(3 * _ROOM))
    with pytest.raises(StopAsyncIteration):
        await anext(pump)


async def test_a_source_that_waits_keeps_nobody_waiting():
    """What is there is handed on at once; the loop goes on."""
    more = threading.Event()

    def source():
        yield 1
        more.wait(20)
        yield 2

    pump = Pump(source())
    assert await anext(pump) == 1
    waiting = asyncio.ensure_future(anext(pump))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not waiting.done()
    more.set()
    assert await waiting == 2


async def test_a_fault_of_the_source_comes_behind_what_it_gave():
    """And is raised as it is, to every reader."""

    def source():
        yield from (1, 2)
        raise ValueError("broken")

    shared = Shared(Pump(source()), 2)
    for reader in (shared.reader(0), shared.reader(1)):
        found = []
        with pytest.raises(ValueError, match="broken"):
            async for number in reader:
                found.append(number)
        assert found == [1, 2]


async def test_several_readers_have_all_of_it():
    """Whoever is first."""

    def source():
        yield from range(100)

    shared = Shared(Pump(source()), 3)

    async def read(number):
        found = []
        async for one in shared.reader(number):
            found.append(one)
            await asyncio.sleep(0)
        return found

    assert await asyncio.gather(*map(read, range(3))) == [list(range(100))] * 3


def test_a_loop_that_is_closed_is_told_nothing():
    """The thread that reads ends without a word."""
    go_on, over = threading.Event(), threading.Event()

    def source():
        yield 1
        go_on.wait(20)
        yield 2
        over.set()

    async def main():
        return await anext(Pump(source()))

    assert asyncio.run(main()) == 1
    go_on.set()
    assert over.wait(20)


async def test_who_waits_for_the_other_reads_what_that_one_got():
    """The source is asked once for both."""
    go_on = asyncio.Event()

    async def source():
        await go_on.wait()
        yield 1

    shared = Shared(source(), 2)
    readers = [asyncio.create_task(anext(shared.reader(number))) for number in range(2)]
    for _ in range(3):
        await asyncio.sleep(0)
    go_on.set()
    assert await asyncio.gather(*readers) == [1, 1]
