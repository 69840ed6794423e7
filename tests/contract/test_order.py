"""Clause 1: numbers without a hole, ids that identify; clause 7: many publishers at once."""

import asyncio
import re
import time

import pytest

from streambridge_app.backends import memory
from tests.contract.clients import client, data, deadline, publish, replay, seqs


async def test_numbers_start_at_one_and_have_no_hole(bridge):
    await publish(bridge, "run", 25)
    await bridge.publish_end("run")
    events = await replay(bridge, "run")
    assert seqs(events) == list(range(1, 26))
    assert data(events) == list(range(1, 26))


async def test_ids_are_epoch_and_number_and_the_epoch_is_the_moment_of_creation(bridge):
    before = time.time_ns() // 1_000_000
    await bridge.publish("run", "first", None)
    after = time.time_ns() // 1_000_000
    await bridge.publish_end("run")
    (event,) = await replay(bridge, "run")
    assert re.fullmatch(r"\d+-\d+", event.id)
    assert before <= int(event.id.split("-")[0]) <= after
    assert (await bridge.get_run("run")).latest_id == event.id


async def test_runs_are_numbered_apart(bridge):
    await asyncio.gather(*(publish(bridge, f"run-{number}", 5) for number in range(40)))
    await asyncio.gather(*(bridge.publish_end(f"run-{number}") for number in range(40)))
    for number in range(40):
        events = await replay(bridge, f"run-{number}")
        assert seqs(events) == data(events) == [1, 2, 3, 4, 5]


async def test_sixty_four_publishers_of_one_run_leave_no_hole(bridge):
    async with client(bridge, "run") as live:
        async with deadline(30):
            await asyncio.gather(
                *(publish(bridge, "run", 8, first=100 * number) for number in range(64))
            )
            await bridge.publish_end("run")
        events = await live.rest()
    assert seqs(events) == list(range(1, 64 * 8 + 1))
    for number in range(64):
        mine = [value for value in data(events) if value // 100 == number]
        assert mine == list(range(100 * number, 100 * number + 8))
    assert events == await replay(bridge, "run")


async def test_publishes_started_in_order_are_written_in_order(bridge):
    await asyncio.gather(*(bridge.publish("run", "number", number) for number in range(1, 201)))
    await bridge.publish_end("run")
    assert data(await replay(bridge, "run")) == list(range(1, 201))


async def test_async_and_sync_publishers_share_the_numbers(bridge, sync_bridge, in_thread):
    def publish_in_thread():
        for number in range(30):
            sync_bridge.publish("run", "sync", number)

    async with deadline():
        await asyncio.gather(publish(bridge, "run", 30), in_thread(publish_in_thread))
    await bridge.publish_end("run")
    events = await replay(bridge, "run")
    assert seqs(events) == list(range(1, 61))
    assert data(event for event in events if event.event == "sync") == list(range(30))
    assert data(event for event in events if event.event == "number") == list(range(1, 31))


async def test_an_event_is_readable_as_soon_as_publish_returns(bridge):
    for number in range(1, 6):
        await bridge.publish("run", "number", number)
        assert (await bridge.get_run("run")).head == number


async def test_a_new_incarnation_of_a_run_id_has_a_larger_epoch_and_starts_at_one(bridge):
    epochs = []
    for _ in range(5):  # within a millisecond or two
        await bridge.publish("run", "number", 1)
        epochs.append((await bridge.get_run("run")).epoch)
        await bridge.cleanup("run")
    assert epochs == sorted(set(epochs))
    await bridge.publish("run", "number", 1)
    assert (await bridge.get_run("run")).head == 1


async def test_epochs_grow_though_the_clock_is_set_back(bridge, monkeypatch):
    assert memory.time is time  # the one clock of every backend
    await bridge.publish("run", "number", 1)
    first = (await bridge.get_run("run")).epoch
    await bridge.cleanup("run")

    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    await bridge.publish("run", "number", 1)
    second = (await bridge.get_run("run")).epoch
    await bridge.cleanup("run")

    await bridge.create_run("run")
    third = (await bridge.get_run("run")).epoch
    assert first < second < third


async def _open_a_handle(bridge):
    async with bridge.producer("run"):
        pass


WAYS_TO_BEGIN = {
    "publish": lambda bridge: bridge.publish("run", "number", 1),
    "publish with a key": lambda bridge: bridge.publish("run", "number", 1, key="one"),
    "publish_end": lambda bridge: bridge.publish_end("run"),
    "create_run": lambda bridge: bridge.create_run("run"),
    "producer": _open_a_handle,
}


@pytest.mark.parametrize("way", WAYS_TO_BEGIN)
async def test_epochs_grow_though_the_clock_stands_still(bridge, monkeypatch, way):
    """Incarnations of one millisecond, however each begins."""
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)
    epochs = []
    for _ in range(3):
        await WAYS_TO_BEGIN[way](bridge)
        epochs.append((await bridge.get_run("run")).epoch)
        await bridge.cleanup("run")
    assert epochs[0] == now // 1_000_000
    assert epochs == sorted(set(epochs))


async def test_epochs_grow_though_an_older_run_is_deleted_in_between(bridge, monkeypatch):
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)
    await bridge.publish("older", "number", 1)
    monkeypatch.setattr(time, "time_ns", lambda: now + 60_000_000_000)
    await bridge.publish("run", "number", 1)
    epoch = (await bridge.get_run("run")).epoch
    await bridge.cleanup("run")
    await bridge.cleanup("older")
    monkeypatch.setattr(time, "time_ns", lambda: now)
    await bridge.publish("run", "number", 1)
    assert (await bridge.get_run("run")).epoch > epoch
