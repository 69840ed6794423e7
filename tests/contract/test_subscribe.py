"""Clause 3: every event after the cursor once and in order, then live, then one end."""

import asyncio
import random

import pytest

from streambridge_app import END_SENTINEL, get_bridge
from tests.contract.clients import client, data, deadline, publish, replay, seqs
from tests.services import async_wait_until


async def test_a_client_before_the_producer_sees_everything(bridge):
    async with client(bridge, "run", heartbeat=0.01) as early:
        await early.attached()
        await publish(bridge, "run", 3)
        assert data(await early.take(3)) == [1, 2, 3]
        await bridge.publish_end("run")
        assert await early.rest() == []


async def test_a_client_during_the_run_replays_and_then_follows(bridge):
    await publish(bridge, "run", 3)
    async with client(bridge, "run") as late:
        assert data(await late.take(3)) == [1, 2, 3]
        await publish(bridge, "run", 2, first=4)
        assert data(await late.take(2)) == [4, 5]
        await bridge.publish_end("run")
        assert await late.rest() == []


async def test_a_client_after_the_end_replays_and_stops(bridge):
    await publish(bridge, "run", 3)
    await bridge.publish_end("run")
    async with client(bridge, "run") as reader:
        assert data(await reader.take(3)) == [1, 2, 3]
        assert await reader.next() is END_SENTINEL
        with pytest.raises(StopAsyncIteration):
            await reader.next()


async def test_events_arrive_one_by_one_while_the_run_goes_on(bridge):
    async with client(bridge, "run") as live:
        for number in range(1, 11):
            await bridge.publish("run", "number", number)
            assert data(await live.take(1)) == [number]


async def test_a_history_longer_than_a_page_and_than_the_tail_is_whole(bridge, settings):
    settings.STREAMBRIDGE = {**settings.STREAMBRIDGE, "PAGE_EVENTS": 7, "TAIL_EVENTS": 5}
    small = get_bridge()
    assert small is not bridge
    async with deadline(), client(small, "run") as live:
        async with small.producer("run") as run:
            for number in range(1, 101):
                await run.publish("number", number)
        assert data(await live.rest()) == list(range(1, 101))
    assert seqs(await replay(small, "run")) == list(range(1, 101))
    await small.close()


async def test_two_clients_one_of_which_reconnects_at_random_points(bridge):
    total = 300
    chance = random.Random(7)  # noqa: S311 - the same points each time

    async def steady():
        async with client(bridge, "run") as one:
            return await one.rest()

    async def restless():
        events, last = [], None
        while True:
            async with client(bridge, "run", after=last) as one:
                for _ in range(chance.randrange(1, 12)):
                    (item,) = await one.take(1)
                    if item is END_SENTINEL:
                        return events
                    events.append(item)
                    last = item.id

    async with asyncio.TaskGroup() as tasks:
        clients = [tasks.create_task(steady()), tasks.create_task(restless())]
        await publish(bridge, "run", total)
        await bridge.publish_end("run")
    for task in clients:
        assert seqs(task.result()) == data(task.result()) == list(range(1, total + 1))


async def test_each_of_many_clients_gets_everything(bridge):
    async with asyncio.TaskGroup() as tasks:
        readers = [tasks.create_task(replay(bridge, "run")) for _ in range(30)]
        await publish(bridge, "run", 50)
        await bridge.publish_end("run")
    for reader in readers:
        assert seqs(reader.result()) == list(range(1, 51))


async def test_many_runs_at_once_are_not_mixed_up(bridge):
    names = [f"run-{number}" for number in range(30)]

    async def produce(name):
        async with bridge.producer(name) as run:
            for number in range(20):
                await run.publish(name, number)

    async with deadline(), asyncio.TaskGroup() as tasks:
        readers = {name: tasks.create_task(replay(bridge, name)) for name in names}
        for name in names:
            tasks.create_task(produce(name))
    for name, reader in readers.items():
        assert {event.event for event in reader.result()} == {name}
        assert data(reader.result()) == list(range(20))


async def test_a_slow_client_misses_nothing(bridge):
    async with client(bridge, "run") as slow, client(bridge, "run") as fast:
        await publish(bridge, "run", 1)
        await slow.take(1)
        async with bridge.producer("run") as run:
            for number in range(2, 3001):
                await run.publish("number", number)
        assert seqs(await fast.rest()) == list(range(1, 3001))
        assert seqs(await slow.rest()) == list(range(2, 3001))


async def test_data_of_one_client_is_not_that_of_another(bridge):
    await bridge.publish("run", "list", [1])
    await bridge.publish_end("run")
    (event,) = await replay(bridge, "run")
    event.data.append(2)
    assert data(await replay(bridge, "run")) == [[1]]


async def test_cancelled_clients_stop_at_once_and_leave_no_task_behind(bridge):
    async def start_and_cancel():
        reader = asyncio.create_task(replay(bridge, "run"))
        await asyncio.sleep(0)  # it has begun to read
        reader.cancel()
        async with deadline():
            with pytest.raises(asyncio.CancelledError):
                await reader

    async with client(bridge, "run", heartbeat=0.01) as other:
        await publish(bridge, "run", 1)
        await other.take(1)
        tasks = len(asyncio.all_tasks())
        for _ in range(50):
            await start_and_cancel()
        # The bridge may have started one or two of its own meanwhile.
        await async_wait_until(
            lambda: len(asyncio.all_tasks()) < tasks + 10, 5, "the clients' tasks to end"
        )
        await publish(bridge, "run", 1)
        await other.take(1)


async def test_the_sync_api_subscribes(bridge, sync_bridge, in_thread):
    def read():
        return list(sync_bridge.subscribe("run", heartbeat_interval=60))

    async with deadline():
        reading = in_thread(read)
        await publish(bridge, "run", 5)
        await bridge.publish_end("run")
        *events, end = await reading
    assert data(events) == [1, 2, 3, 4, 5]
    assert end is END_SENTINEL


async def test_a_sync_client_that_goes_away_can_come_back(bridge, sync_bridge, in_thread):
    def read_two(after):
        events = sync_bridge.subscribe("run", last_event_id=after)
        taken = [next(events), next(events)]
        events.close()
        return taken

    await publish(bridge, "run", 4)
    async with deadline():
        first = await in_thread(read_two, None)
        second = await in_thread(read_two, first[-1].id)
    assert data(first + second) == [1, 2, 3, 4]
