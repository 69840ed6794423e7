"""The bridge of other people's tests: the contract again, in a transaction that never commits."""

import asyncio
import contextlib
import inspect
import itertools
import sqlite3
import threading
from collections.abc import Iterator
from types import ModuleType

import pytest
from asgiref.sync import async_to_sync
from django.db import OperationalError, connections, transaction
from django.dispatch import receiver
from django.test import TestCase
from pytest_django import Settings

from streambridge_app import END_SENTINEL, HEARTBEAT_SENTINEL, get_bridge, get_sync_bridge, log
from streambridge_app.backends.channel_layer import ChannelLayerBridge
from streambridge_app.exceptions import (
    BridgeClosed,
    CancelRequested,
    InsideTransaction,
    LogUnavailable,
    RunNotFound,
)
from streambridge_app.log import read
from streambridge_app.models import Event, Run
from streambridge_app.signals import run_ended, run_started
from streambridge_app.testing.bridges import clean_bridge
from tests.conftest import CHANNEL_LAYER, MEMORY, Stack
from tests.contract import (
    test_bad_input,
    test_cancel,
    test_cursor,
    test_data,
    test_end,
    test_fencing,
    test_heartbeat,
    test_keys,
    test_one_liners,
    test_order,
    test_runs,
    test_subscribe,
)
from tests.contract.clients import data, deadline


def _on(database: str) -> object:
    stack = Stack(CHANNEL_LAYER, database=database)
    return pytest.param(stack, id=database, marks=pytest.mark.django_db(databases=[database]))


@pytest.fixture(params=[_on("default"), _on("postgres")])
def stack(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Stack]:
    settings.STREAMBRIDGE = {"DATABASE": request.param.database}
    with clean_bridge(commits=False):
        yield request.param


ELSEWHERE = {
    "bridge_with",
    "in_thread",
    "prompt",
    "publish_by",
    "settings",
    "sweeping",
    "sync_bridge",
}
"""Fixtures of tests that need other threads, processes or settings."""

NOT_HERE = {
    "test_the_owner_may_be_a_user_or_a_key",  # by the async ORM, which has another transaction
    "test_a_backend_says_whether_other_processes_hear_of_it",
}


def _of_the_contract(module: ModuleType) -> dict[str, object]:
    """Return the tests of a module that follow one run on one loop, on every backend."""
    tests = {name: test for name, test in vars(module).items() if name.startswith("test_")}
    return {
        f"{name}_{module.__name__.rpartition('.')[2].removeprefix('test_')}": test
        for name, test in tests.items()
        if name not in NOT_HERE
        and inspect.iscoroutinefunction(test)
        and ELSEWHERE.isdisjoint(inspect.signature(test).parameters)
        and not any("stack" in mark.args[0] for mark in getattr(test, "pytestmark", ()))
    }


for _module in (
    *(test_bad_input, test_cancel, test_cursor, test_data, test_end, test_fencing, test_heartbeat),
    *(test_keys, test_one_liners, test_order, test_runs, test_subscribe),
):
    globals().update(_of_the_contract(_module))


def test_an_unknown_option_of_a_run_is_named(stack):
    with pytest.raises(TypeError, match="no option 'max_event'"):
        get_sync_bridge().create_run(max_event=1)
    assert not Run.objects.exists()


def test_sync_api_has_what_the_transaction_has(stack):
    bridge = get_sync_bridge()
    run_id = bridge.create_run(metadata={"title": "report"})
    with bridge.producer(run_id) as run:
        run.publish("number", 1)
        run.publish_all("number", [2, 3])
    assert data(bridge.subscribe(run_id)) == [1, 2, 3, None]
    assert data(bridge.events(run_id, limit=2)) == [1, 2]
    assert bridge.wait(run_id, timeout=5).status == "success"
    run = Run.objects.using(stack.database).get(run_id=run_id)
    assert (run.head, run.metadata) == (3, {"title": "report"})
    assert bridge.trim(run_id, keep=1) == 2
    assert Event.objects.using(stack.database).filter(run_id=run.pk).count() == 1
    bridge.cleanup(run_id)
    with pytest.raises(RunNotFound):
        bridge.get_run(run_id)


def test_wish_to_cancel_reaches_an_open_handle(stack):
    bridge = get_sync_bridge()
    with bridge.producer("run", raise_on_cancel=True) as run:
        bridge.request_cancel("run")
        assert run.cancel_requested
        with pytest.raises(CancelRequested):
            run.publish("number", 1)
        raising = bridge.producer("run")
        raising.__enter__()
        assert raising.cancel_requested


def test_block_of_the_code_under_test_is_still_one(stack):
    bridge = get_sync_bridge()
    handle = bridge.producer("handle")
    entered = bridge.producer("entered").__enter__()
    with transaction.atomic(using=stack.database):
        bridge.publish("run", "number", 1)
        with pytest.raises(InsideTransaction):
            bridge.producer("run")
        with pytest.raises(InsideTransaction):
            handle.__enter__()
        for call in (entered.flush, entered.release):
            with pytest.raises(InsideTransaction, match="A producer handle"):
                call()
        with pytest.raises(InsideTransaction, match="Ending a producer handle"):
            entered.__exit__(None, None, None)
        with pytest.raises(InsideTransaction):
            async_to_sync(get_bridge().publish)("run", "number", 2)
        transaction.set_rollback(True, using=stack.database)
    assert not bridge.run_exists("run")


def test_block_that_is_left_on_an_event_loop_keeps_its_own_error(stack):
    run = get_sync_bridge().producer("run").__enter__()
    error = ValueError("of the block")

    async def leave():
        run.__exit__(ValueError, error, None)

    async_to_sync(leave)()
    assert "'run' could not be ended" in error.__notes__[0]


def test_clean_bridge_within_a_clean_bridge_leaves_the_outer_one_as_it_was(stack):
    with clean_bridge(commits=False):
        get_sync_bridge().publish("run", "number", 1)
    with get_sync_bridge().producer("run") as run:
        run.publish("number", 2)
    assert data(get_sync_bridge().events("run")) == [1, 2]


def test_signals_are_sent_at_once_and_in_a_block_at_its_commit(stack):
    told = []

    @receiver((run_started, run_ended))
    def hear(sender, *, signal, run_id, **kwargs):
        assert get_sync_bridge().run_exists(run_id)
        told.append(signal)

    bridge = get_sync_bridge()
    bridge.publish("run", "number", 1)
    assert told == [run_started]
    with (
        TestCase.captureOnCommitCallbacks(using=stack.database, execute=True),
        transaction.atomic(using=stack.database),
    ):
        bridge.publish_end("run")
        assert told == [run_started]
    assert told == [run_started, run_ended]


def test_async_api_by_async_to_sync_is_in_the_transaction(stack):
    async def work():
        bridge = get_bridge()
        async with bridge.producer("run") as run:
            await run.publish("number", 1)
        return [event.data async for event in bridge.subscribe("run")]

    assert async_to_sync(work)() == [1, None]
    assert Run.objects.using(stack.database).get().head == 1


async def test_client_sees_what_comes_past_the_bridge(bridge, stack):
    await bridge.publish("run", "number", 1)
    events = bridge.subscribe("run")
    assert (await anext(events)).data == 1
    loop = asyncio.get_running_loop()
    asyncio._set_running_loop(None)  # as in a view of the same thread
    try:
        Run.objects.using(stack.database).update(status="success")
    finally:
        asyncio._set_running_loop(loop)
    async with deadline():
        assert await anext(events) is END_SENTINEL


async def test_closing_lets_clients_go(bridge):
    events = bridge.subscribe("run", heartbeat_interval=0.05)
    await anext(events)
    await bridge.close()
    async with deadline():
        with pytest.raises(BridgeClosed):
            _ = [event async for event in events]
    with pytest.raises(BridgeClosed):
        await bridge.publish("run", "number", 1)


def test_interrupted_call_leaves_nobody_behind(stack):
    class Interrupt(BaseException):
        pass

    @receiver(run_started)
    def interrupt(**kwargs):
        raise Interrupt

    with pytest.raises(Interrupt), get_sync_bridge().producer("run") as run:
        run.publish("number", 1)
    run_started.disconnect(interrupt)
    get_sync_bridge().publish("other", "number", 1)
    assert data(get_sync_bridge().events("other")) == [1]


HEARTBEATS = 200
"""So many, this often, are ten seconds for what takes less than one."""
INTERVAL = 0.05


@pytest.mark.parametrize("failing", ["first", "second"])
def test_look_that_failed_is_repeated_after_a_heartbeat(stack, monkeypatch, failing):
    heads, looks = read.heads, itertools.count(1)

    def unavailable_once(*args):
        if next(looks) == {"first": 1, "second": 2}[failing]:
            raise LogUnavailable("The table is locked.")
        return heads(*args)

    monkeypatch.setattr(read, "heads", unavailable_once)
    bridge = get_sync_bridge()
    events = bridge.subscribe("run", heartbeat_interval=INTERVAL)
    with contextlib.closing(events):
        assert next(events) is HEARTBEAT_SENTINEL
        bridge.publish("run", "number", 1)  # a call between two of the subscriber's
        for event in itertools.islice(events, HEARTBEATS):
            if event is not HEARTBEAT_SENTINEL:
                break
        assert event.data == 1


def test_generator_reads_on_the_thread_that_it_has_moved_to(stack, monkeypatch):
    asked = []

    def unavailable(*args):
        asked.append(threading.current_thread())
        raise LogUnavailable("The table is locked.")

    monkeypatch.setattr(read, "heads", unavailable)
    events = get_sync_bridge().subscribe("run", heartbeat_interval=INTERVAL)
    assert next(events) is HEARTBEAT_SENTINEL
    assert asked[0] is threading.current_thread()

    def follow():
        with contextlib.closing(events):
            for _ in itertools.islice(events, HEARTBEATS):
                if asked[-1] is other:
                    break
        connections.close_all()

    other = threading.Thread(target=follow)
    other.start()
    other.join()
    assert asked[-1] is other


def test_interrupted_read_ends_its_generator(stack, monkeypatch):
    class Interrupt(BaseException):
        pass

    def interrupt(*args):
        raise Interrupt

    bridge = get_sync_bridge()
    with monkeypatch.context() as patch:
        patch.setattr(read, "heads", interrupt)
        events = bridge.subscribe("run")
        with pytest.raises(Interrupt):
            next(events)
        assert list(events) == []
    bridge.publish("run", "number", 1)
    assert data(bridge.events("run")) == [1]


@pytest.mark.django_db(transaction=True)
def test_lock_in_memory_is_waited_for_outside_of_blocks(monkeypatch):
    state, refusals = log.state, [1, 2]

    def locked_at_first(*args):
        if refusals:
            refusals.pop()
            cause = sqlite3.OperationalError("database table is locked")
            cause.sqlite_errorcode = sqlite3.SQLITE_LOCKED_SHAREDCACHE
            raise OperationalError(*cause.args) from cause
        return state(*args)

    with clean_bridge(commits=False):
        bridge = get_sync_bridge()
        bridge.create_run("run")
        monkeypatch.setattr(log, "state", locked_at_first)
        assert bridge.run_exists("run")
        refusals.append(3)
        with transaction.atomic(), pytest.raises(LogUnavailable) as refused:
            bridge.get_run("run")
        assert "belongs to its thread" in refused.value.__notes__[0]


def test_memory_backend_begins_each_block_empty(settings):
    settings.STREAMBRIDGE = {"BACKEND": MEMORY}
    for _ in range(2):
        with clean_bridge(commits=False):
            assert not get_sync_bridge().run_exists("run")
            get_sync_bridge().publish("run", "number", 1)
            assert type(get_bridge()).__name__ == "MemoryBridge"


class OwnBridge(ChannelLayerBridge):
    """The backend of a project that has changed the default one."""


@pytest.mark.parametrize("set_by", ["the project", "the test"])
def test_own_backend_refuses_what_would_wait_for_the_test(db, settings, set_by):
    with contextlib.ExitStack() as block:
        if set_by == "the test":
            block.enter_context(clean_bridge(commits=False))
        settings.STREAMBRIDGE = {"BACKEND": f"{__name__}.OwnBridge"}
        if set_by == "the project":
            block.enter_context(clean_bridge(commits=False))
        with pytest.raises(InsideTransaction):
            get_sync_bridge().producer("run")
        with pytest.raises(InsideTransaction):
            async_to_sync(get_bridge().publish)("run", "number", 1)
        assert type(get_bridge()) is OwnBridge
