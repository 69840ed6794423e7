"""One group membership per run and process, however many clients; left after the last."""

import asyncio
import contextlib
import gc

import pytest
import redis.asyncio as redis
from channels.layers import get_channel_layer
from channels_redis.core import RedisChannelLayer

from streambridge_app.follow import garbage
from streambridge_app.wake.layer import group_name
from tests.contract.clients import client, data, deadline, publish, replay
from tests.contract.conftest import DATABASE_STACKS
from tests.services import async_wait_until

pytestmark = pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)


@pytest.fixture
async def members(stack, request):
    """Return the number of members of a run's group, as the layer itself knows it."""
    layer = get_channel_layer(stack.channel_layer)
    if stack.channel_layer == "default":

        async def count(run_id):
            return len(layer.groups.get(group_name(run_id), {}))

        yield count
        return
    server = request.getfixturevalue("redis_server")
    async with redis.Redis(port=server.port) as connection:

        async def count(run_id):
            group = group_name(run_id)
            if isinstance(layer, RedisChannelLayer):
                return await connection.zcard(layer._group_key(group))
            ((_, subscribers),) = await connection.pubsub_numsub(f"asgi__group__{group}")
            return subscribers

        yield count


async def _until(members, run_id, count):
    async def reached():
        return await members(run_id) == count

    await async_wait_until(reached, 10, f"{count} members")


async def test_many_clients_are_one_member_and_the_last_one_leaves(bridge, members):
    async with contextlib.AsyncExitStack() as last:
        async with contextlib.AsyncExitStack() as others:
            await publish(bridge, "run", 1)
            await (await last.enter_async_context(client(bridge, "run"))).take(1)
            for _ in range(20):
                await (await others.enter_async_context(client(bridge, "run"))).take(1)
            await _until(members, "run", 1)
        assert await members("run") == 1
    await _until(members, "run", 0)


async def test_a_run_is_one_member_each(bridge, members):
    async with contextlib.AsyncExitStack() as clients:
        for number in range(5):
            live = await clients.enter_async_context(client(bridge, f"run-{number}"))
            await publish(bridge, f"run-{number}", 1)
            await live.take(1)
        for number in range(5):
            await _until(members, f"run-{number}", 1)
    for number in range(5):
        await _until(members, f"run-{number}", 0)


async def test_a_group_is_entered_again_right_after_it_was_left(bridge, members):
    await publish(bridge, "run", 1)
    for _ in range(10):
        async with client(bridge, "run") as live:
            await live.take(1)
    async with client(bridge, "run") as live:
        await live.take(1)
        await _until(members, "run", 1)
        await publish(bridge, "run", 1, first=2)
        assert data(await live.take(1)) == [2]
    await _until(members, "run", 0)


async def test_clients_that_arrive_together_are_one_member(bridge, members):
    async with deadline(), asyncio.TaskGroup() as tasks:
        readers = [tasks.create_task(replay(bridge, "run")) for _ in range(20)]
        await publish(bridge, "run", 1)
        await _until(members, "run", 1)
        await bridge.publish_end("run")
    assert all(data(reader.result()) == [1] for reader in readers)
    await _until(members, "run", 0)


async def test_closing_the_bridge_leaves_all_groups(bridge, members):
    items = bridge.subscribe("run")
    await publish(bridge, "run", 1)
    await anext(items)
    await _until(members, "run", 1)
    await bridge.close()
    await _until(members, "run", 0)
    await items.aclose()


async def test_publishers_are_not_members(bridge, members):
    await publish(bridge, "run", 3)
    assert await members("run") == 0


async def test_the_first_client_of_a_process_tunes_its_collections_if_asked_to(
    bridge_with, monkeypatch
):
    monkeypatch.setattr(garbage, "_asked", False)
    frozen, threshold = gc.get_freeze_count(), gc.get_threshold()
    gc.unfreeze()
    gc.set_threshold(700, 10, 10)
    try:
        async with bridge_with(TUNE_GC=True) as bridge, client(bridge, "run") as live:
            await publish(bridge, "run", 1)
            await live.take(1)
            assert gc.get_freeze_count() > 1000
            assert gc.get_threshold() == (garbage.YOUNG_OBJECTS, 10, 10)
    finally:
        gc.set_threshold(*threshold)
        if not frozen:
            gc.unfreeze()
