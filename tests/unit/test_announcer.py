"""What is said to the layer, and what is not."""

import asyncio
import logging

import pytest
from channels.layers import BaseChannelLayer

from streambridge_app.contract.batch import Batch
from streambridge_app.log.writes import Written
from streambridge_app.wake import announcer as announcing
from streambridge_app.wake.announcer import Announcer
from streambridge_app.wake.layer import group_name
from streambridge_app.wake.news import News
from tests.services import async_wait_until


class Layer:
    """Takes messages, or fails, or hangs, as it is told."""

    def __init__(self):
        self.news = []
        self.error = None
        self.answer = asyncio.Event()
        self.answer.set()

    async def group_send(self, group, message):
        await self.answer.wait()
        if self.error:
            raise self.error
        news = News.decode(message)
        assert group == group_name(news.run_id)
        self.news.append(news)


def written(first, last, *, run_id="run", epoch=500, status="running", size=1):
    seqs = range(first, last + 1)
    batch = Batch(epoch, first, ["n"] * len(seqs), ["1" * size for _ in seqs])
    return Written(run_id, 1, epoch, batch, status, False)


@pytest.fixture
def layer(monkeypatch):
    monkeypatch.setattr(announcing, "is_process_local", lambda layer: layer is not None)
    return Layer()


@pytest.fixture
async def announcer(layer):
    loop = asyncio.get_running_loop()
    return Announcer(layer, 1000, lambda: loop)


def spans(layer):
    return [(one.head, one.batch and (one.batch.first, one.batch.last)) for one in layer.news]


async def said(announcer, *items):
    for item in items:
        announcer.announce([item])
    async with asyncio.timeout(5):
        await announcer.close()


async def test_a_commit_is_one_message_with_its_events(announcer, layer):
    await said(announcer, written(1, 3))
    assert spans(layer) == [(3, (1, 3))]


async def test_commits_that_wait_are_joined(announcer, layer):
    await said(announcer, written(1, 3), written(4, 4), written(5, 9, status="success"))
    assert spans(layer) == [(9, (1, 9))]
    assert layer.news[0].status == "success"


async def test_an_end_without_events_keeps_those_that_wait(announcer, layer):
    await said(announcer, written(1, 3), written(4, 3, status="success"))
    assert spans(layer) == [(3, (1, 3))]
    assert layer.news[0].status == "success"


async def test_news_in_the_wrong_order_are_joined_in_the_right_one(announcer, layer):
    await said(announcer, written(4, 6, status="success"), written(1, 3))
    assert spans(layer) == [(6, (1, 6))]
    assert layer.news[0].status == "success"


async def test_news_with_a_hole_between_them_go_without_events(announcer, layer):
    await said(announcer, written(1, 3), written(5, 6))
    assert spans(layer) == [(6, None)]


async def test_large_commits_go_without_their_events(announcer, layer):
    await said(announcer, written(1, 3, size=500))
    assert spans(layer) == [(3, None)]


async def test_a_deletion_is_said_whatever_waits(announcer, layer):
    announcer.announce([written(1, 3)])
    announcer.announce_deletion("run")
    await said(announcer, written(1, 1, epoch=501))
    assert [(one.run_id, one.epoch, one.batch) for one in layer.news] == [("run", None, None)]


async def test_each_run_has_a_message_of_its_own(announcer, layer):
    announcer.announce([written(1, 1, run_id=f"run-{number}") for number in range(100)])
    await announcer.close()
    assert sorted(one.run_id for one in layer.news) == sorted(f"run-{n}" for n in range(100))


async def test_a_failing_layer_is_warned_of_once_and_tried_again(announcer, layer, caplog):
    layer.error = ConnectionError("down")
    with caplog.at_level(logging.WARNING):
        await said(announcer, written(1, 1))
        await said(announcer, written(2, 2))
    assert len(caplog.records) == 1
    layer.error = None
    await said(announcer, written(3, 3))
    assert spans(layer) == [(3, (3, 3))]


async def test_a_hanging_layer_is_given_up(announcer, layer, monkeypatch):
    monkeypatch.setattr(announcing, "SEND_DEADLINE", 0.01)
    layer.answer.clear()
    await said(announcer, written(1, 1))
    layer.answer.set()
    await said(announcer, written(2, 2))
    assert spans(layer) == [(2, (2, 2))]


async def test_what_waits_behind_a_hanging_layer_is_given_up_with_it(announcer, layer, monkeypatch):
    monkeypatch.setattr(announcing, "SEND_DEADLINE", 0.01)
    monkeypatch.setattr(announcing, "SENT_AT_ONCE", 1)
    layer.answer.clear()
    announcer.announce([written(1, 1, run_id=f"run-{number}") for number in range(10_000)])
    async with asyncio.timeout(5):
        await announcer.close()
    assert announcer._waiting == {}
    layer.answer.set()
    await said(announcer, written(2, 2))
    assert spans(layer) == [(2, (2, 2))]


async def test_sending_that_was_cancelled_is_taken_up_by_the_next_news(announcer, layer):
    layer.answer.clear()
    announcer.announce([written(1, 1)])
    await async_wait_until(lambda: announcer._sending is not None, 5, "the sending to begin")
    announcer._sending.cancel()
    await asyncio.wait([announcer._sending])
    layer.answer.set()
    await said(announcer, written(2, 2))
    assert spans(layer) == [(2, (2, 2))]


def test_a_loop_that_was_closed_with_news_does_not_stop_the_next_one(layer):
    loops = []
    announcer = Announcer(layer, 1000, lambda: loops[-1])

    async def announce_only():
        loops.append(asyncio.get_running_loop())
        announcer.announce([written(1, 1)])

    async def announce_and_flush():
        loops.append(asyncio.get_running_loop())
        announcer.announce([written(2, 2)])
        await async_wait_until(lambda: layer.news, 5, "the news")

    asyncio.run(announce_only())
    asyncio.run(announce_and_flush())
    assert spans(layer)[-1][0] == 2


def test_without_a_layer_or_a_loop_nothing_is_kept():
    announcer = Announcer(None, 1000, lambda: None)
    announcer.announce([written(1, 1)])
    assert announcer._waiting == {}


@pytest.mark.parametrize(
    "message",
    [{}, {"type": "streambridge.events"}, {"run": "run", "epoch": 1, "head": 2, "events": "a\n1"}],
)
def test_messages_that_are_not_ours_are_told_apart(message):
    with pytest.raises((KeyError, TypeError)):
        News.decode(message)


@pytest.mark.parametrize(
    "events", ["a\n1", "a\n1\nb\n2\nc\n3", "a\n1\nb", "a\n1\nb\n2\n", "a\n1\nb\n\n2", "a"]
)
def test_events_that_are_not_as_many_as_the_message_says_are_left_out(events):
    message = {"run": "run", "epoch": 1, "head": 8, "status": "running", "first": 7}
    assert News.decode({**message, "events": events}) == News("run", 1, 8, "running", None)
    assert len(News.decode({**message, "events": "a\n1\nb\n2"}).batch) == 2


def test_any_run_id_has_a_legal_group_name():
    names = [group_name(run_id) for run_id in ("a", "ü🎉", "a/b c", "x" * 200)]
    assert len(set(names)) == 4
    for name in names:
        assert BaseChannelLayer().require_valid_group_name(name)
