"""An event that is published again with its key is the same event."""

import asyncio
import sys

import pytest
from django.db import connections, transaction

from streambridge_app import log
from streambridge_app.exceptions import InvalidEvent, ProducerFenced, RunEnded
from streambridge_app.log import retention
from streambridge_app.log.commit_times import commit_time
from streambridge_app.models import EventKey, Run
from tests.contract.clients import client, data, deadline, replay, seqs
from tests.contract.conftest import DATABASE_STACKS
from tests.services import spawn

on_databases = pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)


async def test_event_with_a_known_key_is_not_written_again(bridge, sync_bridge, in_thread):
    await bridge.publish("run", "number", 1, key="one")
    await bridge.publish("run", "number", 2, key="two")
    await bridge.publish("run", "other", "again", key="one")
    await in_thread(sync_bridge.publish, "run", "other", "again", key="two")
    await in_thread(sync_bridge.publish, "run", "number", 3, key="three")
    await bridge.publish("run", "number", 4)
    await bridge.publish("run", "number", 4)
    await bridge.publish_end("run")
    events = await replay(bridge, "run")
    assert data(events) == [1, 2, 3, 4, 4]
    assert seqs(events) == [1, 2, 3, 4, 5]


async def test_keys_are_of_their_run(bridge):
    for run_id in ("one", "other"):
        await bridge.publish(run_id, "number", 1, key="key")
        await bridge.publish_end(run_id)
        assert data(await replay(bridge, run_id)) == [1]


async def test_known_key_is_no_error_after_the_end_but_a_new_one_is(bridge, sync_bridge, in_thread):
    await bridge.publish("run", "number", 1, key="one")
    await bridge.publish_end("run")
    await bridge.publish("run", "number", 1, key="one")
    await in_thread(sync_bridge.publish, "run", "number", 1, key="one")
    with pytest.raises(RunEnded):
        await bridge.publish("run", "number", 2, key="two")
    with pytest.raises(RunEnded):
        await in_thread(sync_bridge.publish, "run", "number", 2, key="two")
    assert (await bridge.get_run("run")).head == 1


async def test_outcome_of_a_known_key_is_its_own(bridge):
    await bridge.publish("run", "number", 1, key="one")
    await bridge.publish_end("run")
    async with deadline():
        results = await asyncio.gather(
            *(bridge.publish("run", "number", n, key=key) for n, key in enumerate(["one", "two"])),
            bridge.publish("run", "number", 3),
            bridge.publish("run", "number", 1, key="one"),
            return_exceptions=True,
        )
    assert results[0] is results[3] is None
    assert isinstance(results[1], RunEnded)
    assert isinstance(results[2], RunEnded)


async def test_first_of_those_that_come_together_wins(bridge):
    async with deadline():
        await asyncio.gather(
            *(bridge.publish("run", "number", [n, n % 5], key=str(n % 5)) for n in range(100))
        )
    await bridge.publish_end("run")
    assert sorted(key for _, key in data(await replay(bridge, "run"))) == list(range(5))


async def test_handle_writes_a_key_once(bridge, sync_bridge, in_thread):
    async with bridge.producer("run") as run:
        for number in range(6):
            await run.publish("number", number, key=f"key {number % 3}")
            await run.publish("without", number)
        await run.flush()
        await run.publish("number", 9, key="key 0")
        await run.publish("number", 10, key="key 10")

        def work():
            sync_run = sync_bridge.producer("run")
            sync_run.publish("number", 11, key="key 11")
            sync_run.publish("number", 12, key="key 10")
            sync_run.flush()

        await run.flush()
        await in_thread(work)
    events = await replay(bridge, "run")
    assert data(events) == [0, 0, 1, 1, 2, 2, 3, 4, 5, 10, 11]
    assert seqs(events) == list(range(1, 12))


async def test_retried_task_writes_what_is_missing(bridge):
    async def work(steps):
        async with bridge.producer("run", take_over=True) as run:
            for step in range(10):
                await run.publish("step", step, key=f"step-{step}")
                if step == steps:
                    await run.flush()
                    await bridge.producer("run", take_over=True).__aenter__()  # as if it died

    with pytest.raises(ProducerFenced):
        await work(4)
    await work(None)
    assert data(await replay(bridge, "run")) == list(range(10))


async def test_fenced_producer_is_refused_with_a_known_key_too(bridge):
    old = bridge.producer("run")
    await old.__aenter__()
    await old.publish("number", 1, key="one")
    await old.flush()
    await bridge.producer("run", take_over=True).__aenter__()

    async def publish_again():
        await old.publish("number", 1, key="one")
        await old.flush()

    with pytest.raises(ProducerFenced):
        await publish_again()


async def test_keys_outlive_trimming_but_not_the_run(bridge):
    await bridge.publish("run", "number", 1, key="one")
    await bridge.trim("run", keep=0)
    await bridge.publish("run", "number", 1, key="one")
    assert (await bridge.get_run("run")).head == 1
    await bridge.cleanup("run")
    await bridge.publish("run", "number", 1, key="one")
    await bridge.publish_end("run")
    assert data(await replay(bridge, "run")) == [1]


@on_databases
async def test_keys_are_deleted_with_their_run(bridge, stack, in_thread, monkeypatch):
    monkeypatch.setattr(retention, "DELETE_BATCH", 2)
    for number in range(5):
        await bridge.publish("run", "number", number, key=str(number))
    await bridge.publish("other", "number", 1, key="1")
    await bridge.cleanup("run")

    def left():
        other = Run.objects.using(stack.database).get(run_id="other")
        keys = EventKey.objects.using(stack.database).values_list("run_id", "key", "seq")
        return list(keys) == [(other.pk, "1", 1)]

    assert await in_thread(left)


@pytest.mark.parametrize("key", ["", "k" * 256, "a\nb", "a\x00", "\ud800", 7])
async def test_bad_key_is_refused_before_anything_is_written(bridge, sync_bridge, in_thread, key):
    with pytest.raises(InvalidEvent, match="key"):
        await bridge.publish("run", "number", 1, key=key)
    with pytest.raises(InvalidEvent, match="key"):
        await in_thread(sync_bridge.publish, "run", "number", 1, key=key)
    async with bridge.producer("run") as run:
        with pytest.raises(InvalidEvent, match="key"):
            await run.publish("number", 1, key=key)
    assert (await bridge.get_run("run")).head == 0


async def test_longest_key_is_kept(bridge):
    for _ in range(2):
        await bridge.publish("run", "number", 1, key="é" * 255)
    assert (await bridge.get_run("run")).head == 1


@on_databases
async def test_key_of_a_transaction_that_is_rolled_back_is_free(
    bridge, sync_bridge, in_thread, stack
):
    def work():
        with transaction.atomic(using=stack.database):
            sync_bridge.publish("run", "number", 1, key="one")
            sync_bridge.publish("run", "number", 1, key="one")
            transaction.set_rollback(True, using=stack.database)
        with transaction.atomic(using=stack.database):
            sync_bridge.publish("run", "number", 2, key="one")
            sync_bridge.publish("run", "number", 2, key="one")

    await in_thread(work)
    await bridge.publish_end("run")
    assert data(await replay(bridge, "run")) == [2]


@on_databases
async def test_key_of_an_open_transaction_is_waited_for(bridge, sync_bridge, in_thread, stack):
    outer = transaction.atomic(using=stack.database)

    def begin():
        outer.__enter__()
        sync_bridge.publish("run", "number", 1, key="one")

    await bridge.create_run("run")
    await in_thread(begin)
    second = asyncio.create_task(bridge.publish("run", "number", 2, key="one"))
    done, _ = await asyncio.wait([second], timeout=0.1)
    assert not done
    await in_thread(outer.__exit__, None, None, None)
    async with deadline():
        await second
    await bridge.publish_end("run")
    assert data(await replay(bridge, "run")) == [1]


@on_databases
async def test_one_of_many_connections_that_publish_a_key_at_once_wins(bridge, sync_bridge):
    def work(number):
        try:
            for turn in range(10):
                sync_bridge.publish("run", "number", [turn, number], key=f"turn {turn}")
        finally:
            connections.close_all()

    async with deadline(30):
        await asyncio.gather(*(asyncio.to_thread(work, number) for number in range(8)))
    await bridge.publish_end("run")
    assert [turn for turn, _ in data(await replay(bridge, "run"))] == list(range(10))


@on_databases
async def test_commits_without_a_key_take_one_statement(bridge, stack, in_thread):
    await bridge.create_run("run")

    def statements():
        connection = connections[stack.database]
        connection.force_debug_cursor = True
        try:
            log.append([log.Write("run", ["number"], ["1"])], stack.database, commit_time(), {})
            return [query["sql"] for query in connection.queries]
        finally:
            connection.force_debug_cursor = False

    assert len(await in_thread(statements)) <= 1  # on SQLite, the driver's cursor is not seen


WORKER = """
import django
django.setup()
from django.conf import settings
settings.STREAMBRIDGE = {settings!r}
from streambridge_app import get_sync_bridge

bridge = get_sync_bridge()
bridge.publish("gate", "here", {name!r})
while bridge.get_run("gate").head < 2:
    pass
run = bridge.producer("run")
run.__enter__()
for number in range(200):
    if number % 10:
        run.publish("number", number, key=f"step-{{number}}")
    else:
        run.flush()
        bridge.publish("run", "number", number, key=f"step-{{number}}")
run.flush()
bridge.publish("run", "done", {name!r})
"""


@on_databases
async def test_two_processes_publish_the_same_keys_at_once(bridge, settings):
    processes = [
        spawn(
            [sys.executable, "-c", WORKER.format(settings=settings.STREAMBRIDGE, name=name)],
            env={"DJANGO_SETTINGS_MODULE": "tests.settings"},
        )
        for name in ("one", "other")
    ]
    try:
        async with client(bridge, "run") as live, deadline(60):
            events = []
            while [event.event for event in events].count("done") < 2:
                events += await live.take(1)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    numbers = [event.data for event in events if event.event == "number"]
    assert sorted(numbers) == list(range(200))
    assert seqs(events) == list(range(1, 203))
