"""Pages are read once for all who want them, a failure for nobody longer than needed."""

import asyncio

import pytest

from streambridge_app.contract.batch import Batch
from streambridge_app.exceptions import LogUnavailable
from streambridge_app.follow.pages import KEPT_PAGES, READ_AHEAD, Pages


class Log:
    """Events 1…head; a read waits until it is let through, and may fail."""

    def __init__(self, head: int) -> None:
        self.head = head
        self.reads: list[tuple[int, int]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None

    async def read(self, key: int, epoch: int, seq: int, limit: int) -> Batch | None:
        self.reads.append((seq, limit))
        await self.open.wait()
        if self.error is not None:
            raise self.error
        count = min(limit, self.head - seq)
        return Batch(epoch, seq + 1, ["n"] * count, ["1"] * count) if count > 0 else None


async def replay(pages: Pages, log: Log, seq: int, key: int = 1) -> int:
    while seq < log.head:
        page = await pages.read(key, 500, seq, log.head)
        assert page.first == seq + 1
        seq = page.last
        await asyncio.sleep(0)  # it is sent
    return seq


async def test_twenty_readers_read_each_page_once():
    log = Log(35)
    pages = Pages(log.read, 10)
    assert await asyncio.gather(*(replay(pages, log, 0) for _ in range(20))) == [35] * 20
    assert log.reads == [(0, 10), (10, 10), (20, 10), (30, 10)]


async def test_readers_that_began_elsewhere_soon_share():
    log = Log(40)
    pages = Pages(log.read, 10)
    await asyncio.gather(*(replay(pages, log, seq) for seq in (0, 3, 7)))
    assert sorted(log.reads) == [(0, 10), (3, 7), (7, 3), (10, 10), (20, 10), (30, 10)]


async def test_the_next_page_is_read_ahead_and_no_more_than_that():
    log = Log(100)
    pages = Pages(log.read, 10)
    await pages.read(1, 500, 0, log.head)
    await asyncio.sleep(0)
    assert log.reads == [(0, 10), (10, 10)]


async def test_readers_of_many_runs_read_each_page_once():
    log = Log(50)
    pages = Pages(log.read, 10)
    readers = range(2 * KEPT_PAGES)
    await asyncio.gather(*(replay(pages, log, 0, key) for key in readers))
    assert len(log.reads) == 5 * len(readers)


async def long_readers(pages: Pages, log: Log) -> None:
    """Let clients have a page and take long to ask for the next one."""
    for key in range(READ_AHEAD):
        await pages.read(key, 500, 0, log.head)
    await asyncio.sleep(0)
    log.reads.clear()


@pytest.mark.parametrize(("seconds", "ahead"), [(60, False), (0, True)])
async def test_clients_that_take_long_keep_others_from_reading_ahead_for_a_while(
    monkeypatch, seconds, ahead
):
    monkeypatch.setattr("streambridge_app.follow.pages.AHEAD_SECONDS", seconds)
    log = Log(20)
    pages = Pages(log.read, 10)
    await long_readers(pages, log)
    await pages.read(READ_AHEAD, 500, 0, log.head)
    await asyncio.sleep(0)
    assert log.reads == [(0, 10), (10, 10)][: 1 + ahead]
    assert len(pages._pages) <= KEPT_PAGES


@pytest.mark.parametrize(("seconds", "ahead"), [(60, True), (0, False)])
async def test_what_they_left_is_kept_for_a_while(monkeypatch, seconds, ahead):
    monkeypatch.setattr("streambridge_app.follow.pages.AHEAD_SECONDS", seconds)
    log = Log(20)
    pages = Pages(log.read, 10)
    await long_readers(pages, log)
    for key in range(100, 100 + 2 * KEPT_PAGES):
        await pages.read(key, 500, 0, 10)
    assert len(pages._pages) == KEPT_PAGES
    assert [(key, 500, 10) in pages._pages for key in range(READ_AHEAD)] == [ahead] * READ_AHEAD


async def test_a_page_that_could_not_be_read_ahead_keeps_no_place():
    log = Log(30)
    pages = Pages(log.read, 10)
    for key in range(READ_AHEAD):
        page = await pages.read(key, 500, 0, 0)
        assert page.last == 10
    log.error = LogUnavailable("down")
    for key in range(READ_AHEAD):
        await pages.read(key, 500, 0, log.head)
    await asyncio.sleep(0)
    log.error = None
    await asyncio.sleep(0)
    log.reads.clear()
    await pages.read(READ_AHEAD, 500, 0, log.head)
    await asyncio.sleep(0)
    assert log.reads == [(0, 10), (10, 10)]


async def test_a_reader_that_goes_away_does_not_take_the_page_from_the_others():
    log = Log(10)
    log.open.clear()
    pages = Pages(log.read, 10)
    one, other = (asyncio.create_task(pages.read(1, 500, 0, 10)) for _ in range(2))
    await asyncio.sleep(0)
    one.cancel()
    log.open.set()
    assert (await other).last == 10
    assert len(log.reads) == 1


async def test_a_failure_is_told_to_all_who_wait_and_then_forgotten():
    log = Log(10)
    pages = Pages(log.read, 10)
    log.error = LogUnavailable("down")
    told = await asyncio.gather(
        *(pages.read(1, 500, 0, 10) for _ in range(2)), return_exceptions=True
    )
    assert told == [log.error] * 2
    log.error = None
    assert (await pages.read(1, 500, 0, 10)).last == 10


async def test_nothing_there_is_asked_again():
    log = Log(0)
    pages = Pages(log.read, 10)
    assert await pages.read(1, 500, 0, 0) is None
    log.head = 1
    assert (await pages.read(1, 500, 0, 1)).last == 1


async def test_few_pages_are_kept():
    log = Log(10 * KEPT_PAGES + 100)
    pages = Pages(log.read, 10)
    await replay(pages, log, 0)
    log.reads.clear()
    await pages.read(1, 500, 0, 0)
    assert log.reads == [(0, 10)]
    assert len(pages._pages) == KEPT_PAGES


async def test_close_waits_for_what_is_being_read():
    log = Log(10)
    log.open.clear()
    pages = Pages(log.read, 10)
    reading = asyncio.create_task(pages.read(1, 500, 0, 10))
    await asyncio.sleep(0)
    closing = asyncio.create_task(pages.close())
    await asyncio.sleep(0)
    assert not closing.done()
    log.open.set()
    await closing
    assert (await reading).last == 10


@pytest.mark.parametrize(("key", "epoch"), [(2, 500), (1, 501)])
async def test_runs_and_their_incarnations_are_told_apart(key, epoch):
    log = Log(10)
    pages = Pages(log.read, 10)
    await pages.read(1, 500, 0, 0)
    assert (await pages.read(key, epoch, 0, 0)).epoch == epoch
    assert len(log.reads) == 2
