"""The producer handle, async and sync: it pipelines, flushes, ends the run, and never lies."""

import asyncio
import math
import threading
import time

import pytest

from streambridge_app import get_bridge, get_sync_bridge
from streambridge_app.exceptions import RunEnded
from streambridge_app.log import exactly_once
from tests.contract.clients import client, data, deadline, publish, replay, seqs
from tests.contract.conftest import DATABASE_STACKS
from tests.services import async_wait_until


async def test_leaving_the_block_ends_the_run_with_success(bridge):
    async with bridge.producer("run") as run:
        assert run.run_id == "run"
        for number in range(1, 11):
            await run.publish("number", number)
    assert (await bridge.get_run("run")).status == "success"
    assert seqs(await replay(bridge, "run")) == list(range(1, 11))


async def test_an_empty_block_leaves_an_ended_run(bridge):
    async with bridge.producer("run"):
        pass
    state = await bridge.get_run("run")
    assert (state.status, state.head) == ("success", 0)


async def test_after_its_block_a_handle_accepts_nothing(bridge):
    async with bridge.producer("run") as run:
        await run.publish("number", 1)
    with pytest.raises(RunEnded):
        await run.publish("number", 2)
    with pytest.raises(RunEnded):
        await run.flush()
    assert data(await replay(bridge, "run")) == [1]


async def test_what_a_handle_accepts_while_its_block_is_left_is_in_the_log(bridge):
    accepted = []
    began = asyncio.Event()

    async def publish_on(run):
        for number in range(100_000):
            await run.publish("number", number)
            accepted.append(number)
            began.set()
            await asyncio.sleep(0)

    async with deadline():
        async with bridge.producer("run") as run:
            task = asyncio.create_task(publish_on(run))
            await began.wait()
        with pytest.raises(RunEnded):
            await task
        assert data(await replay(bridge, "run")) == accepted


async def test_an_exception_ends_the_run_with_its_type_and_message_and_goes_on_up(bridge):
    error = ValueError("the disk is full")
    with pytest.raises(ValueError, match="disk") as caught:  # noqa: PT012 - all of the block
        async with bridge.producer("run") as run:
            await run.publish("number", 1)
            raise error
    assert caught.value is error
    assert (await bridge.get_run("run")).status == "error"
    number, last = await replay(bridge, "run")
    assert number.data == 1
    assert (last.event, last.data) == (
        "error",
        {"error": "ValueError", "message": "the disk is full"},
    )


async def test_a_cancellation_at_the_end_of_the_block_ends_the_run_cancelled(bridge, monkeypatch):
    reached = asyncio.Event()

    async def flush(self):
        reached.set()
        await asyncio.Event().wait()

    async def work():
        async with bridge.producer("run") as run:
            monkeypatch.setattr(type(run), "_flush", flush)

    async with deadline():
        task = asyncio.create_task(work())
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await bridge.get_run("run")).status == "cancelled"


async def test_a_cancellation_ends_the_run_cancelled(bridge):
    entered = asyncio.Event()

    async def work():
        async with bridge.producer("run") as run:
            await run.publish("number", 1)
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    async with deadline():
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await bridge.get_run("run")).status == "cancelled"
    assert data(await replay(bridge, "run")) == [1]


async def test_flush_returns_after_the_commit(bridge):
    run = bridge.producer("run")
    await run.flush()  # nothing was accepted: nothing to wait for
    for number in range(1, 101):
        await run.publish("number", number)
    await run.flush()
    assert (await bridge.get_run("run")).head == 100


async def test_without_a_flush_an_event_is_on_its_way_in_twenty_milliseconds(bridge):
    async with client(bridge, "run") as live, bridge.producer("run") as run:
        await run.publish("number", 0)
        await live.take(1)
        delay = math.inf
        async with deadline(30):  # for one that is, since this machine may be busy
            while delay >= 0.02:
                started = time.monotonic()
                await run.publish("number", 1)
                await live.take(1)
                delay = time.monotonic() - started


async def test_publishing_to_an_ended_run_surfaces(bridge):
    run = bridge.producer("run")
    await run.publish("number", 1)
    await run.flush()
    await bridge.publish_end("run")

    async def publish_and_flush():
        await run.publish("late", 2)
        await run.flush()

    for _ in range(2):
        with pytest.raises(RunEnded):
            await publish_and_flush()
    assert (await bridge.get_run("run")).head == 1


async def test_a_run_ended_by_another_ends_the_block_with_run_ended(bridge):
    with pytest.raises(RunEnded):  # noqa: PT012 - all of the block
        async with bridge.producer("run") as run:
            await bridge.publish_end("run", status="cancelled")
            await run.publish("late", 1)
    assert (await bridge.get_run("run")).status == "cancelled"
    assert await replay(bridge, "run") == []


async def test_many_handles_of_one_run_share_its_numbers(bridge):
    async def work(worker):
        run = bridge.producer("run")
        for number in range(50):
            await run.publish("number", [worker, number])
        await run.flush()

    async with deadline(30):
        await asyncio.gather(*(work(worker) for worker in range(8)))
    await bridge.publish_end("run")
    events = await replay(bridge, "run")
    assert seqs(events) == list(range(1, 401))
    for worker in range(8):
        mine = [number for who, number in data(events) if who == worker]
        assert mine == list(range(50))


async def test_the_handle_learns_that_the_run_is_asked_to_stop(bridge, sync_bridge, in_thread):
    run = bridge.producer("run")
    sync_run = await in_thread(sync_bridge.producer, "run")
    assert not run.cancel_requested
    await run.publish("number", 1)
    await run.flush()
    assert not run.cancel_requested
    await bridge.request_cancel("run")

    def sync_publish():
        sync_run.publish("number", 2)
        sync_run.flush()
        return sync_run.cancel_requested

    await run.publish("number", 3)
    await run.flush()
    assert run.cancel_requested
    assert await in_thread(sync_publish)


# Sync


async def test_the_sync_handle_ends_the_run_with_success(bridge, sync_bridge, in_thread):
    def work():
        with sync_bridge.producer("run") as run:
            for number in range(1, 2001):
                run.publish("number", number)
                if number == 1000:
                    run.flush()
                    assert sync_bridge.get_run("run").head == 1000

    async with client(bridge, "run") as live:
        async with deadline(30):
            await in_thread(work)
        assert seqs(await live.rest()) == list(range(1, 2001))
    assert (await bridge.get_run("run")).status == "success"


async def test_the_sync_handle_passes_exceptions_on(bridge, sync_bridge, in_thread):
    def work():
        with sync_bridge.producer("run") as run:
            run.publish("number", 1)
            raise KeyError("missing")

    with pytest.raises(KeyError):
        await in_thread(work)
    assert (await bridge.get_run("run")).status == "error"
    assert (await replay(bridge, "run"))[-1].data == {"error": "KeyError", "message": "'missing'"}


async def test_after_its_block_a_sync_handle_accepts_nothing(bridge, sync_bridge, in_thread):
    def work():
        with sync_bridge.producer("run") as run:
            run.publish("number", 1)
        with pytest.raises(RunEnded):
            run.publish("number", 2)

    await in_thread(work)
    assert data(await replay(bridge, "run")) == [1]


async def test_an_interrupted_sync_handle_ends_the_run_cancelled(bridge, sync_bridge, in_thread):
    def work():
        try:
            with sync_bridge.producer("run"):
                raise KeyboardInterrupt
        except KeyboardInterrupt:  # which would end the test run
            return "interrupted"

    assert await in_thread(work) == "interrupted"
    assert (await bridge.get_run("run")).status == "cancelled"


async def test_run_ended_surfaces_in_the_sync_handle(bridge, sync_bridge, in_thread):
    def work():
        run = sync_bridge.producer("run")
        run.publish("late", 1)
        run.flush()

    await bridge.publish_end("run")
    with pytest.raises(RunEnded):
        await in_thread(work)


# Backpressure


class Gate:
    """Holds every commit of the bridge's writer until it is opened."""

    def __init__(self, bridge, monkeypatch):
        self.opened = threading.Event()
        self.reached = threading.Event()
        append = bridge.writer._append

        def held(writes):
            self.reached.set()
            self.opened.wait(30)  # or the test has failed, and its threads must end
            return append(writes)

        monkeypatch.setattr(bridge.writer, "_append", held)


@pytest.fixture
def small_bridge(stack, settings):
    settings.STREAMBRIDGE = {**settings.STREAMBRIDGE, "PRODUCER_BUFFER": 10}
    return get_bridge()


@pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)
async def test_publishing_waits_while_the_buffer_is_full(small_bridge, monkeypatch):
    bridge = small_bridge
    gate = Gate(bridge, monkeypatch)
    async with deadline(), bridge.producer("run") as run:
        for number in range(1, 11):
            await run.publish("number", number)
        waiting = [asyncio.create_task(run.publish("number", number)) for number in (11, 12)]
        done, _ = await asyncio.wait(waiting, timeout=0.1)
        assert not done
        waiting[0].cancel()  # it has accepted nothing
        gate.opened.set()
        await waiting[1]
    assert data(await replay(bridge, "run")) == [*range(1, 11), 12]
    await bridge.close()


@pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)
async def test_the_sync_handle_waits_too(small_bridge, in_thread, monkeypatch):
    bridge, accepted = small_bridge, []
    gate = Gate(bridge, monkeypatch)

    def work():
        with get_sync_bridge().producer("run") as run:
            for number in range(1, 31):
                run.publish("number", number)
                accepted.append(number)

    working = asyncio.ensure_future(in_thread(work))
    await async_wait_until(lambda: len(accepted) == 10, 20, "a full buffer")
    done, _ = await asyncio.wait([working], timeout=0.1)
    assert not done
    assert len(accepted) == 10
    gate.opened.set()
    async with deadline():
        await working
    assert data(await replay(bridge, "run")) == list(range(1, 31))
    await bridge.close()


@pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)
async def test_a_producer_that_has_much_does_not_keep_others_waiting(stack, settings, monkeypatch):
    settings.STREAMBRIDGE = {**settings.STREAMBRIDGE, "PRODUCER_BUFFER": 20_000}
    bridge = get_bridge()
    gate = Gate(bridge, monkeypatch)
    held, commits = bridge.writer._append, []

    def noted(writes):
        commits.append([write.run_id for write in writes])
        return held(writes)

    monkeypatch.setattr(bridge.writer, "_append", noted)
    first = asyncio.create_task(publish(bridge, "first", 1))
    async with deadline(30), bridge.producer("much") as much:
        await asyncio.to_thread(gate.reached.wait)
        for number in range(5000):
            await much.publish("number", number)
        late = asyncio.create_task(publish(bridge, "late", 1))
        await asyncio.sleep(0)  # it stands in the queue
        gate.opened.set()
        await asyncio.gather(first, late)
    assert "late" in [run_id for commit in commits[:3] for run_id in commit]
    await bridge.close()


@pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)
async def test_commits_are_shared_by_all_who_wait(bridge, monkeypatch):
    sizes = []
    append = bridge.writer._append
    monkeypatch.setattr(
        bridge.writer, "_append", lambda writes: sizes.append(len(writes)) or append(writes)
    )
    async with deadline():
        await asyncio.gather(*(publish(bridge, f"run-{number}", 3) for number in range(50)))
    assert sum(sizes) == 150
    assert len(sizes) < 75


@pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)
async def test_one_failed_run_does_not_fail_the_others_of_its_commit(bridge, monkeypatch):
    append = exactly_once.append

    def fail_for_one(writes, *args):
        if any(write.run_id == "bad" for write in writes):
            raise ValueError("no such luck")
        return append(writes, *args)

    monkeypatch.setattr(exactly_once, "append", fail_for_one)
    async with deadline():
        results = await asyncio.gather(
            *(bridge.publish(run_id, "number", 1) for run_id in ("one", "bad", "two")),
            return_exceptions=True,
        )
    assert results[0] is results[2] is None
    assert isinstance(results[1], ValueError)


@pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)
async def test_a_commit_that_cannot_be_announced_is_still_a_commit(bridge, monkeypatch):
    monkeypatch.setattr(bridge.writer, "_announce", lambda written: 1 / 0)
    async with deadline():
        await publish(bridge, "run", 2)
        await bridge.publish_end("run")
    assert data(await replay(bridge, "run")) == [1, 2]


@pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)
async def test_a_cancelled_publish_leaves_the_others_alone(bridge, monkeypatch):
    gate = Gate(bridge, monkeypatch)
    publishing = [asyncio.create_task(bridge.publish("run", "number", n)) for n in (1, 2, 3)]
    async with deadline():
        await asyncio.to_thread(gate.reached.wait)
        publishing[1].cancel()
        gate.opened.set()
        results = await asyncio.gather(*publishing, return_exceptions=True)
    assert results[0] is results[2] is None
    assert isinstance(results[1], asyncio.CancelledError)
    await bridge.publish_end("run")
    assert set(data(await replay(bridge, "run"))) >= {1, 3}
