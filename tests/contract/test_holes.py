"""A log that hands have been at: what is missing is a gap, and the rest keeps its numbers."""

import asyncio
import contextlib
import json
import logging

import pytest
from django.db import transaction

from streambridge_app import get_bridge, get_sync_bridge, registry
from streambridge_app.contract import unreadable
from streambridge_app.log import holes
from streambridge_app.models import Event, Run
from streambridge_app.serve import sse
from tests.contract.clients import client, data, deadline, publish, replay, seqs
from tests.contract.conftest import DATABASE_STACKS

pytestmark = pytest.mark.parametrize("stack", DATABASE_STACKS[:2], indirect=True)

GAP = "gap"


@pytest.fixture(autouse=True)
def _nothing_told(monkeypatch):
    monkeypatch.setattr(holes, "_told", {})
    monkeypatch.setattr(unreadable, "_told", {})


@pytest.fixture
def warnings(caplog):
    """Return what the readers have said of holes."""
    caplog.set_level(logging.WARNING, "streambridge")
    return lambda: [one.getMessage() for one in caplog.records if "hole" in one.getMessage()]


@pytest.fixture
def rows(stack, in_thread):
    """Do something with the rows of a run: `await rows("run").delete(3)`."""

    class Rows:
        def __init__(self, run_id="run"):
            self.run_id = run_id

        def _events(self, numbers):
            key = Run.objects.using(stack.database).get(run_id=self.run_id).pk
            return Event.objects.using(stack.database).filter(run_id=key, seq__in=numbers)

        async def delete(self, *numbers):
            def now():
                self._events(numbers)._raw_delete(stack.database)

            await in_thread(now)

        async def change(self, *numbers, **values):
            assert await in_thread(lambda: self._events(numbers).update(**values)) == len(numbers)

    return Rows


async def _ended(bridge, count):
    await publish(bridge, "run", count)
    await bridge.publish_end("run")


def _short(items):
    """Numbers of events, and gaps by the numbers of requested, earliest and latest."""
    short = []
    for item in items:
        if item.event == "__gap__":
            ids = (item.data[name] for name in ("requested", "earliest", "latest"))
            short.append((GAP, *(one and int(one.split("-")[1]) for one in ids)))
        else:
            (seq,) = seqs([item])
            assert item.data == seq
            short.append(seq)
    return short


@pytest.mark.parametrize(
    ("missing", "expected", "said"),
    [
        ([3], [1, 2, (GAP, 2, 4, 5), 4, 5], ["event 3 is"]),
        ([2, 3, 4], [1, (GAP, 1, 5, 5), 5], ["the events 2 to 4 are"]),
        ([1], [(GAP, 0, 2, 5), 2, 3, 4, 5], ["event 1 is"]),
        ([5], [1, 2, 3, 4, (GAP, 4, None, 5)], ["event 5 is"]),
        (
            [1, 3, 5],
            [(GAP, 0, 2, 5), 2, (GAP, 2, 4, 5), 4, (GAP, 4, None, 5)],
            ["event 1 is", "event 3 is", "event 5 is"],
        ),
        ([1, 2, 3, 4, 5], [(GAP, 0, None, 5)], ["the events 1 to 5 are"]),
    ],
)
async def test_what_was_deleted_by_hand_is_a_gap(bridge, rows, warnings, missing, expected, said):
    await _ended(bridge, 5)
    await rows().delete(*missing)
    for _ in range(2):
        assert _short(await replay(bridge, "run")) == expected
    assert len(warnings()) == len(said)
    for message, words in zip(warnings(), said, strict=True):
        assert f"the run 'run' has a hole: {words} not there" in message


async def test_readers_from_anywhere_are_right(bridge, rows, warnings):
    await _ended(bridge, 8)
    await rows().delete(3, 4, 5)
    epoch = (await bridge.get_run("run")).epoch
    whole = [1, 2, 3, 4, 5, 6, 7, 8]
    for seq in range(8):
        found = _short(await replay(bridge, "run", f"{epoch}-{seq}"))
        events = [item for item in found if isinstance(item, int)]
        assert events == [n for n in whole[seq:] if n not in (3, 4, 5)]
        gaps = [item for item in found if not isinstance(item, int)]
        assert gaps == ([(GAP, max(2, seq), 6, 8)] if seq < 5 else [])
    assert len(warnings()) == 1


async def test_readers_together_are_right(bridge, rows, warnings):
    await _ended(bridge, 5)
    await rows().delete(2)
    for items in await asyncio.gather(*(replay(bridge, "run") for _ in range(5))):
        assert _short(items) == [1, (GAP, 1, 3, 5), 3, 4, 5]
    assert len(warnings()) == 1


async def test_a_hole_larger_than_pages(bridge_with, rows, warnings):
    async with bridge_with(PAGE_EVENTS=3) as bridge:
        await _ended(bridge, 20)
        await rows().delete(*range(5, 17))
        assert _short(await replay(bridge, "run")) == [
            *[1, 2, 3, 4],
            (GAP, 4, 17, 20),
            *[17, 18, 19, 20],
        ]
    assert len(warnings()) == 1


async def test_a_hole_at_the_end_of_a_run_that_goes_on(bridge, rows, warnings):
    await publish(bridge, "run", 3)
    await rows().delete(2, 3)
    async with client(bridge, "run", heartbeat=0.2) as late:
        assert _short(await late.take(2)) == [1, (GAP, 1, None, 3)]
        await late.attached()
        await publish(bridge, "run", 2, first=4)
        assert _short(await late.take(2)) == [4, 5]
        await bridge.publish_end("run")
        assert await late.rest() == []
    assert len(warnings()) == 1


async def test_a_hole_beside_what_was_trimmed(bridge, rows, warnings):
    await _ended(bridge, 9)
    await bridge.trim("run", keep=5)
    await rows().delete(5, 6)
    assert _short(await replay(bridge, "run"))[1:] == [(GAP, 4, 7, 9), 7, 8, 9]
    assert len(warnings()) == 1
    await bridge.trim("run", keep=2)
    found = await replay(bridge, "run")
    assert [item.event for item in found] == ["__gap__", "number", "number"]
    assert len(warnings()) == 1


async def test_no_hole_is_named_where_there_is_none(bridge, warnings):
    await _ended(bridge, 9)
    await bridge.trim("run", keep=4)
    assert len(await replay(bridge, "run")) == 5
    await bridge.trim("run", keep=0)
    assert len(await replay(bridge, "run")) == 1
    assert warnings() == []


@pytest.mark.parametrize(
    "text", ["3\n", '{\n  "a": [1.50, 2]\r\n}', "\r3", '"a b"\n', "\n\n\n3", '[\n"\\n"\n]']
)
async def test_json_of_several_lines_is_read_as_one(bridge, rows, warnings, text):
    await _ended(bridge, 5)
    await rows().change(3, data=text)
    found = await replay(bridge, "run")
    assert seqs(found) == [1, 2, 3, 4, 5]
    assert data(found) == [1, 2, json.loads(text), 4, 5]
    async with contextlib.aclosing(bridge.follow("run")) as items:
        async for item in items:
            if isinstance(item, list | tuple):
                assert (
                    b"".join(batch.encoded(sse.encode_events, "run") for batch in item).count(b"\n")
                    == 20
                )
                break
    assert warnings() == []


@pytest.mark.parametrize(
    "change",
    [
        {"data": "no json\n"},
        {"data": "[1,\n2"},
        {"data": '"a\nb"'},
        {"data": "NaN\n"},
        {"event": "two\nlines"},
        {"event": "two\rlines"},
    ],
)
async def test_what_no_client_could_read_is_a_gap(bridge, rows, warnings, change):
    await _ended(bridge, 5)
    await rows().change(3, **change)
    assert _short(await replay(bridge, "run")) == [1, 2, (GAP, 2, 4, 5), 4, 5]
    await rows().change(4, 5, **change)
    bridge = await _again(bridge)
    assert _short(await replay(bridge, "run")) == [1, 2, (GAP, 2, None, 5)]
    assert len(warnings()) == 2
    await bridge.close()


NO_JSON = ["no json", "[1,", "", "NaN", "{'a': 1}", "1 2", '"a', "-"]


@pytest.mark.parametrize("text", NO_JSON)
async def test_one_line_that_is_no_json_is_a_gap_to_who_has_it_parsed(bridge, rows, caplog, text):
    await _ended(bridge, 6)
    await rows().change(2, 4, 5, data=text)
    for _ in range(2):
        expected = [1, (GAP, 1, 3, 6), 3, (GAP, 3, 6, 6), 6]
        assert _short(await replay(bridge, "run")) == expected
        assert _short(await bridge.events("run")) == expected
    epoch = (await bridge.get_run("run")).epoch
    said = [one.getMessage() for one in caplog.records if "no JSON" in one.getMessage()]
    assert [message.split(" is no JSON")[0] for message in said] == [
        f"The data of the event {epoch}-2 of the run 'run'",
        f"The data of the events {epoch}-4 to {epoch}-5 of the run 'run'",
    ]
    await rows().change(6, data=text)
    bridge = await _again(bridge)
    assert _short(await replay(bridge, "run")) == [1, (GAP, 1, 3, 6), 3, (GAP, 3, None, 6)]
    await bridge.close()


async def test_a_gap_at_the_end_of_a_page_says_what_is_left(bridge_with, rows):
    async with bridge_with(PAGE_EVENTS=3) as bridge:
        await _ended(bridge, 7)
        await rows().change(3, 4, data="no json")
        found = _short(await replay(bridge, "run"))
        assert found == [1, 2, (GAP, 2, 4, 7), (GAP, 3, 5, 7), 5, 6, 7]


async def test_pages_of_events_go_on_behind_what_is_no_json(bridge, rows):
    await _ended(bridge, 7)
    await rows().change(1, 2, 4, 7, data="no json")
    found, after = [], None
    for _ in range(3):
        page = await bridge.events("run", last_event_id=after, limit=1)
        found += _short(page)
        after = page[-1].id
    assert found == [(GAP, 0, 3, 7), 3, (GAP, 3, 5, 7), 5, 6]
    assert _short(await bridge.events("run", last_event_id=after)) == [(GAP, 6, None, 7)]
    assert _short(await bridge.events("run", limit=3))[-1] == 6


async def test_a_reader_goes_on_while_the_log_does_not(bridge, rows):
    """Nothing is known of the head then but what was read."""
    await _ended(bridge, 3)
    await rows().change(2, data="no json")
    async with client(bridge, "run") as reader:
        assert _short(await reader.take(1)) == [1]
        await bridge.cleanup("run")
        assert _short(await reader.rest()) == [(GAP, 1, 3, 3), 3]


@pytest.mark.parametrize("status", ["error", "lost"])
async def test_the_end_of_a_run_whose_error_is_no_json_has_no_error(bridge, rows, status):
    await publish(bridge, "run", 1)
    await bridge.publish_end("run", status=status, error=ValueError("wrong"))
    await rows().change(2, data="no json")
    assert (await bridge.get_run("run")).error is None
    assert _short(await replay(bridge, "run")) == [1, (GAP, 1, None, 2)]
    async with contextlib.aclosing(bridge.follow("run", last_event_id="now")) as items:
        end = await anext(items)
    assert (end.status, end.error) == (status, None)


async def _again(bridge):
    """Return another bridge, which has no pages in memory."""
    await bridge.close()
    registry.reset()
    return get_bridge()


async def test_a_wrong_offset_hides_nothing(bridge, rows, warnings):
    await _ended(bridge, 5)
    await rows().change(3, byte_offset=10**9)
    assert _short(await replay(bridge, "run")) == [1, 2, 3, 4, 5]
    assert warnings() == []


async def test_pages_beside_a_hole_are_bounded(bridge, rows, monkeypatch):
    monkeypatch.setattr(holes, "PAGE_SIZE", 2)
    await _ended(bridge, 9)
    await rows().delete(2)
    assert _short(await replay(bridge, "run")) == [1, (GAP, 1, 3, 9), *range(3, 10)]


@pytest.mark.parametrize("runs", [1, 3])
async def test_clients_that_are_attached_go_on_behind_a_hole(
    stack, settings, in_thread, warnings, runs
):
    """No message comes: looks at the log find events of which some are gone already."""
    settings.CHANNEL_LAYERS = {
        **settings.CHANNEL_LAYERS,
        stack.channel_layer: {"BACKEND": "tests.contract.layers.DeafLayer"},
    }
    settings.STREAMBRIDGE = {**settings.STREAMBRIDGE, "POLL_INTERVAL": 0.1}
    bridge = await _again(get_bridge())
    run_ids = [f"run-{number}" for number in range(runs)]

    def work():
        with transaction.atomic(using=stack.database):
            for run_id in run_ids:
                for number in range(2, 7):
                    get_sync_bridge().publish(run_id, "number", number)
                key = Run.objects.using(stack.database).get(run_id=run_id).pk
                events = Event.objects.using(stack.database)
                events.filter(run_id=key, seq__in=[4, 6])._raw_delete(stack.database)

    async with contextlib.AsyncExitStack() as open_clients:
        clients = []
        for run_id in run_ids:
            await publish(bridge, run_id, 1)
            one = await open_clients.enter_async_context(client(bridge, run_id))
            assert _short(await one.take(1)) == [1]
            clients.append(one)
        await in_thread(work)
        for one in clients:
            assert _short(await one.take(5)) == [2, 3, (GAP, 3, 5, 6), 5, (GAP, 5, None, 6)]
        for run_id, one in zip(run_ids, clients, strict=True):
            await publish(bridge, run_id, 1, first=7)
            assert _short(await one.take(1)) == [7]
            await bridge.publish_end(run_id)
            assert await one.rest() == []
    assert len(warnings()) == 2 * runs
    async with deadline():
        await bridge.close()
