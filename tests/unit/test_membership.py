"""A hub stays in the groups it wants, whatever the layer does meanwhile."""

import asyncio
from collections import Counter

import pytest

from streambridge_app.wake import groups, membership
from streambridge_app.wake.groups import PROBE_TYPE
from streambridge_app.wake.layer import group_name
from streambridge_app.wake.membership import Membership
from tests.services import async_wait_until


class Member:
    def __init__(self):
        self.joined = asyncio.Event()


class Layer:
    """Counts who is in which group; can be told to fail or to forget."""

    group_expiry = 86_400

    def __init__(self):
        self.groups = {}
        self.channels = 0
        self.adds = Counter()
        self.probes = 0
        self.lost = set()
        self.error = None
        self.messages = asyncio.Queue()

    async def _answer(self):
        await asyncio.sleep(0)
        if self.error:
            raise self.error

    async def new_channel(self):
        await self._answer()
        self.channels += 1
        return f"channel-{self.channels}"

    async def receive(self, channel):
        message = await self.messages.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def group_add(self, group, channel):
        await self._answer()
        self.adds[group] += 1
        self.groups.setdefault(group, set()).add(channel)

    async def group_discard(self, group, channel):
        await self._answer()
        self.groups.get(group, set()).discard(channel)

    async def group_send(self, group, message):
        await self._answer()
        self.probes += 1
        if message["type"] in self.lost:
            self.lost.remove(message["type"])
        elif self.groups.get(group):
            self.messages.put_nowait(message)

    def members(self, run_id):
        return len(self.groups.get(group_name(run_id), ()))


@pytest.fixture
def layer():
    return Layer()


@pytest.fixture
async def wanted(layer, monkeypatch):
    monkeypatch.setattr(membership, "RETRY_DELAY", 0.01)
    monkeypatch.setattr(groups, "CALL_DEADLINE", 0.2)
    monkeypatch.setattr(groups, "PROBE_INTERVAL", 0.02)
    return {}


@pytest.fixture
async def hub(layer, wanted):
    received = []
    hub = Membership(layer, wanted, received.append)
    hub.received = received
    yield hub
    await hub.close()


def enter(hub, wanted, run_id="run"):
    wanted[run_id] = Member()
    hub.changed(run_id)
    return wanted[run_id]


def leave(hub, wanted, run_id="run"):
    del wanted[run_id]
    hub.changed(run_id)


async def joined(member):
    async with asyncio.timeout(5):
        await member.joined.wait()


async def left(layer, run_id="run"):
    await async_wait_until(lambda: layer.members(run_id) == 0, 5, "the group to be left")


async def test_a_group_is_joined_and_left(hub, wanted, layer):
    await joined(enter(hub, wanted))
    assert layer.members("run") == 1
    leave(hub, wanted)
    await left(layer)


async def test_entering_again_before_the_leave_was_noticed_stays(hub, wanted, layer):
    await joined(enter(hub, wanted))
    leave(hub, wanted)
    await joined(enter(hub, wanted))
    assert layer.members("run") == 1


async def test_any_dance_ends_as_it_should(hub, wanted, layer):
    for turn in range(50):
        enter(hub, wanted)
        await asyncio.sleep(0)
        if turn % 3:
            await joined(wanted["run"])
        leave(hub, wanted)
        if turn % 2:
            await asyncio.sleep(0)
    await joined(enter(hub, wanted, "other"))
    await left(layer)
    assert layer.members("other") == 1


async def test_messages_are_received(hub, layer):
    layer.messages.put_nowait({"a": 1})
    await async_wait_until(lambda: hub.received == [{"a": 1}], 5, "the message")


@pytest.mark.parametrize("where", ["receive", "group_add"])
async def test_after_a_failure_all_groups_are_joined_on_a_new_channel(hub, wanted, layer, where):
    await joined(enter(hub, wanted, "one"))
    if where == "receive":
        layer.messages.put_nowait(ConnectionError("lost"))
    else:
        layer.error = ConnectionError("lost")
        await joined(enter(hub, wanted, "two"))  # its clients don't wait for the layer
        layer.groups.clear()  # it was restarted
        layer.error = None
    await async_wait_until(
        lambda: (
            group_name("one") in layer.groups and "channel-2" in layer.groups[group_name("one")]
        ),
        5,
        "the new channel to be in the group",
    )


async def test_while_the_layer_fails_nobody_waits_for_it(hub, wanted, layer):
    layer.error = ConnectionError("down")
    await joined(enter(hub, wanted, "one"))
    assert enter(hub, wanted, "two").joined.is_set()  # at once: it is known to be down
    layer.error = None
    await async_wait_until(lambda: layer.members("two"), 5, "the group to be joined at last")


async def test_groups_are_joined_again_before_membership_expires(layer, wanted):
    layer.group_expiry = 0.15
    hub = Membership(layer, wanted, print)
    await joined(enter(hub, wanted))
    await async_wait_until(lambda: layer.adds[group_name("run")] >= 3, 5, "the renewals")
    await hub.close()


async def test_a_layer_that_forgot_its_groups_is_found_out(hub, wanted, layer, caplog):
    await joined(enter(hub, wanted))
    layer.groups.clear()  # FLUSHALL: every call goes on to succeed
    await async_wait_until(lambda: layer.members("run"), 5, "the group to be joined again")
    assert "messages to ourselves are lost" in caplog.text


async def test_one_message_to_ourselves_may_be_lost(hub, wanted, layer):
    await joined(enter(hub, wanted))
    layer.lost.add(PROBE_TYPE)
    await async_wait_until(lambda: not layer.lost, 5, "a probe to be lost")
    sent = layer.probes
    await async_wait_until(lambda: layer.probes >= sent + 3, 5, "some that come again")
    assert layer.channels == 1


async def test_the_group_of_messages_to_ourselves_is_renewed_too(layer, wanted):
    layer.group_expiry = 0.15
    hub = Membership(layer, wanted, print)
    await async_wait_until(
        lambda: [n for group, n in layer.adds.items() if PROBE_TYPE in group and n >= 3],
        5,
        "the renewals",
    )
    await hub.close()
    assert layer.channels == 1


async def test_closing_leaves_all_groups(hub, wanted, layer):
    for number in range(5):
        await joined(enter(hub, wanted, f"run-{number}"))
    await hub.close()
    assert not any(layer.groups.values())


async def test_closing_does_not_wait_for_a_dead_layer(hub, wanted, layer):
    await joined(enter(hub, wanted))
    layer.error = ConnectionError("down")
    async with asyncio.timeout(5):
        await hub.close()
