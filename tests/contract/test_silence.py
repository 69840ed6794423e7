"""The state of a run tells how long its producer has been silent, long before its lease is over."""

import asyncio
import sys

import pytest

from tests.conftest import STACKS
from tests.contract.test_leases import WORKER
from tests.services import async_wait_until, spawn

LIVING = 5.9
"""Seconds of silence of an idle handle, at most: it renews each 5, looking each 0.9."""

SOON = 30
"""Seconds, half of a lease, which used to be renewed after a third of it."""

on_two_stacks = pytest.mark.parametrize("stack", STACKS[1:3], indirect=True)


async def test_nobody_is_silent_before_the_first_producer_between_two_and_after_the_last(bridge):
    await bridge.publish("run", "number", 1)
    assert (await bridge.get_run("run")).silent_seconds is None
    await bridge.create_run("queued", lease=3600)
    assert (await bridge.get_run("queued")).silent_seconds is None
    async with bridge.producer("queued") as run:
        await run.publish("number", 1)
        await run.flush()
        assert (await bridge.get_run("queued")).silent_seconds < SOON
        await run.release(wait=3600)
        assert (await bridge.get_run("queued")).silent_seconds is None
    async with bridge.producer("queued"):
        assert (await bridge.get_run("queued")).silent_seconds < SOON
    assert (await bridge.get_run("queued")).silent_seconds is None


@on_two_stacks
async def test_idle_handle_is_heard_of_again(bridge):
    async def silence():
        return (await bridge.get_run("run")).silent_seconds

    async with bridge.producer("run") as run:
        await run.publish("number", 1)
        await run.flush()
        await async_wait_until(lambda: _later(silence, 3), SOON, "three seconds of silence")
        await async_wait_until(lambda: _sooner(silence, 3), SOON / 2, "the handle to be heard of")


@on_two_stacks
async def test_killed_worker_is_silent_while_its_run_goes_on(bridge, settings):
    process = spawn(
        [sys.executable, "-c", WORKER.format(settings=settings.STREAMBRIDGE)],
        env={"DJANGO_SETTINGS_MODULE": "tests.settings"},
    )
    try:
        events = bridge.subscribe("run", heartbeat_interval=60)
        async with asyncio.timeout(60):
            await anext(events)
        await events.aclose()
    finally:
        process.kill()
        process.wait()

    async def silence():
        run = await bridge.get_run("run")
        assert run.status == "running"
        return run.silent_seconds

    await async_wait_until(lambda: _later(silence, LIVING), SOON, "the silence to be noticed")


async def _later(silence, seconds):
    return await silence() > seconds


async def _sooner(silence, seconds):
    return await silence() < seconds
