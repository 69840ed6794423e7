"""A wish to cancel reaches the producer, wherever it is, and ends the run as cancelled."""

import asyncio
import subprocess
import sys

import pytest
from django.db import connections, transaction

from streambridge_app.exceptions import CancelRequested
from streambridge_app.log import leases
from streambridge_app.log.watch import Watch
from streambridge_app.models import Run
from tests.contract.clients import client, data, deadline, replay
from tests.contract.conftest import DATABASE_STACKS
from tests.services import async_wait_until, spawn


async def test_idle_handle_learns_of_it(bridge, sync_bridge, in_thread):
    sync_run = sync_bridge.producer("run")
    await in_thread(sync_run.__enter__)
    async with bridge.producer("run") as run:
        assert not run.cancel_requested
        await bridge.request_cancel("run")
        await async_wait_until(lambda: run.cancel_requested, 1.5, "the handle to know")
        await async_wait_until(lambda: sync_run.cancel_requested, 1.5, "the sync handle to know")


async def test_run_goes_on_and_may_succeed(bridge):
    async with bridge.producer("run") as run:
        await bridge.request_cancel("run")
        await run.publish("number", 1)
        await run.flush()
        assert run.cancel_requested
        await run.publish("number", 2)
    assert (await bridge.get_run("run")).status == "success"
    assert data(await replay(bridge, "run")) == [1, 2]


async def test_handle_knows_at_its_entry(bridge):
    await bridge.create_run("run")
    await bridge.request_cancel("run")
    async with bridge.producer("run") as run:
        assert run.cancel_requested


async def test_publish_raises_if_wished_and_ends_the_run_cancelled(bridge):
    with pytest.raises(CancelRequested, match="asked to stop"):  # noqa: PT012 - all of the block
        async with bridge.producer("run", raise_on_cancel=True) as run:
            await run.publish("number", 1)
            await bridge.request_cancel("run")
            await async_wait_until(lambda: run.cancel_requested, 10, "the handle to know")
            await run.publish("number", 2)
    assert (await bridge.get_run("run")).status == "cancelled"
    assert data(await replay(bridge, "run")) == [1]


async def test_flush_raises_if_wished_after_all_is_written(bridge):
    with pytest.raises(CancelRequested):  # noqa: PT012 - all of the block
        async with bridge.producer("run", raise_on_cancel=True) as run:
            await run.publish("number", 1)
            await run.flush()
            await bridge.request_cancel("run")
            await async_wait_until(lambda: run.cancel_requested, 10, "the handle to know")
            await run.flush()
    assert (await bridge.get_run("run")).status == "cancelled"
    assert data(await replay(bridge, "run")) == [1]


async def test_raising_it_oneself_ends_the_run_cancelled(bridge):
    with pytest.raises(CancelRequested):  # noqa: PT012 - all of the block
        async with bridge.producer("run") as run:
            await run.publish("number", 1)
            raise CancelRequested
    assert (await bridge.get_run("run")).status == "cancelled"
    assert data(await replay(bridge, "run")) == [1]


async def test_block_that_ended_its_run_cancelled_is_left_in_peace(bridge):
    async with bridge.producer("run") as run:
        await run.publish("number", 1)
        await run.flush()
        await bridge.publish_end("run", status="cancelled")
    assert (await bridge.get_run("run")).status == "cancelled"


async def test_sync_handle_raises_if_wished(bridge, sync_bridge, in_thread):
    def work():
        with sync_bridge.producer("run", raise_on_cancel=True) as run:
            run.publish("number", 1)
            run.flush()
            sync_bridge.request_cancel("run")
            while True:
                run.publish("number", 2)
                run.flush()

    with pytest.raises(CancelRequested):
        await in_thread(work)
    assert (await bridge.get_run("run")).status == "cancelled"


ASK = """
import django
django.setup()
from django.conf import settings
settings.STREAMBRIDGE = {settings!r}
from streambridge_app import get_sync_bridge
get_sync_bridge().request_cancel("run")
"""


@pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)
async def test_wish_of_another_process_reaches_an_idle_handle(bridge, settings):
    async with bridge.producer("run") as run:
        process = spawn(
            [sys.executable, "-c", ASK.format(settings=settings.STREAMBRIDGE)],
            env={"DJANGO_SETTINGS_MODULE": "tests.settings"},
        )
        try:
            await async_wait_until(lambda: run.cancel_requested, 20, "the handle to know")
        finally:
            process.kill()
            process.wait()


# Without clients

SILENCE = 3.0
"""Seconds, more than it takes to miss a client: a heartbeat says that nothing happened."""


@pytest.fixture
def prompt(monkeypatch):
    """Let a run be cancelled with hardly more than the delay it asks for."""
    monkeypatch.setattr(leases, "WATCH_SLACK", 500)


async def visit(bridge, run_id):
    async with client(bridge, run_id, heartbeat=0.01) as visitor:
        await visitor.attached()


async def test_run_that_its_last_client_left_is_asked_to_cancel(
    bridge, sync_bridge, in_thread, prompt
):
    await bridge.create_run("run", cancel_after=0.1)
    await in_thread(sync_bridge.create_run, "other", cancel_after=0.1)
    async with bridge.producer("run") as run, bridge.producer("other") as other:
        for run_id in ("run", "other"):
            await visit(bridge, run_id)
        for handle in (run, other):
            await async_wait_until(lambda: handle.cancel_requested, 10, "the cancellation")  # noqa: B023
    assert (await bridge.get_run("run")).status == "success"


async def test_run_with_a_client_goes_on(bridge, prompt):
    await bridge.create_run("run", cancel_after=0.1)
    await visit(bridge, "run")
    async with client(bridge, "run", heartbeat=SILENCE) as live:
        await live.attached()
        assert not (await bridge.get_run("run")).cancel_requested


async def test_run_goes_on_before_its_first_client(bridge, prompt):
    await bridge.create_run("run", cancel_after=0.1)
    async with client(bridge, "other", heartbeat=SILENCE) as live:
        await live.attached()
    assert not (await bridge.get_run("run")).cancel_requested


async def test_run_that_did_not_ask_for_it_goes_on_without_clients(bridge, prompt):
    await bridge.create_run("run")
    await visit(bridge, "run")
    async with client(bridge, "other", heartbeat=SILENCE) as live:
        await live.attached()
    assert not (await bridge.get_run("run")).cancel_requested


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
async def test_wrong_delay_is_refused(bridge, seconds):
    with pytest.raises(ValueError, match="cancel_after must be more than 0"):
        await bridge.create_run("run", cancel_after=seconds)


FOLLOW = """
import django
django.setup()
from django.conf import settings
settings.STREAMBRIDGE = {settings!r}
from streambridge_app import get_sync_bridge
for event in get_sync_bridge().subscribe("run", heartbeat_interval=0.1):
    print(event.event, flush=True)
"""


@pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)
async def test_client_of_another_server_counts(bridge, settings, prompt):
    await bridge.create_run("run", cancel_after=0.1)
    process = spawn(
        [sys.executable, "-c", FOLLOW.format(settings=settings.STREAMBRIDGE)],
        env={"DJANGO_SETTINGS_MODULE": "tests.settings"},
        stdout=subprocess.PIPE,
    )
    try:
        async with deadline(30):
            assert await asyncio.to_thread(process.stdout.readline)
        await visit(bridge, "run")  # this server watches, too
        async with client(bridge, "other", heartbeat=SILENCE) as live:
            await live.attached()
        assert not (await bridge.get_run("run")).cancel_requested
    finally:
        process.kill()
        process.wait()
        process.stdout.close()

    async def cancelled():
        return (await bridge.get_run("run")).cancel_requested

    await async_wait_until(cancelled, 10, "the cancellation")


@pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)
async def test_clients_get_the_time_to_come_back_after_an_outage(
    bridge, stack, in_thread, monkeypatch
):
    await bridge.create_run("run", cancel_after=30)
    start = 10**14
    watch = Watch(stack.database, lambda written: None)

    async def cancelled_at(*moments, followed=()):
        for moment in moments:
            monkeypatch.setattr(leases, "lease_clock", lambda using, now=start + moment: now)
            await in_thread(watch.look, followed)
        return (await bridge.get_run("run")).cancel_requested

    assert not await cancelled_at(0, followed=["run"])
    assert not await cancelled_at(100_000, 104_000, 108_000, 111_900)  # a third, and the slack
    assert await cancelled_at(112_100)


@pytest.mark.parametrize("stack", DATABASE_STACKS[1:], indirect=True)
async def test_word_of_a_client_is_written_though_publishers_hold_the_run(
    bridge, stack, in_thread, monkeypatch
):
    monkeypatch.setattr(leases, "LOCK_PATIENCE", 50)
    await bridge.create_run("run", cancel_after=30)
    await bridge.create_run("held", cancel_after=30)
    outer = transaction.atomic(using=stack.database)

    def hold():
        outer.__enter__()
        Run.objects.using(stack.database).select_for_update().get(run_id="held")

    def note(now):
        try:
            leases.note_clients({"run", "held"}, now, stack.database)
            runs = Run.objects.using(stack.database).order_by("id")
            return list(runs.values_list("watched_at", flat=True))
        finally:
            connections.close_all()

    await in_thread(hold)
    assert await asyncio.to_thread(note, 1) == [1, None]
    monkeypatch.setattr(leases, "LOCK_PATIENCE", 20_000)
    noting = asyncio.create_task(asyncio.to_thread(note, 2))
    done, _ = await asyncio.wait([noting], timeout=0.1)
    assert not done
    await in_thread(outer.__exit__, None, None, None)
    async with deadline():
        assert await noting == [1, 2]
