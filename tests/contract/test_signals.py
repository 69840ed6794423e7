"""Signals: after the commit, once over all processes, and never in anybody's way."""

import contextlib

import pytest
from django.db import transaction

from streambridge_app import get_sync_bridge, signals
from streambridge_app.log import exactly_once
from streambridge_app.log.commit_times import commit_time
from streambridge_app.log.writes import Write
from tests.contract.clients import deadline
from tests.contract.conftest import DATABASE_STACKS
from tests.services import async_wait_until

on_databases = pytest.mark.parametrize("stack", DATABASE_STACKS, indirect=True)


@contextlib.contextmanager
def received():
    """Collect what the signals say, and whether the run was in the log by then."""
    got = []

    def receiver(signal, name):
        def receive(sender, run_id, epoch, status=None, **kwargs):
            got.append((name, run_id, status))

        signal.connect(receive, weak=False)
        return signal, receive

    names = ("run_started", "run_ended", "run_lost")
    connected = [receiver(getattr(signals, name), name) for name in names]
    try:
        yield got
    finally:
        for signal, receive in connected:
            signal.disconnect(receive)


async def test_a_run_starts_with_its_first_event_and_ends_once(bridge):
    with received() as got:
        await bridge.create_run("run")
        assert got == []
        await bridge.publish("run", "n", 1)
        await bridge.publish("run", "n", 2)
        await bridge.publish_end("run", status="cancelled")
        await bridge.publish_end("run")
        await async_wait_until(lambda: len(got) == 2, 5, "both signals")
    assert got == [("run_started", "run", None), ("run_ended", "run", "cancelled")]


async def test_a_handle_that_fails_is_an_end_with_its_error(bridge):
    with received() as got:
        with pytest.raises(ZeroDivisionError):
            async with bridge.producer("run") as run:
                await run.publish("n", 1 / 0)
        await async_wait_until(lambda: len(got) == 2, 5, "both signals")
    assert got == [("run_started", "run", None), ("run_ended", "run", "error")]


async def test_a_known_key_after_the_end_is_no_second_end(bridge):
    with received() as got:
        await bridge.publish("run", "n", 1, key="a")
        await bridge.publish_end("run")
        await bridge.publish("run", "n", 1, key="a")
        await bridge.publish("other", "n", 1)
        await async_wait_until(lambda: ("run_started", "other", None) in got, 5, "the last one")
    assert got.count(("run_ended", "run", "success")) == 1


async def test_a_receiver_that_raises_stops_nobody(bridge, caplog):
    def fail(**kwargs):
        raise RuntimeError("a receiver's own")

    signals.run_started.connect(fail)
    try:
        with received() as got:
            await bridge.publish("run", "n", 1)
            await async_wait_until(lambda: got, 5, "the other receiver")
        assert (await bridge.get_run("run")).head == 1
        assert "a receiver's own" in caplog.text
    finally:
        signals.run_started.disconnect(fail)


async def test_a_receiver_may_wait_for_what_it_publishes(bridge):
    def start_next(run_id, **kwargs):
        if run_id == "run":
            with get_sync_bridge().producer("next") as run:
                run.publish("n", 1)
                run.flush()

    signals.run_ended.connect(start_next)
    try:
        async with deadline():
            async with bridge.producer("run") as run:
                await run.publish("n", 1)
            assert [event.data async for event in bridge.subscribe("next") if event.id] == [1]
    finally:
        signals.run_ended.disconnect(start_next)


async def test_closing_the_bridge_waits_for_the_receivers(bridge):
    with received() as got:
        await bridge.publish_end("run")
        await bridge.close()
        assert got == [("run_ended", "run", "success")]


async def test_a_lost_run_is_told_twice(bridge):
    with received() as got:
        await bridge.create_run("run", lease=0.2)
        async with deadline():
            async for _ in bridge.subscribe("run"):
                pass
        await async_wait_until(lambda: len(got) == 3, 5, "the signals")
    assert sorted(got) == [
        ("run_ended", "run", "lost"),
        ("run_lost", "run", "lost"),
        ("run_started", "run", None),
    ]


@on_databases
async def test_inside_a_transaction_they_wait_for_its_commit(bridge, stack, in_thread):
    def work():
        with transaction.atomic(using=stack.database):
            get_sync_bridge().publish("run", "n", 1)
            get_sync_bridge().publish_end("run")
            assert got == []
        assert got == [("run_started", "run", None), ("run_ended", "run", "success")]
        with contextlib.suppress(ZeroDivisionError), transaction.atomic(using=stack.database):
            get_sync_bridge().publish("other", "n", 1)
            raise ZeroDivisionError
        assert len(got) == 2

    with received() as got:
        await in_thread(work)


@on_databases
async def test_an_end_that_is_found_after_its_connection_broke_is_told(bridge, stack, in_thread):
    await bridge.publish("run", "n", 1)

    def work():
        at = commit_time()
        end = Write("run", [], [], end="success")
        (first,) = exactly_once.append_once_more([end], stack.database, at)
        (again,) = exactly_once.append_once_more([end], stack.database, at)
        return first.ended, again.ended

    assert await in_thread(work) == (True, True)
