"""What was begun with one incarnation of a run never goes on with the next."""

import asyncio
import time

import pytest
from channels.layers import get_channel_layer
from django.db import connections, transaction

from streambridge_app.contract.batch import Batch
from streambridge_app.contract.items import End
from streambridge_app.exceptions import LogUnavailable, RunEnded, RunNotFound
from streambridge_app.models import Run
from streambridge_app.wake.layer import group_name
from streambridge_app.wake.news import News
from tests.contract.clients import client, data, deadline, replay
from tests.contract.conftest import DATABASE_STACKS
from tests.services import async_wait_until


async def test_follower_of_an_epoch_is_let_go_when_the_id_is_used_again(bridge):
    await bridge.publish("run", "secret", 1)
    granted = (await bridge.get_run("run")).epoch
    await bridge.cleanup("run")
    await bridge.publish("run", "of somebody else", 2)

    async with deadline():
        items = [item async for item in bridge.follow("run", epoch=granted)]

    assert items == [End("lost", f"{granted}-0")]


async def test_follower_of_an_epoch_does_not_wait_for_a_deleted_run(bridge):
    async with deadline():
        items = [item async for item in bridge.follow("run", epoch=1)]
    assert items == [End("lost", "1-0")]


@pytest.mark.parametrize("stack", DATABASE_STACKS[1:2], indirect=True)
async def test_an_incarnation_that_waits_for_a_deletion_has_a_larger_epoch(
    bridge, sync_bridge, in_thread, stack, monkeypatch
):
    """The clock stands still: what it read before it had to wait is no more."""
    atomic = transaction.atomic(using=stack.database)

    def begin():
        atomic.__enter__()
        Run.objects.using(stack.database).filter(run_id="run").delete()

    def create():
        try:
            sync_bridge.create_run("run")
        finally:
            connections.close_all()

    def waits():
        with connections[stack.database].cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            return cursor.fetchone()[0]

    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)
    await bridge.publish("run", "number", 1)
    epoch = (await bridge.get_run("run")).epoch
    await in_thread(begin)
    creating = asyncio.ensure_future(asyncio.to_thread(create))
    try:
        await async_wait_until(lambda: in_thread(waits), 10, "the creation to wait")
    finally:
        await in_thread(atomic.__exit__, None, None, None)
        await creating
    assert (await bridge.get_run("run")).epoch > epoch


WORD = {
    "the next event": lambda epoch: News(
        "run", epoch, 2, "running", Batch(epoch, 2, ["secret"], ['"of another incarnation"'])
    ),
    "the end": lambda epoch: News("run", epoch, 1, "success"),
    "the next event and the end": lambda epoch: News(
        "run", epoch, 2, "error", Batch(epoch, 2, ["error"], ["{}"])
    ),
}


@pytest.mark.parametrize("word", WORD)
@pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)
async def test_word_of_another_incarnation_is_not_taken_for_this_ones(bridge, stack, word):
    """Word of an earlier one may be late, and that of a later one comes before the next look."""
    layer = get_channel_layer(stack.channel_layer)
    await bridge.publish("run", "number", 1)
    epoch = (await bridge.get_run("run")).epoch
    async with client(bridge, "run") as live:
        assert data(await live.take(1)) == [1]
        await async_wait_until(
            lambda: bridge._hub()._membership.has_joined("run"), 10, "it to join"
        )
        for other in (epoch - 1000, epoch - 1, epoch + 1, epoch + 1000):
            await layer.group_send(group_name("run"), WORD[word](other).encode())
        await bridge.publish("run", "number", 2)
        assert data(await live.take(1)) == [2]
        await bridge.publish_end("run")
        assert await live.rest() == []


@pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)
async def test_handle_does_not_bring_a_deleted_run_back(bridge):
    with pytest.raises(RunEnded, match="deleted"):  # noqa: PT012 - anywhere in the block
        async with bridge.producer("run") as run:
            await run.publish("number", 1)
            await run.flush()
            await bridge.cleanup("run")
            await run.publish("number", 2)
            await run.flush()

    with pytest.raises(RunNotFound):
        await bridge.get_run("run")


@pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)
async def test_handle_does_not_end_the_next_incarnation(bridge):
    async with bridge.producer("run") as run:
        await run.publish("number", 1)
        await run.flush()
        await bridge.cleanup("run")
        await bridge.publish("run", "number", 2)

    assert (await bridge.get_run("run")).status == "running"


async def test_handle_that_could_not_write_all_ends_its_run_with_an_error(bridge, monkeypatch):
    run = bridge.producer("run")

    async def unavailable() -> None:
        raise LogUnavailable("gone for a moment")

    with pytest.raises(LogUnavailable, match="for a moment"):
        async with run:
            monkeypatch.setattr(run, "_flush", unavailable)

    assert (await bridge.get_run("run")).status == "error"
    (error,) = await replay(bridge, "run")
    assert error.data == {"error": "LogUnavailable", "message": "gone for a moment"}


@pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)
async def test_publisher_that_got_no_thread_leaves_the_next_one_unharmed(bridge, monkeypatch):
    def no_thread(*args: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(bridge.writer._threads, "start", no_thread)
        with pytest.raises(RuntimeError, match="new thread"):
            await bridge.publish("run", "number", 1)

    async with deadline():
        await bridge.publish("run", "number", 2)
        await bridge.publish_end("run")
    assert [event.data for event in await replay(bridge, "run")] == [2]
