"""Clauses 2 and 7: whatever the channel layer does costs milliseconds, never an event."""

import asyncio
import sys
import time

import pytest
from channels.layers import get_channel_layer

from streambridge_app import END_SENTINEL, get_bridge
from streambridge_app.wake import announcer, groups
from tests.contract.clients import client, data, deadline, publish, replay, seqs
from tests.contract.conftest import DATABASE_STACKS
from tests.services import spawn

LAYERS = "tests.contract.layers"
UNRELIABLE = {
    "default": "UnreliableInMemoryLayer",
    "pubsub": "UnreliablePubSubLayer",
    "core": "UnreliableCoreLayer",
}

pytestmark = pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)


def _use(settings, alias, layer, **options):
    config = settings.CHANNEL_LAYERS[alias].get("CONFIG", {}) if layer.startswith("Unrel") else {}
    settings.CHANNEL_LAYERS = {
        **settings.CHANNEL_LAYERS,
        alias: {"BACKEND": f"{LAYERS}.{layer}", "CONFIG": config},
    }
    settings.STREAMBRIDGE = {**settings.STREAMBRIDGE, **options}


@pytest.fixture
async def unreliable(stack, settings):
    _use(settings, stack.channel_layer, UNRELIABLE[stack.channel_layer], POLL_INTERVAL=0.2)
    bridge = get_bridge()
    yield bridge
    await bridge.close()


@pytest.fixture(params=["DeadLayer", "HangingLayer", "DeafLayer"])
async def broken(request, stack, settings, monkeypatch):
    monkeypatch.setattr(announcer, "SEND_DEADLINE", 0.2)
    monkeypatch.setattr(groups, "CALL_DEADLINE", 0.2)
    _use(settings, stack.channel_layer, request.param)
    bridge = get_bridge()
    yield bridge
    await bridge.close()


async def test_clients_see_exactly_all_events_through_an_unreliable_layer(unreliable, stack):
    suffered = get_channel_layer(stack.channel_layer).suffered
    count = 0
    async with client(unreliable, "run") as one, client(unreliable, "run") as two:
        reading = [asyncio.create_task(one.rest()), asyncio.create_task(two.rest())]
        async with deadline(30):
            # How many messages there are depends on how fast the layer is: late news is merged.
            while count < 200 or not all(suffered.values()):
                count += 1
                await unreliable.publish("run", "number", count)
        async with unreliable.producer("run") as run:
            for _ in range(800):
                count += 1
                await run.publish("number", count)
        for events in await asyncio.gather(*reading):
            assert seqs(events) == data(events) == list(range(1, count + 1))


async def test_a_client_that_reconnects_at_random_points_loses_nothing_either(unreliable):
    async def restless():
        events, last = [], None
        while True:
            async with client(unreliable, "run", after=last) as one:
                for _ in range(1 + len(events) % 7):
                    (item,) = await one.take(1)
                    if item is END_SENTINEL:
                        return events
                    events.append(item)
                    last = item.id

    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(restless())
        await publish(unreliable, "run", 150)
        await unreliable.publish_end("run")
    assert seqs(reading.result()) == data(reading.result()) == list(range(1, 151))


async def test_runs_that_are_deleted_and_made_again_stay_apart(unreliable):
    for incarnation in range(5):
        async with client(unreliable, "run") as live:
            for number in range(10):
                await unreliable.publish("run", "number", [incarnation, number])
            events = await live.take(10)
            assert data(events) == [[incarnation, number] for number in range(10)]
            await unreliable.cleanup("run")
            assert await live.rest() == []


async def test_with_a_broken_layer_publishing_succeeds_and_clients_poll(broken):
    async with client(broken, "run") as early, deadline(20):
        started = time.monotonic()
        await publish(broken, "run", 100)
        took = time.monotonic() - started
        assert data(await early.take(100)) == list(range(1, 101))
        await broken.publish_end("run")
        assert await early.rest() == []
        assert data(await replay(broken, "run")) == list(range(1, 101))
    assert took < 5  # 50 ms each: no call to the layer is waited for


async def test_with_a_broken_layer_the_last_event_is_found_though_nothing_follows_it(broken):
    async with client(broken, "run") as one, deadline(20):
        for number in range(1, 4):
            await broken.publish("run", "number", number)
            assert data(await one.take(1)) == [number]


async def test_with_a_broken_layer_the_second_client_does_not_wait_for_it(broken):
    await publish(broken, "run", 3)
    await broken.publish_end("run")
    async with deadline():
        await replay(broken, "run")  # the first may find out that the layer is down
        async with client(broken, "other", heartbeat=0.1) as other:
            await other.attached()
            taken = []
            for _ in range(5):
                started = time.monotonic()
                await replay(broken, "run")
                taken.append(time.monotonic() - started)
    assert min(taken) < 0.9  # the deadline of a client that waits for its group is 1 second


WORKER = """
import django
django.setup()
from django.conf import settings
settings.STREAMBRIDGE = {settings!r}
from streambridge_app import get_sync_bridge

with get_sync_bridge().producer("run") as run:
    for number in range(30):
        run.publish("number", number)
        run.flush()
"""


async def test_events_of_another_process_arrive(bridge, settings):
    """By polling on SQLite with the in-memory layer, by messages on Redis."""
    process = spawn(
        [sys.executable, "-c", WORKER.format(settings=settings.STREAMBRIDGE)],
        env={"DJANGO_SETTINGS_MODULE": "tests.settings"},
    )
    try:
        async with client(bridge, "run") as live:
            events = await live.rest()
    finally:
        process.kill()
        process.wait()
    assert [event.data for event in events] == list(range(30))
