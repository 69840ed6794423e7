"""Clause 8: the sync API belongs to the caller's transaction, the rest commits by itself."""

import asyncio
import contextlib
from threading import Event

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connections, transaction
from django.db.transaction import TransactionManagementError

from streambridge_app import get_sync_bridge
from streambridge_app.exceptions import InsideTransaction, RunEnded, RunNotFound
from streambridge_app.follow import poller
from streambridge_app.publish import callers
from streambridge_app.wake import repeats
from tests.contract.clients import NEVER, client, data, deadline, publish, replay, seqs
from tests.contract.conftest import DATABASE_STACKS
from tests.services import async_wait_until

pytestmark = pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)


class Undo(Exception):
    """Rolls a transaction back."""


@pytest.fixture
def using(stack):
    return stack.database


async def test_events_of_a_transaction_appear_at_its_commit(bridge, sync_bridge, in_thread, using):
    def begin():
        outer = transaction.atomic(using=using)
        outer.__enter__()
        sync_bridge.publish("run", "number", 1)
        sync_bridge.publish("run", "number", 2)
        return outer

    async with client(bridge, "run", heartbeat=0.1) as live:
        atomic = await in_thread(begin)
        for _ in range(3):
            await live.attached()
        with pytest.raises(RunNotFound):
            await bridge.get_run("run")
        await in_thread(atomic.__exit__, None, None, None)
        assert data(await live.take(2)) == [1, 2]


async def test_events_of_a_transaction_that_is_rolled_back_never_appear(
    bridge, sync_bridge, in_thread, using
):
    def work():
        sync_bridge.publish("run", "number", 1)
        with pytest.raises(Undo), transaction.atomic(using=using):  # noqa: PT012 - all of it
            sync_bridge.publish("run", "undone", "undone")
            sync_bridge.publish_end("run")
            sync_bridge.publish("other", "undone", "undone")
            raise Undo
        sync_bridge.publish("run", "number", 2)
        sync_bridge.publish_end("run")

    async with client(bridge, "run") as live:
        await in_thread(work)
        events = await live.rest()
    assert data(events) == seqs(events) == [1, 2]
    with pytest.raises(RunNotFound):
        await bridge.get_run("other")


async def test_a_savepoint_that_is_rolled_back_takes_its_events_with_it(
    bridge, sync_bridge, in_thread, using
):
    def work():
        with transaction.atomic(using=using):
            sync_bridge.publish("run", "number", 1)
            with pytest.raises(Undo), transaction.atomic(using=using):  # noqa: PT012 - all of it
                sync_bridge.publish("run", "undone", "undone")
                raise Undo
            sync_bridge.publish("run", "number", 2)

    async with client(bridge, "run") as live:
        await in_thread(work)
        events = await live.take(2)
    assert data(events) == seqs(events) == [1, 2]


def _undo_block(using, write, hold):
    with contextlib.suppress(Undo), transaction.atomic(using=using):
        write()
        hold()
        raise Undo


def _undo_savepoint(using, write, hold):
    with transaction.atomic(using=using):
        _undo_block(using, write, hold)


def _undo_around_savepoint(using, write, hold):
    def write_inside():
        with transaction.atomic(using=using):
            write()

    _undo_block(using, write_inside, hold)


def _undo_by_hand(using, write, hold):
    transaction.set_autocommit(False, using=using)
    try:
        write()
        hold()
    finally:
        transaction.rollback(using=using)
        transaction.set_autocommit(True, using=using)


UNDOING = {
    "a block": _undo_block,
    "a savepoint": _undo_savepoint,
    "a block around a savepoint": _undo_around_savepoint,
    "a manual transaction": _undo_by_hand,
}
UNDONE = {
    "an event": lambda bridge: bridge.publish("run", "undone", "undone"),
    "an event with a key": lambda bridge: bridge.publish("run", "undone", "undone", key="k"),
    "an end": lambda bridge: bridge.publish_end("run"),
}


@pytest.mark.parametrize("undone", UNDONE)
@pytest.mark.parametrize("undoing", UNDOING)
async def test_a_live_client_never_sees_what_is_rolled_back(
    bridge, sync_bridge, in_thread, using, undoing, undone
):
    """What follows it has its number: a client that took the one would not take the other."""
    written, looked = asyncio.Event(), Event()
    loop = asyncio.get_running_loop()

    def hold():
        loop.call_soon_threadsafe(written.set)
        assert looked.wait(30)

    def write():
        UNDONE[undone](sync_bridge)

    await bridge.publish("run", "number", 1)
    async with client(bridge, "run", heartbeat=0.05) as live:
        assert data(await live.take(1)) == [1]
        await live.attached()
        working = asyncio.ensure_future(in_thread(UNDOING[undoing], using, write, hold))
        try:
            async with deadline():
                await written.wait()
            for _ in range(3):
                await live.attached()
        finally:
            looked.set()
            await working
        await in_thread(sync_bridge.publish, "run", "number", 2)
        await in_thread(sync_bridge.publish_end, "run")
        events = await live.rest()
    assert data(events) == seqs(events) == [2]


async def test_clients_are_told_of_a_transaction_at_its_commit(
    bridge_with, in_thread, using, monkeypatch
):
    """By a message: nobody looks at the log, and nothing is said twice."""
    monkeypatch.setattr(poller, "ACTIVE_SECONDS", 0)
    monkeypatch.setattr(repeats, "REPEAT_AFTER", NEVER)

    def work():
        sync_bridge = get_sync_bridge()
        with transaction.atomic(using=using):
            sync_bridge.publish("run", "number", 1)
            with transaction.atomic(using=using):
                sync_bridge.publish("run", "number", 2, key="two")
            sync_bridge.publish_end("run")

    async with bridge_with(POLL_INTERVAL=NEVER) as bridge:
        await bridge.create_run("run")
        async with client(bridge, "run", heartbeat=0.1) as live:
            await live.attached()
            await async_wait_until(
                lambda: bridge._hub()._membership.has_joined("run"), 10, "it to join"
            )
            await in_thread(work)
            assert data(await live.rest()) == [1, 2]


async def test_everything_in_a_transaction_sees_what_came_before_in_it(
    bridge, sync_bridge, in_thread, using
):
    def work():
        with transaction.atomic(using=using):
            sync_bridge.create_run("run", metadata={"a": 1})
            for number in range(1, 6):
                sync_bridge.publish("run", "number", number)
            assert sync_bridge.get_run("run").head == 5
            assert sync_bridge.trim("run", keep=4) == 1
            sync_bridge.request_cancel("run")
            sync_bridge.publish_end("run")
            with pytest.raises(RunEnded):
                sync_bridge.publish("run", "late", 6)

    await in_thread(work)
    gap, *events = await replay(bridge, "run")
    assert gap.event == "__gap__"
    assert data(events) == [2, 3, 4, 5]
    assert (await bridge.get_run("run")).cancel_requested


async def test_an_error_in_the_log_does_not_break_the_transaction(
    bridge, sync_bridge, in_thread, using
):
    await bridge.create_run("taken")
    await bridge.publish_end("taken")

    def work():
        with transaction.atomic(using=using):
            with pytest.raises(ValueError, match="exists"):
                sync_bridge.create_run("taken")
            with pytest.raises(RunEnded):
                sync_bridge.publish("taken", "late", 1)
            with pytest.raises(RunNotFound):
                sync_bridge.request_cancel("unknown")
            sync_bridge.publish("run", "number", 1)

    await in_thread(work)
    assert (await bridge.get_run("run")).head == 1


async def test_cleanup_inside_a_transaction_leaves_the_deadline_to_the_sweeper(
    bridge, sync_bridge, in_thread, using
):
    await publish(bridge, "run", 1)

    def work():
        with transaction.atomic(using=using):
            sync_bridge.cleanup("run", delay=3600)  # and doesn't wait

    async with deadline():
        await in_thread(work)
    assert (await bridge.get_run("run")).head == 1


async def test_a_handle_is_refused_inside_a_transaction(bridge, sync_bridge, in_thread, using):
    def open_inside():
        with transaction.atomic(using=using), sync_bridge.producer("run"):
            pass

    def flush_inside():
        with sync_bridge.producer("run") as run:
            run.flush()
            with transaction.atomic(using=using):
                run.flush()

    for refused in (open_inside, flush_inside):
        with pytest.raises(InsideTransaction, match=r"inside transaction.atomic\(\)"):
            await in_thread(refused)
    assert (await bridge.get_run("run")).status == "error"  # of the second's block


async def test_publishing_outside_a_transaction_is_there_at_once(bridge, sync_bridge, in_thread):
    for number in range(1, 4):
        await in_thread(sync_bridge.publish, "run", "number", number)
        assert (await bridge.get_run("run")).head == number


async def test_an_open_transaction_does_not_stop_readers(bridge, sync_bridge, in_thread, using):
    await publish(bridge, "run", 1)
    atomic = transaction.atomic(using=using)

    def begin():
        atomic.__enter__()
        sync_bridge.publish("run", "number", 2)

    await in_thread(begin)
    async with client(bridge, "run", heartbeat=0.1) as reader:
        assert data(await reader.take(1)) == [1]
        await reader.attached()
        await in_thread(atomic.__exit__, None, None, None)
        assert data(await reader.take(1)) == [2]


async def test_transactions_of_many_threads_leave_no_hole(bridge, sync_bridge, using):
    def work(number):
        try:
            for turn in range(5):
                try:
                    with transaction.atomic(using=using):
                        sync_bridge.publish("run", "number", [number, turn])
                        if turn % 2:
                            raise Undo
                except Undo:
                    pass
        finally:
            connections.close_all()

    async with deadline(30):
        await asyncio.gather(*(asyncio.to_thread(work, number) for number in range(4)))
    await bridge.publish_end("run")
    events = await replay(bridge, "run")
    assert seqs(events) == list(range(1, 13))
    assert all(turn % 2 == 0 for _, turn in data(events))


# What breaks a block, and blocks of their own kind


async def test_a_broken_block_takes_nothing_and_says_so(bridge, sync_bridge, in_thread, using):
    def work():
        with transaction.atomic(using=using):
            transaction.set_rollback(True, using=using)
            for write in (
                lambda: sync_bridge.publish("run", "number", 1),
                lambda: sync_bridge.publish("run", "number", 1, key="k"),
                lambda: sync_bridge.publish_end("run"),
                lambda: sync_bridge.create_run("run"),
            ):
                with pytest.raises(TransactionManagementError, match="current transaction"):
                    write()

    await in_thread(work)
    with pytest.raises(RunNotFound):
        await bridge.get_run("run")


async def test_a_durable_block_takes_events(bridge, sync_bridge, in_thread, using):
    def work():
        with transaction.atomic(using=using, durable=True):
            sync_bridge.publish("run", "number", 1)

    await in_thread(work)
    assert (await bridge.get_run("run")).head == 1


# Manual transactions


@pytest.fixture(params=["set_autocommit(False)", "AUTOCOMMIT is False"])
def manual(request, using, in_thread):
    """Return a context of a thread whose transactions are its own to commit."""

    @contextlib.contextmanager
    def by_call():
        transaction.set_autocommit(False, using=using)
        try:
            yield
        finally:
            transaction.rollback(using=using)
            transaction.set_autocommit(True, using=using)

    @contextlib.contextmanager
    def by_settings():
        yield
        transaction.rollback(using=using)

    if request.param == "set_autocommit(False)":
        yield by_call
        return
    settings = connections.settings[using]
    settings["AUTOCOMMIT"] = False
    try:
        yield by_settings
    finally:
        settings["AUTOCOMMIT"] = True


def write_everything(sync_bridge, using):
    """Write in each way that there is, and let nothing raise."""
    sync_bridge.create_run("created", metadata={"a": 1}, lease=60)
    sync_bridge.publish("run", "number", 1)
    sync_bridge.publish("run", "number", 2, key="two")
    sync_bridge.publish("run", "number", 2, key="two")
    with transaction.atomic(using=using):
        sync_bridge.publish("run", "number", 3)
    sync_bridge.publish("trimmed", "number", 1)
    sync_bridge.trim("trimmed", keep=0)
    sync_bridge.request_cancel("run")
    sync_bridge.cleanup("created", delay=3600)
    sync_bridge.publish_end("run")
    assert sync_bridge.get_run("run").head == 3


async def test_a_manual_transaction_takes_all_that_is_written(
    bridge, sync_bridge, in_thread, using, manual
):
    def work():
        with manual():
            write_everything(sync_bridge, using)
            written.set()
            assert looked.wait(10)
            transaction.commit(using=using)

    written, looked = Event(), Event()
    async with client(bridge, "run", heartbeat=0.1) as live:
        working = in_thread(work)
        assert await asyncio.to_thread(written.wait, 10)
        for _ in range(3):
            await live.attached()
        with pytest.raises(RunNotFound):
            await bridge.get_run("run")
        looked.set()
        await working
        events = await live.rest()
    assert data(events) == seqs(events) == [1, 2, 3]
    assert (await bridge.get_run("run")).cancel_requested
    assert (await bridge.get_run("created")).metadata == {"a": 1}


async def test_a_manual_transaction_that_is_rolled_back_leaves_nothing(
    bridge, sync_bridge, in_thread, using, manual
):
    def work():
        with manual():
            sync_bridge.publish("run", "number", 1)
            transaction.commit(using=using)
            sync_bridge.create_run("other")
            with transaction.atomic(using=using):
                sync_bridge.publish("run", "undone", "undone")
            sync_bridge.publish_end("run")
            transaction.rollback(using=using)
            sync_bridge.publish("run", "number", 2)
            transaction.commit(using=using)

    await in_thread(work)
    await bridge.publish_end("run")
    events = await replay(bridge, "run")
    assert data(events) == seqs(events) == [1, 2]
    with pytest.raises(RunNotFound):
        await bridge.get_run("other")


async def test_a_handle_is_refused_in_a_manual_transaction(
    bridge, sync_bridge, in_thread, using, manual
):
    def open_inside():
        with manual():
            sync_bridge.publish("other", "number", 1)
            with pytest.raises(InsideTransaction, match="inside a manual transaction"):
                sync_bridge.producer("run")

    def flush_inside():
        with sync_bridge.producer("run") as run:
            run.flush()
            with manual():
                sync_bridge.publish("other", "number", 1)
                with pytest.raises(InsideTransaction, match="inside a manual transaction"):
                    run.flush()

    async with deadline():
        await in_thread(open_inside)
        with pytest.raises(RunNotFound):
            await bridge.get_run("run")
        await in_thread(flush_inside)
    assert (await bridge.get_run("run")).status == "success"


async def test_what_commits_by_itself_does_so_where_transactions_are_manual(
    bridge, sync_bridge, in_thread, manual, using
):
    def work():
        with sync_bridge.producer("by handle") as run:
            for number in range(1, 4):
                run.publish("number", number)
            run.flush()

    await bridge.create_run("run", lease=60)
    async with client(bridge, "run") as live:
        async with bridge.producer("run") as run:
            await run.publish("number", 1)
            await bridge.publish("run", "number", 2)
        events = await live.rest()
    assert data(events) == [1, 2]
    await in_thread(work)
    assert data(await replay(bridge, "by handle")) == [1, 2, 3]
    async with deadline():
        await bridge.cleanup("run")
    with pytest.raises(RunNotFound):
        await bridge.get_run("run")


# The async API, by way of async_to_sync


async def _use_a_handle(bridge):
    async with bridge.producer("run") as run:
        await run.publish("number", 2)


WRITING = {
    "create_run": lambda bridge: bridge.create_run("new"),
    "publish": lambda bridge: bridge.publish("run", "number", 2),
    "publish with a key": lambda bridge: bridge.publish("run", "number", 2, key="two"),
    "publish_end": lambda bridge: bridge.publish_end("run"),
    "request_cancel": lambda bridge: bridge.request_cancel("run"),
    "trim": lambda bridge: bridge.trim("run", keep=0),
    "cleanup": lambda bridge: bridge.cleanup("run"),
    "producer": _use_a_handle,
}


@pytest.mark.parametrize("name", WRITING)
async def test_the_async_api_is_refused_to_a_thread_that_waits_in_a_transaction(
    bridge, sync_bridge, in_thread, using, name
):
    async def call():
        await WRITING[name](bridge)

    def work():
        sync_bridge.publish("run", "number", 1)
        with transaction.atomic(using=using):
            sync_bridge.publish("run", "number", "held")
            with pytest.raises(InsideTransaction, match="waits"):
                async_to_sync(call)()
            assert async_to_sync(bridge.get_run)("run").head == 1  # who reads waits for nobody

    async with deadline():
        await in_thread(work)
    await bridge.publish_end("run")
    assert data(await replay(bridge, "run")) == [1, "held"]


async def test_a_handle_that_was_opened_before_is_refused_in_a_transaction(
    bridge, in_thread, using
):
    def work():
        run = bridge.producer("run")
        async_to_sync(run.__aenter__)()
        async_to_sync(run.publish)("number", 1)
        async_to_sync(run.flush)()
        with transaction.atomic(using=using), pytest.raises(InsideTransaction):
            async_to_sync(run.__aexit__)(None, None, None)
        async_to_sync(bridge.publish_end)("run")

    async with deadline():
        await in_thread(work)
    assert data(await replay(bridge, "run")) == [1]


async def test_an_async_view_of_a_sync_one_in_a_transaction_is_refused(bridge, using):
    """As in an ASGI server: the call runs on the loop of the server itself."""

    def view():
        with transaction.atomic(using=using), pytest.raises(InsideTransaction):
            async_to_sync(bridge.publish)("run", "number", 1)

    async with deadline():
        await sync_to_async(view)()


@pytest.mark.parametrize("private", [True, False], ids=["this asgiref", "another asgiref"])
async def test_async_to_sync_outside_a_transaction_publishes(
    bridge, in_thread, monkeypatch, private
):
    if not private:
        monkeypatch.setattr(callers, "_variable", None)

    def work():
        async_to_sync(bridge.publish)("run", "number", 1)
        async_to_sync(_use_a_handle)(bridge)

    async with deadline():
        await in_thread(work)
        assert data(await replay(bridge, "run")) == [1, 2]


async def test_a_thread_that_is_busy_meanwhile_is_not_waited_for(bridge, in_thread, monkeypatch):
    monkeypatch.setattr(callers, "ANSWER_SECONDS", 0.05)

    async def publish_beside_it():
        published = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wait():
            asyncio.run_coroutine_threadsafe(published.wait(), loop).result(10)

        busy = asyncio.ensure_future(sync_to_async(wait)())
        await asyncio.sleep(0)
        await bridge.publish("run", "number", 1)
        published.set()
        await busy

    async with deadline():
        await in_thread(async_to_sync(publish_beside_it))
    assert (await bridge.get_run("run")).head == 1


async def test_a_task_that_has_outlived_its_caller_publishes(bridge, in_thread):
    tasks = []

    async def begin():
        tasks.append(asyncio.ensure_future(later()))

    async def later():
        await asyncio.sleep(0)
        await bridge.publish("run", "number", 1)

    async with deadline():
        await sync_to_async(async_to_sync(begin))()
        await tasks[0]
    assert (await bridge.get_run("run")).head == 1
