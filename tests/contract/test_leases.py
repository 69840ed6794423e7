"""A run whose producer died is ended as lost, once; one that is only idle or slow goes on."""

import asyncio
import gc
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import OperationalError, connections

from streambridge_app import get_bridge
from streambridge_app.exceptions import LogUnavailable, RunEnded
from streambridge_app.log import leases
from streambridge_app.log.connections import own_connection
from streambridge_app.log.watch import Watch
from streambridge_app.models import Run
from streambridge_app.publish import keeper as keeping
from tests.contract.clients import client, collected, data, deadline, publish, replay
from tests.contract.conftest import DATABASE_STACKS
from tests.services import async_wait_until, spawn

LEASE = 1.5
SILENCE = 3.5
"""Seconds, more than two leases: a heartbeat says that nothing happened for so long."""

on_databases = pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)


@pytest.fixture(autouse=True)
def short_leases(stack, settings, monkeypatch):
    settings.STREAMBRIDGE = {**settings.STREAMBRIDGE, "LEASE_SECONDS": LEASE}
    monkeypatch.setattr(leases, "EXPIRY_GRACE", 0)


@pytest.fixture
def row(stack, in_thread):
    """Return a function that reads the run's row, or changes it before."""

    def read(**changes):
        run = Run.objects.using(stack.database).filter(run_id="run")
        if changes:
            run.update(**changes)
        return run.get()

    return lambda **changes: in_thread(read, **changes)


def assert_lost(error):
    assert error.event == "error"
    assert error.data["error"] == "ProducerLost"
    assert "lease" in error.data["message"]


async def test_run_of_a_forgotten_handle_is_ended_as_lost(bridge):
    run = bridge.producer("run")
    await run.__aenter__()
    await run.publish("number", 1)
    await run.flush()
    async with client(bridge, "run") as live:
        await live.take(1)
        forgotten = weakref.ref(run)
        del run
        await collected(forgotten)
        (error,) = await live.rest()
    assert_lost(error)
    assert (await bridge.get_run("run")).status == "lost"
    number, error = await replay(bridge, "run")
    assert number.data == 1
    assert_lost(error)


@on_databases
async def test_forgotten_handle_waits_for_no_garbage_collection(bridge):
    run = bridge.producer("run")
    await run.__aenter__()
    await run.publish("number", 1)
    await run.flush()
    forgotten = weakref.ref(run)
    gc.disable()
    try:
        del run
        await async_wait_until(lambda: forgotten() is None, 10, "the handle to be gone")
    finally:
        gc.enable()


async def test_idle_handle_keeps_its_run(bridge):
    async with client(bridge, "run", heartbeat=SILENCE) as live, bridge.producer("run"):
        await live.attached()
    assert (await bridge.get_run("run")).status == "success"


async def test_idle_sync_handle_keeps_its_run(bridge, sync_bridge, in_thread):
    run = sync_bridge.producer("run")
    await in_thread(run.__enter__)
    async with client(bridge, "run", heartbeat=SILENCE) as live:
        await live.attached()
    await in_thread(run.__exit__, None, None, None)
    assert (await bridge.get_run("run")).status == "success"


async def test_run_whose_worker_never_starts_is_lost(bridge, sync_bridge, in_thread):
    await bridge.create_run("run", lease=0.2)
    await in_thread(sync_bridge.create_run, "other", lease=0.2)
    for run_id in ("run", "other"):
        (error,) = await replay(bridge, run_id)
        assert_lost(error)


async def test_publishing_renews_a_lease(bridge):
    await bridge.create_run("run", lease=LEASE)
    async with client(bridge, "run", heartbeat=0.3 * LEASE) as live:
        for number in range(5):
            await live.attached()
            await bridge.publish("run", "number", number)
            assert data(await live.take(1)) == [number]
        (error,) = await live.rest()
    assert_lost(error)


async def test_publishing_starts_no_lease(bridge):
    await publish(bridge, "run", 1)
    async with client(bridge, "run", after="now", heartbeat=SILENCE) as live:
        await live.attached()
    assert (await bridge.get_run("run")).status == "running"


async def test_worker_that_was_only_slow_gets_run_ended(bridge):
    await bridge.create_run("run", lease=0.2)
    await replay(bridge, "run")
    with pytest.raises(RunEnded):
        await bridge.publish("run", "late", 1)
    assert (await bridge.get_run("run")).head == 1


async def test_entering_creates_the_run(bridge):
    async with bridge.producer("run"):
        assert (await bridge.get_run("run")).status == "running"


async def test_ended_run_is_not_entered(bridge, sync_bridge, in_thread):
    await bridge.publish_end("run")
    with pytest.raises(RunEnded):
        await bridge.producer("run").__aenter__()
    with pytest.raises(RunEnded):
        await in_thread(sync_bridge.producer("run").__enter__)


@pytest.mark.parametrize("lease", [0, -1, float("nan"), float("inf")])
async def test_wrong_lease_is_refused(bridge, lease):
    with pytest.raises(ValueError, match="lease must be more than 0"):
        await bridge.create_run("run", lease=lease)


@on_databases
async def test_handle_replaces_the_lease_of_the_creation(bridge, row):
    await bridge.create_run("run", lease=600)
    assert (await row()).lease_ms == 600_000
    async with bridge.producer("run"):
        run = await row()
        assert run.lease_ms == 1000 * LEASE
        assert run.lease_expires <= await asyncio.to_thread(_now, run._state.db) + 1000 * LEASE


def _now(using):
    try:
        return leases.lease_clock(using)
    finally:
        connections[using].close()


@on_databases
async def test_without_leases_a_handle_starts_none(stack, settings, row):
    settings.STREAMBRIDGE = {**settings.STREAMBRIDGE, "LEASE_SECONDS": None}
    async with get_bridge().producer("run"):
        run = await row()
        assert (run.lease_ms, run.lease_expires) == (None, None)
    await get_bridge().close()


@on_databases
async def test_fresh_lease_is_not_written_again(bridge, row):
    await bridge.create_run("run", lease=600)
    created = (await row()).lease_expires
    await publish(bridge, "run", 3)
    assert (await row()).lease_expires == created


@on_databases
@pytest.mark.parametrize("left", [399, 100_000], ids=["due", "after the clock jumped back"])
async def test_lease_is_renewed_when_it_must(bridge, row, left, stack):
    await bridge.create_run("run", lease=600)
    now = await asyncio.to_thread(_now, stack.database)
    await row(lease_expires=now + 1000 * left)
    await publish(bridge, "run", 1)
    renewed = (await row()).lease_expires
    assert now + 600_000 <= renewed <= await asyncio.to_thread(_now, stack.database) + 600_000


@on_databases
async def test_ended_run_has_no_lease(bridge, row):
    await bridge.create_run("run", lease=600)
    await bridge.publish_end("run")
    assert (await row()).lease_expires is None
    await bridge.cleanup("run")
    async with bridge.producer("run") as run:
        await run.publish("number", 1)
        assert (await row()).lease_expires is not None
    assert (await row()).lease_expires is None


@on_databases
async def test_run_is_lost_once_however_many_look(bridge, stack):
    await bridge.create_run("run", lease=600)

    def expire(number):
        try:
            return leases.expire_leases(stack.database, 10, 10**14, 10**14)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as threads:
        found = await asyncio.gather(
            *(asyncio.get_running_loop().run_in_executor(threads, expire, n) for n in range(8))
        )
    (written,) = [one for some in found for one in some]
    assert written.status == "lost"
    assert_lost(*await replay(bridge, "run"))


@on_databases
async def test_living_producers_get_the_time_to_renew_first(
    bridge, stack, in_thread, monkeypatch, caplog
):
    monkeypatch.setattr(leases, "EXPIRY_GRACE", 2_000)
    await bridge.create_run("run", lease=30)
    announced = []
    watch = Watch(stack.database, announced.extend)
    start = 10**14  # long after the lease

    async def look_at(*moments):
        for moment in moments:
            monkeypatch.setattr(leases, "lease_clock", lambda using, now=start + moment: now)
            await in_thread(watch.look, [])

    await look_at(0, 4_000, 8_000, 11_900)  # a third of a lease and 2 seconds are not over
    await look_at(20_000, 24_000, 28_000, 31_900)  # after a break, they begin anew
    await look_at(31_000, 35_000, 39_000, 42_900)  # when the clock has jumped back, too
    with monkeypatch.context() as patch:
        patch.setattr(leases, "expire_leases", _unreachable)
        with pytest.raises(OperationalError):
            await look_at(43_100)
    await look_at(43_200, 47_000, 51_000, 55_100)
    assert (await bridge.get_run("run")).status == "running"
    await look_at(55_300)
    assert [one.run_id for one in announced] == ["run"]
    assert (await bridge.get_run("run")).status == "lost"
    assert caplog.text.count("The run 'run' is lost") == 1


def _unreachable(*args):
    raise OperationalError("the database is gone")


@on_databases
async def test_keeper_outlives_an_unreachable_log(bridge, row, monkeypatch):
    failed, held = [], leases.held

    def unreachable_at_first(keys, using):
        if len(failed) < 3:
            failed.append(using)
            raise OperationalError("the database is gone") if len(failed) < 3 else ValueError
        return held(keys, using)

    monkeypatch.setattr(leases, "held", unreachable_at_first)
    async with bridge.producer("run"):
        claimed = (await row()).lease_expires

        async def renewed():
            return (await row()).lease_expires > claimed

        await async_wait_until(renewed, 10, "a renewal")
    assert len(failed) == 3


@on_databases
async def test_keeper_begins_although_the_log_is_unreachable(bridge, row, stack, monkeypatch):
    wrapper = type(connections[stack.database])
    connect = wrapper.ensure_connection
    refused = []

    def refuse_keeper(self):
        if threading.current_thread().name.startswith("streambridge-keep") and len(refused) < 2:
            refused.append(self)
            raise OperationalError("too many connections")
        return connect(self)

    monkeypatch.setattr(wrapper, "ensure_connection", refuse_keeper)
    async with bridge.producer("run"):
        before = (await row()).lease_expires

        async def renewed():
            return (await row()).lease_expires > before

        await async_wait_until(renewed, 10, "the lease to be renewed")
    assert refused


@on_databases
async def test_keeper_needs_no_thread_and_no_connection_without_a_handle(bridge, monkeypatch):
    opened = []

    def opening(using):
        opened.append(own_connection(using))
        return opened[-1]

    monkeypatch.setattr(keeping, "own_connection", opening)
    keeper = bridge.keeper
    assert keeper._thread is None
    async with bridge.producer("run"):
        await async_wait_until(lambda: opened and opened[0].connection, 10, "a look")
    await async_wait_until(lambda: not keeper._thread.is_alive(), 10, "the last look")
    assert [own.connection for own in opened] == [None]
    async with bridge.producer("again"):
        assert keeper._thread.is_alive()


WORKER = """
import threading
import django
django.setup()
from django.conf import settings
settings.STREAMBRIDGE = {settings!r}
from streambridge_app import get_sync_bridge

with get_sync_bridge().producer("run") as run:
    run.publish("number", 1)
    threading.Event().wait()
"""


@on_databases
async def test_run_of_a_killed_process_is_lost(bridge, settings):
    process = spawn(
        [sys.executable, "-c", WORKER.format(settings=settings.STREAMBRIDGE)],
        env={"DJANGO_SETTINGS_MODULE": "tests.settings"},
    )
    try:
        async with client(bridge, "run", heartbeat=SILENCE) as live, deadline(30):
            await live.take(1)
            await live.attached()  # it is idle, and lives
            process.kill()
            (error,) = await live.rest()
    finally:
        process.kill()
        process.wait()
    assert_lost(error)


@on_databases
async def test_watch_fails_while_the_log_is_unreachable(bridge, in_thread, monkeypatch):
    monkeypatch.setattr(leases, "lease_clock", _unreachable)
    with pytest.raises(LogUnavailable):
        await asyncio.wrap_future(bridge._watcher.submit(bridge._watch.look, []))
