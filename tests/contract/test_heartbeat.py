"""Clause 4: a heartbeat whenever nothing was said for the interval."""

import time

from streambridge_app import HEARTBEAT_SENTINEL
from tests.contract.clients import client, publish

INTERVAL = 0.05


async def test_silence_brings_heartbeats_one_interval_apart(bridge):
    async with client(bridge, "run", heartbeat=INTERVAL) as live:
        await publish(bridge, "run", 1)
        await live.take(1)
        started = time.monotonic()
        for _ in range(3):
            assert await live.next() is HEARTBEAT_SENTINEL
        assert time.monotonic() - started >= 3 * INTERVAL - 0.01


async def test_a_run_that_does_not_exist_brings_heartbeats(bridge):
    async with client(bridge, "run", heartbeat=INTERVAL) as live:
        for _ in range(3):
            assert await live.next() is HEARTBEAT_SENTINEL


async def test_a_run_that_speaks_brings_none(bridge):
    async with client(bridge, "run", heartbeat=5) as live:
        for number in range(1, 6):
            await publish(bridge, "run", 1, first=number)
            assert (await live.next()).data == number


async def test_events_after_heartbeats_arrive(bridge):
    async with client(bridge, "run", heartbeat=INTERVAL) as live:
        await live.attached()
        await publish(bridge, "run", 2)
        assert [event.data for event in await live.take(2)] == [1, 2]
