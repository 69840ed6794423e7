"""Clause 5: the end is part of the run."""

import asyncio

import pytest

from streambridge_app import END_SENTINEL
from streambridge_app.exceptions import RunEnded, RunNotFound
from tests.contract.clients import client, data, deadline, publish, replay


async def test_a_run_is_running_until_it_ends(bridge):
    await publish(bridge, "run", 1)
    state = await bridge.get_run("run")
    assert (state.status, state.ended, state.ended_at) == ("running", False, None)
    await bridge.publish_end("run")
    state = await bridge.get_run("run")
    assert (state.status, state.ended) == ("success", True)
    assert state.ended_at >= state.created_at


@pytest.mark.parametrize("status", ["success", "error", "cancelled", "lost"])
async def test_the_status_is_kept(bridge, status):
    await bridge.publish_end("run", status=status)
    assert (await bridge.get_run("run")).status == status
    assert await replay(bridge, "run") == []


async def test_an_unknown_status_is_refused_and_the_run_goes_on(bridge):
    with pytest.raises(ValueError, match="success, error, cancelled, lost"):
        await bridge.publish_end("run", status="done")
    with pytest.raises(RunNotFound):
        await bridge.get_run("run")


async def test_publishing_after_the_end_is_refused_and_writes_nothing(bridge):
    await publish(bridge, "run", 2)
    await bridge.publish_end("run")
    with pytest.raises(RunEnded, match="has ended"):
        await bridge.publish("run", "late", 3)
    assert (await bridge.get_run("run")).head == 2
    assert data(await replay(bridge, "run")) == [1, 2]


async def test_ending_twice_changes_nothing(bridge):
    await publish(bridge, "run", 1)
    await bridge.publish_end("run", status="cancelled")
    ended = await bridge.get_run("run")
    await bridge.publish_end("run")
    await bridge.publish_end("run", error=ValueError("late"))
    assert await bridge.get_run("run") == ended


async def test_one_of_many_ends_at_once_wins(bridge):
    async with deadline():
        await asyncio.gather(
            *(bridge.publish_end("run", error=f"error {number}") for number in range(20))
        )
    assert len(await replay(bridge, "run")) == 1


async def test_the_error_is_the_last_event_of_every_replay(bridge):
    await publish(bridge, "run", 1)
    await bridge.publish_end("run", error=KeyError("missing"))
    for _ in range(2):
        last = (await replay(bridge, "run"))[-1]
        assert last.event == "error"
        assert last.data == {"error": "KeyError", "message": "'missing'"}
        assert last.id.endswith("-2")
    assert (await bridge.get_run("run")).status == "error"


async def test_the_state_of_a_run_that_failed_says_why(bridge):
    await publish(bridge, "run", 1)
    await bridge.publish_end("run", error=KeyError("missing"))
    state = await bridge.get_run("run")
    assert state.error == {"error": "KeyError", "message": "'missing'"}
    await bridge.trim("run", keep=0)
    assert (await bridge.get_run("run")).error is None


@pytest.mark.parametrize("name", ["error", "number"])
async def test_the_state_makes_no_reason_up(bridge, name):
    await bridge.publish("run", name, "of my own")
    assert (await bridge.get_run("run")).error is None
    await bridge.publish_end("run", status="error")
    assert (await bridge.get_run("run")).error is None


async def test_an_error_may_be_a_text(bridge):
    await bridge.publish_end("run", error="the disk is full")
    (event,) = await replay(bridge, "run")
    assert event.data == {"error": "Error", "message": "the disk is full"}


async def test_an_error_with_another_status_keeps_the_status(bridge):
    await bridge.publish_end("run", status="cancelled", error="by the user")
    assert (await bridge.get_run("run")).status == "cancelled"
    assert len(await replay(bridge, "run")) == 1


async def test_an_error_message_over_the_size_limit_still_ends_the_run(bridge):
    await bridge.publish_end("run", error=ValueError("long " * 1_000_000))
    (event,) = await replay(bridge, "run")
    assert event.data["error"] == "ValueError"
    assert event.data["message"].startswith("long long")
    assert len(event.data["message"]) < 1_048_576


async def test_an_error_that_cannot_be_printed_still_ends_the_run(bridge):
    class Unprintable(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    await bridge.publish_end("run", error=Unprintable())
    (event,) = await replay(bridge, "run")
    assert event.data["error"] == "Unprintable"


async def test_attached_clients_get_the_end_once_and_then_nothing(bridge):
    async with client(bridge, "run", heartbeat=0.01) as live:
        await live.attached()
        await publish(bridge, "run", 1)
        await bridge.publish_end("run")
        assert len(await live.take(1)) == 1
        assert (await live.take(1))[0] is END_SENTINEL
        with pytest.raises(StopAsyncIteration):
            await live.next()


async def test_ending_a_run_that_does_not_exist_makes_an_ended_run(bridge):
    await bridge.publish_end("run")
    state = await bridge.get_run("run")
    assert (state.head, state.earliest, state.ended) == (0, None, True)


async def test_the_sync_api_ends_runs_and_refuses_late_events(bridge, sync_bridge, in_thread):
    await in_thread(sync_bridge.publish, "run", "number", 1)
    await in_thread(sync_bridge.publish_end, "run", error=ValueError("wrong"))
    await in_thread(sync_bridge.publish_end, "run")
    with pytest.raises(RunEnded):
        await in_thread(sync_bridge.publish, "run", "late", 2)
    first, last = await replay(bridge, "run")
    assert (first.data, last.event) == (1, "error")
