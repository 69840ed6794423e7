"""A lock of somebody's open transaction costs its own run patience, and no other run anything."""

import asyncio
import contextlib
import datetime
import re
import threading

import pytest
from django.db import connections, transaction
from django.utils import timezone

from streambridge_app import get_sync_bridge
from streambridge_app.exceptions import LogUnavailable
from streambridge_app.log import patience, retention
from streambridge_app.log.commit_times import commit_time
from streambridge_app.log.connections import own_connection
from streambridge_app.log.exactly_once import Appender, Locked
from streambridge_app.log.sweeper import sweep
from streambridge_app.log.writes import Write
from streambridge_app.models import Event, Run
from tests.contract.clients import client, data, deadline, publish, replay, seqs
from tests.contract.conftest import DATABASE_STACKS
from tests.services import async_wait_until

pytestmark = [
    pytest.mark.parametrize("stack", DATABASE_STACKS[1:2], indirect=True),
    pytest.mark.usefixtures("stack"),
]

SHORT = 1.0
"""RETRY_SECONDS of a test that waits for them to pass."""


@pytest.fixture
def holding(stack, in_thread):
    """Hold runs locked in a block by an open transaction that has published to them."""

    @contextlib.asynccontextmanager
    async def hold(*run_ids):
        atomic = transaction.atomic(using=stack.database)

        def begin():
            atomic.__enter__()
            for run_id in run_ids:
                get_sync_bridge().publish(run_id, "number", "held")

        await in_thread(begin)
        try:
            yield
        finally:
            await in_thread(atomic.__exit__, None, None, None)

    return hold


async def is_held_up(bridge, run_id="locked"):
    await async_wait_until(
        lambda: run_id in bridge.writer._held_up, 10, "the writer to come to the lock"
    )


@pytest.mark.parametrize("exists", [True, False], ids=["run exists", "run is being created"])
async def test_other_runs_go_on_while_one_is_locked(bridge_with, holding, exists):
    async with bridge_with() as bridge, deadline(20):
        if exists:
            await publish(bridge, "locked", 1)
        async with holding("locked"):
            waiting = asyncio.gather(
                *(bridge.publish("locked", "number", number) for number in range(3))
            )
            await publish(bridge, "other", 1)
            await is_held_up(bridge)
            async with asyncio.timeout(1):  # all together, once it is known
                for number in range(2, 21):
                    await bridge.publish("other", "number", number)
                await publish(bridge, "new", 5)
            assert not waiting.done()
        await waiting
        for run_id in ("locked", "other", "new"):
            await bridge.publish_end(run_id)
        assert data(await replay(bridge, "locked")) == [*([1] if exists else []), "held", 0, 1, 2]
        assert data(await replay(bridge, "other")) == list(range(1, 21))


async def test_those_of_the_locked_ones_commit_are_written_first(bridge_with, holding):
    async with bridge_with() as bridge, deadline(20):
        names = [f"run{number}" for number in range(20)]
        for name in ("run3", "run7"):
            await publish(bridge, name, 1)
        async with holding("run3", "run7", "run11"):
            publishing = {
                name: asyncio.ensure_future(bridge.publish(name, "number", 2)) for name in names
            }
            for name in names:
                if name not in ("run3", "run7", "run11"):
                    await publishing[name]
            assert [name for name in names if not publishing[name].done()] == [
                "run3",
                "run7",
                "run11",
            ]
        await asyncio.gather(*publishing.values())


async def test_a_handle_keeps_order_and_buffer_over_a_lock(bridge_with, holding):
    async with bridge_with(PRODUCER_BUFFER=16) as bridge, deadline(30):
        async with bridge.producer("locked") as run:
            await run.publish("number", 1)
            await run.flush()

            async def publish_on():
                for number in range(2, 101):
                    await run.publish("number", number, key=f"{number}" if number % 3 else None)

            async with holding("locked"):
                publishing = asyncio.ensure_future(publish_on())
                await is_held_up(bridge)
                ending = asyncio.ensure_future(bridge.publish("locked", "number", "other"))
                await asyncio.sleep(0)
                assert not publishing.done()
            await asyncio.gather(publishing, ending)
        events = data(await replay(bridge, "locked"))
        assert [one for one in events if one not in ("held", "other")] == list(range(1, 101))
        assert events.index("held") == 1
        assert events.count("other") == 1


async def test_after_retry_seconds_the_error_names_the_lock(bridge_with, holding):
    async with bridge_with(RETRY_SECONDS=SHORT) as bridge, deadline(30):
        await publish(bridge, "locked", 1)
        async with holding("locked"):
            handle = bridge.producer("other")
            for waiting in (
                bridge.publish("locked", "number", 2),
                bridge.publish("locked", "number", 2, key="two"),
                bridge.publish_end("locked"),
                bridge.request_cancel("locked"),
                bridge.producer("locked").__aenter__(),
                bridge.trim("locked", keep=0),
                bridge.cleanup("locked"),
            ):
                with pytest.raises(LogUnavailable, match="Another transaction holds") as caught:
                    await waiting
                assert caught.value.written is False
                assert caught.value.locked
                await handle.publish("number", 1)
                await handle.flush()  # nobody else had to wait
        await bridge.publish_end("locked")
        assert data(await replay(bridge, "locked")) == [1, "held"]


async def test_creating_a_run_that_another_transaction_creates_has_an_end(bridge_with, holding):
    async with bridge_with(RETRY_SECONDS=SHORT) as bridge, deadline(20), holding("locked"):
        with pytest.raises(LogUnavailable, match="Another transaction holds"):
            await bridge.create_run("locked")


async def test_readers_go_on_while_many_wait_for_a_locked_run(bridge_with, holding):
    async with bridge_with(READ_THREADS=1) as bridge, deadline(20):
        await publish(bridge, "locked", 1)
        await publish(bridge, "other", 3)
        async with holding("locked"):
            waiting = [asyncio.ensure_future(bridge.request_cancel("locked")) for _ in range(3)]
            async with client(bridge, "other") as reader:
                assert data(await reader.take(3)) == [1, 2, 3]
            assert (await bridge.get_run("locked")).head == 1
        await asyncio.gather(*waiting)
        assert (await bridge.get_run("locked")).cancel_requested


async def test_closing_does_not_wait_for_a_lock_for_ever(bridge_with, holding):
    async with bridge_with(RETRY_SECONDS=SHORT) as bridge, deadline(20):
        await publish(bridge, "locked", 1)
        async with holding("locked"):
            waiting = asyncio.ensure_future(bridge.publish("locked", "number", 2))
            await is_held_up(bridge)
            await bridge.close()
            with pytest.raises(LogUnavailable, match="Another transaction holds"):
                await waiting


async def test_a_deletion_gives_a_locked_run_to_the_sweeper(bridge_with, holding, stack):
    async with bridge_with(SWEEP_INTERVAL=0.05) as bridge, deadline(20):
        await publish(bridge, "locked", 1)
        async with client(bridge, "locked") as live:
            await live.take(1)
            async with holding("locked"):
                cleaning = asyncio.ensure_future(bridge.cleanup("locked"))
                await asyncio.sleep(0)
            await cleaning
            assert data(await live.rest())[:1] in ([], ["held"])


async def test_a_lock_of_the_whole_table_is_waited_for(bridge_with, stack, in_thread):
    async with bridge_with() as bridge, deadline(20):
        await publish(bridge, "a", 1)
        await publish(bridge, "b", 1)
        atomic = transaction.atomic(using=stack.database)

        def begin():
            atomic.__enter__()
            with connections[stack.database].cursor() as cursor:
                cursor.execute(f"LOCK TABLE {Run._meta.db_table} IN ACCESS EXCLUSIVE MODE")

        await in_thread(begin)
        waiting = asyncio.gather(publish(bridge, "a", 1, 2), publish(bridge, "b", 1, 2))

        def is_waiting():
            with connections[stack.database].cursor() as cursor:
                cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
                return cursor.fetchone()[0] > 0

        await async_wait_until(lambda: in_thread(is_waiting), 10, "the writer to wait")
        await in_thread(atomic.__exit__, None, None, None)
        await waiting
        for run_id in ("a", "b"):
            await bridge.publish_end(run_id)
            assert data(await replay(bridge, run_id)) == [1, 2]


async def test_many_short_transactions_and_handles_lose_and_double_nothing(bridge_with, stack):
    total = 60
    runs = ["a", "b", "c"]

    def lock_now_and_then(bridge, stop):
        try:
            for turn in range(12):
                with transaction.atomic(using=stack.database):
                    for run_id in runs[turn % 3 :]:
                        bridge.publish(run_id, "held", turn)
                    stop.wait(0.25)  # for longer than the writer waits
        finally:
            connections.close_all()

    async def produce(bridge, run_id):
        async with bridge.producer(run_id) as run:
            for number in range(total):
                await run.publish("number", number, key=f"{number}")
                await asyncio.sleep(0.05)

    async with bridge_with() as bridge, deadline(60):
        stop = threading.Event()
        locking = asyncio.to_thread(lock_now_and_then, get_sync_bridge(), stop)
        await asyncio.gather(locking, *(produce(bridge, run_id) for run_id in runs))
        for run_id in runs:
            events = await replay(bridge, run_id)
            assert seqs(events) == list(range(1, len(events) + 1))
            numbers = [event.data for event in events if event.event == "number"]
            assert numbers == list(range(total))


def test_what_an_earlier_attempt_has_written_is_found_behind_a_lock(stack):
    own = own_connection(stack.database)
    before = connections[stack.database]
    connections[stack.database] = own
    try:
        appender = Appender(stack.database, 10)
        at = commit_time()
        write = Write("run", ["number"], ["1"])
        appender._append(own, [write], at)
        with contextlib.ExitStack() as block:
            block.callback(own.close)
            error = LogUnavailable("locked", locked=True)
            (outcome,) = appender.append_again([(write, Locked(error, at, known=False))])
            assert outcome.batch.first == 1
            assert Run.objects.using(stack.database).get(run_id="run").head == 1
    finally:
        connections[stack.database] = before


@pytest.mark.parametrize("given", [None, "3s"])
def test_a_lock_timeout_of_the_project_is_left_as_it_is(stack, given, monkeypatch):
    if given:
        settings = connections.settings[stack.database]
        options = {**settings["OPTIONS"], "options": f"-c lock_timeout={given}"}
        monkeypatch.setitem(connections.settings, stack.database, {**settings, "OPTIONS": options})
    own = own_connection(stack.database)
    try:
        with own.cursor() as cursor:
            cursor.execute(f"SELECT {patience.SET_TIMEOUT}", (patience.timeout_of(own),))
            assert cursor.fetchone() == (given or "200ms",)
            cursor.execute("SHOW lock_timeout")
            assert cursor.fetchone() == (given or "0",)  # nothing is left on the connection
    finally:
        own.close()


async def test_two_transactions_in_a_circle_are_told_so(bridge_with, stack):
    both = threading.Barrier(2)
    errors = []

    def work(bridge, first, second):
        try:
            with transaction.atomic(using=stack.database):
                bridge.publish(first, "number", 1)
                both.wait(10)
                bridge.publish(second, "number", 2)
        except LogUnavailable as error:
            errors.append(error)
        finally:
            connections.close_all()

    async with bridge_with() as bridge, deadline(20):
        for run_id in ("a", "b"):
            await bridge.create_run(run_id)
        sync_bridge = get_sync_bridge()
        await asyncio.gather(
            asyncio.to_thread(work, sync_bridge, "a", "b"),
            asyncio.to_thread(work, sync_bridge, "b", "a"),
        )
    (error,) = errors
    assert "waited for each other" in str(error)
    assert "run the whole of it again" in str(error)
    assert "in one order" in str(error)
    assert not re.search("can't be reached", str(error))
    assert error.written is False


def test_the_users_own_lock_timeout_says_what_happened(stack):
    bridge = get_sync_bridge()
    bridge.create_run("run")
    other = own_connection(stack.database)
    try:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute("SELECT 1 FROM streambridge_app_run FOR UPDATE")
        with (  # noqa: PT012 - all of the transaction
            pytest.raises(LogUnavailable, match=r"holds a lock.*run the whole of it again"),
            transaction.atomic(using=stack.database),
        ):
            with connections[stack.database].cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = 50")
            bridge.publish("run", "number", 1)
    finally:
        other.close()


@pytest.mark.parametrize("events", [1, 3])
async def test_an_event_that_is_being_committed_keeps_a_silent_run(
    bridge, stack, holding, in_thread, monkeypatch, events
):
    monkeypatch.setattr(retention, "LOCK_PATIENCE", 30_000)
    await publish(bridge, "run", events)
    old = timezone.now() - datetime.timedelta(days=31)
    await Run.objects.using(stack.database).aupdate(created_at=old)
    await Event.objects.using(stack.database).aupdate(created_at=old)

    def whole_pass():
        try:
            return list(sweep(stack.database))
        finally:
            connections.close_all()

    def waits():
        with connections[stack.database].cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            return cursor.fetchone()[0] > 0

    async with holding("run"):
        sweeping = asyncio.ensure_future(asyncio.to_thread(whole_pass))
        await async_wait_until(lambda: in_thread(waits), 10, "the sweep to come to the lock")
    async with deadline():
        assert await sweeping == []
    await bridge.publish_end("run")
    assert data(await replay(bridge, "run")) == [*range(1, events + 1), "held"]
