"""What is deleted in the background: events over a run's limits, runs kept long enough."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections, transaction
from django.utils import timezone

from streambridge_app import get_sync_bridge
from streambridge_app.exceptions import LogUnavailable, RunNotFound
from streambridge_app.log import leases, retention, sweeper
from streambridge_app.log.sweeper import Swept, sweep, sweep_alone
from streambridge_app.models import Event, EventKey, Run
from tests.contract.clients import client, deadline, publish, replay, seqs
from tests.contract.conftest import DATABASE_STACKS
from tests.services import async_wait_until


@pytest.fixture(autouse=True)
def _no_grace(stack, settings, monkeypatch):
    """Delete at once what is over. Before the bridge, which is made anew by a changed setting."""
    monkeypatch.setattr(sweeper, "RECOVERY_MARGIN", -1)  # commits of this very moment included
    settings.STREAMBRIDGE = {**settings.STREAMBRIDGE, "RETRY_SECONDS": 0.01}


on_postgresql = pytest.mark.parametrize("stack", DATABASE_STACKS[1:2], indirect=True)
on_a_database = pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)


@pytest.fixture
async def sweeping(bridge_with):
    """A bridge that sweeps often, and has somebody to sweep for."""
    async with (
        bridge_with(SWEEP_INTERVAL=0.05) as bridge,
        client(bridge, "somebody", heartbeat=0.05) as somebody,
    ):
        await somebody.attached()
        yield bridge


@pytest.fixture
def swept(stack, in_thread):
    """Make one pass, and return what it did."""

    def whole_pass(**options):
        total = Swept()
        for step in sweep(stack.database, **options):
            total = total.plus(step)
        return total

    return lambda **options: in_thread(whole_pass, **options)


async def _earliest(bridge, run_id="run"):
    return (await bridge.get_run(run_id)).earliest


async def _is_gone(bridge, run_id):
    try:
        await bridge.get_run(run_id)
    except RunNotFound:
        return True
    return False


async def _ended(bridge, stack, run_id, *, days_ago, **options):
    await bridge.create_run(run_id, **options)
    await publish(bridge, run_id, 2)
    await bridge.publish_end(run_id)
    ended_at = timezone.now() - datetime.timedelta(days=days_ago)
    await Run.objects.using(stack.database).filter(run_id=run_id).aupdate(ended_at=ended_at)


async def test_a_run_keeps_its_newest_events(sweeping):
    await sweeping.create_run("run", max_events=3)
    await publish(sweeping, "run", 10)
    await async_wait_until(lambda: _is(_earliest(sweeping), 8), 5, "the run to be trimmed")
    await publish(sweeping, "run", 2)
    await sweeping.publish_end("run")
    await async_wait_until(lambda: _is(_earliest(sweeping), 10), 5, "the run to be trimmed again")
    gap, *rest = await replay(sweeping, "run")
    assert gap.event == "__gap__"
    assert seqs(rest) == [10, 11, 12]


async def test_a_run_keeps_its_newest_bytes(sweeping):
    await sweeping.create_run("run", max_bytes=20)
    for size in (30, 8, 8, 8):
        await sweeping.publish("run", "text", "x" * (size - 2))  # and two quotation marks
    await async_wait_until(lambda: _is(_earliest(sweeping), 3), 5, "the run to be trimmed")
    await sweeping.publish("run", "text", "x" * 100)
    await async_wait_until(lambda: _is(_earliest(sweeping), 5), 5, "all but the newest to go")


async def test_a_run_is_kept_for_as_long_as_it_says_after_its_end(sweeping):
    await sweeping.create_run("short", keep=0.01)
    await publish(sweeping, "short", 1)
    await sweeping.create_run("long", keep=3600)
    await sweeping.publish_end("long")
    assert not await _is_gone(sweeping, "short")
    await sweeping.publish_end("short")
    await async_wait_until(lambda: _is_gone(sweeping, "short"), 5, "the run to be deleted")
    assert not await _is_gone(sweeping, "long")


async def test_a_client_that_reads_what_is_trimmed_is_told_of_the_gap(bridge_with):
    async with bridge_with(SWEEP_INTERVAL=0.05, PAGE_EVENTS=2, TAIL_EVENTS=2) as bridge:
        await bridge.create_run("run", max_events=2)
        async with client(bridge, "run") as slow:
            await publish(bridge, "run", 1)
            await slow.take(1)
            await publish(bridge, "run", 10)
            await async_wait_until(lambda: _is(_earliest(bridge), 10), 5, "the run to be trimmed")
            await bridge.publish_end("run")
            rest = await slow.rest()
    seen = 1
    for item in rest:
        if item.event == "__gap__":
            seen = int(item.data["earliest"].split("-")[1]) - 1
        else:
            assert seqs([item]) == [seen + 1]
            seen += 1
    assert seen == 11


async def test_settings_limit_runs_that_say_nothing(bridge_with):
    async with (
        bridge_with(SWEEP_INTERVAL=0.05, MAX_RUN_EVENTS=2, MAX_RUN_BYTES=1000) as bridge,
        client(bridge, "somebody", heartbeat=0.05) as somebody,
    ):
        await somebody.attached()
        await publish(bridge, "run", 5)
        await bridge.create_run("larger", max_events=4)
        await publish(bridge, "larger", 5)
        await async_wait_until(lambda: _is(_earliest(bridge), 4), 5, "the run to be trimmed")
        await async_wait_until(
            lambda: _is(_earliest(bridge, "larger"), 2), 5, "the other to be trimmed"
        )


async def test_limits_belong_to_one_incarnation(sweeping):
    await sweeping.create_run("run", max_events=1, keep=3600)
    await sweeping.cleanup("run")
    await publish(sweeping, "run", 3)
    await sweeping.publish_end("run")
    assert seqs(await replay(sweeping, "run")) == [1, 2, 3]


@pytest.mark.parametrize(
    "wrong",
    [{"max_events": 0}, {"max_events": 2**63}, {"max_bytes": -1}, {"keep": -1}, {"keep": 1e300}],
    ids=str,
)
async def test_an_impossible_limit_is_refused_and_no_run_is_made(bridge, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        await bridge.create_run("run", **wrong)
    assert await _is_gone(bridge, "run")


async def test_the_sync_api_takes_limits(sweeping, in_thread):
    await in_thread(get_sync_bridge().create_run, "run", max_events=1, max_bytes=1000, keep=3600)
    await publish(sweeping, "run", 3)
    await async_wait_until(lambda: _is(_earliest(sweeping), 3), 5, "the run to be trimmed")


@on_a_database
async def test_keep_times(bridge, stack, swept, settings, django_user_model, in_thread):
    owner = await in_thread(
        lambda: django_user_model._default_manager.db_manager(stack.database).create_user("owner")
    )
    day = 86_400
    # In place: the bridge that there is goes on.
    settings.STREAMBRIDGE.update(KEEP_SECONDS=10 * day, KEEP_UNOWNED_SECONDS=2 * day)
    for days, owned in itertools.product((1, 5, 15), (True, False)):
        name = f"{'owned' if owned else 'unowned'} {days}"
        await _ended(bridge, stack, name, days_ago=days, owner=owner if owned else None)
    await _ended(bridge, stack, "own longer", days_ago=15, keep=20 * day)
    await _ended(bridge, stack, "own shorter", days_ago=1, keep=day / 2)
    await bridge.create_run("going", keep=0)
    assert await swept() == Swept(runs=4, events=8)
    assert {run.run_id async for run in Run.objects.using(stack.database)} == {
        "owned 1",
        "unowned 1",
        "owned 5",
        "own longer",
        "going",
    }
    settings.STREAMBRIDGE.update(KEEP_UNOWNED_SECONDS=None)
    assert await swept() == Swept()
    assert await swept(older_than=datetime.timedelta(days=3)) == Swept(runs=2, events=4)


@on_a_database
async def test_a_large_run_is_trimmed_in_bounded_transactions(
    bridge, stack, swept, in_thread, monkeypatch
):
    monkeypatch.setattr(retention, "TRIM_BATCH", 4)
    await bridge.create_run("run", max_events=1)
    await publish(bridge, "run", 12)

    def steps():
        return [step.trimmed for step in sweep(stack.database)]

    assert await in_thread(steps) == [4, 4, 3]
    assert await Event.objects.using(stack.database).acount() == 1


@on_a_database
async def test_many_sweepers_at_once_do_each_thing_once(bridge, stack, monkeypatch):
    monkeypatch.setattr(retention, "DELETE_BATCH", 3)
    monkeypatch.setattr(retention, "TRIM_BATCH", 3)
    for number in range(10):
        await bridge.create_run(f"limited {number}", max_events=2)
        await publish(bridge, f"limited {number}", 20)
        await bridge.create_run(f"over {number}", keep=0)
        for key in range(10):
            await bridge.publish(f"over {number}", "number", key, key=str(key))
        await bridge.publish_end(f"over {number}")

    def whole_pass():
        try:
            total = Swept()
            for step in sweep(stack.database):
                total = total.plus(step)
            return total
        finally:
            connections.close_all()

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(4) as threads:
        done = await asyncio.gather(*(loop.run_in_executor(threads, whole_pass) for _ in range(4)))
    total = Swept()
    for one in done:
        total = total.plus(one)
    assert total == Swept(runs=10, events=100, trimmed=180)
    assert await Event.objects.using(stack.database).acount() == 20
    assert not await EventKey.objects.using(stack.database).aexists()
    for number in range(10):
        assert await _earliest(bridge, f"limited {number}") == 19


@on_a_database
async def test_a_sweeper_that_dies_in_the_middle_of_a_trim_leaves_a_whole_log(
    bridge, stack, swept, in_thread, monkeypatch
):
    monkeypatch.setattr(retention, "TRIM_BATCH", 4)
    await bridge.create_run("run", max_events=1)
    await publish(bridge, "run", 12)
    assert (await in_thread(lambda: next(sweep(stack.database)))).trimmed == 4
    await bridge.publish_end("run")
    gap, *rest = await replay(bridge, "run")
    assert gap.data["earliest"].endswith("-5")
    assert seqs(rest) == list(range(5, 13))
    assert await swept() == Swept(trimmed=7)


@on_a_database
async def test_a_deletion_that_another_has_begun_is_left_to_it_for_a_while(
    bridge, stack, swept, in_thread, monkeypatch
):
    monkeypatch.setattr(retention, "DELETE_BATCH", 1)
    await bridge.create_run("run", keep=0)
    await publish(bridge, "run", 3)
    await bridge.publish_end("run")
    begun = await in_thread(lambda: next(sweep(stack.database)))
    assert begun == Swept(runs=1)
    assert await swept() == Swept()
    later = timezone.now() + 2 * retention.DELETION_CLAIM
    monkeypatch.setattr(timezone, "now", lambda: later)
    assert await swept() == Swept(runs=1, events=3)
    assert not await Run.objects.using(stack.database).aexists()


@on_a_database
async def test_an_id_whose_run_is_being_deleted_is_free_for_a_larger_epoch(
    bridge, stack, in_thread, monkeypatch
):
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)
    await bridge.create_run("run", keep=0)
    await bridge.publish_end("run")
    epoch = (await bridge.get_run("run")).epoch
    assert await in_thread(lambda: next(sweep(stack.database))) == Swept(runs=1)
    await bridge.create_run("run")
    assert (await bridge.get_run("run")).epoch > epoch


@on_a_database
async def test_a_sweeper_without_a_server_ends_lost_runs(bridge, stack, in_thread):
    await bridge.create_run("run", lease=0.01)
    await async_wait_until(
        lambda: in_thread(leases.expired_leases, stack.database), 5, "the lease to expire"
    )
    told = []

    def whole_pass():
        return [step for step in sweep_alone(stack.database, told.extend) if step != Swept()]

    assert await in_thread(whole_pass) == [Swept(lost=1)]
    assert [one.status for one in told] == ["lost"]
    assert (await bridge.get_run("run")).status == "lost"


@on_a_database
async def test_what_a_publisher_may_still_look_for_is_left(bridge, stack, swept, settings):
    settings.STREAMBRIDGE.update(RETRY_SECONDS=3600)
    await bridge.create_run("run", max_events=1, keep=0)
    await publish(bridge, "run", 5)
    old = timezone.now() - datetime.timedelta(hours=2)
    await Event.objects.using(stack.database).filter(seq__lte=2).aupdate(created_at=old)
    await bridge.publish_end("run")
    assert await swept() == Swept(trimmed=2)
    assert await _earliest(bridge) == 3


@on_a_database
async def test_a_limit_may_be_as_large_as_a_number(bridge, swept):
    await bridge.create_run("run", max_events=2**63 - 1, max_bytes=2**63 - 1)
    await publish(bridge, "run", 5)
    await bridge.trim("run", keep=2)
    assert await swept() == Swept()


@on_postgresql
async def test_a_run_that_somebody_holds_stops_no_sweep(bridge, stack, swept, monkeypatch):
    monkeypatch.setattr(retention, "LOCK_PATIENCE", 50)
    for run_id in ("held", "free"):
        await bridge.create_run(run_id, max_events=1)
        await publish(bridge, run_id, 3)
    await bridge.create_run("over", keep=0)
    await bridge.publish_end("over")
    hold, release = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def holder():
        try:
            with transaction.atomic(using=stack.database):
                runs = Run.objects.using(stack.database).filter(run_id__in=["held", "over"])
                list(runs.order_by("id").select_for_update())
                loop.call_soon_threadsafe(hold.set)
                asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
        finally:
            connections.close_all()

    holding = asyncio.ensure_future(asyncio.to_thread(holder))
    async with deadline():
        await hold.wait()
        assert await swept() == Swept(trimmed=2)
        release.set()
        await holding
        assert await swept() == Swept(trimmed=2, runs=1)


@pytest.fixture
def held(stack, in_thread):
    """Hold a run locked in a block by an open transaction, with changes that it makes."""

    @contextlib.asynccontextmanager
    async def hold(run_id, **changes):
        atomic = transaction.atomic(using=stack.database)
        runs = Run.objects.using(stack.database).filter(run_id=run_id)

        def begin():
            atomic.__enter__()
            assert len(runs.select_for_update()) == 1
            if changes:
                runs.update(**changes)

        await in_thread(begin)
        try:
            yield
        finally:
            await in_thread(atomic.__exit__, None, None, None)

    return hold


@pytest.fixture
def waiting(stack, in_thread):
    """Return how many wait for locks."""

    def find():
        with connections[stack.database].cursor() as cursor:
            cursor.execute("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted")
            return cursor.fetchone()[0]

    return lambda: in_thread(find)


def _in_a_thread(function):
    def call():
        try:
            return function()
        finally:
            connections.close_all()

    return asyncio.ensure_future(asyncio.to_thread(call))


@pytest.fixture
def one_after_the_other(waiting, held, monkeypatch):
    """Call functions in threads, each when the one before waits for a run that is held locked."""
    monkeypatch.setattr(retention, "LOCK_PATIENCE", 30_000)

    async def call(*functions, **changes):
        calls = []
        try:
            async with held("run", **changes):
                for number, function in enumerate(functions, 1):
                    calls.append(_in_a_thread(function))
                    await async_wait_until(
                        lambda number=number: _is(waiting(), number), 10, "it to wait"
                    )
        finally:
            async with deadline():
                done = await asyncio.gather(*calls)
        return done

    return call


@on_postgresql
@pytest.mark.parametrize(
    "others", [("trim to 2", "trim to 6"), ("trim to 6", "trim to 2")], ids=" and ".join
)
@pytest.mark.parametrize("batch", [1_000, 3])
async def test_trims_at_once_never_move_the_floor_back(
    bridge, sync_bridge, stack, one_after_the_other, monkeypatch, others, batch
):
    def sweep_to_4():
        return sum(step.trimmed for step in sweep(stack.database))

    monkeypatch.setattr(retention, "TRIM_BATCH", batch)
    await bridge.create_run("run", max_events=4)
    await publish(bridge, "run", 10)
    ways = {
        "trim to 2": lambda: sync_bridge.trim("run", keep=2),
        "trim to 6": lambda: sync_bridge.trim("run", keep=6),
    }
    deleted = await one_after_the_other(*(ways[name] for name in others), sweep_to_4)
    assert sum(deleted) == 8
    assert await _earliest(bridge) == 9
    assert await Event.objects.using(stack.database).acount() == 2


@on_postgresql
@pytest.mark.parametrize("first", ["trim", "sweep"])
@pytest.mark.parametrize("statement", ["DELETE", "UPDATE"])
async def test_a_trim_keeps_others_off_from_its_first_look_to_its_end(
    bridge, sync_bridge, stack, waiting, first, statement
):
    async def is_over_or_waits():
        return second.done() or await waiting()

    def stop(execute, sql, *args):
        if sql.startswith(statement):
            loop.call_soon_threadsafe(stopped.set)
            assert go_on.wait(30)
        return execute(sql, *args)

    def delete_4():
        with connections[stack.database].execute_wrapper(stop):
            if first == "trim":
                return sync_bridge.trim("run", keep=6)
            return sum(step.trimmed for step in sweep(stack.database))

    await bridge.create_run("run", max_events=6)
    await publish(bridge, "run", 10)
    stopped, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    deleting = _in_a_thread(delete_4)
    try:
        async with deadline():
            await stopped.wait()
        second = _in_a_thread(lambda: sync_bridge.trim("run", keep=2))
        await async_wait_until(is_over_or_waits, 10, "the second to come to the lock")
    finally:
        go_on.set()
        await deleting
    assert (await deleting, await second) == (4, 4)
    assert await _earliest(bridge) == 9


@on_postgresql
@pytest.mark.parametrize(
    "others", [*itertools.product(("a sweep", "a cleanup"), repeat=2)], ids=" and ".join
)
async def test_of_two_deletions_at_once_one_does_it(bridge, stack, one_after_the_other, others):
    await bridge.create_run("run", keep=0)
    await publish(bridge, "run", 3)
    await bridge.publish_end("run")
    key = (await Run.objects.using(stack.database).aget()).pk
    ways = {
        "a sweep": lambda: list(sweep(stack.database)),
        "a cleanup": lambda: [Swept(events=n) for n in retention.delete(key, stack.database)],
    }
    first, second = await one_after_the_other(*(ways[name] for name in others))
    assert sum(step.events for step in first) == 3
    assert second == []


@on_postgresql
async def test_a_run_that_is_to_be_kept_at_the_last_moment_is_kept(
    bridge, stack, one_after_the_other
):
    await bridge.create_run("run", keep=0)
    await publish(bridge, "run", 3)
    await bridge.publish_end("run")
    assert await one_after_the_other(
        lambda: list(sweep(stack.database)), keep=datetime.timedelta(days=1)
    ) == [[]]
    assert seqs(await replay(bridge, "run")) == [1, 2, 3]


async def _is(found, expected):
    return await found == expected


@on_a_database
async def test_a_run_that_cannot_be_deleted_stops_no_other(bridge, stack, swept, monkeypatch):
    delete = retention.delete

    def failing(key, *args):
        if key == first:
            raise LogUnavailable("The statement took too long.")
        yield from delete(key, *args)

    for run_id in ("first", "second", "third"):
        await publish(bridge, run_id, 1)
        await bridge.schedule_cleanup(run_id, delay=0)
    first = (await Run.objects.using(stack.database).aget(run_id="first")).pk
    with monkeypatch.context() as patched:
        patched.setattr(retention, "delete", failing)
        with pytest.raises(LogUnavailable, match="too long"):
            await swept()
    assert [await bridge.run_exists(run_id) for run_id in ("first", "second", "third")] == [
        True,
        False,
        False,
    ]
    assert await swept() == Swept(runs=1, events=1)
