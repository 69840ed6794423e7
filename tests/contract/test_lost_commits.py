"""Clause 7: an append whose connection breaks is in the log once, or raises what is known of it."""

import asyncio
import socket
from collections.abc import Iterator

import pytest
from django.db import OperationalError, connections, transaction

from streambridge_app import get_sync_bridge, log
from streambridge_app.exceptions import LogUnavailable, RunEnded, RunNotFound
from streambridge_app.log import creation, exactly_once, retention
from streambridge_app.log.commit_times import commit_time
from streambridge_app.log.connections import CONNECTION_DEADLINES
from streambridge_app.log.sql import postgresql
from streambridge_app.log.writes import Write
from tests.contract.clients import client, data, deadline, publish, replay, seqs
from tests.contract.conftest import DATABASE_STACKS
from tests.proxy import PostgresProxy
from tests.services import HOST, async_wait_until

PUBSUB_POSTGRES = DATABASE_STACKS[1:2]

pytestmark = [
    pytest.mark.parametrize("stack", PUBSUB_POSTGRES, indirect=True),
    pytest.mark.usefixtures("stack"),
]

either_side = pytest.mark.parametrize("when", ["before", "after"])
"""The connection breaks before the statement reaches the server, or after its commit."""


@pytest.fixture
def proxy(stack, postgres_server, monkeypatch) -> Iterator[PostgresProxy]:
    """Stands between PostgreSQL and all connections that are opened from now on."""
    with PostgresProxy(postgres_server.port) as proxy:
        settings = {**connections.settings[stack.database], "PORT": proxy.port}
        monkeypatch.setitem(connections.settings, stack.database, settings)
        yield proxy


@either_side
async def test_publish_is_in_the_log_once(bridge_with, proxy, when):
    async with bridge_with() as bridge, client(bridge, "run") as live, deadline(20):
        await publish(bridge, "run", 3)
        for number in range(4, 10):
            proxy.cut(f'"cut {number}"', when)
            await bridge.publish("run", "number", f"cut {number}")
        await bridge.publish_end("run")
        events = await live.rest()
    assert seqs(events) == list(range(1, 10))
    assert data(events) == [1, 2, 3, *(f"cut {number}" for number in range(4, 10))]
    assert proxy.cuts == 6


@either_side
async def test_sync_publish_is_in_the_log_once(bridge_with, proxy, in_thread, when):
    def work():
        bridge = get_sync_bridge()
        for number in range(1, 6):
            proxy.cut(f'"cut {number}"', when)
            bridge.publish("run", "number", f"cut {number}")
        bridge.publish_end("run")

    async with bridge_with() as bridge, deadline(20):
        await in_thread(work)
        events = await replay(bridge, "run")
    assert data(events) == [f"cut {number}" for number in range(1, 6)]
    assert proxy.cuts == 5


@either_side
async def test_the_first_publish_of_a_run_makes_it_once(bridge_with, proxy, when):
    async with bridge_with() as bridge, deadline(20):
        proxy.cut("COMMIT", when)
        await bridge.publish("run", "number", 1)
        await bridge.publish_end("run")
        assert data(await replay(bridge, "run")) == [1]
    assert proxy.cuts == 1


@either_side
@pytest.mark.parametrize("error", [None, "it broke"])
async def test_an_end_is_written_once(bridge_with, proxy, when, error):
    async with bridge_with() as bridge, deadline(20):
        await publish(bridge, "run", 2)
        proxy.cut("it broke" if error else "cancelled", when)
        await bridge.publish_end("run", status="error" if error else "cancelled", error=error)
        assert len(await replay(bridge, "run")) == (3 if error else 2)
        assert (await bridge.get_run("run")).status == ("error" if error else "cancelled")
    assert proxy.cuts == 1


@either_side
async def test_an_event_and_the_end_of_one_commit_are_written_once(bridge_with, proxy, when):
    async with bridge_with() as bridge, deadline(20):
        await publish(bridge, "run", 1)
        proxy.cut('"cut"', when)
        bridge.writer._draining = True  # so that both are there before the writer looks
        publishing = asyncio.gather(
            bridge.publish("run", "number", "cut"), bridge.publish_end("run", status="cancelled")
        )
        await asyncio.sleep(0)
        bridge.writer._threads.start(bridge.writer._drain)
        await publishing
        assert data(await replay(bridge, "run")) == [1, "cut"]
        assert (await bridge.get_run("run")).status == "cancelled"
    assert proxy.cuts == 1


@either_side
async def test_a_handle_keeps_its_order(bridge_with, proxy, when):
    async with bridge_with(PRODUCER_BUFFER=16) as bridge, deadline(20):
        async with bridge.producer("run") as run:
            for number in range(1, 401):
                if number % 50 == 0:
                    await run.flush()
                    proxy.cut(f'"cut {number}"', when)
                await run.publish("number", f"cut {number}")
        events = await replay(bridge, "run")
    assert data(events) == [f"cut {number}" for number in range(1, 401)]
    assert proxy.cuts == 8


@either_side
async def test_a_commit_of_many_runs_is_in_all_their_logs_once(bridge_with, proxy, when):
    runs = [f"run {number}" for number in range(20)]
    async with bridge_with() as bridge, deadline(20):
        for run_id in runs[:10]:
            await bridge.create_run(run_id)
        proxy.cut('"cut 7"', when)
        await asyncio.gather(
            *(bridge.publish(run_id, "number", f"cut {n}") for n, run_id in enumerate(runs))
        )
        for number, run_id in enumerate(runs):
            await bridge.publish_end(run_id)
            assert data(await replay(bridge, run_id)) == [f"cut {number}"]
    assert proxy.cuts == 1


async def test_an_answer_that_is_lost_again_and_again_doubles_nothing(bridge_with, proxy):
    async with bridge_with() as bridge, deadline(20):
        await publish(bridge, "run", 1)
        # The second and third attempts look, and break at their COMMIT.
        proxy.cut('"cut"', "before")
        publishing = asyncio.create_task(bridge.publish("run", "number", "cut"))
        await async_wait_until(lambda: proxy.cuts, 10, "the cut")
        proxy.cut("COMMIT", "after", times=2)
        await publishing
        await bridge.publish_end("run")
        assert data(await replay(bridge, "run")) == [1, "cut"]
    assert proxy.cuts == 3


async def test_others_of_the_run_may_have_written_meanwhile(bridge_with, stack):
    at = commit_time()

    def work():
        ours = Write("run", ["n", "n"], ["1", "2"])
        log.append([ours], stack.database, at, {})
        log.append([Write("run", ["n"], ["3"], "success")], stack.database, commit_time(), {})
        (again,) = exactly_once.append_once_more([ours], stack.database, at)
        assert (again.batch.first, again.batch.last, again.status) == (1, 2, "success")
        (ended,) = exactly_once.append_once_more([ours], stack.database, commit_time())
        assert isinstance(ended, RunEnded)

    async with bridge_with() as bridge:
        await asyncio.to_thread(_closing, work)
        assert data(await replay(bridge, "run")) == [1, 2, 3]


async def test_a_commit_that_left_out_a_known_key_is_recognised(bridge_with, stack):
    first, second = commit_time(), commit_time()

    def work():
        log.append([Write("run", ["n"], ["1"], keys=["a"])], stack.database, first, {})
        mixed = Write("run", ["n"] * 3, ["1", "2", "3"], keys=["a", None, "b"])
        log.append([mixed], stack.database, second, {})
        (again,) = exactly_once.append_once_more([mixed], stack.database, second)
        assert (again.batch.first, again.batch.last) == (2, 3)
        assert log.state("run", stack.database).head == 3

    async with bridge_with():
        await asyncio.to_thread(_closing, work)


async def test_what_is_left_after_a_trim_is_recognised(bridge_with, stack):
    at = commit_time()

    def work():
        ours = Write("run", ["n"] * 5, ["1", "2", "3", "4", "5"])
        log.append([ours], stack.database, at, {})
        retention.trim("run", 2, stack.database)
        (again,) = exactly_once.append_once_more([ours], stack.database, at)
        assert (again.batch.first, again.batch.last) == (4, 5)
        # Another process's events of the same microsecond are not ours.
        theirs = Write("run", ["n"] * 5, ["1", "2", "3", "4", "6"])
        (other,) = exactly_once.append_once_more([theirs], stack.database, at)
        assert (other.batch.first, other.batch.last) == (6, 10)

    async with bridge_with():
        await asyncio.to_thread(_closing, work)


async def test_a_database_that_cannot_be_reached_is_waited_for(bridge_with, proxy):
    async with bridge_with() as bridge, deadline(20):
        await publish(bridge, "run", 1)
        proxy.refusing = True
        proxy.cut("2", "before")
        publishing = asyncio.create_task(bridge.publish("run", "number", 2))
        await async_wait_until(lambda: proxy.cuts, 10, "the cut")
        with pytest.raises(LogUnavailable):
            await asyncio.to_thread(_closing, get_sync_bridge().get_run, "run")
        assert not publishing.done()
        proxy.refusing = False
        await publishing
        await bridge.publish_end("run")
        assert data(await replay(bridge, "run")) == [1, 2]


async def test_after_retry_seconds_an_append_fails_and_has_not_written(bridge_with, proxy):
    proxy.refusing = True
    async with bridge_with(RETRY_SECONDS=0.3) as bridge, deadline(20):
        with pytest.raises(LogUnavailable) as caught:
            await bridge.publish("run", "number", 1)
        with pytest.raises(LogUnavailable):
            await asyncio.to_thread(_closing, get_sync_bridge().publish, "run", "number", 1)
    assert caught.value.written is False


async def test_a_server_that_does_not_answer_is_given_up(bridge_with, stack, monkeypatch):
    monkeypatch.setitem(CONNECTION_DEADLINES, "connect_timeout", 1)
    with socket.create_server((HOST, 0)) as silent:
        settings = {**connections.settings[stack.database], "PORT": silent.getsockname()[1]}
        monkeypatch.setitem(connections.settings, stack.database, settings)
        async with bridge_with(RETRY_SECONDS=0.3) as bridge, deadline(10):
            with pytest.raises(LogUnavailable, match="timeout"):
                await bridge.publish("run", "number", 1)


@either_side
async def test_after_retry_seconds_an_append_says_that_its_fate_is_unknown(
    bridge_with, proxy, when
):
    async with bridge_with(RETRY_SECONDS=0.3) as bridge, deadline(20):
        await publish(bridge, "run", 1)
        proxy.refusing = True
        proxy.cut('"cut"', when)
        with pytest.raises(LogUnavailable, match="not known") as caught:
            await bridge.publish("run", "number", "cut")
        assert caught.value.written is None


async def test_a_handle_fails_after_retry_seconds_with_a_bounded_buffer(bridge_with, proxy):
    accepted = 0
    async with bridge_with(RETRY_SECONDS=0.3, PRODUCER_BUFFER=8) as bridge, deadline(20):
        run = bridge.producer("run")
        await run.publish("number", 0)
        await run.flush()
        proxy.refusing = True
        proxy.cut('"cut"', "before")
        with pytest.raises(LogUnavailable):  # noqa: PT012 - some publish, when the time is over
            while True:
                await run.publish("number", "cut")
                accepted += 1
        with pytest.raises(LogUnavailable):
            await run.flush()
    assert accepted <= 9


async def test_closing_gives_up_what_cannot_be_written(bridge_with, proxy):
    async with bridge_with(RETRY_SECONDS=0.5) as bridge, deadline(20):
        await publish(bridge, "run", 1)
        proxy.refusing = True
        proxy.cut('"cut"', "before")
        publishing = [
            asyncio.create_task(bridge.publish("run", "number", "cut")) for _ in range(2000)
        ]
        await asyncio.sleep(0)
        publishing[0].cancel()
        async with deadline(5):  # 2000 events are 4 commits of RETRY_SECONDS each
            await bridge.close()
        outcomes = await asyncio.gather(*publishing, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes[1:]} == {LogUnavailable}


async def test_inside_a_transaction_nothing_is_tried_again(bridge_with, proxy, in_thread, stack):
    def work():
        bridge = get_sync_bridge()
        bridge.publish("run", "number", 1)
        attempts = proxy.cuts
        with pytest.raises(LogUnavailable) as caught, transaction.atomic(using=stack.database):  # noqa: PT012
            proxy.cut('"cut"', "before")
            bridge.publish("run", "number", "cut")
        assert caught.value.written is False
        assert proxy.cuts == attempts + 1
        bridge.publish("run", "number", 2)
        bridge.publish_end("run")

    async with bridge_with() as bridge, deadline(20):
        await in_thread(work)
        assert data(await replay(bridge, "run")) == [1, 2]


async def test_runs_of_a_first_commit_are_not_written_again_by_a_deadlock(
    bridge_with, stack, monkeypatch
):
    """An append that also makes a run has two commits, and the second may fail alone."""
    create = creation.create_missing
    left = [True]

    def deadlocked(*args):
        if left and left.pop():
            error = OperationalError("deadlock detected")
            error.__cause__ = _WithState("40P01")
            raise error
        create(*args)

    def work():
        writes = [Write("old", ["n"], ["1"]), Write("new", ["n"], ["2"])]
        create(["old"], stack.database)
        monkeypatch.setattr(creation, "create_missing", deadlocked)
        outcomes = exactly_once.Appender(stack.database, 10).append(writes)
        assert [outcome.batch.last for outcome in outcomes] == [1, 1]

    async with bridge_with():
        await asyncio.to_thread(_closing, work)


@pytest.mark.parametrize("sqlstate", ["26000", "42P05", "25006", "0A000", "53300", "57P01"])
async def test_a_connection_that_is_of_no_use_is_replaced(
    bridge_with, proxy, stack, monkeypatch, sqlstate
):
    advance = postgresql.advance
    left = [True]
    pids = []

    def failing(connection, *args):
        pids.append(connection.connection.info.backend_pid)
        if left and left.pop():
            with connection.cursor() as cursor:
                message = f"RAISE SQLSTATE '{sqlstate}'"
                cursor.execute(f"DO $$ BEGIN {message}; END $$")
        return advance(connection, *args)

    async with bridge_with() as bridge, deadline(20):
        await bridge.publish("run", "number", 1)
        monkeypatch.setattr(postgresql, "advance", failing)
        await bridge.publish("run", "number", 2)
        await bridge.publish_end("run")
        assert data(await replay(bridge, "run")) == [1, 2]
    assert pids[0] != pids[1]


async def test_readers_of_a_broken_connection_go_on(bridge_with, proxy):
    async with bridge_with(READ_THREADS=1) as bridge, deadline(20):
        await publish(bridge, "run", 1)
        await bridge.get_run("run")
        before = proxy.cuts
        proxy.cut("SELECT", "before", times=1)
        assert (await bridge.get_run("run")).head == 1
        assert proxy.cuts == before + 1


class _WithState(Exception):
    def __init__(self, sqlstate):
        self.sqlstate = sqlstate


def _closing(function, *args):
    """Call a function in a thread of its own, without leaving its connections."""
    try:
        return function(*args)
    finally:
        connections.close_all()


@either_side
async def test_a_handle_can_be_opened_over_a_broken_connection(bridge_with, proxy, when):
    async with bridge_with(READ_THREADS=1) as bridge, deadline(20):
        await bridge.create_run("run")
        before = proxy.cuts
        proxy.cut("generation = generation +", when)
        async with bridge.producer("run", take_over=True) as run:
            await run.publish("number", 1)
        assert proxy.cuts == before + 1
        assert data(await replay(bridge, "run")) == [1]
        assert (await bridge.get_run("run")).status == "success"


@either_side
async def test_a_wish_to_cancel_gets_over_a_broken_connection(bridge_with, proxy, when):
    async with bridge_with(READ_THREADS=1) as bridge, deadline(20):
        await bridge.create_run("run")
        before = proxy.cuts
        proxy.cut("cancel_requested_at", when)
        await bridge.request_cancel("run")
        assert proxy.cuts == before + 1
        assert (await bridge.get_run("run")).cancel_requested


@pytest.mark.parametrize(
    ("statement", "when"),
    [("delete_at", "before"), ("delete_at", "after"), ("FOR UPDATE", "before")],
)
async def test_a_deletion_gets_over_a_broken_connection(bridge_with, proxy, statement, when):
    async with bridge_with(READ_THREADS=1) as bridge, deadline(20):
        await publish(bridge, "run", 1)
        before = proxy.cuts
        proxy.cut(statement, when)
        await bridge.cleanup("run")
        assert proxy.cuts == before + 1
        with pytest.raises(RunNotFound):
            await bridge.get_run("run")
