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


RUN = RunHead(1, 500, 10, 0, RUNNING)
"""A run with ten events, of which the tail of its follower covers all."""


def look(followed: Followed, head: int, **changes: object) -> bool:
    """Return whether what a look at the log has found may be left to messages."""
    return followed.may_come(RUN._replace(head=head, **changes))


@pytest.fixture
def followed() -> Followed:
    tail = Tail(RUN.head, max_events=100, max_size=10_000)
    followed = Followed(SimpleNamespace(), "a run", tail)
    followed.run = RUN
    return followed


def test_an_event_is_left_to_its_message_until_the_next_look(followed):
    assert look(followed, 11)
    assert not look(followed, 11)  # it was lost
    assert not look(followed, 12)  # and nothing after it can be shown
    assert not look(followed, 12)


def test_events_whose_messages_come_in_time_are_always_left_to_them(followed):
    for head in range(11, 15):
        assert look(followed, head)
        followed.tail.append(events(head, head))


def test_an_event_is_waited_for_no_longer_though_some_before_it_have_come(followed):
    assert look(followed, 13)
    followed.tail.append(events(11, 12))
    assert not look(followed, 14)


def test_a_lost_event_that_was_read_is_waited_for_no_more(followed):
    assert look(followed, 11)
    assert not look(followed, 11)
    followed.tail.append(events(11, 11))
    assert look(followed, 12)
    assert not look(followed, 12)  # as the one before


def test_a_look_without_a_new_event_leaves_nothing_to_messages(followed):
    assert not look(followed, 10)
    assert not look(followed, 10, status="success")


def test_another_incarnation_is_never_left_to_messages(followed):
    assert not look(followed, 11, key=2)
    followed.run = None
    assert not look(followed, 11)


def test_the_tail_is_that_of_one_incarnation(followed):
    followed.tail.append(events(11, 12))
    followed.run = RUN._replace(head=12)
    assert [batch.last for batch in followed.newest(1, 10)] == [12]
    assert followed.newest(2, 10) is None
    followed.run = None
    assert followed.newest(1, 10) is None


def test_what_the_tail_does_not_have_must_be_read(followed):
    followed.run = RUN._replace(head=12)
    assert followed.newest(1, 9) is None  # before it
    assert followed.newest(1, 10) is None  # after it


def test_only_a_newer_state_of_the_same_incarnation_has_what_is_missing(followed):
    assert followed.is_behind(RUN._replace(head=11))
    assert not followed.is_behind(RUN)
    assert not followed.is_behind(RUN._replace(key=2, head=11))
    followed.run = None
    assert not followed.is_behind(RUN._replace(head=11))
