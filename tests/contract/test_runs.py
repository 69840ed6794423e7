"""Creating, inspecting, trimming and cancelling runs; what close() leaves."""

import asyncio
import uuid

import pytest
from django.contrib.auth import get_user_model

from streambridge_app import get_bridge
from streambridge_app.exceptions import BridgeClosed, InvalidEvent, RunEnded, RunExists, RunNotFound
from streambridge_app.registry import reset
from tests.contract.clients import client, data, deadline, publish, replay
from tests.contract.conftest import DATABASE_STACKS


async def test_a_new_run_has_a_new_uuid(bridge):
    first, second = await bridge.create_run(), await bridge.create_run()
    assert first != second
    assert str(uuid.UUID(first)) == first


async def test_a_new_run_is_empty_and_running(bridge):
    assert await bridge.create_run("run") == "run"
    state = await bridge.get_run("run")
    assert (state.run_id, state.status, state.head, state.earliest) == ("run", "running", 0, None)
    assert (state.owner_id, state.metadata, state.latest_id) == (None, {}, None)
    assert not state.cancel_requested
    assert state.created_at.tzinfo is not None
    assert abs(state.created_at.timestamp() * 1000 - state.epoch) < 5000


async def test_metadata_comes_back(bridge):
    metadata = {"z": [1, {"a": None}], "a": "\u0000", "ü": {}}
    await bridge.create_run("run", metadata=metadata)
    found = (await bridge.get_run("run")).metadata
    assert found == metadata
    assert list(found) == list(metadata)


async def test_metadata_that_json_cannot_express_makes_no_run(bridge):
    with pytest.raises(InvalidEvent):
        await bridge.create_run("run", metadata={"set": {1}})
    with pytest.raises(RunNotFound):
        await bridge.get_run("run")


async def test_a_taken_id_is_refused_also_after_its_end(bridge):
    await bridge.create_run("run")
    with pytest.raises(RunExists, match="'run' exists already"):
        await bridge.create_run("run")
    await bridge.publish_end("run")
    with pytest.raises(RunExists):
        await bridge.create_run("run")


async def test_one_of_many_who_create_at_once_succeeds(bridge):
    async with deadline():
        results = await asyncio.gather(
            *(bridge.create_run("run") for _ in range(20)), return_exceptions=True
        )
    assert results.count("run") == 1
    assert sum(isinstance(result, RunExists) for result in results) == 19


async def test_creating_and_publishing_at_once_make_one_run(bridge):
    async with deadline():
        await asyncio.gather(
            *(publish(bridge, "run", 1) for _ in range(10)),
            *(bridge.create_run("run") for _ in range(5)),
            return_exceptions=True,
        )
    assert (await bridge.get_run("run")).head == 10


@pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)
async def test_the_owner_may_be_a_user_or_a_key(bridge, stack):
    user = await get_user_model().objects.using(stack.database).acreate(username="ann")
    await bridge.create_run("by-user", owner=user)
    await bridge.create_run("by-key", owner=user.pk)
    for run_id in ("by-user", "by-key"):
        assert (await bridge.get_run(run_id)).owner_id == user.pk


async def test_an_unknown_run_is_not_found(bridge, sync_bridge, in_thread):
    with pytest.raises(RunNotFound, match="no run with the id 'run'"):
        await bridge.get_run("run")
    with pytest.raises(RunNotFound):
        await in_thread(sync_bridge.get_run, "run")
    with pytest.raises(LookupError):
        await bridge.trim("run", keep=1)
    with pytest.raises(LookupError):
        await bridge.request_cancel("run")


async def test_the_sync_api_creates_and_inspects(bridge, sync_bridge, in_thread):
    run_id = await in_thread(sync_bridge.create_run, metadata={"a": 1})
    await in_thread(sync_bridge.publish, run_id, "number", 1)
    state = await in_thread(sync_bridge.get_run, run_id)
    assert (state.metadata, state.head) == ({"a": 1}, 1)
    assert state == await bridge.get_run(run_id)
    with pytest.raises(RunExists):
        await in_thread(sync_bridge.create_run, run_id)


# Trim


async def test_trim_keeps_the_newest_and_says_how_many_it_deleted(bridge, sync_bridge, in_thread):
    await publish(bridge, "run", 10)
    assert await bridge.trim("run", keep=20) == 0
    assert await bridge.trim("run", keep=7) == 3
    assert await in_thread(sync_bridge.trim, "run", keep=5) == 2
    assert await bridge.trim("run", keep=5) == 0
    assert await bridge.trim("run", keep=7) == 0  # nothing comes back
    state = await bridge.get_run("run")
    assert (state.earliest, state.head) == (6, 10)


async def test_numbers_go_on_after_everything_was_trimmed(bridge):
    await publish(bridge, "run", 3)
    assert await bridge.trim("run", keep=0) == 3
    assert (await bridge.get_run("run")).earliest is None
    await publish(bridge, "run", 1, first=4)
    await bridge.publish_end("run")
    gap, event = await replay(bridge, "run")
    assert gap.data["earliest"] == event.id
    assert event.id.endswith("-4")


async def test_a_live_client_that_is_ahead_of_a_trim_notices_nothing(bridge):
    async with client(bridge, "run") as live:
        await publish(bridge, "run", 5)
        assert data(await live.take(5)) == [1, 2, 3, 4, 5]
        await bridge.trim("run", keep=0)
        await publish(bridge, "run", 2, first=6)
        await bridge.publish_end("run")
        assert data(await live.rest()) == [6, 7]


async def test_a_client_that_reads_while_it_is_trimmed_gets_a_gap_or_everything(bridge):
    async def trim():
        for keep in (40, 20, 0):
            await bridge.trim("run", keep=keep)

    await publish(bridge, "run", 60)
    await bridge.publish_end("run")
    readers = [asyncio.create_task(replay(bridge, "run")) for _ in range(5)]
    async with deadline(30):
        await trim()
        for items in await asyncio.gather(*readers):
            expected = 1
            for item in items:
                if item.event == "__gap__":
                    earliest = item.data["earliest"]
                    expected = int(earliest.split("-")[1]) if earliest else 61
                else:
                    assert item.id.endswith(f"-{expected}")
                    expected += 1
            assert expected == 61


# Cancel


async def test_a_request_to_cancel_is_kept_and_the_run_goes_on(bridge, sync_bridge, in_thread):
    await publish(bridge, "run", 1)
    await bridge.request_cancel("run")
    assert (await bridge.get_run("run")).cancel_requested
    await in_thread(sync_bridge.request_cancel, "run")
    await publish(bridge, "run", 1, first=2)
    assert (await bridge.get_run("run")).status == "running"


async def test_an_ended_run_cannot_be_cancelled(bridge, sync_bridge, in_thread):
    await bridge.publish_end("run")
    with pytest.raises(RunEnded):
        await bridge.request_cancel("run")
    with pytest.raises(RunEnded):
        await in_thread(sync_bridge.request_cancel, "run")


# Close


async def test_what_was_accepted_is_written_before_close_returns(bridge):
    run = bridge.producer("run")
    for number in range(1, 501):
        await run.publish("number", number)
    await bridge.close()
    reset()
    other = get_bridge()
    if type(other).__name__ != "MemoryBridge":  # which forgets everything with it
        assert (await other.get_run("run")).head == 500
    await other.close()


async def test_a_closed_bridge_refuses_everything(bridge, sync_bridge, in_thread):
    await publish(bridge, "run", 1)
    await bridge.close()
    await bridge.close()
    for refused in (
        bridge.publish("run", "number", 2),
        bridge.publish_end("run"),
        bridge.create_run("new"),
        bridge.get_run("run"),
        bridge.request_cancel("run"),
        bridge.trim("run", keep=0),
        bridge.cleanup("run"),
        replay(bridge, "run"),
        in_thread(sync_bridge.publish, "run", "number", 2),
        in_thread(sync_bridge.get_run, "run"),
        bridge.producer("run").publish("number", 2),
    ):
        with pytest.raises(BridgeClosed):
            async with deadline():
                await refused


async def test_attached_clients_learn_that_the_bridge_was_closed(bridge):
    async with client(bridge, "run") as live, client(bridge, "other", heartbeat=0.01) as early:
        await publish(bridge, "run", 1)
        await live.take(1)
        await early.attached()
        waiting = asyncio.create_task(live.next())
        await asyncio.sleep(0)
        await bridge.close()
        with pytest.raises(BridgeClosed):
            await waiting
        with pytest.raises(BridgeClosed):
            await early.rest()
