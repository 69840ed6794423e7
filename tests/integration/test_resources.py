"""What a process holds, and that it lets all of it go: threads, files, sessions, sockets."""

import asyncio
import contextlib
import gc
import logging
import os
import socket
import threading
import warnings
from typing import NamedTuple

import psycopg
import pytest
from django.conf import settings as django_settings
from django.test import override_settings

from streambridge_app import END_SENTINEL, get_bridge, get_sync_bridge
from streambridge_app.exceptions import BridgeClosed
from streambridge_app.wake import repeats
from tests.services import HOST, wait_until

LOOPS = 20
SAME = 5


class Held(NamedTuple):
    """What this process has beside what the tests need: compared before and after."""

    threads: tuple[str, ...]
    files: int
    sessions: int
    """Of PostgreSQL."""
    clients: int
    """Of Redis."""


@pytest.fixture
def held(stack, request, settings, monkeypatch):
    """Return a function that counts; once nothing is left of the tests before."""
    settings.STREAMBRIDGE = {**settings.STREAMBRIDGE, "READ_THREADS": 1}  # or they become more
    monkeypatch.setattr(repeats, "REPEAT_AFTER", 0.0)  # which opens a connection on core
    uses_servers = stack.database == "postgres"
    watcher = None
    if uses_servers:
        request.getfixturevalue("redis_server")
        watcher = psycopg.connect(
            host=HOST,
            port=django_settings.DATABASES["postgres"]["PORT"],
            user="postgres",
            dbname="postgres",
            autocommit=True,
        )
    _use_sync("opens the connections of the test itself")
    asyncio.run(_use("opens the files that SQLite keeps for the next connection"))
    get_sync_bridge().close()

    def count():
        gc.collect()
        sessions = clients = 0
        if watcher is not None:
            [(sessions,)] = watcher.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            ).fetchall()
            clients = _redis_clients()
        names = sorted(thread.name for thread in threading.enumerate())
        return Held(tuple(names), len(_open_files()), sessions, clients)

    yield count
    if watcher is not None:
        watcher.close()


def _open_files():
    """
    Return what this process has open, but the file of a database of SQLite.

    To close it would give up the locks of other connections, so SQLite keeps it for the next
    one. A connection that stays is seen by its file of the log that is written ahead.
    """
    paths = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # of the listing itself
            paths.append(os.readlink(f"/proc/self/fd/{name}"))
    return [path for path in paths if path != str(django_settings.SQLITE_FILE)]


def _redis_clients():
    with socket.create_connection((HOST, django_settings.REDIS_PORT), timeout=5) as connection:
        connection.sendall(b"CLIENT LIST\r\n")
        with connection.makefile("rb") as reply:
            size = int(reply.readline()[1:])
            lines = reply.read(size).splitlines()
    return len([line for line in lines if line and b"cmd=client" not in line])


@pytest.fixture
def quiet(caplog):
    """Fail on what asyncio complains about."""
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
    assert [record.getMessage() for record in caplog.records] == []


async def _use(run_id):
    """Publish in each way, and follow to the end."""
    bridge = get_bridge()
    await bridge.publish(run_id, "number", 1)
    async with bridge.producer(run_id) as run:
        await run.publish("number", 2)
    found = [item async for item in bridge.subscribe(run_id)]
    assert [item.data for item in found] == [1, 2, None]
    assert found[-1] is END_SENTINEL


def _use_sync(run_id):
    bridge = get_sync_bridge()
    bridge.publish(run_id, "number", 1)
    with bridge.producer(run_id) as run:
        run.publish("number", 2)
    assert [item.data for item in bridge.subscribe(run_id)] == [1, 2, None]


def _settled(held):
    """Return what is held once it stays the same."""
    counts = []

    def stays():
        counts.append(held())
        return len(counts) >= SAME and len(set(counts[-SAME:])) == 1

    wait_until(stays, 10, "what is held to stay the same")
    return counts[-1]


def _comes_back_to(held, before):
    """Wait until no more is held than before; of that, an earlier test may still let some go."""

    def too_much():
        now = held()
        return {
            name: (was, there)
            for name, was, there in zip(now._fields, before, now, strict=True)
            if there != was and (name == "threads" or there > was)
        }

    with contextlib.suppress(TimeoutError):
        wait_until(lambda: not too_much(), 10, "all to be let go")
    assert too_much() == {}


def _has_not_piled_up(held, before):
    """
    Wait until there is no more than before, but for less than what each of the loops would leave.

    Meanwhile a fixed thread of the bridge may have begun, with its connection: to watch, for one.
    """

    def growth():
        now = held()
        return [len(now.threads) - len(before.threads)] + [
            there - was for was, there in zip(before[1:], now[1:], strict=True)
        ]

    with contextlib.suppress(TimeoutError):
        wait_until(lambda: max(growth()) < LOOPS // 2, 10, "what loops leave to be let go")
    assert max(growth()) < LOOPS // 2, growth()


def test_a_closed_bridge_holds_nothing_and_the_next_use_starts_anew(held, quiet):
    before = _settled(held)
    for number in range(3):
        _use_sync(f"sync-{number}")
        asyncio.run(_use(f"async-{number}"))
        assert held() != before
        get_sync_bridge().close()
        _comes_back_to(held, before)


def test_a_bridge_that_is_closed_on_a_loop_holds_nothing(held, quiet):
    before = _settled(held)

    async def use_and_close():
        await _use("run")
        bridge = get_bridge()
        open_stream = bridge.subscribe("other", heartbeat_interval=0.01)
        await anext(open_stream)
        await bridge.close()
        with pytest.raises(BridgeClosed):
            [item async for item in open_stream]

    _use_sync("first")
    asyncio.run(use_and_close())
    _comes_back_to(held, before)


def test_a_loop_that_ends_leaves_nothing(held, quiet):
    asyncio.run(_use("first"))
    before = _settled(held)
    for number in range(LOOPS):
        asyncio.run(_use(f"run-{number}"))
    _has_not_piled_up(held, before)


def test_a_loop_that_ends_with_open_streams_leaves_nothing(held, quiet):
    async def leave_open(run_id):
        bridge = get_bridge()
        await bridge.publish(run_id, "number", 1)
        events = bridge.subscribe(run_id)
        assert (await anext(events)).data == 1
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        return waiting

    asyncio.run(leave_open("first"))
    before = _settled(held)
    for number in range(LOOPS):
        asyncio.run(leave_open(f"run-{number}"))
    _has_not_piled_up(held, before)


def test_clients_of_a_loop_whose_tasks_were_all_cancelled_are_served(stack):
    async def follow_after_a_massacre():
        await _use("before")
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        async with asyncio.timeout(10):
            await _use("after")

    asyncio.run(follow_after_a_massacre())


@pytest.mark.parametrize("changed", ["STREAMBRIDGE", "CHANNEL_LAYERS", "DATABASES"])
def test_a_changed_setting_lets_all_go(held, quiet, changed):
    before = _settled(held)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Django warns of DATABASES
        for number in range(3):
            _use_sync(f"run-{number}")
            with override_settings(**{changed: getattr(django_settings, changed)}):
                _comes_back_to(held, before)


def test_a_setting_that_changes_on_a_running_loop_lets_all_go(held, quiet):
    before = _settled(held)

    async def change(run_id):
        await _use(run_id)
        with override_settings(STREAMBRIDGE=django_settings.STREAMBRIDGE):
            pass  # and the loop ends

    for number in range(3):
        asyncio.run(change(f"run-{number}"))
        _comes_back_to(held, before)
