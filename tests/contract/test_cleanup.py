"""Clause 6: a deadline that survives the process, and an end for those who are attached."""

import asyncio
import os
import signal
import sys
import threading
import uuid

import pytest
from django.db import connections

from streambridge_app import get_bridge
from streambridge_app.exceptions import RunNotFound
from streambridge_app.follow import poller
from streambridge_app.log import retention
from streambridge_app.models import Event, Run
from streambridge_app.wake import repeats
from tests.conftest import MEMORY
from tests.contract.clients import NEVER, client, data, deadline, publish, replay, seqs
from tests.contract.conftest import DATABASE_STACKS
from tests.services import async_wait_until, spawn

SOON = 0.3


async def _is_gone(bridge, run_id="run"):
    try:
        await bridge.get_run(run_id)
    except RunNotFound:
        return True
    return False


@pytest.fixture
def sweeping(stack, settings):
    """Sweep often. To be asked for before the bridge."""
    settings.STREAMBRIDGE = {**settings.STREAMBRIDGE, "SWEEP_INTERVAL": 0.05}


async def test_cleanup_deletes_the_run(bridge):
    await publish(bridge, "run", 3)
    await bridge.publish_end("run")
    await bridge.cleanup("run")
    with pytest.raises(RunNotFound):
        await bridge.get_run("run")


async def test_cleanup_waits_for_its_delay(bridge):
    await publish(bridge, "run", 1)
    cleaning = asyncio.create_task(bridge.cleanup("run", delay=SOON))
    done, _ = await asyncio.wait({cleaning}, timeout=SOON / 2)
    assert not done
    assert not await _is_gone(bridge)
    async with deadline():
        await cleaning
    assert await _is_gone(bridge)


async def test_cleanup_of_an_unknown_run_is_nothing(bridge):
    async with deadline():
        await bridge.cleanup("run", delay=3600)


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), 1e300])
async def test_an_impossible_delay_is_refused_and_nothing_is_deleted(bridge, delay):
    await publish(bridge, "run", 1)
    with pytest.raises(ValueError, match="delay must be"):
        await bridge.cleanup("run", delay=delay)
    assert not await _is_gone(bridge)


async def test_attached_clients_are_let_go_with_an_end(bridge):
    async with client(bridge, "run") as live, client(bridge, "run") as other:
        await publish(bridge, "run", 2)
        await live.take(2)
        await other.take(2)
        await bridge.cleanup("run")
        assert await live.rest() == []
        assert await other.rest() == []


@pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)
async def test_attached_clients_are_told_after_the_deletion(bridge_with, monkeypatch):
    """By a message that comes once: who looked before would find the run, and never look again."""
    begun, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    delete_all = retention.delete_all

    def delete_later(key, using):
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(30)
        return delete_all(key, using)

    monkeypatch.setattr(retention, "delete_all", delete_later)
    monkeypatch.setattr(poller, "ACTIVE_SECONDS", 0)
    monkeypatch.setattr(repeats, "REPEAT_AFTER", NEVER)
    async with bridge_with(POLL_INTERVAL=NEVER) as bridge:
        await publish(bridge, "run", 1)
        async with client(bridge, "run", heartbeat=0.1) as live:
            assert data(await live.take(1)) == [1]
            await async_wait_until(
                lambda: bridge._hub()._membership.has_joined("run"), 10, "it to join"
            )
            cleaning = asyncio.ensure_future(bridge.cleanup("run"))
            try:
                async with deadline():
                    await begun.wait()
                for _ in range(3):
                    await live.attached()
            finally:
                go_on.set()
                await cleaning
            assert await live.rest() == []


async def test_a_client_whose_run_is_deleted_under_its_reading_is_told_of_the_gap(stack, settings):
    settings.STREAMBRIDGE = {**settings.STREAMBRIDGE, "PAGE_EVENTS": 1}
    bridge = get_bridge()
    await publish(bridge, "run", 3)
    await bridge.publish_end("run")
    async with client(bridge, "run") as slow:
        await slow.take(1)
        latest = (await bridge.get_run("run")).latest_id
        await bridge.cleanup("run")
        *_, gap = await slow.rest()
    assert gap.event == "__gap__"
    assert gap.data["earliest"] is None
    assert gap.data["latest"] == latest
    await bridge.close()


async def test_a_client_is_let_go_though_the_run_is_made_again_at_once(bridge):
    async with client(bridge, "run") as live:
        await publish(bridge, "run", 2)
        await live.take(2)
        await bridge.cleanup("run")
        await publish(bridge, "run", 3)
        assert await live.rest() == []
    await bridge.publish_end("run")
    assert seqs(await replay(bridge, "run")) == [1, 2, 3]


async def test_cleanup_does_not_delete_a_run_made_again_meanwhile(bridge, stack):
    async def deadline_is_stored():
        runs = Run.objects.using(stack.database).filter(delete_at__isnull=False)
        return stack.backend == MEMORY or await runs.aexists()

    await publish(bridge, "run", 1)
    cleaning = asyncio.create_task(bridge.cleanup("run", delay=SOON))
    await asyncio.sleep(0)
    await async_wait_until(deadline_is_stored, 5, "the deadline to be stored")
    await bridge.cleanup("run")
    await publish(bridge, "run", 2)
    async with deadline():
        await cleaning
    assert (await bridge.get_run("run")).head == 2


async def test_a_cancelled_cleanup_still_deletes_at_the_deadline(sweeping, bridge):
    async with client(bridge, "run") as live:
        await publish(bridge, "run", 1)
        await live.take(1)
        cleaning = asyncio.create_task(bridge.cleanup("run", delay=SOON))
        await asyncio.wait({cleaning}, timeout=SOON / 2)
        cleaning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cleaning
        assert not await _is_gone(bridge)
        assert await live.rest() == []
    assert await _is_gone(bridge)


async def test_many_deletions_and_publishers_at_once_leave_whole_runs(bridge):
    async def delete():
        for _ in range(5):
            await bridge.cleanup("run")
            await asyncio.sleep(0)

    async with deadline(30):
        await asyncio.gather(
            *(publish(bridge, "run", 10) for _ in range(5)), *(delete() for _ in range(3))
        )
    await bridge.publish_end("run")
    events = await replay(bridge, "run")
    assert seqs(events) == list(range(1, len(events) + 1))


async def test_the_sync_api_deletes_at_once_without_a_delay(bridge, sync_bridge, in_thread):
    await publish(bridge, "run", 1)
    await in_thread(sync_bridge.cleanup, "run")
    assert await _is_gone(bridge)


async def test_the_sync_api_stores_the_deadline_and_goes_on(bridge, sync_bridge, in_thread):
    await publish(bridge, "run", 1)
    async with deadline():
        await in_thread(sync_bridge.cleanup, "run", delay=3600)
    assert not await _is_gone(bridge)


@pytest.mark.parametrize("run_id", ["run", uuid.UUID(int=7)], ids=["text", "UUID"])
async def test_what_the_sync_api_has_left_to_the_deadline_is_deleted_then(
    sweeping, bridge, sync_bridge, in_thread, run_id
):
    async with client(bridge, run_id) as live:
        await publish(bridge, run_id, 1)
        await live.take(1)
        rest = asyncio.create_task(live.rest())  # it waits by the time the thread has begun
        await in_thread(sync_bridge.cleanup, run_id, delay=SOON)
        assert not await _is_gone(bridge, run_id)
        assert await rest == []
    assert await _is_gone(bridge, run_id)


PROCESS = """
import asyncio, sys
import django
django.setup()
from django.conf import settings
settings.STREAMBRIDGE = {settings!r}
from streambridge_app import get_bridge
from streambridge_app.follow import poller
from streambridge_app.log import retention
from streambridge_app.wake import repeats

async def main():
    bridge = get_bridge()
    await bridge.publish("run", "number", 1)
    cleaning = asyncio.create_task(bridge.cleanup("run", delay={delay}))
    while not await asyncio.to_thread(deadline_stored):
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await cleaning

def deadline_stored():
    from streambridge_app.models import Run
    return Run.objects.using({using!r}).filter(delete_at__isnull=False).exists()

asyncio.run(main())
"""


@pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)
async def test_a_killed_process_leaves_its_cleanup_to_the_sweeper(
    sweeping, bridge, stack, settings
):
    program = PROCESS.format(settings=settings.STREAMBRIDGE, delay=1.0, using=stack.database)
    process = spawn(
        [sys.executable, "-c", program],
        env={"DJANGO_SETTINGS_MODULE": "tests.settings"},
        stdout=-1,
    )
    try:
        async with client(bridge, "run") as live:
            async with deadline(30):
                assert await asyncio.to_thread(process.stdout.readline) == b"ready\n"
            os.kill(process.pid, signal.SIGKILL)
            assert data(await live.rest()) == [1]
        assert await _is_gone(bridge)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)
async def test_a_deletion_that_was_cut_short_is_finished_by_the_sweeper(sweeping, bridge, stack):
    await publish(bridge, "run", 3)

    def rows():
        return (
            Run.objects.using(stack.database).count(),
            Event.objects.using(stack.database).count(),
        )

    # As a process leaves it that dies after the first step of a deletion.
    await Run.objects.using(stack.database).filter(run_id="run").aupdate(run_id=None)
    async with client(bridge, "other", heartbeat=0.05) as someone:
        await someone.attached()
        assert await _is_gone(bridge)
        await async_wait_until(
            lambda: asyncio.to_thread(rows_in_thread, rows), 5, "the rest to be deleted"
        )


def rows_in_thread(rows):
    try:
        return rows() == (0, 0)
    finally:
        connections.close_all()
