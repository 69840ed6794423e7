"""Runs that are deleted by the ORM: nothing of them stays, and everything else goes on."""

import asyncio

import pytest
from django.db import connections, transaction
from django.db.models.signals import post_delete
from django.test.utils import CaptureQueriesContext

from streambridge_app.exceptions import RunNotFound
from streambridge_app.models import Event, EventKey, Run
from tests.contract.clients import client, data, publish, replay
from tests.contract.conftest import DATABASE_STACKS

pytestmark = pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)

WAYS = {
    "queryset": lambda runs: runs.filter(run_id="run").delete(),
    "instance": lambda runs: runs.get(run_id="run").delete(),
}


@pytest.fixture
def using(stack):
    return stack.database


@pytest.fixture(params=WAYS)
def delete(request, in_thread, using):
    """Delete the run, in a thread."""
    return lambda: in_thread(WAYS[request.param], Run.objects.using(using))


def _left(using):
    return [model.objects.using(using).count() for model in (Event, EventKey)]


async def test_its_events_and_keys_go_with_it(bridge, in_thread, delete, using):
    await publish(bridge, "run", 3)
    await bridge.publish("run", "keyed", 4, key="k")
    await delete()
    assert await in_thread(_left, using) == [0, 0]
    with pytest.raises(RunNotFound):
        await bridge.get_run("run")


async def test_another_run_keeps_its_events(bridge, delete):
    await publish(bridge, "other", 2)
    await publish(bridge, "run", 2)
    await delete()
    await bridge.publish_end("other")
    assert len(await replay(bridge, "other")) == 2


async def test_its_next_incarnation_has_a_larger_epoch(bridge, in_thread, delete, using):
    await publish(bridge, "run", 1)
    far = 2**45
    await in_thread(lambda: Run.objects.using(using).update(epoch=far))
    await delete()
    await publish(bridge, "run", 1)
    assert (await bridge.get_run("run")).epoch > far


async def test_clients_are_let_go(bridge, delete):
    await publish(bridge, "run", 1)
    async with client(bridge, "run") as live:
        await live.take(1)
        await delete()
        assert await live.rest() == []


async def test_a_handle_learns_of_it(bridge, delete):
    async def produce():
        async with bridge.producer("run") as run:
            await run.publish("number", 1)
            await run.flush()
            await delete()
            await run.publish("number", 2)
            await run.flush()

    with pytest.raises(RuntimeError, match="has ended or was deleted"):
        await produce()
    with pytest.raises(RunNotFound):
        await bridge.get_run("run")


async def test_a_deletion_that_is_rolled_back_leaves_all(bridge, in_thread, using):
    await publish(bridge, "run", 2)

    def work():
        with transaction.atomic(using=using):
            Run.objects.using(using).filter(run_id="run").delete()
            transaction.set_rollback(True, using=using)

    await in_thread(work)
    await bridge.publish_end("run")
    assert data(await replay(bridge, "run")) == [1, 2]


async def test_no_event_is_loaded_though_others_listen_to_deletions(bridge, in_thread, using):
    await publish(bridge, "run", 5)

    def heard(sender, **kwargs):
        senders.append(sender)

    def work():
        post_delete.connect(heard)
        try:
            with CaptureQueriesContext(connections[using]) as captured:
                Run.objects.using(using).filter(run_id="run").delete()
            return [query["sql"] for query in captured]
        finally:
            post_delete.disconnect(heard)

    senders = []
    queries = await in_thread(work)
    assert senders == [Run]
    table = Event._meta.db_table
    assert [sql.split()[0] for sql in queries if f'"{table}"' in sql] == ["DELETE"]


async def test_publishers_beside_it_leave_nothing_behind(bridge, in_thread, delete, using):
    async def work():
        for number in range(50):
            await bridge.publish("run", "number", number)

    working = asyncio.ensure_future(work())
    for _ in range(5):
        await bridge.publish("run", "number", -1)
        await delete()
    await working
    known = await in_thread(lambda: set(Run.objects.using(using).values_list("id", flat=True)))
    found = await in_thread(
        lambda: set(Event.objects.using(using).values_list("run_id", flat=True))
    )
    assert found <= known
