"""What a followed run reads from the log, and what it has in its tail."""

import asyncio
from types import SimpleNamespace

import pytest

from streambridge_app.contract.batch import Batch
from streambridge_app.contract.runs import RUNNING, RunHead
from streambridge_app.follow.pages import Pages
from streambridge_app.follow.shared_run import Followed
from streambridge_app.follow.tail import Tail

HEAD = 30


def events(first: int, last: int) -> Batch:
    count = last - first + 1
    return Batch(500, first, ["n"] * count, ["1"] * count)


@pytest.mark.parametrize(("in_tail", "read"), [(0, [0, 10]), (10, [0, 10]), (20, [0]), (25, [0])])
async def test_what_the_tail_has_is_not_read_ahead(in_tail, read):
    reads = []

    async def read_page(key: int, epoch: int, seq: int, limit: int) -> Batch:
        reads.append(seq)
        return events(seq + 1, seq + limit)

    tail = Tail(HEAD - in_tail, max_events=100, max_size=10_000)
    if in_tail:
        tail.append(events(HEAD - in_tail + 1, HEAD))
    followed = Followed(SimpleNamespace(pages=Pages(read_page, 10)), "a run", tail)
    followed.run = RunHead(1, 500, HEAD, 0, RUNNING)
    page = await followed.read(1, 500, 0)
    await asyncio.sleep(0)
    assert page.last == 10
    assert reads == read
    assert (followed.newest(1, page.last) is None) == (len(read) == 2)
