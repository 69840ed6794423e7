"""The life of a subscription over a source whose every step the test decides."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from streambridge_app.contract.batch import Batch
from streambridge_app.contract.cursor import Unreadable
from streambridge_app.contract.items import HEARTBEAT, End, Gap
from streambridge_app.contract.runs import ERROR, LOST, RUNNING, SUCCESS, RunHead
from streambridge_app.exceptions import InvalidCursor, LogUnavailable
from streambridge_app.follow import subscription as module
from streambridge_app.follow.subscription import follow
from streambridge_app.runtime.timer import resolve
from tests.services import TIMEOUT_SCALE, async_wait_until

NEVER = 3600.0


class Source:
    """A run that changes when the test says so. Reads of the log are noted."""

    def __init__(self, run=None, *, page=3):
        self.run = run
        self.page = page
        self.reads = []
        self.refreshes = 0
        self.in_memory_after = None
        self.before_read = self.before_refresh = None
        self.entered = 0
        self._waiter = None

    @contextlib.contextmanager
    def open(self):
        self.entered += 1
        try:
            yield self
        finally:
            self.entered -= 1

    def show(self, run):
        self.run = run
        if self._waiter is not None:
            resolve(self._waiter)

    async def refresh(self):
        self.refreshes += 1
        if self.before_refresh:
            await self.before_refresh()

    def newest(self, key, seq):
        if self.in_memory_after is None or seq < self.in_memory_after:
            return None
        return [batch(seq + 1, self.run.head)]

    async def read(self, key, epoch, seq):
        self.reads.append(seq)
        if self.before_read:
            await self.before_read()
        if self.run is None or self.run.key != key or seq >= self.run.head:
            return None
        first = max(seq, self.run.floor) + 1
        return batch(first, min(first + self.page - 1, self.run.head))

    async def changed(self, alarm, seconds):
        self._waiter = alarm.wait(seconds)
        await self._waiter


def run(head, *, floor=0, status=RUNNING, key=1, epoch=500):
    return RunHead(key, epoch, head, floor, status)


def batch(first, last):
    seqs = range(first, last + 1)
    return Batch(500, first, ["n"] * len(seqs), [str(seq) for seq in seqs])


class Follower:
    def __init__(self, source, cursor=None, heartbeat=NEVER):
        self._items = follow(source.open, cursor, heartbeat)

    async def next(self):
        async with asyncio.timeout(5 * TIMEOUT_SCALE):
            item = await anext(self._items)
        return [(one.first, one.last) for one in item] if isinstance(item, list | tuple) else item

    async def rest(self):
        items = []
        with contextlib.suppress(StopAsyncIteration):
            while True:
                items.append(await self.next())
        return items

    async def close(self):
        await self._items.aclose()


async def test_a_run_that_has_ended_is_read_page_by_page():
    source = Source(run(7, status=SUCCESS))
    assert await Follower(source).rest() == [
        [(1, 3)],
        [(4, 6)],
        [(7, 7)],
        End(SUCCESS, "500-8"),
    ]
    assert source.reads == [0, 3, 6]


async def test_what_is_in_memory_is_not_read():
    source = Source(run(7, status=SUCCESS))
    source.in_memory_after = 3
    assert await Follower(source).rest() == [[(1, 3)], [(4, 7)], End(SUCCESS, "500-8")]
    assert source.reads == [0]


async def test_the_source_is_refreshed_before_anything_is_decided():
    source = Source(run(2))

    async def newer():
        source.run = run(5, status=SUCCESS)

    source.before_refresh = newer
    assert await Follower(source, "500-5").rest() == [End(SUCCESS, "500-6")]


async def test_live_events_follow_and_then_the_end():
    source = Source(run(1))
    follower = Follower(source)
    assert await follower.next() == [(1, 1)]
    source.show(run(3))
    assert await follower.next() == [(2, 3)]
    source.show(run(3, status=ERROR))
    assert await follower.rest() == [End(ERROR, "500-4")]


async def test_an_end_with_new_events_comes_after_them():
    source = Source(run(1))
    follower = Follower(source)
    await follower.next()
    source.show(run(2, status=SUCCESS))
    assert await follower.rest() == [[(2, 2)], End(SUCCESS, "500-3")]


async def test_an_ended_run_without_events_has_an_end_with_a_position():
    assert await Follower(Source(run(0, status=SUCCESS))).rest() == [End(SUCCESS, "500-1")]


@pytest.mark.parametrize("cursor", ["500-3", "500-4"])
async def test_who_has_everything_or_even_the_end_still_gets_the_end(cursor):
    source = Source(run(3, status=SUCCESS))
    assert await Follower(source, cursor).rest() == [End(SUCCESS, "500-4")]
    assert source.reads == []


async def test_the_cursor_of_an_end_that_has_not_come_is_a_gap():
    follower = Follower(Source(run(3)), "500-4")
    assert await follower.next() == Gap("500-4", "500-1", "500-3", "500-0")
    await follower.close()


@pytest.mark.parametrize("in_memory", [True, False])
async def test_the_end_of_a_run_that_failed_says_why(in_memory):
    source = Source(run(3, status=ERROR), page=9)
    error = {"error": "KeyError", "message": "'x'"}
    failed = Batch(500, 3, ["error"], [json.dumps(error)])
    if in_memory:
        source.newest = lambda key, seq: [failed]
    else:
        source.read = answering(failed)
    assert await Follower(source, "500-3").rest() == [End(ERROR, "500-4", error)]


@pytest.mark.parametrize(
    "last",
    [
        Batch(500, 3, ["n"], ["1"]),
        Batch(500, 3, ["error"], ['"of my own"']),
        Batch(500, 3, ["error"], ['{"error":"X","message":"Y","more":1}']),
        None,
    ],
)
async def test_an_end_makes_no_reason_up(last):
    source = Source(run(3, status=ERROR))
    source.read = answering(last)
    assert await Follower(source, "500-3").rest() == [End(ERROR, "500-4")]


def answering(page):
    async def read(key, epoch, seq):
        assert seq == 2
        return page

    return read


async def test_now_skips_what_is_there():
    source = Source(run(5))
    follower = Follower(source, "now")
    waiting = asyncio.create_task(follower.next())
    await asyncio.sleep(0.01)
    source.show(run(6))
    assert await waiting == [(6, 6)]
    assert source.reads == [5]
    await follower.close()


async def test_now_of_a_run_that_is_made_later_is_its_start():
    source = Source(None)
    follower = Follower(source, "now")
    waiting = asyncio.create_task(follower.next())
    await asyncio.sleep(0.01)
    source.show(run(2))
    assert await waiting == [(1, 2)]
    await follower.close()


async def test_a_trimmed_start_is_a_gap_without_a_request():
    items = await Follower(Source(run(5, floor=3, status=SUCCESS))).rest()
    assert items == [Gap(None, "500-4", "500-5", "500-3"), [(4, 5)], End(SUCCESS, "500-6")]


@pytest.mark.parametrize("cursor", ["499-1", "500-2", "500-7", Unreadable("undefined")])
async def test_a_cursor_that_cannot_be_honoured_is_a_gap(cursor):
    items = await Follower(Source(run(5, floor=3, status=SUCCESS)), cursor).rest()
    assert items == [Gap(str(cursor), "500-4", "500-5", "500-3"), [(4, 5)], End(SUCCESS, "500-6")]


async def test_a_gap_of_which_nothing_is_left():
    items = await Follower(Source(run(5, floor=5, status=SUCCESS)), "500-2").rest()
    assert items == [Gap("500-2", None, "500-5", "500-5"), End(SUCCESS, "500-6")]


async def test_what_is_trimmed_while_it_is_read_becomes_a_gap():
    source = Source(run(9, status=SUCCESS))
    follower = Follower(source)
    assert await follower.next() == [(1, 3)]
    source.run = run(9, floor=6, status=SUCCESS)
    assert await follower.rest() == [
        Gap("500-3", "500-7", "500-9", "500-6"),
        [(7, 9)],
        End(SUCCESS, "500-10"),
    ]


async def test_everything_that_is_trimmed_while_it_is_read_becomes_a_gap():
    source = Source(run(9, status=SUCCESS))
    follower = Follower(source)
    await follower.next()
    source.run = run(9, floor=9, status=SUCCESS)
    source.read = no_page
    assert await follower.rest() == [Gap("500-3", None, "500-9", "500-9"), End(SUCCESS, "500-10")]


async def no_page(key, epoch, seq):
    return None


async def test_what_is_missing_in_the_middle_becomes_a_gap():
    source = Source(run(9, status=SUCCESS))
    whole = source.read

    async def read(key, epoch, seq):
        return batch(6, 9) if 3 <= seq < 5 else await whole(key, epoch, seq)

    source.read = read
    assert await Follower(source).rest() == [
        [(1, 3)],
        Gap("500-3", "500-6", "500-9", "500-5"),
        [(6, 8)],
        [(9, 9)],
        End(SUCCESS, "500-10"),
    ]


async def test_what_is_missing_at_the_end_becomes_a_gap():
    source = Source(run(3))
    follower = Follower(source)
    assert await follower.next() == [(1, 3)]
    whole, source.read = source.read, no_page
    source.show(run(5))
    assert await follower.next() == Gap("500-3", None, "500-5", "500-5")
    source.read = whole
    source.show(run(7, status=SUCCESS))
    assert await follower.rest() == [[(6, 7)], End(SUCCESS, "500-8")]


async def test_what_is_written_while_nothing_is_found_is_not_passed_over():
    source = Source(run(3))
    whole = source.read

    async def more():
        source.run = run(5, status=SUCCESS)
        source.read = whole

    async def nothing(key, epoch, seq):
        source.before_refresh = more
        return

    source.read = nothing
    follower = Follower(source)
    assert await follower.next() == Gap("500-0", None, "500-5", "500-3")
    assert await follower.rest() == [[(4, 5)], End(SUCCESS, "500-6")]


async def test_a_deleted_run_ends_lost():
    source = Source(run(2))
    follower = Follower(source)
    await follower.next()
    source.show(None)
    assert await follower.rest() == [End(LOST, "500-3")]


async def test_a_deleted_run_that_had_ended_keeps_its_status_and_shows_the_gap():
    source = Source(run(5, status=SUCCESS))
    follower = Follower(source)
    assert await follower.next() == [(1, 3)]
    source.show(None)
    assert await follower.rest() == [Gap("500-3", None, "500-5"), End(SUCCESS, "500-6")]


async def test_a_run_that_was_made_again_ends_the_followers_of_the_old_one():
    source = Source(run(2))
    follower = Follower(source)
    await follower.next()
    source.show(run(7, key=2, epoch=501))
    assert await follower.rest() == [End(LOST, "500-3")]


async def test_silence_brings_heartbeats():
    source = Source(run(0))
    follower = Follower(source, heartbeat=0.01)
    assert [await follower.next() for _ in range(3)] == [HEARTBEAT] * 3
    source.show(run(1))
    assert await follower.next() == [(1, 1)]
    await follower.close()


async def test_changes_that_say_nothing_do_not_put_heartbeats_off():
    source = Source(run(0))
    follower = Follower(source, heartbeat=0.05)
    waiting = asyncio.create_task(follower.next())
    floor = 0
    while not waiting.done():
        source.show(run(0, floor=floor))
        await asyncio.sleep(0.01)
    assert await waiting is HEARTBEAT
    await follower.close()


async def test_a_log_that_hangs_brings_heartbeats_and_then_the_events():
    source, answered = Source(run(1, status=SUCCESS)), asyncio.Event()
    source.before_refresh = source.before_read = answered.wait
    follower = Follower(source, heartbeat=0.01)
    assert await follower.next() is HEARTBEAT
    assert await follower.next() is HEARTBEAT
    answered.set()
    assert await follower.rest() == [[(1, 1)], End(SUCCESS, "500-2")]
    assert source.refreshes == 1


async def test_a_log_that_fails_is_tried_again(monkeypatch):
    monkeypatch.setattr(module, "RETRY_DELAY", 0.01)
    source, failures = Source(run(1, status=SUCCESS)), iter([True] * 6)

    async def fail():
        if next(failures, False):
            raise LogUnavailable("not now")

    source.before_refresh = source.before_read = fail
    items = [item for item in await Follower(source).rest() if item is not HEARTBEAT]
    assert items == [[(1, 1)], End(SUCCESS, "500-2")]


async def test_another_error_of_the_log_goes_up():
    source = Source(run(1))

    async def fail():
        raise ZeroDivisionError

    source.before_read = fail
    with pytest.raises(ZeroDivisionError):
        await Follower(source).rest()
    assert source.entered == 0


async def test_a_wrong_cursor_goes_up_before_the_source_is_entered():
    source = Source(run(1))
    with pytest.raises(InvalidCursor):
        await Follower(source, "wrong").next()
    assert source.refreshes == 0


@pytest.mark.parametrize("where", ["refresh", "read", "wait"])
async def test_a_cancellation_at_any_await_leaves_nothing_behind(where):
    source, reached = Source(run(0 if where == "wait" else 1)), asyncio.Event()

    async def hang():
        reached.set()
        await asyncio.Event().wait()

    if where == "wait":
        source.changed = lambda alarm, seconds: hang()
    else:
        setattr(source, f"before_{where}", hang)
    before = asyncio.all_tasks()
    task = asyncio.create_task(Follower(source).rest())
    async with asyncio.timeout(5 * TIMEOUT_SCALE):
        await reached.wait()
        assert source.entered == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await async_wait_until(lambda: asyncio.all_tasks() == before, 5, "its tasks to end")
    assert source.entered == 0


async def test_closing_between_two_items_leaves_nothing_behind():
    source = Source(run(9))
    follower = Follower(source)
    await follower.next()
    assert source.entered == 1
    await follower.close()
    assert source.entered == 0
