"""Clause 9: data comes back exactly as JSON carries it, by replay and live."""

import asyncio
import datetime
import json
import uuid

import pytest
from django.utils.translation import gettext_lazy

from streambridge_app import get_bridge
from streambridge_app.access import make_run_token, token_admits
from streambridge_app.exceptions import RunExists, RunNotFound
from tests.contract.clients import client, replay

VALUES = {
    "nothing": None,
    "booleans": [True, False],
    "zero": 0,
    "big integers": [2**53 + 1, -(2**63), 2**64, 10**100],
    "floats": [0.1, -0.0, 1e-300, 1.7976931348623157e308],
    "empty containers": {"list": [], "object": {}, "text": ""},
    "nested": {"a": [{"b": [[[{"c": None}]]]}]},
    "nested deeply": json.loads("[" * 500 + "]" * 500),
    "many lists, but not deep": [[["[[", '\\"{']]] * 600,
    "key order": {"z": 1, "a": 2, "m": {"y": 1, "b": 2}},
    "keys that need escapes": {'"\\\n\t': 1, "": 2, "\u0000": 3},
    "NUL": "a\u0000b",
    "control characters": "\r\n\t\b\f\x1b\x7f\x85\u2028\u2029",
    "lone surrogates": "\ud800 and \udfff",
    "surrogate beside astral": "\ud800🎉",
    "astral": "🎉👩‍👩‍👧",
    "byte order mark": "\ufeff",
    "right to left": "שלום",
    "looks like SSE": "data: x\n\nevent: end\n\nid: 1-1",
    "looks like HTML": "</script><!-- & ' \"",
    "long text": "x" * 500_000,
}
NAMES = [
    "e",
    "message",
    "ünï🎉",
    " leading space",
    "with: colon",
    "_one",
    "a" * 255,
    "\t",
]


async def _published(bridge, items):
    async with client(bridge, "run") as live:
        for name, value in items:
            await bridge.publish("run", name, value)
        await bridge.publish_end("run")
        return await live.rest(), await replay(bridge, "run")


def _text(value):
    return json.dumps(value)  # distinguishes 1 from 1.0 and True, -0.0 from 0.0, and key orders


@pytest.mark.parametrize("case", VALUES)
async def test_data_comes_back(bridge, case):
    for events in await _published(bridge, [("name", VALUES[case])]):
        (event,) = events
        assert _text(event.data) == _text(VALUES[case])


async def test_all_of_it_in_one_commit_comes_back(bridge):
    async with client(bridge, "run") as live:
        await asyncio.gather(*(bridge.publish("run", "name", value) for value in VALUES.values()))
        await bridge.publish_end("run")
        for events in (await live.rest(), await replay(bridge, "run")):
            assert [_text(event.data) for event in events] == list(map(_text, VALUES.values()))


async def test_names_come_back(bridge):
    for events in await _published(bridge, [(name, None) for name in NAMES]):
        assert [event.event for event in events] == NAMES


async def test_what_json_changes_is_changed_in_the_same_way_everywhere(bridge):
    value = {7: (1, 2), True: None, None: 2.0}
    for events in await _published(bridge, [("name", value)]):
        assert events[0].data == {"7": [1, 2], "true": None, "null": 2.0}


async def test_later_changes_of_a_published_object_change_nothing(bridge):
    value = {"list": [1]}
    async with bridge.producer("run") as run:
        await run.publish("name", value)
        value["list"].append(2)
    assert (await replay(bridge, "run"))[0].data == {"list": [1]}


async def test_what_django_knows_is_published_by_all_ways(bridge, sync_bridge, in_thread):
    value = {"when": datetime.date(2026, 1, 2), "label": gettext_lazy("run")}
    run_id = await bridge.create_run("run", metadata=value)
    await bridge.publish(run_id, "name", value)
    await in_thread(sync_bridge.publish, run_id, "name", value)

    def by_handle():
        with sync_bridge.producer(run_id) as run:
            run.publish("name", value)

    await in_thread(by_handle)
    expected = {"when": "2026-01-02", "label": "run"}
    assert (await bridge.get_run(run_id)).metadata == expected
    assert [event.data for event in await replay(bridge, run_id)] == [expected] * 3


async def test_an_event_needs_no_data(bridge, sync_bridge, in_thread):
    await bridge.publish("run", "done")
    await in_thread(sync_bridge.publish, "run", "done")

    def by_handle():
        with sync_bridge.producer("run") as run:
            run.publish("done")
            run.release()

    await in_thread(by_handle)
    async with bridge.producer("run") as run:
        await run.publish("done")
    events = await replay(bridge, "run")
    assert [(event.event, event.data) for event in events] == [("done", None)] * 4


async def test_a_uuid_is_a_run_id_for_every_method(bridge, sync_bridge, in_thread):
    run_id = uuid.uuid4()
    assert await bridge.create_run(run_id) == str(run_id)
    with pytest.raises(RunExists):
        await in_thread(sync_bridge.create_run, run_id)
    async with client(bridge, run_id) as live:
        await bridge.publish(run_id, "number", 1)
        await in_thread(sync_bridge.publish, run_id, "number", 2)
        async with bridge.producer(run_id) as run:
            assert run.run_id == str(run_id)
            await run.publish("number", 3)
            await run.release()

        def by_handle():
            with sync_bridge.producer(run_id) as run:
                assert run.run_id == str(run_id)
                run.publish("number", 4)
                run.release()

        await in_thread(by_handle)
        await bridge.request_cancel(run_id)
        await in_thread(sync_bridge.request_cancel, run_id)
        assert (await in_thread(sync_bridge.get_run, run_id)).cancel_requested
        assert await bridge.trim(run_id, keep=100) == 0
        assert await in_thread(sync_bridge.trim, run_id, keep=100) == 0
        await bridge.publish_end(run_id)
        await in_thread(sync_bridge.publish_end, run_id)
        assert [event.data for event in await live.rest()] == [1, 2, 3, 4]
    for name in (run_id, str(run_id)):
        assert (await bridge.get_run(name)).run_id == str(run_id)
        assert len(await replay(bridge, name)) == 4
        assert len(await in_thread(lambda name=name: list(sync_bridge.subscribe(name)))) == 5
        items = [item async for item in bridge.follow(name)]
        assert items
    assert token_admits(make_run_token(run_id), str(run_id))
    await in_thread(sync_bridge.cleanup, run_id)
    await bridge.cleanup(run_id)
    with pytest.raises(RunNotFound):
        await bridge.get_run(run_id)


async def test_the_encoder_is_for_every_backend(stack, settings, in_thread):
    settings.STREAMBRIDGE = {**settings.STREAMBRIDGE, "ENCODER": f"{__name__}.sorted_set"}
    bridge = get_bridge()
    await bridge.create_run("run", metadata={"tags": {"b", "a"}})
    await bridge.publish("run", "tags", {2, 1})
    await bridge.publish_end("run")
    assert [event.data for event in await replay(bridge, "run")] == [[1, 2]]
    assert (await bridge.get_run("run")).metadata == {"tags": ["a", "b"]}
    await bridge.close()


def sorted_set(value):
    if isinstance(value, set):
        return sorted(value)
    raise TypeError
