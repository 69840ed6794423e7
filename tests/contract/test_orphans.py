"""Events and keys whose run is gone: the command that sweeps deletes them, and nothing else."""

import asyncio

import pytest
from django.core.management import call_command
from django.db import connections

from streambridge_app.log import orphans, retention
from streambridge_app.models import Event, EventKey, Run
from tests.contract.clients import data, publish, replay
from tests.contract.conftest import DATABASE_STACKS

pytestmark = pytest.mark.parametrize("stack", DATABASE_STACKS[:2], indirect=True)


@pytest.fixture
def orphan(bridge, stack, in_thread):
    """Make a run, and delete its row only, as earlier versions did."""

    async def orphan(run_id, events=3, keys=1):
        await bridge.create_run(run_id)
        await publish(bridge, run_id, events)
        for number in range(keys):
            await bridge.publish(run_id, "keyed", number, key=str(number))
        await in_thread(
            lambda: (
                Run.objects.using(stack.database).filter(run_id=run_id)._raw_delete(stack.database)
            )
        )

    return orphan


@pytest.fixture
def prune(capsys):
    """Sweep by the command, and return what it said."""

    def whole_pass(*arguments):
        try:
            call_command("streambridge_prune", *arguments)
        finally:
            connections.close_all()

    async def prune(*arguments):
        await asyncio.to_thread(whole_pass, *arguments)
        return capsys.readouterr().out

    return prune


def _left(using):
    return [model.objects.using(using).count() for model in (Run, Event, EventKey)]


async def test_what_is_left_of_deleted_runs_is_swept(bridge, stack, in_thread, orphan, prune):
    await publish(bridge, "before", 2)
    await orphan("one")
    await publish(bridge, "between", 2)
    await orphan("without keys", keys=0)
    await orphan("without anything", events=0, keys=0)
    await publish(bridge, "after", 2)
    assert await prune("--dry-run") == "Would delete 2 runs.\n"
    assert await in_thread(_left, stack.database) == [3, 13, 1]
    assert await prune() == "Deleted 2 runs with 7 events.\n"
    assert await in_thread(_left, stack.database) == [3, 6, 0]
    for run_id in ("before", "between", "after"):
        await bridge.publish_end(run_id)
        assert data(await replay(bridge, run_id)) == [1, 2]


async def test_keys_without_events_are_found(stack, in_thread, orphan, prune):
    await orphan("one", events=0)
    await in_thread(lambda: Event.objects.using(stack.database)._raw_delete(stack.database))
    assert await prune() == "Deleted 1 run with 0 events.\n"
    assert await in_thread(_left, stack.database) == [0, 0, 0]


async def test_all_are_found_in_pages(bridge, stack, in_thread, orphan, monkeypatch):
    monkeypatch.setattr(orphans, "RUNS_AT_ONCE", 2)
    monkeypatch.setattr(retention, "DELETE_BATCH", 2)
    for number in range(7):
        await orphan(f"orphan {number}")
        if number % 3 == 0:
            await publish(bridge, f"run {number}", 1)
    found = await in_thread(orphans.find, stack.database)
    assert len(found) == 7
    await in_thread(orphans.adopt, found, stack.database)
    assert await in_thread(orphans.find, stack.database) == []
    for key in found:
        assert await in_thread(retention.delete_all, key, stack.database) == 4
    assert await in_thread(_left, stack.database) == [3, 3, 0]


async def test_several_at_once_and_publishers_beside_them(bridge, stack, in_thread, orphan, prune):
    for number in range(10):
        await orphan(f"orphan {number}")

    async def work(name):
        for number in range(1, 31):
            run_id = f"{name} {number}"
            await bridge.publish(run_id, "number", number)
            await bridge.publish(run_id, "keyed", number, key="k")
            if number % 3 == 0:
                await bridge.cleanup(run_id)

    await asyncio.gather(work("a"), work("b"), *(prune() for _ in range(3)))
    await prune()
    assert await in_thread(_left, stack.database) == [40, 80, 40]
