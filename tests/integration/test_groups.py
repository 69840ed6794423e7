"""Many groups at once, on any layer: what is sent to them arrives, until they are left."""

import asyncio
import gc

import pytest
from channels.layers import InMemoryChannelLayer
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer

from streambridge_app.wake.groups import LayerGroups, group_send_all, open_groups
from tests.contract.layers import DeadLayer
from tests.services import async_wait_until

GROUPS = [f"group{number}" for number in range(40)]


class OwnLayer(RedisPubSubChannelLayer):
    """A user's layer: what it does in its own way must not be passed over."""


def layers(url):
    return {
        "pubsub": RedisPubSubChannelLayer(hosts=[url]),
        "two shards": RedisPubSubChannelLayer(hosts=[url, url]),
        "own": OwnLayer(hosts=[url]),
        "core": RedisChannelLayer(hosts=[url]),
        "in memory": InMemoryChannelLayer(),
    }


@pytest.mark.parametrize("kind", layers("redis://"))
async def test_each_message_reaches_its_group(redis_server, kind):
    layer = layers(redis_server.url)[kind]
    received = []
    groups = await open_groups(layer, lambda message: received.append(message["to"]))
    serving = asyncio.ensure_future(groups.serve())
    await groups.join(GROUPS)
    await groups.leave(GROUPS[:3])

    async def only_to_those_joined():
        received.clear()
        await group_send_all(layer, [(group, {"type": "x", "to": group}) for group in GROUPS])
        await async_wait_until(lambda: GROUPS[-1] in received, 5, "the last message")
        return sorted(received) == sorted(GROUPS[3:])

    await async_wait_until(only_to_those_joined, 10, "one message to each group joined")
    await groups.close()
    serving.cancel()
    await asyncio.wait((serving,))
    if kind != "in memory":
        await layer.flush()


async def test_a_failure_of_one_does_not_keep_the_others_back():
    class Layer:
        def __init__(self):
            self.sent = []

        async def group_send(self, group, message):
            if group == "group3":
                raise OSError(group)
            self.sent.append(group)

    layer = Layer()
    with pytest.raises(OSError, match="group3"):
        await group_send_all(layer, [(group, {"type": "x"}) for group in GROUPS])
    assert len(layer.sent) == len(GROUPS) - 1


class BreakingLayer(DeadLayer):
    """Fails a call that waits, when that is cancelled."""

    async def receive(self, channel):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("closed by server") from None


async def test_of_two_failures_one_is_told():
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
    with pytest.raises(ConnectionError, match="the layer is down"):
        await LayerGroups(BreakingLayer(), "channel", told.append).serve()
    gc.collect()
    assert told == []
