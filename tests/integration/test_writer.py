"""When the writer commits: at once, or after a pause that lets more runs share the commit."""

import asyncio
import contextlib
import itertools
import os
import subprocess
import sys

import pytest

from streambridge_app import get_bridge, get_sync_bridge
from streambridge_app.exceptions import BridgeClosed, RunEnded
from streambridge_app.log import exactly_once
from streambridge_app.log.sql import sqlite
from streambridge_app.models import Event
from streambridge_app.publish import writer
from streambridge_app.publish.queue import COMMIT_EVENTS, COMMIT_SIZE
from tests.services import async_wait_until, spawn

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def commits(monkeypatch, settings):
    """Make every pause longer than the test may take; return the runs of each commit."""
    settings.STREAMBRIDGE = {}
    monkeypatch.setattr(writer, "PAUSE_PER_RUN", 600)
    monkeypatch.setattr(writer, "LONGEST_PAUSE", 600)
    found = []
    append = exactly_once.append

    def recorded(writes, *args):
        outcomes = append(writes, *args)
        found.append({write.run_id: len(write.names) for write in writes})
        return outcomes

    monkeypatch.setattr(exactly_once, "append", recorded)
    return found


@pytest.fixture
async def paused(commits):
    """A handle of a writer that pauses, since its last commit was for two runs."""
    bridge = get_bridge()
    one, other = bridge.producer("a"), bridge.producer("b")
    bridge.writer._draining = True  # so that both are there before the writer looks
    await one.publish("update", 1)
    await other.publish("update", 1)
    bridge.writer._threads.start(bridge.writer._drain)
    await async_wait_until(lambda: commits == [{"a": 1, "b": 1}], 10, "the first commit")
    commits.clear()
    return one


async def test_one_run_never_pauses(commits):
    async with get_bridge().producer("a") as run:
        for number in range(3):
            await run.publish("update", number)
            await async_wait_until(lambda: len(commits) == number + 1, 10, "a commit")  # noqa: B023


@pytest.mark.parametrize("may_share", [True, False])
async def test_rows_are_the_same_with_shared_values_and_without(commits, monkeypatch, may_share):
    monkeypatch.setattr(sqlite, "_may_share", may_share)
    bridge = get_bridge()
    handles = [bridge.producer(run_id) for run_id in ("a", "b")]
    for number in range(COMMIT_EVENTS + 90):
        for handle in handles[number % 3 == 0 :]:
            await handle.publish("update", number)
    for handle in handles:
        await handle.flush()
    for run_id, skipped in (("a", 3), ("b", None)):
        await bridge.publish_end(run_id)
        rows = Event.objects.filter(run__run_id=run_id).order_by("seq")
        found = [row async for row in rows]
        wanted = [n for n in range(COMMIT_EVENTS + 90) if skipped is None or n % skipped]
        assert [row.data for row in found] == [str(number) for number in wanted]
        assert [row.seq for row in found] == list(range(1, len(wanted) + 1))
        sizes = itertools.accumulate((len(row.data) for row in found), initial=0)
        assert [row.byte_offset for row in found] == list(sizes)[:-1]
        assert {row.event for row in found} == {"update"}
        assert all(row.created_at for row in found)


async def test_whoever_comes_while_the_thread_lingers_wakes_it(commits, monkeypatch):
    monkeypatch.setattr(writer, "LINGER", 600)
    bridge = get_bridge()
    handle = bridge.producer("a")
    for number in range(3):
        await handle.publish("update", number)
        await async_wait_until(lambda: len(commits) == number + 1, 10, "a commit")  # noqa: B023
        await async_wait_until(lambda: bridge.writer._idle, 10, "the thread to linger")
        await bridge.publish("b", "update", number)
        commits.pop()
        await async_wait_until(lambda: bridge.writer._idle, 10, "the thread to linger")
    await bridge.close()


async def test_the_thread_ends_when_nobody_comes(commits, monkeypatch):
    monkeypatch.setattr(writer, "LINGER", 0.001)
    bridge = get_bridge()
    for number in range(3):
        await bridge.publish("a", "update", number)
        await async_wait_until(lambda: not bridge.writer._draining, 10, "the thread to end")
    assert commits == [{"a": 1}] * 3


async def test_it_connects_when_a_handle_is_opened(commits):
    bridge = get_bridge()
    async with bridge.producer("a"):
        connections = bridge.writer._threads._connections
        await async_wait_until(
            lambda: connections and connections[0].connection is not None, 10, "the connection"
        )


async def test_many_runs_share_the_next_commit(commits, paused):
    await paused.publish("update", 2)
    await paused.publish("update", 3)
    await get_bridge().publish("c", "update", 1)
    assert commits == [{"a": 2, "c": 1}]


async def test_a_flush_ends_the_pause(commits, paused):
    await paused.publish("update", 2)
    assert commits == []
    await paused.flush()
    assert commits == [{"a": 1}]


async def test_a_whole_commit_ends_the_pause(commits, paused):
    for number in range(COMMIT_EVENTS):
        await paused.publish("update", number)
    await async_wait_until(lambda: commits == [{"a": COMMIT_EVENTS}], 10, "the commit")


async def test_what_did_not_fit_is_committed_at_once(commits, paused):
    bridge = get_bridge()
    handles = [bridge.producer(f"run{number}") for number in range(3)]
    for handle in handles:
        for number in range(COMMIT_EVENTS - 1):
            await handle.publish("update", number)
    await paused.publish("update", 1)
    await paused.flush()
    total = 3 * (COMMIT_EVENTS - 1) + 1
    await async_wait_until(
        lambda: sum(sum(commit.values()) for commit in commits) == total, 10, "all of it"
    )


@pytest.fixture
def held(commits):
    """Let the writer look at what is ready only when it is told to, by a call of this."""
    writer = get_bridge().writer
    writer._draining = True

    async def look() -> None:
        await asyncio.sleep(0)  # the tasks start
        writer._threads.start(writer._drain)

    return look


async def published():
    rows = Event.objects.order_by("run", "seq").values_list("data", flat=True)
    return [data async for data in rows]


async def test_publishers_of_a_run_share_a_slot_and_keep_their_order(commits, held):
    bridge = get_bridge()
    total = 2 * COMMIT_EVENTS + 10
    publishing = [
        asyncio.ensure_future(bridge.publish("a", "update", number)) for number in range(total)
    ]
    await held()
    await asyncio.gather(*publishing)
    assert [commit["a"] for commit in commits] == [COMMIT_EVENTS, COMMIT_EVENTS, 10]
    assert await published() == [str(number) for number in range(total)]


async def test_nobody_joins_a_slot_in_front_of_an_end_or_a_handle(commits, held):
    bridge = get_bridge()
    handle = bridge.producer("a")

    async def publish_in_turn():
        await asyncio.gather(
            bridge.publish("a", "update", 1),
            handle.publish("update", 2),
            bridge.publish("a", "update", 3),
            bridge.publish("a", "update", 4, key="four"),
            bridge.publish("a", "update", 5),
            bridge.publish_end("a"),
        )

    publishing = asyncio.ensure_future(publish_in_turn())
    await asyncio.sleep(0)
    late = asyncio.ensure_future(bridge.publish("a", "update", 6))
    await held()
    await publishing
    with pytest.raises(RunEnded):
        await late
    assert await published() == ["1", "2", "3", "4", "5"]


async def test_what_did_not_fit_is_not_overtaken(commits, held):
    bridge = get_bridge()
    total = COMMIT_EVENTS + 100
    publishing = [
        asyncio.ensure_future(bridge.publish(run_id, "update", number))
        for run_id, count in (("b", 10), ("a", total))
        for number in range(count)
    ]
    await asyncio.sleep(0)
    ending = asyncio.ensure_future(bridge.publish_end("a"))
    await held()
    await asyncio.gather(*publishing, ending)
    assert commits == [{"b": 10, "a": COMMIT_EVENTS - 10}, {"a": 110}]
    a_run = Event.objects.filter(run__run_id="a").order_by("seq").values_list("data", flat=True)
    assert [data async for data in a_run] == [str(number) for number in range(total)]


async def test_no_more_data_joins_a_slot_than_a_commit_should_have(commits, held):
    bridge = get_bridge()
    text = "x" * (COMMIT_SIZE // 8)
    publishing = [asyncio.ensure_future(bridge.publish("a", "update", text)) for _ in range(20)]
    await held()
    await asyncio.gather(*publishing)
    assert [commit["a"] for commit in commits] == [8, 8, 4]


async def test_a_cancelled_publisher_leaves_those_of_its_slot_alone(commits, held):
    bridge = get_bridge()
    publishing = [asyncio.ensure_future(bridge.publish("a", "update", n)) for n in range(3)]
    await asyncio.sleep(0)
    publishing[1].cancel()
    await held()
    await asyncio.gather(publishing[0], publishing[2])
    with pytest.raises(asyncio.CancelledError):
        await publishing[1]
    assert await published() == ["0", "1", "2"]


async def test_nobody_joins_a_slot_of_a_bridge_that_is_closed(commits, held):
    bridge = get_bridge()
    publishing = asyncio.ensure_future(bridge.publish("a", "update", 1))
    await asyncio.sleep(0)
    with bridge.writer._lock:  # so that the thread that closes comes no further
        bridge.writer._closed = True
        with pytest.raises(BridgeClosed):
            await bridge.publish("a", "update", 2)
    await held()
    await publishing
    assert await published() == ["1"]


async def test_loops_do_not_share_a_slot(commits):
    bridge = get_bridge()
    total = 200

    def publish_in_a_loop_of_its_own(first):
        async def publish_all():
            await asyncio.gather(
                *(bridge.publish("a", "update", first + number) for number in range(total))
            )

        asyncio.run(publish_all())

    await asyncio.gather(
        *(asyncio.to_thread(publish_in_a_loop_of_its_own, n * total) for n in range(4))
    )
    found = list(map(int, await published()))
    for first in range(0, 4 * total, total):
        own = [number for number in found if first <= number < first + total]
        assert own == list(range(first, first + total))


async def test_runs_with_more_than_a_commit_takes_get_their_turns(commits, held):
    bridge = get_bridge()
    publishing = [
        asyncio.ensure_future(bridge.publish(run_id, "update", number))
        for run_id, count in (("a", 3 * COMMIT_EVENTS), ("b", 10), ("c", COMMIT_EVENTS))
        for number in range(count)
    ]
    await held()
    await asyncio.gather(*publishing)
    rest = {"c": COMMIT_EVENTS - 10}
    whole = {"a": COMMIT_EVENTS}
    assert commits == [
        whole,
        {"b": 10, **rest},
        whole,
        {"c": 10, "a": COMMIT_EVENTS - 10},
        {"a": 10},
    ]


async def test_a_thread_that_does_not_start_leaves_nothing_in_the_queue(commits, monkeypatch):
    bridge = get_bridge()

    def no_thread(*args):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(bridge.writer._threads, "start", no_thread)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="new thread"):
                await bridge.publish("a", "update", 1)
    async with asyncio.timeout(20):
        await bridge.publish("a", "update", 2)
    assert await published() == ["2"]


def test_a_child_process_does_not_join_a_slot_of_its_parent(commits):
    bridge = get_bridge()
    bridge.writer._draining = True  # so that the slot stays in the queue
    with asyncio.Runner() as runner:

        async def give_up():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await bridge.publish("a", "update", 1)

        runner.run(give_up())
        child = os.fork()
        if child == 0:
            try:
                runner.run(asyncio.wait_for(bridge.publish("a", "update", 2), 10))
            except BridgeClosed:
                os._exit(0)
            finally:
                os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    bridge.writer._threads.start(bridge.writer._drain)


async def test_a_signal_may_publish_in_the_middle_of_a_publish(commits):
    run = get_bridge().producer("a")
    with run.pipeline._lock:  # as if its handler came here
        await run.publish("update", 1)
    await run.flush()
    assert commits == [{"a": 1}]


async def test_closing_ends_the_pause(commits, paused):
    await paused.publish("update", 2)
    await get_bridge().close()
    assert commits == [{"a": 1}]


def test_a_sync_flush_ends_the_pause(commits):
    bridge = get_sync_bridge()
    with bridge.producer("a") as one, bridge.producer("b") as other:
        for number in range(3):
            one.publish("update", number)
            other.publish("update", number)
            one.flush()
            other.flush()


@pytest.mark.parametrize("what", ["handle", "call"])
def test_a_signal_may_come_at_any_line_of_a_publish(tmp_path, what):
    process = spawn(
        [sys.executable, "-m", "tests.integration.apps.interrupted", what],
        env={
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3",
        },
        stdout=subprocess.PIPE,
    )
    output, _ = process.output()
    assert process.returncode == 0
    assert int(output) > 50
