"""What people try first: a list of events, the end awaited, a whole iterable published."""

import asyncio
from contextlib import aclosing

import pytest
from django.contrib.auth.models import AnonymousUser

from streambridge_app import GapEvent
from streambridge_app.exceptions import InvalidCursor, InvalidEvent, RunNotFound
from streambridge_app.models import Run
from tests.contract.clients import data, deadline, publish, replay
from tests.services import TIMEOUT_SCALE


async def test_events_of_a_running_run_come_without_waiting(bridge):
    await publish(bridge, "run", 5)
    async with deadline():
        assert data(await bridge.events("run")) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("limit", [1, 2, 5, 6])
async def test_events_come_in_pages(bridge, limit):
    await publish(bridge, "run", 5)
    seen, last = [], None
    async with deadline():
        while page := await bridge.events("run", last_event_id=last, limit=limit):
            assert len(page) <= limit
            seen += page
            last = page[-1].id
    assert data(seen) == [1, 2, 3, 4, 5]


async def test_events_of_a_run_without_any(bridge):
    await bridge.create_run("run")
    assert await bridge.events("run") == []
    assert await bridge.events("run", last_event_id="now") == []
    await bridge.publish_end("run")
    assert await bridge.events("run") == []


async def test_events_of_no_run_or_of_no_cursor(bridge):
    with pytest.raises(RunNotFound):
        await bridge.events("run")
    with pytest.raises(InvalidCursor):
        await bridge.events("run", last_event_id="17")
    with pytest.raises(ValueError, match="limit"):
        await bridge.events("run", limit=0)


@pytest.mark.parametrize("keep", [0, 2])
async def test_a_page_that_is_not_whole_begins_with_a_gap(bridge, keep):
    await publish(bridge, "run", 5)
    await bridge.trim("run", keep=keep)
    async with deadline():
        gap, *rest = await bridge.events("run", limit=1)
    assert isinstance(gap, GapEvent)
    assert data(rest) == [4][: keep and 1]


async def test_waiting_for_the_end_brings_the_final_state(bridge):
    await publish(bridge, "run", 2)
    waiting = asyncio.create_task(bridge.wait("run", timeout=30 * TIMEOUT_SCALE))
    await publish(bridge, "run", 1, first=3)
    await bridge.publish_end("run", error=ValueError("no"))
    state = await waiting
    assert (state.status, state.head) == ("error", 4)
    assert state.error == {"error": "ValueError", "message": "no"}
    assert await bridge.wait("run") == state


async def test_waiting_for_a_run_that_is_not_there_yet(bridge):
    waiting = asyncio.create_task(bridge.wait("run", timeout=30 * TIMEOUT_SCALE))
    await bridge.publish_end("run", status="cancelled")
    assert (await waiting).status == "cancelled"


async def test_waiting_ends_at_its_timeout(bridge):
    await bridge.create_run("run")
    with pytest.raises(TimeoutError):
        await bridge.wait("run", timeout=0.01)


async def test_a_run_exists_or_not(bridge):
    assert await bridge.run_exists("run") is False
    await bridge.create_run("run")
    assert await bridge.run_exists("run") is True


async def tokens():
    for number in range(1, 4):
        yield number


@pytest.mark.parametrize(
    "items", [lambda: [1, 2, 3], lambda: iter((1, 2, 3)), tokens], ids=["list", "iterator", "async"]
)
async def test_all_of_an_iterable_is_published(bridge, items):
    async with bridge.producer("run") as run:
        await run.publish_all("token", items())
        await run.publish_all((f"n{item}", item) for item in range(2))
    events = await replay(bridge, "run")
    assert data(events) == [1, 2, 3, 0, 1]
    assert [event.event for event in events] == ["token"] * 3 + ["n0", "n1"]


@pytest.mark.parametrize("what", [("token", None), ("token", "text"), ("token",), ([1],), (7,)])
async def test_what_is_no_iterable_of_events_is_refused(bridge, what):
    async with bridge.producer("run") as run:
        with pytest.raises(TypeError, match="publish_all"):
            await run.publish_all(*what)
    assert await replay(bridge, "run") == []


async def test_what_came_before_a_bad_item_is_published(bridge):
    async with bridge.producer("run") as run:
        with pytest.raises(InvalidEvent):
            await run.publish_all("token", [1, float("nan"), 3])
    assert data(await replay(bridge, "run")) == [1]


async def test_a_subscription_can_be_closed_by_aclosing(bridge):
    await publish(bridge, "run", 2)
    async with aclosing(bridge.subscribe("run")) as events:
        assert (await anext(events)).data == 1


async def test_the_same_without_await(bridge, sync_bridge, in_thread):
    def use():
        assert sync_bridge.run_exists("run") is False
        with sync_bridge.producer("run") as run:
            run.publish_all("token", (number for number in (1, 2)))
            run.publish_all([("step", 3)])
            with pytest.raises(TypeError, match="publish_all"):
                run.publish_all("token", "text")
        assert sync_bridge.run_exists("run") is True
        assert sync_bridge.wait("run", timeout=30 * TIMEOUT_SCALE).status == "success"
        return sync_bridge.events("run")

    assert data(await in_thread(use)) == [1, 2, 3]


async def test_a_backend_says_whether_other_processes_hear_of_it(bridge, stack):
    assert bridge.supports_cross_process is ("MemoryBridge" not in stack.backend)


@pytest.mark.django_db(transaction=True)
async def test_the_runs_of_a_user(settings):
    from streambridge_app import get_bridge

    settings.STREAMBRIDGE = {}
    bridge = get_bridge()
    for number, owner in enumerate([7, 8, 7, None]):
        await bridge.create_run(f"run-{number}", owner=owner)
    await bridge.cleanup("run-0")
    found = [run.run_id async for run in Run.objects.for_owner(7)]
    assert found == ["run-2"]
    for nobody in (None, AnonymousUser()):
        assert not [run async for run in Run.objects.for_owner(nobody)]
