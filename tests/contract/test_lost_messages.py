"""Clause 2: a message that was lost costs a moment, even if nothing follows it and nobody polls."""

import contextlib

import pytest
from channels.layers import get_channel_layer
from redis.asyncio import Redis

from streambridge_app.backends.channel_layer import ChannelLayerBridge
from streambridge_app.follow import poller
from streambridge_app.wake import repeats
from tests.conftest import CHANNEL_LAYER, Stack
from tests.contract.clients import client, data
from tests.contract.conftest import LAYER_STACKS
from tests.proxy import PostgresProxy
from tests.services import RedisServer, async_wait_until

NEVER = 3600.0
"""A poll interval that no test lives to see: what arrives has come by a message."""

LOSING = {"pubsub": "LosingPubSubLayer", "core": "LosingCoreLayer"}

on_layers = pytest.mark.parametrize("stack", LAYER_STACKS, indirect=True)
on_layers_and_databases = pytest.mark.parametrize(
    "stack",
    [
        *LAYER_STACKS,
        pytest.param(
            Stack(CHANNEL_LAYER, "pubsub"),
            id="pubsub-sqlite",
            marks=pytest.mark.django_db(transaction=True),
        ),
    ],
    indirect=True,
)
on_our_wire = pytest.mark.parametrize("stack", LAYER_STACKS[:1], indirect=True)


@pytest.fixture(autouse=True)
def _only_messages(monkeypatch):
    monkeypatch.setattr(poller, "ACTIVE_SECONDS", 0)


@pytest.fixture
def losing(stack, settings):
    layer = settings.CHANNEL_LAYERS[stack.channel_layer]
    backend = f"tests.contract.layers.{LOSING[stack.channel_layer]}"
    settings.CHANNEL_LAYERS = {
        **settings.CHANNEL_LAYERS,
        stack.channel_layer: {**layer, "BACKEND": backend},
    }
    return get_channel_layer(stack.channel_layer)


def use_redis(settings, stack, url):
    settings.CHANNEL_LAYERS = {
        **settings.CHANNEL_LAYERS,
        stack.channel_layer: {
            **settings.CHANNEL_LAYERS[stack.channel_layer],
            "CONFIG": {"hosts": [url]},
        },
    }


def is_told(bridge):
    return bridge._hub()._membership.has_joined("run")


@contextlib.asynccontextmanager
async def told(bridge):
    """A client that messages reach."""
    await bridge.create_run("run")
    async with client(bridge, "run", heartbeat=0.1) as one:
        await one.attached()
        await async_wait_until(lambda: is_told(bridge), 10, "it to join")
        yield one


@on_layers
async def test_one_event_of_which_the_message_is_lost(losing, bridge_with):
    async with bridge_with(POLL_INTERVAL=NEVER) as bridge, told(bridge) as one:
        for number in (1, 2):
            losing.lose_next = True
            await bridge.publish("run", "number", number)
            assert data(await one.take(1)) == [number]
            assert not losing.lose_next


@on_layers
async def test_an_end_of_which_the_message_is_lost(losing, bridge_with):
    async with bridge_with(POLL_INTERVAL=NEVER) as bridge, told(bridge) as one:
        losing.lose_next = True
        await bridge.publish_end("run")
        assert await one.rest() == []


@on_layers
async def test_a_deletion_of_which_the_message_is_lost(losing, bridge_with):
    async with bridge_with(POLL_INTERVAL=NEVER) as bridge, told(bridge) as one:
        losing.lose_next = True
        await bridge.cleanup("run")
        assert await one.rest() == []


@pytest.fixture
def loses(losing, monkeypatch):
    """Wait until the one message of something that is said once is lost."""
    monkeypatch.setattr(repeats, "REPEAT_AFTER", NEVER)

    async def wait(saying):
        losing.lose_next = True
        await saying
        await async_wait_until(lambda: not losing.lose_next, 10, "its message to be lost")

    return wait


@on_layers_and_databases
async def test_events_of_which_nothing_is_ever_said_are_found_by_looking(loses, bridge_with):
    async with bridge_with(POLL_INTERVAL=0.2) as bridge, told(bridge) as one:
        for number in range(1, 4):
            await loses(bridge.publish("run", "number", number))
            assert data(await one.take(1)) == [number]
            assert is_told(bridge)


@on_layers_and_databases
async def test_an_end_of_which_nothing_is_ever_said_is_found_by_looking(loses, bridge_with):
    async with bridge_with(POLL_INTERVAL=0.2) as bridge, told(bridge) as one:
        await loses(bridge.publish_end("run", error="failed"))
        (error,) = await one.rest()
    assert error.data["message"] == "failed"


@on_layers_and_databases
async def test_a_deletion_of_which_nothing_is_ever_said_is_found_by_looking(loses, bridge_with):
    async with bridge_with(POLL_INTERVAL=0.2) as bridge, told(bridge) as one:
        await bridge.publish("run", "number", 1)
        assert data(await one.take(1)) == [1]  # it knows which incarnation it follows
        await loses(bridge.cleanup("run"))
        await loses(bridge.publish("run", "of another incarnation", 1))
        assert await one.rest() == []


@on_layers
async def test_a_lost_deletion_is_betrayed_by_the_next_incarnation(loses, bridge_with):
    async with bridge_with(POLL_INTERVAL=NEVER) as bridge, told(bridge) as one:
        await bridge.publish("run", "number", 1)
        assert data(await one.take(1)) == [1]  # it knows which incarnation it follows
        await loses(bridge.cleanup("run"))
        await bridge.publish("run", "of another incarnation", 1)
        assert await one.rest() == []


@on_layers
async def test_a_client_that_comes_before_its_run_is_told_of_its_first_event(loses, bridge_with):
    async with (
        bridge_with(POLL_INTERVAL=NEVER) as bridge,
        client(bridge, "run", heartbeat=0.1) as one,
    ):
        await one.attached()
        await async_wait_until(lambda: is_told(bridge), 10, "it to join")
        await bridge.publish("run", "number", 1)
        assert data(await one.take(1)) == [1]


@on_layers
async def test_what_was_said_last_is_said_again_when_a_process_ends(
    losing, bridge_with, monkeypatch
):
    async with bridge_with(POLL_INTERVAL=NEVER) as bridge, told(bridge) as one:
        monkeypatch.setattr(repeats, "REPEAT_AFTER", NEVER)
        other = ChannelLayerBridge()
        losing.lose_next = True
        await other.publish("run", "number", 1)
        # Before, what is said again would be one message with it.
        await async_wait_until(lambda: not losing.lose_next, 10, "its message to be lost")
        await other.close()
        assert data(await one.take(1)) == [1]


@on_our_wire
async def test_a_connection_that_redis_has_closed_for_its_silence(
    bridge_with, stack, settings, monkeypatch
):
    monkeypatch.setattr(repeats, "REPEAT_AFTER", NEVER)
    with RedisServer() as server:
        use_redis(settings, stack, server.url)
        redis = Redis.from_url(server.url)
        async with bridge_with(POLL_INTERVAL=NEVER) as bridge, told(bridge) as one:
            for number in (1, 2, 3):
                await bridge.publish("run", "number", number)
                assert data(await one.take(1)) == [number]
                await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await redis.aclose()


@on_our_wire
async def test_a_connection_that_takes_a_message_and_breaks(
    bridge_with, stack, settings, redis_server
):
    with PostgresProxy(redis_server.port) as proxy:
        use_redis(settings, stack, f"redis://127.0.0.1:{proxy.port}")
        async with bridge_with(POLL_INTERVAL=NEVER) as bridge, told(bridge) as one:
            for number in (1, 2):
                await bridge.publish("run", "number", number)
                assert data(await one.take(1)) == [number]
                proxy.cut("streambridge.events", "before")
                await bridge.publish("run", "number", -number)
                assert data(await one.take(1)) == [-number]
                assert proxy.cuts == number
            await bridge.publish_end("run")
            assert await one.rest() == []
