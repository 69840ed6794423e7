"""A producer that releases its run leaves it to the next one, as a task does before a retry."""

import asyncio
import contextlib
import weakref

import pytest

from streambridge_app.exceptions import ProducerFenced, RunEnded
from streambridge_app.log import leases
from tests.contract.clients import client, collected, data, replay

LEASE = 1.0
SILENCE = 2.5
"""Seconds, more than two leases."""


@pytest.fixture(autouse=True)
def short_leases(stack, settings, monkeypatch):
    settings.STREAMBRIDGE = {**settings.STREAMBRIDGE, "LEASE_SECONDS": LEASE}
    monkeypatch.setattr(leases, "EXPIRY_GRACE", 0)


async def test_released_run_goes_on_with_the_next_producer(bridge):
    async with bridge.producer("run") as run:
        await run.publish("number", 1)
        await run.release(wait=60)
        assert data(await _events_so_far(bridge)) == [1]
    assert (await bridge.get_run("run")).status == "running"
    async with bridge.producer("run", take_over=True) as run:
        await run.publish("number", 2)
    assert (await bridge.get_run("run")).status == "success"
    assert data(await replay(bridge, "run")) == [1, 2]


async def test_sync_handle_releases_its_run(bridge, sync_bridge, in_thread):
    def work():
        with sync_bridge.producer("run") as run:
            run.publish("number", 1)
            run.release(wait=60)
            with pytest.raises(ProducerFenced, match="released"):
                run.publish("number", 2)

    await in_thread(work)
    state = await bridge.get_run("run")
    assert (state.status, state.head) == ("running", 1)


async def test_error_after_the_release_does_not_end_the_run(bridge):
    with pytest.raises(ValueError, match="again"):  # noqa: PT012 - all of the block
        async with bridge.producer("run") as run:
            await run.release()
            raise ValueError("again")
    assert (await bridge.get_run("run")).status == "running"


async def test_released_handle_accepts_nothing(bridge):
    async with bridge.producer("run") as run:
        await run.release(wait=60)
        for refused in (run.publish("number", 1), run.flush()):
            with pytest.raises(ProducerFenced, match="released"):
                await refused
    assert (await bridge.get_run("run")).head == 0


async def test_released_run_is_lost_when_nobody_claims_it(bridge):
    async with bridge.producer("run") as run:
        await run.release()
    (error,) = await replay(bridge, "run")
    assert error.data["error"] == "ProducerLost"


async def test_released_run_waits_as_long_as_it_is_asked_to(bridge):
    async with client(bridge, "run", heartbeat=SILENCE) as live:
        async with bridge.producer("run") as run:
            await run.release(wait=60)
        await bridge.publish("run", "number", 1)  # by another; the lease gets no shorter
        await live.take(1)
        await live.attached()  # a heartbeat: it was silent for so long
    assert (await bridge.get_run("run")).status == "running"


async def test_next_producer_has_a_lease_of_the_usual_length(bridge):
    async with bridge.producer("run") as run:
        await run.release(wait=60)
    following = bridge.producer("run", take_over=True)
    await following.__aenter__()
    forgotten = weakref.ref(following)
    del following
    await collected(forgotten)
    (error,) = await replay(bridge, "run")
    assert error.data["error"] == "ProducerLost"


async def test_release_of_a_fenced_handle_leaves_the_lease_of_the_other(bridge):
    old = bridge.producer("run")
    await old.__aenter__()
    new = bridge.producer("run", take_over=True)
    await new.__aenter__()
    with contextlib.suppress(ProducerFenced):  # who has published nothing need not know
        await old.release(wait=60)
    forgotten = weakref.ref(old), weakref.ref(new)
    del old, new
    for one in forgotten:
        await collected(one)
    (error,) = await replay(bridge, "run")
    assert error.data["error"] == "ProducerLost"


async def test_release_of_an_ended_run_says_so(bridge):
    with pytest.raises(RunEnded):  # noqa: PT012 - anywhere in the block
        async with bridge.producer("run") as run:
            await bridge.publish_end("run")
            await run.publish("number", 1)
            await run.release()


async def test_negative_wait_is_refused(bridge):
    async with bridge.producer("run") as run:
        with pytest.raises(ValueError, match="delay"):
            await run.release(wait=-1)
    assert (await bridge.get_run("run")).status == "success"


async def _events_so_far(bridge):
    async with client(bridge, "run") as live, asyncio.timeout(10):
        return await live.take(1)


async def test_the_wait_of_a_release_is_no_part_of_the_next_lease(bridge_with):
    async with bridge_with(LEASE_SECONDS=None) as bridge:
        await bridge.create_run("run", lease=2 * LEASE)
        async with bridge.producer("run") as run:
            await run.release(wait=60)
        following = bridge.producer("run", take_over=True)
        await following.__aenter__()
        await following.publish("number", 1)
        await following.flush()
        forgotten = weakref.ref(following)
        del following
        await collected(forgotten)
        _, error = await replay(bridge, "run")
        assert error.data["error"] == "ProducerLost"


async def test_the_wait_is_over_with_the_claim_of_a_handle_that_shares_the_run(bridge):
    async with bridge.producer("run") as run:
        await run.release(wait=60)
    following = bridge.producer("run")
    await following.__aenter__()
    await bridge.publish("run", "number", 1)  # by another: the lease is as long as usual again
    forgotten = weakref.ref(following)
    del following
    await collected(forgotten)
    _, error = await replay(bridge, "run")
    assert error.data["error"] == "ProducerLost"
