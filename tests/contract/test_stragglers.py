"""Runs that nobody will end and rows that nobody will delete: each is gone after a while."""

import asyncio
import contextlib
import datetime

import pytest
from django.db import connections
from django.utils import timezone

from streambridge_app.contract.items import End
from streambridge_app.exceptions import RunNotFound
from streambridge_app.log import sweeper
from streambridge_app.log.sweeper import Swept, sweep
from streambridge_app.models import Event, EventKey, Run
from tests.contract.clients import client, data, deadline, publish
from tests.contract.conftest import DATABASE_STACKS

pytestmark = pytest.mark.parametrize("stack", DATABASE_STACKS[:2], indirect=True)

DAY = 86_400


@pytest.fixture(autouse=True)
def _no_grace(stack, settings, monkeypatch):
    monkeypatch.setattr(sweeper, "RECOVERY_MARGIN", -1)  # commits of this very moment included
    settings.STREAMBRIDGE = {**settings.STREAMBRIDGE, "RETRY_SECONDS": 0.01}


@pytest.fixture
def swept(stack):
    """Make one pass in a thread of its own, and return what it did."""

    def whole_pass():
        try:
            total = Swept()
            for step in sweep(stack.database):
                total = total.plus(step)
            return total
        finally:
            connections.close_all()

    return lambda: asyncio.to_thread(whole_pass)


@pytest.fixture
def age(stack):
    """Let a run, and all that it has, have happened so many days before."""

    async def age(run_id, days):
        then = timezone.now() - datetime.timedelta(days=days)
        run = Run.objects.using(stack.database).filter(run_id=run_id)
        await run.aupdate(created_at=then)
        key = await run.values_list("id", flat=True).aget()
        await Event.objects.using(stack.database).filter(run_id=key).aupdate(created_at=then)

    return age


# Runs that are silent


async def test_a_run_that_a_straggler_made_is_deleted_after_a_long_silence(bridge, swept, age):
    await publish(bridge, "mistyped", 3)
    await bridge.publish("mistyped", "keyed", 4, key="k")
    await age("mistyped", 29)
    assert await swept() == Swept()
    await age("mistyped", 31)
    assert await swept() == Swept(runs=1, events=4)
    assert not await bridge.run_exists("mistyped")
    assert not await EventKey.objects.using(bridge.using).aexists()


async def test_a_run_without_an_event_was_made_by_no_publish(bridge, swept, age):
    await bridge.create_run("run")
    await age("run", 1000)
    assert await swept() == Swept()


async def test_only_the_newest_event_counts(bridge, swept, age):
    await publish(bridge, "run", 3)
    await age("run", 1000)
    await publish(bridge, "run", 1, first=4)
    assert await swept() == Swept()


async def test_the_setting_says_how_long(bridge, swept, age, settings):
    await publish(bridge, "run", 1)
    await age("run", 1000)
    for never in (None, 1e300):
        settings.STREAMBRIDGE.update(KEEP_SILENT_SECONDS=never)
        assert await swept() == Swept()
    await age("run", 3)
    settings.STREAMBRIDGE.update(KEEP_SILENT_SECONDS=4 * DAY)
    assert await swept() == Swept()
    settings.STREAMBRIDGE.update(KEEP_SILENT_SECONDS=2 * DAY)
    assert await swept() == Swept(runs=1, events=1)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"lease": 1000 * DAY},
        {"keep": DAY},
        {"metadata": {"of": "somebody"}},
        {"cancel_after": 1000 * DAY},
        {"max_events": 10},
        {"max_bytes": 1000},
    ],
    ids=lambda said: "".join(said) or "nothing more",
)
async def test_a_run_that_was_created_is_somebodys(bridge, swept, age, said):
    await bridge.create_run("run", **said)
    await publish(bridge, "run", 1)
    await age("run", 1000)
    assert await swept() == Swept()


async def test_a_run_with_an_owner_is_somebodys(
    bridge, stack, swept, age, in_thread, django_user_model
):
    users = django_user_model._default_manager.db_manager(stack.database)
    await bridge.create_run("run", owner=await in_thread(users.create_user, "owner"))
    await age("run", 1000)
    assert await swept() == Swept()


async def test_a_run_that_waits_for_its_cleanup_is_left_to_it(bridge, swept, age):
    await publish(bridge, "run", 1)
    await bridge.schedule_cleanup("run", delay=DAY)
    await age("run", 1000)
    assert await swept() == Swept()


@pytest.mark.parametrize("options", [{}, {"LEASE_SECONDS": None}], ids=["lease", "no lease"])
async def test_the_run_of_a_handle_is_its_own(bridge_with, swept, age, options):
    async with (
        bridge_with(**options) as bridge,
        bridge.producer("run", take_over=True) as producer,
    ):
        await producer.publish("number", 1)
        await producer.flush()
        await age("run", 1000)
        assert await swept() == Swept()


async def test_what_the_settings_said_of_its_limits_makes_it_nobodys(bridge_with, swept, age):
    async with bridge_with(MAX_RUN_EVENTS=5, MAX_RUN_BYTES=1000) as bridge:
        await publish(bridge, "run", 1)
        await age("run", 31)
        assert await swept() == Swept(runs=1, events=1)


async def test_an_event_of_unknown_age_keeps_its_run(bridge, swept, age):
    await publish(bridge, "run", 3)
    await bridge.trim("run", keep=0)
    await age("run", 1000)
    assert await swept() == Swept()


async def test_who_reads_it_is_told_that_it_is_lost(bridge_with, age):
    async with bridge_with(SWEEP_INTERVAL=0.05) as bridge, client(bridge, "run") as attached:
        await publish(bridge, "run", 1)
        assert data(await attached.take(1)) == [1]
        items = bridge.follow("run", last_event_id="now")
        async with contextlib.aclosing(items), deadline():
            ending = asyncio.ensure_future(anext(items))
            await age("run", 31)
            end = await ending
        assert isinstance(end, End)
        assert end.status == "lost"
        assert await attached.rest() == []
        with pytest.raises(RunNotFound):
            await bridge.get_run("run")


async def test_an_event_that_comes_meanwhile_keeps_its_run(bridge, swept, age):
    """Sweeps all the time, while a straggler publishes to a run that is always about to go."""
    going = True

    async def sweep_on():
        passes = Swept()
        while going:
            passes = passes.plus(await swept())
        return passes

    sweeping = [asyncio.ensure_future(sweep_on()) for _ in range(2)]
    for number in range(1, 41):
        await publish(bridge, "run", 1, first=number)
        found = await bridge.events("run")
        assert found[-1].data == number
        with contextlib.suppress(Run.DoesNotExist):
            await age("run", 31)
    going = False
    assert sum(one.runs for one in await asyncio.gather(*sweeping)) > 0
