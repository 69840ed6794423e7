"""A producer that takes a run over is its only one."""

import asyncio

import pytest

from streambridge_app.exceptions import ProducerFenced
from tests.contract.clients import data, deadline, replay
from tests.services import async_wait_until


async def test_earlier_producer_is_fenced_and_does_not_end_the_run(bridge):
    async with bridge.producer("run", take_over=True) as new:
        with pytest.raises(ProducerFenced, match="taken"):  # noqa: PT012 - anywhere in the block
            async with bridge.producer("run") as old:
                await old.publish("number", 1)
                await old.flush()
                await new.__aenter__()  # takes it over once more
                await old.publish("number", 2)
                await old.flush()
        assert (await bridge.get_run("run")).status == "running"
        await new.publish("number", 3)
    state = await bridge.get_run("run")
    assert (state.status, state.generation) == ("success", 2)
    assert data(await replay(bridge, "run")) == [1, 3]


async def test_earlier_producer_without_work_is_fenced_at_its_end(bridge):
    with pytest.raises(ProducerFenced):
        async with bridge.producer("run"):
            await bridge.producer("run", take_over=True).__aenter__()
    assert (await bridge.get_run("run")).status == "running"


async def test_earlier_producer_is_fenced_after_the_end_as_well(bridge):
    with pytest.raises(ProducerFenced):
        async with bridge.producer("run"), bridge.producer("run", take_over=True) as new:
            await new.publish("number", 1)
    assert (await bridge.get_run("run")).status == "success"


async def test_earlier_producer_that_fails_does_not_end_the_run(bridge):
    with pytest.raises(ValueError, match="wrong") as caught:  # noqa: PT012 - all of the block
        async with bridge.producer("run"):
            await bridge.producer("run", take_over=True).__aenter__()
            raise ValueError("wrong")
    assert "taken" in caught.value.__notes__[0]
    state = await bridge.get_run("run")
    assert (state.status, state.head) == ("running", 0)


async def test_idle_producer_learns_that_it_is_fenced(bridge):
    old = bridge.producer("run")
    await old.__aenter__()
    await old.flush()
    await bridge.producer("run", take_over=True).__aenter__()

    async def fenced():
        try:
            await old.flush()
        except ProducerFenced:
            return True

    await async_wait_until(fenced, 10, "the idle producer to know")
    with pytest.raises(ProducerFenced):
        await old.publish("number", 1)


async def test_handles_share_a_run(bridge):
    one, other = bridge.producer("run"), bridge.producer("run")
    for handle in (one, other):
        await handle.__aenter__()
    for number, handle in enumerate((one, other, one)):
        await handle.publish("number", number)
        await handle.flush()
    state = await bridge.get_run("run")
    assert (state.head, state.generation) == (3, 0)


async def test_publishing_without_a_handle_is_never_fenced(bridge):
    async with bridge.producer("run", take_over=True):
        await bridge.publish("run", "number", 1)
    assert data(await replay(bridge, "run")) == [1]


async def test_one_of_two_that_take_over_at_once_wins(bridge):
    handles = [bridge.producer("run", take_over=True) for _ in range(2)]

    async def work(number):
        async with handles[number] as run:
            await entered.wait()
            await run.publish("number", number)

    entered = asyncio.Barrier(2)
    async with deadline():
        results = await asyncio.gather(work(0), work(1), return_exceptions=True)
    (winner,) = data(await replay(bridge, "run"))
    assert results[winner] is None
    assert isinstance(results[1 - winner], ProducerFenced)
    assert (await bridge.get_run("run")).status == "success"


async def test_sync_producers_fence_each_other(bridge, sync_bridge, in_thread):
    def work():
        new = sync_bridge.producer("run", take_over=True)

        def work_of_old():
            with sync_bridge.producer("run") as old:
                old.publish("number", 1)
                old.flush()
                new.__enter__()
                old.publish("number", 2)
                old.flush()

        with pytest.raises(ProducerFenced):
            work_of_old()
        assert sync_bridge.get_run("run").status == "running"
        new.publish("number", 3)
        new.__exit__(None, None, None)

    await in_thread(work)
    assert data(await replay(bridge, "run")) == [1, 3]


async def test_next_incarnation_does_not_know_the_fence(bridge):
    await bridge.producer("run", take_over=True).__aenter__()
    await bridge.cleanup("run")
    async with bridge.producer("run") as run:
        await run.publish("number", 1)
    state = await bridge.get_run("run")
    assert (state.status, state.generation) == ("success", 0)
