"""Waits of one client, ended by a change or by its time, on one timer."""

from __future__ import annotations

import asyncio
import time

import pytest
import uvloop

from streambridge_app.runtime.timer import Alarm, resolve
from tests.services import TIMEOUT_SCALE

SOON = 0.02
DEADLINE = 10 * TIMEOUT_SCALE
NEVER = 3600.0


class Loop(asyncio.SelectorEventLoop):
    """Notes the timers that are set."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[asyncio.TimerHandle] = []

    def call_at(self, *args, **kwargs):
        timer = super().call_at(*args, **kwargs)
        self.timers.append(timer)
        return timer


@pytest.fixture
def loop():
    with asyncio.Runner(loop_factory=Loop) as runner:
        yield runner


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_wait_ends_when_its_time_is_up_and_not_before(factory):
    async def main():
        with Alarm() as alarm:
            for _ in range(5):
                began = time.monotonic()
                async with asyncio.timeout(DEADLINE):
                    await alarm.wait(SOON)
                assert time.monotonic() - began >= SOON - 0.001  # a loop's clock counts in ms

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def test_a_change_ends_a_wait_at_once(loop):
    async def main():
        with Alarm() as alarm:
            waiter = alarm.wait(NEVER)
            resolve(waiter)
            await waiter

    loop.run(main())


def test_waits_that_changes_end_share_one_timer(loop):
    async def main():
        with Alarm() as alarm:
            for _ in range(100):
                waiter = alarm.wait(NEVER)
                resolve(waiter)
                await waiter
            assert len(loop.get_loop().timers) == 1

    loop.run(main())


def test_a_timer_that_an_earlier_wait_left_does_not_end_a_later_one(loop):
    async def main():
        with Alarm() as alarm:
            resolve(alarm.wait(SOON))
            later = alarm.wait(NEVER)
            timers = loop.get_loop().timers
            (first,) = timers
            rung = loop.get_loop().create_future()
            loop.get_loop().call_at(first.when() + SOON, rung.set_result, None)
            async with asyncio.timeout(DEADLINE):
                await rung
            assert not later.done()
            assert timers[-1].when() > first.when() + NEVER / 2  # it was set anew

    loop.run(main())


def test_a_timer_that_rings_while_nobody_waits_is_not_set_again(loop):
    async def main():
        with Alarm() as alarm:
            waiter = alarm.wait(SOON)
            resolve(waiter)
            rung = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(5 * SOON, rung.set_result, None)
            timers = len(loop.get_loop().timers)
            async with asyncio.timeout(DEADLINE):
                await rung
            assert len(loop.get_loop().timers) == timers + 1  # that of the deadline above
            async with asyncio.timeout(DEADLINE):
                await alarm.wait(SOON)

    loop.run(main())


def test_a_shorter_wait_is_not_held_up_by_the_timer_of_a_longer_one(loop):
    async def main():
        with Alarm() as alarm:
            resolve(alarm.wait(NEVER))
            async with asyncio.timeout(DEADLINE):
                await alarm.wait(SOON)

    loop.run(main())


def test_a_wait_that_was_cancelled_is_let_go(loop):
    async def main():
        with Alarm() as alarm:
            alarm.wait(SOON).cancel()
            (timer,) = loop.get_loop().timers
            rung = loop.get_loop().create_future()
            loop.get_loop().call_at(timer.when() + SOON, rung.set_result, None)
            async with asyncio.timeout(DEADLINE):
                await rung
                await alarm.wait(SOON)

    loop.run(main())


def test_no_timer_is_left_behind(loop):
    async def main():
        with Alarm() as alarm:
            alarm.wait(NEVER)
        assert [timer.cancelled() for timer in loop.get_loop().timers] == [True]

    loop.run(main())


def test_a_wait_on_another_loop_is_not_left_to_the_timer_of_the_first():
    alarm = Alarm()

    async def turn_away():
        resolve(alarm.wait(SOON))

    async def wait():
        async with asyncio.timeout(DEADLINE):
            await alarm.wait(2 * SOON)

    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(turn_away())
        second.run(wait())
