"""We speak what the pub/sub layer speaks, and notice what it does not: refusals, silence, loss."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator

import pytest
from channels.layers import InMemoryChannelLayer
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from redis.asyncio import Redis

from streambridge_app.contract.batch import Batch
from streambridge_app.log.writes import Written
from streambridge_app.wake import redis as redis_pubsub
from streambridge_app.wake.announcer import Announcer
from streambridge_app.wake.layer import group_name
from streambridge_app.wake.news import News
from streambridge_app.wake.redis import Publisher, Refused, Subscriber, address_of
from tests.services import RedisServer, async_wait_until, wait_until


class OwnLayer(RedisPubSubChannelLayer):
    """A user's layer: what it does in its own way must not be passed over."""


@pytest.fixture
async def layer(redis_server):
    layer = RedisPubSubChannelLayer(hosts=[redis_server.url], prefix="mine")
    yield layer
    await layer.flush()


@pytest.fixture
def own_redis():
    with RedisServer() as server:
        yield server


@contextlib.contextmanager
def connected(layer):
    with contextlib.closing(Publisher(address_of(layer))) as publisher:
        outcome = connect(publisher)
        assert outcome == [None]
        yield publisher


def connect(publisher):
    outcome = []
    done = threading.Event()
    assert publisher.connect(lambda error: (outcome.append(error), done.set()))
    assert done.wait(5)
    return outcome


@contextlib.asynccontextmanager
async def subscribed(layer, *groups) -> AsyncIterator[list]:
    received = []
    subscriber = await Subscriber.connect(address_of(layer), received.append)
    await subscriber.join(groups)
    yield received
    await subscriber.close()


@contextlib.asynccontextmanager
async def admin(server):
    redis = Redis.from_url(server.url)
    yield redis
    await redis.aclose()


def test_what_is_known():
    def known(layer):
        return address_of(layer) is not None

    url = "redis://127.0.0.1:1/3"
    assert known(RedisPubSubChannelLayer())
    assert known(RedisPubSubChannelLayer(hosts=[url], prefix="x"))
    assert known(RedisPubSubChannelLayer(hosts=[("127.0.0.1", 1)]))
    assert known(RedisPubSubChannelLayer(hosts=[{"address": url, "password": "x"}]))
    assert not known(None)
    assert not known(OwnLayer(hosts=[url]))
    assert not known(RedisPubSubChannelLayer(hosts=[url, url]))
    assert not known(RedisPubSubChannelLayer(hosts=["rediss://127.0.0.1:1"]))
    assert not known(RedisPubSubChannelLayer(hosts=[{"host": "127.0.0.1", "ssl": True}]))
    assert not known(
        RedisPubSubChannelLayer(hosts=[{"sentinels": [("127.0.0.1", 1)], "master_name": "x"}])
    )
    assert not known(RedisChannelLayer(hosts=[url]))
    assert not known(InMemoryChannelLayer())


async def test_the_layer_receives_what_we_send(layer, redis_server):
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    receiving = asyncio.ensure_future(layer.receive(channel))
    with connected(layer) as publisher:
        # redis-py does not wait for Redis to confirm that it has joined.
        async with admin(redis_server) as redis:

            async def joined():
                ((_, subscribers),) = await redis.pubsub_numsub("mine__group__group")
                return subscribers

            await async_wait_until(joined, 5, "the layer to join")
        assert publisher.send([("other", {"type": "y"}), ("group", {"type": "x", "n": [1, "ä"]})])
        async with asyncio.timeout(5):
            assert await receiving == {"type": "x", "n": [1, "ä"]}


async def test_it_connects_before_there_is_news(layer):
    announcer = Announcer(layer, 65_536, lambda: None)
    announcer.prepare()
    await async_wait_until(lambda: announcer._publisher.connected, 5, "the connection")
    await announcer.close()


async def test_we_receive_what_the_layer_sends(layer):
    async with subscribed(layer, "one", "two") as received:
        await layer.group_send("two", {"type": "x"})
        await layer.group_send("three", {"type": "y"})
        await layer.group_send("one", {"type": "z"})
        await async_wait_until(lambda: len(received) == 2, 5, "two messages")
    assert received == [{"type": "x"}, {"type": "z"}]


async def test_thousands_of_groups_are_joined_at_once_and_for_sure(layer):
    names = [f"group{number}" for number in range(5000)]
    async with subscribed(layer, *names) as received:
        with connected(layer) as publisher:
            assert publisher.send([(name, {"type": name}) for name in names])
            await async_wait_until(lambda: len(received) == len(names), 10, "all messages")
    assert [message["type"] for message in received] == names


async def test_a_message_that_cannot_be_read_is_ignored(layer, redis_server, caplog):
    async with subscribed(layer, "group") as received, admin(redis_server) as redis:
        await redis.publish("mine__group__group", b"\xc1")
        await layer.group_send("group", {"type": "x"})
        await async_wait_until(lambda: received, 5, "the message after it")
    assert "can't be read" in caplog.text


async def test_who_must_log_in_does(layer, redis_server):
    async with admin(redis_server) as redis:
        await redis.acl_setuser(
            "worker", enabled=True, passwords="+secret", keys="*", channels="*", commands=["+@all"]
        )
        host = {"address": redis_server.url, "username": "worker", "password": "secret"}
        layer = RedisPubSubChannelLayer(hosts=[host])
        async with subscribed(layer, "group") as received:
            with connected(layer) as publisher:
                publisher.send([("group", {"type": "x"})])
                await async_wait_until(lambda: received, 5, "the message")
        await redis.acl_deluser("worker")


async def test_a_redis_that_always_replies_gets_the_layers_own_way(redis_server, caplog):
    async with admin(redis_server) as redis:
        await redis.execute_command(
            "ACL", "SETUSER", "plain", "on", ">secret", "~*", "&*", "+@all", "-client|reply"
        )
        host = {"address": redis_server.url, "username": "plain", "password": "secret"}
        layer = RedisPubSubChannelLayer(hosts=[host])
        (error,) = connect(Publisher(address_of(layer)))
        assert isinstance(error, Refused)
        announcer = Announcer(layer, 1000, lambda: None)
        async with subscribed(layer, group_name("run")) as received:
            for number in (1, 2):
                batch = Batch(500, number, ["n"], ["1"])
                announcer.announce([Written("run", 1, 500, batch, "running", False)])
                await async_wait_until(lambda: len(received) == number, 5, "the message")  # noqa: B023
        assert [News.decode(message).head for message in received] == [1, 2]
        assert caplog.text.count("Redis refused") == 1
        assert "secret" not in caplog.text
        await redis.acl_deluser("plain")


async def test_a_connection_that_was_cut_is_made_anew(layer, redis_server):
    async with admin(redis_server) as redis, subscribed(layer, "group") as received:
        with connected(layer) as publisher:
            await redis.client_kill_filter(_type="normal", skipme=True)
            wait_until(lambda: not publisher.send([("group", {"type": "x"})]), 5, "the loss")
            assert not publisher.connected
            assert connect(publisher) == [None]
            received.clear()
            assert publisher.send([("group", {"type": "x"})])
            await async_wait_until(lambda: received, 5, "the message")


async def test_a_thread_that_looked_too_early_makes_no_second_connection(layer, redis_server):
    called = []
    with connected(layer) as publisher:
        async with admin(redis_server) as redis:

            async def connections():
                return len(await redis.client_list())

            before = await connections()
            assert publisher.connect(called.append)
            assert await connections() == before
    assert called == []


async def test_a_redis_that_is_down_is_tried_once_a_second():
    layer = RedisPubSubChannelLayer(hosts=["redis://127.0.0.1:1"])
    publisher = Publisher(address_of(layer))
    (error,) = connect(publisher)
    assert isinstance(error, OSError) or "onnect" in type(error).__name__
    assert not publisher.connect(lambda error: None)
    assert not publisher.send([("group", {"type": "x"})])


async def test_a_thread_that_cannot_be_had_is_asked_for_again(layer, monkeypatch):
    publisher = Publisher(address_of(layer))
    with monkeypatch.context() as patch:
        patch.setattr(redis_pubsub, "RETRY_DELAY", 0)
        patch.setattr(threading.Thread, "start", _no_thread)
        assert not publisher.connect(lambda error: None)
    assert connect(publisher) == [None]
    publisher.close()


def _no_thread(thread):
    raise RuntimeError("can't start new thread")


async def test_a_password_in_an_address_that_cannot_be_read_is_not_logged(caplog):
    layer = RedisPubSubChannelLayer(hosts=["redis://:s3cr/et@127.0.0.1:1"])
    announcer = Announcer(layer, 1000, lambda: None)
    announcer.announce([Written("run", 1, 500, Batch(500, 1, ["n"], ["1"]), "running", False)])
    await async_wait_until(lambda: "The channel layer failed" in caplog.text, 5, "the warning")
    assert "s3cr" not in caplog.text
    await announcer.close()


async def test_a_redis_that_hangs_stops_nobody(own_redis):
    layer = RedisPubSubChannelLayer(hosts=[own_redis.url])
    with connected(layer) as publisher:
        own_redis.pause()
        began = time.monotonic()
        wait_until(
            lambda: not publisher.send([("group", {"type": "x" * 100_000})]), 10, "it to give up"
        )
        assert not publisher.connected
        assert time.monotonic() - began < 5
        own_redis.resume()


async def test_a_subscriber_notices_that_redis_closed_the_connection(layer, redis_server):
    subscriber = await Subscriber.connect(address_of(layer), print)
    await subscriber.join(["group"])
    async with admin(redis_server) as redis, asyncio.timeout(5):
        await redis.client_kill_filter(_type="pubsub")
        with pytest.raises(ConnectionError):
            await subscriber.serve()


async def test_a_subscriber_notices_that_redis_hangs(own_redis, monkeypatch):
    monkeypatch.setattr(redis_pubsub, "PING_INTERVAL", 0.7)
    layer = RedisPubSubChannelLayer(hosts=[own_redis.url])
    subscriber = await Subscriber.connect(address_of(layer), print)
    serving = asyncio.ensure_future(subscriber.serve())
    await subscriber.join(["group"])
    done, _ = await asyncio.wait((serving,), timeout=2)
    assert not done, "a Redis that answers is taken for dead"
    own_redis.pause()
    async with asyncio.timeout(5):
        with pytest.raises(ConnectionError, match="does not answer"):
            await serving
    own_redis.resume()
    await subscriber.close()


async def test_a_subscriber_that_may_not_join_fails(redis_server):
    async with admin(redis_server) as redis:
        await redis.execute_command(
            "ACL", "SETUSER", "deaf", "on", "nopass", "+@all", "resetchannels"
        )
        host = {"address": redis_server.url, "username": "deaf", "password": "x"}
        subscriber = await Subscriber.connect(
            address_of(RedisPubSubChannelLayer(hosts=[host])), print
        )
        serving = asyncio.ensure_future(subscriber.serve())
        joining = asyncio.ensure_future(subscriber.join(["group"]))
        async with asyncio.timeout(5):
            with pytest.raises(Exception, match="permission"):
                await serving
        joining.cancel()
        await subscriber.close()
        await redis.acl_deluser("deaf")
