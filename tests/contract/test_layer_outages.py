"""Clause 2: a Redis that goes away, for whatever reason, is used again once it is back."""

import asyncio
import contextlib

import pytest

from streambridge_app.follow import poller
from streambridge_app.wake import groups
from streambridge_app.wake import redis as redis_pubsub
from tests.contract.clients import client, data, deadline, seqs
from tests.contract.conftest import LAYER_STACKS
from tests.services import async_wait_until

NEVER = 3600.0
"""A poll interval that no test lives to see: what arrives has come by a message."""

pytestmark = pytest.mark.parametrize("stack", LAYER_STACKS, indirect=True)


@contextlib.contextmanager
def killed(redis):
    redis.kill()
    try:
        yield
    finally:
        redis.start()


@contextlib.contextmanager
def paused(redis):
    redis.pause()
    try:
        yield
    finally:
        redis.resume()


@contextlib.contextmanager
def flushed(redis):
    redis.flush()
    yield


@pytest.fixture(params=[killed, paused, flushed], ids=lambda outage: outage.__name__)
def outage(request):
    return request.param


@pytest.fixture(autouse=True)
def _soon_noticed(stack, settings, monkeypatch, redis_server):
    # Without the timeout by which redis-py would find out, after 5 seconds of silence.
    host = {"address": redis_server.url, "socket_timeout": None}
    layer = {**settings.CHANNEL_LAYERS[stack.channel_layer], "CONFIG": {"hosts": [host]}}
    settings.CHANNEL_LAYERS = {**settings.CHANNEL_LAYERS, stack.channel_layer: layer}
    monkeypatch.setattr(poller, "ACTIVE_SECONDS", 0)
    monkeypatch.setattr(redis_pubsub, "PING_INTERVAL", 0.3)
    monkeypatch.setattr(redis_pubsub, "CONNECT_DEADLINE", 0.5)
    monkeypatch.setattr(groups, "PROBE_INTERVAL", 0.3)
    monkeypatch.setattr(groups, "CALL_DEADLINE", 0.5)


def is_member(bridge):
    return bridge._hub()._membership.has_joined("run")


async def test_messages_come_again_by_themselves(bridge_with, redis_server, outage):
    published = 0
    arrived = []

    async def publish():
        nonlocal published
        published += 1
        await bridge.publish("run", "number", published)

    async def read():
        async for event in bridge.subscribe("run", heartbeat_interval=NEVER):
            arrived.append(event.data)  # noqa: PERF401 - others look at it meanwhile

    async def told():
        """Publish until messages bring the events: a look at the log while joining is too few."""
        in_a_row = 0
        async with deadline(60):
            while in_a_row < 3:
                await publish()
                try:
                    await async_wait_until(lambda: published in arrived, 0.2, "a message")
                    in_a_row += 1
                except TimeoutError:
                    in_a_row = 0

    async with bridge_with(POLL_INTERVAL=NEVER) as bridge:
        reading = asyncio.create_task(read())
        await told()
        for _ in range(2):
            with outage(redis_server):
                for _ in range(50):
                    await publish()
                if outage is not flushed:
                    await async_wait_until(lambda: not is_member(bridge), 20, "it to be noticed")
            await told()
        reading.cancel()
        await asyncio.wait([reading])
    assert arrived == list(range(1, len(arrived) + 1))


async def test_clients_get_everything_meanwhile(bridge_with, redis_server, outage):
    number = 0

    async def publish():
        nonlocal number
        for _ in range(50):
            number += 1
            await bridge.publish("run", "number", number)

    async with bridge_with(POLL_INTERVAL=0.1) as bridge, client(bridge, "run") as live:
        reading = asyncio.create_task(live.rest())
        for _ in range(3):
            with outage(redis_server):
                await publish()
            await publish()
        await bridge.publish_end("run")
        events = await reading
    assert seqs(events) == data(events) == list(range(1, number + 1))


async def test_an_outage_is_told_of_once_and_its_end_once(bridge_with, redis_server, caplog):
    def told(words):
        return [record for record in caplog.records if words in record.getMessage()]

    async with bridge_with(POLL_INTERVAL=0.1) as bridge, contextlib.AsyncExitStack() as clients:
        for run_id in ("run", "run", "other"):
            await bridge.publish(run_id, "number", 0)
            one = await clients.enter_async_context(client(bridge, run_id))
            await one.take(1)
        await async_wait_until(lambda: is_member(bridge), 20, "it to join")
        with killed(redis_server):
            await async_wait_until(lambda: told("channel layer failed"), 20, "the warning")
            for number in range(30):
                await bridge.publish("run", "number", number)
        await async_wait_until(lambda: told("layer is back"), 20, "word of its end")
        await async_wait_until(lambda: is_member(bridge), 20, "it to join again")
        for number in range(30):
            await bridge.publish("other", "number", number)
    assert len(told("channel layer")) == 2
