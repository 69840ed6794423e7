"""Clause 3: the forms of a cursor, and the gap."""

import asyncio

import pytest

from streambridge_app import END_SENTINEL, GapEvent, StreamEvent
from streambridge_app.exceptions import InvalidCursor, InvalidRunId
from tests.contract.clients import client, data, publish, replay


async def _ids(bridge, count, run_id="run"):
    await publish(bridge, run_id, count)
    epoch = (await bridge.get_run(run_id)).epoch
    return [f"{epoch}-{seq}" for seq in range(1, count + 1)]


def _gap(items):
    gap = items[0]
    assert isinstance(gap, GapEvent)
    assert gap == StreamEvent(id="", event="__gap__", data=gap.data)
    assert gap.data == {
        "requested": gap.requested,
        "earliest": gap.earliest,
        "latest": gap.latest,
    }
    return gap.data


@pytest.mark.parametrize("start", [None, "", "-1"])
async def test_none_empty_and_minus_one_mean_from_the_start(bridge, start):
    await publish(bridge, "run", 3)
    await bridge.publish_end("run")
    assert data(await replay(bridge, "run", after=start)) == [1, 2, 3]


async def test_an_event_id_means_after_that_event(bridge):
    ids = await _ids(bridge, 5)
    await bridge.publish_end("run")
    for seen, last in enumerate(ids, 1):
        assert data(await replay(bridge, "run", after=last)) == list(range(seen + 1, 6))


async def test_number_zero_means_from_the_start_of_this_incarnation(bridge):
    ids = await _ids(bridge, 2)
    await bridge.publish_end("run")
    assert data(await replay(bridge, "run", after=ids[0][:-1] + "0")) == [1, 2]


async def test_now_means_only_what_comes_next(bridge):
    await publish(bridge, "run", 3)
    async with client(bridge, "run", after="now") as live:
        first = asyncio.create_task(live.next())
        number = 3
        while not first.done():
            number += 1
            await publish(bridge, "run", 1, first=number)
            await asyncio.sleep(0)  # the memory backend publishes without waiting
        await bridge.publish_end("run")
        seen = data([first.result(), *await live.rest()])
    assert seen[0] > 3
    assert seen == list(range(seen[0], number + 1))


async def test_now_after_the_end_is_just_the_end(bridge):
    await publish(bridge, "run", 2)
    await bridge.publish_end("run")
    assert await replay(bridge, "run", after="now") == []


@pytest.mark.parametrize(
    "bad",
    ["0", "1", "5-", "-5", "1-2-3", "a-b", " 1-2", "1-2 ", "1-2\n", "NOW", "-2", "٣-٤", "1_0-2", 7],
)
async def test_anything_else_is_refused_at_the_call(bridge, bad):
    with pytest.raises(InvalidCursor, match="is not a cursor"):
        bridge.subscribe("run", last_event_id=bad)


async def test_an_impossible_run_id_is_refused_at_the_call(bridge):
    with pytest.raises(InvalidRunId):
        bridge.subscribe("")


@pytest.mark.parametrize("bad", [0, -1, float("nan")])
async def test_a_heartbeat_interval_must_be_positive(bridge, bad):
    with pytest.raises(ValueError, match="heartbeat_interval"):
        bridge.subscribe("run", heartbeat_interval=bad)


async def test_the_cursor_of_an_older_incarnation_gets_a_gap_and_then_everything(bridge):
    old = await _ids(bridge, 4)
    await bridge.cleanup("run")
    new = await _ids(bridge, 3)
    await bridge.publish_end("run")
    items = await replay(bridge, "run", after=old[-1])
    assert _gap(items) == {"requested": old[-1], "earliest": new[0], "latest": new[-1]}
    assert data(items[1:]) == [1, 2, 3]


@pytest.mark.parametrize("events", [0, 1, 3])
@pytest.mark.parametrize("beyond", [0, 1])
async def test_the_last_id_and_the_end_s_own_cursor_bring_the_end(bridge, events, beyond):
    await bridge.create_run("run")
    await publish(bridge, "run", events)
    await bridge.publish_end("run", status="cancelled")
    epoch = (await bridge.get_run("run")).epoch
    async with client(bridge, "run", after=f"{epoch}-{events + beyond}") as reader:
        assert await reader.next() is END_SENTINEL


async def test_the_end_s_cursor_before_the_end_is_ahead_of_the_log(bridge):
    ids = await _ids(bridge, 2)
    ahead = f"{ids[0].split('-')[0]}-3"
    async with client(bridge, "run", after=ahead) as reader:
        assert _gap([await reader.next()])["requested"] == ahead
        assert data(await reader.take(2)) == [1, 2]


async def test_a_cursor_ahead_of_the_log_gets_a_gap_and_then_everything(bridge):
    ids = await _ids(bridge, 2)
    await bridge.publish_end("run")
    ahead = f"{ids[0].split('-')[0]}-9999999999999999999"
    items = await replay(bridge, "run", after=ahead)
    assert _gap(items) == {"requested": ahead, "earliest": ids[0], "latest": ids[-1]}
    assert data(items[1:]) == [1, 2]


async def test_a_gap_on_a_run_without_events_names_none(bridge):
    await bridge.create_run("run")
    await bridge.publish_end("run")
    (gap,) = await replay(bridge, "run", after="1-5")
    assert gap.data == {"requested": "1-5", "earliest": None, "latest": None}


async def test_a_cursor_into_trimmed_history_gets_a_gap_and_what_is_left(bridge):
    ids = await _ids(bridge, 10)
    assert await bridge.trim("run", keep=4) == 6
    await bridge.publish_end("run")
    for last in (None, ids[0], ids[4]):
        items = await replay(bridge, "run", after=last)
        assert _gap(items) == {"requested": last, "earliest": ids[6], "latest": ids[9]}
        assert data(items[1:]) == [7, 8, 9, 10]


async def test_a_cursor_at_the_trimmed_edge_is_whole(bridge):
    ids = await _ids(bridge, 10)
    await bridge.trim("run", keep=4)
    await bridge.publish_end("run")
    assert data(await replay(bridge, "run", after=ids[5])) == [7, 8, 9, 10]


async def test_a_client_that_waits_with_an_old_cursor_gets_the_gap_when_the_run_is_made(bridge):
    async with client(bridge, "run", after="5-5", heartbeat=0.01) as early:
        await early.attached()
        ids = await _ids(bridge, 1)
        gap, event = await early.take(2)
        assert gap.event == "__gap__"
        assert gap.data["requested"] == "5-5"
        assert event.id == ids[0]
