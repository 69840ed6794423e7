"""What is published at once is no part of the caller's transaction, or refused."""

import asyncio

import pytest
from django.db import connections, transaction

from streambridge_app.exceptions import InsideTransaction
from streambridge_app.models import Run
from tests.conftest import STACKS
from tests.contract.clients import data, deadline

on_postgresql = pytest.mark.parametrize("stack", STACKS[2:3], indirect=True)


async def test_outside_of_a_transaction_it_changes_nothing(bridge, sync_bridge, in_thread):
    await in_thread(sync_bridge.publish, "run", "number", 1, at_once=True)
    assert data(await bridge.events("run")) == [1]


@on_postgresql
async def test_event_is_there_before_the_commit_and_after_a_rollback(
    bridge, sync_bridge, in_thread, stack
):
    def work():
        with transaction.atomic(using=stack.database):
            sync_bridge.publish("other", "number", 1)
            sync_bridge.publish("run", "number", 1, at_once=True)
            assert data(asyncio.run(bridge.events("run"))) == [1]
            sync_bridge.publish("run", "number", 2, key="two", at_once=True)
            transaction.set_rollback(True, using=stack.database)

    await in_thread(work)
    assert data(await bridge.events("run")) == [1, 2]
    assert not await bridge.run_exists("other")


@on_postgresql
@pytest.mark.parametrize("before", ["publish", "publish_end", "create_run"])
async def test_run_that_the_transaction_has_is_refused(
    bridge, sync_bridge, in_thread, stack, before
):
    def work():
        with transaction.atomic(using=stack.database):
            with transaction.atomic(using=stack.database):
                getattr(sync_bridge, before)("run", *(["number"] if before == "publish" else []))
            with pytest.raises(InsideTransaction, match="made the run 'run' or published to it"):
                sync_bridge.publish("run", "number", 1, at_once=True)
            sync_bridge.publish("other", "number", 1, at_once=True)

    async with deadline():
        await in_thread(work)
    assert await bridge.run_exists("run")
    assert data(await bridge.events("other")) == [1]


@on_postgresql
async def test_run_that_the_transaction_has_locked_is_refused_soon(
    bridge, sync_bridge, in_thread, stack
):
    await bridge.publish("run", "number", 1)

    def work(lock):
        with transaction.atomic(using=stack.database):
            lock()
            with pytest.raises(InsideTransaction, match="holds the run 'run' locked"):
                sync_bridge.publish("run", "number", 2, at_once=True)

    run = Run.objects.using(stack.database).filter(run_id="run")
    async with deadline():  # less than RETRY_SECONDS for each
        await in_thread(work, lambda: run.select_for_update().get())
        await in_thread(work, lambda: sync_bridge.request_cancel("run"))


@pytest.mark.parametrize("stack", STACKS[1:2], indirect=True)
async def test_sqlite_has_one_writer(bridge, sync_bridge, in_thread, stack):
    def work():
        with transaction.atomic(), pytest.raises(InsideTransaction, match="at_once"):
            sync_bridge.publish("run", "number", 1, at_once=True)
        connections["default"].close()

    async with deadline():
        await in_thread(work)
    assert not await bridge.run_exists("run")
