"""One loop's calls never wait for what another loop, or their own, can't do meanwhile."""

import asyncio
import contextlib
import threading

import pytest

from streambridge_app import get_sync_bridge
from streambridge_app.exceptions import InsideEventLoop
from tests.contract.clients import client, data, deadline, publish, replay
from tests.services import async_wait_until

CALLS = {
    "create_run": lambda bridge: bridge.create_run("new"),
    "get_run": lambda bridge: bridge.get_run("run"),
    "publish": lambda bridge: bridge.publish("run", "number", 2),
    "publish_end": lambda bridge: bridge.publish_end("run"),
    "request_cancel": lambda bridge: bridge.request_cancel("run"),
    "trim": lambda bridge: bridge.trim("run", keep=0),
    "cleanup": lambda bridge: bridge.cleanup("run"),
    "cleanup later": lambda bridge: bridge.cleanup("run", delay=3600),
}
WAITING = {
    "subscribe": lambda bridge: bridge.subscribe("run"),
    "producer": lambda bridge: bridge.producer("run").__enter__(),
    "close": lambda bridge: bridge.close(),
}


@pytest.mark.parametrize("name", [*CALLS, *WAITING])
async def test_the_sync_api_is_refused_on_an_event_loop(bridge, name):
    await publish(bridge, "run", 1)
    async with client(bridge, "run") as live:  # the loop has a hub, which close() needs
        await live.take(1)
        method = name.split()[0]
        with pytest.raises(InsideEventLoop, match=rf"get_bridge\(\)\.{method}|{method}\(\)"):
            {**CALLS, **WAITING}[name](get_sync_bridge())
    assert (await bridge.get_run("run")).head == 1
    await bridge.publish_end("run")
    assert data(await replay(bridge, "run")) == [1]


@pytest.mark.parametrize("name", WAITING)
async def test_what_would_wait_for_the_loop_is_refused_in_a_notebook_too(bridge, name, monkeypatch):
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
    with pytest.raises(InsideEventLoop):
        WAITING[name](get_sync_bridge())


async def test_plain_calls_go_through_where_django_lets_them(bridge, monkeypatch, stack):
    from django.db import connections

    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
    sync_bridge = get_sync_bridge()
    try:
        sync_bridge.publish("run", "number", 1)
        sync_bridge.publish_end("run")
        assert sync_bridge.get_run("run").head == 1
    finally:
        connections.close_all()
    assert data(await replay(bridge, "run")) == [1]


@pytest.mark.parametrize("call", ["publish", "flush", "release", "leave"])
async def test_a_sync_handle_is_refused_on_an_event_loop(bridge, sync_bridge, in_thread, call):
    handle = sync_bridge  # made and entered elsewhere, as a worker does

    def enter():
        run = handle.producer("run")
        run.__enter__()
        run.publish("number", 1)
        run.flush()
        return run

    run = await in_thread(enter)
    calls = {
        "publish": lambda: run.publish("number", 2),
        "flush": run.flush,
        "release": run.release,
        "leave": lambda: run.__exit__(None, None, None),
    }
    with pytest.raises(InsideEventLoop, match=r"async with get_bridge\(\)\.producer"):
        calls[call]()
    await in_thread(run.__exit__, None, None, None)
    assert data(await replay(bridge, "run")) == [1]


async def test_a_block_that_is_left_on_an_event_loop_keeps_its_own_error(
    bridge, sync_bridge, in_thread
):
    run = await in_thread(lambda: sync_bridge.producer("run").__enter__())
    error = ValueError("of the block")
    run.__exit__(ValueError, error, None)
    assert "'run' could not be ended" in error.__notes__[0]
    await in_thread(run.__exit__, None, None, None)


async def test_a_sync_subscription_is_refused_on_an_event_loop(bridge, sync_bridge, in_thread):
    await publish(bridge, "run", 2)
    events = await in_thread(sync_bridge.subscribe, "run")
    assert (await in_thread(next, events)).data == 1
    with pytest.raises(InsideEventLoop, match="async for event in"):
        next(events)
    await in_thread(events.close)


@contextlib.contextmanager
def another_loop():
    """Run a loop in another thread, and yield a function that calls a coroutine function there."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield lambda coroutine: asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(coroutine, loop)
        )
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def test_a_handle_may_be_used_from_two_loops(bridge_with):
    total = 1_000

    async def publish_all(run, who):
        for number in range(total):
            await run.publish(who, number)
        await run.flush()

    with another_loop() as elsewhere:
        async with bridge_with(PRODUCER_BUFFER=4) as bridge, deadline(60):
            async with bridge.producer("run") as run:
                await asyncio.gather(publish_all(run, "here"), elsewhere(publish_all(run, "there")))
            events = await replay(bridge, "run")
    for who in ("here", "there"):
        assert [one.data for one in events if one.event == who] == list(range(total))


async def test_a_waiter_whose_loop_was_closed_keeps_nobody_waiting(bridge_with, stack):
    async with bridge_with(PRODUCER_BUFFER=1) as bridge, deadline():
        run = bridge.producer("run")
        if not hasattr(run, "pipeline"):  # memory: a handle never waits
            await run.publish("number", 1)
            return
        bridge.writer._draining = True  # nothing is written before it is told to
        await run.publish("number", 1)
        loop = asyncio.new_event_loop()
        waiting = loop.create_task(run.flush())
        await asyncio.to_thread(loop.run_until_complete, asyncio.sleep(0.01))
        loop.close()
        here = asyncio.ensure_future(run.flush())
        await async_wait_until(lambda: len(run._waiters) == 2, 5, "both to wait")
        bridge.writer._threads.start(bridge.writer._drain)
        await here
        waiting._log_destroy_pending = False  # it is left as a closed loop leaves it
