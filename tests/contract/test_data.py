"""Clause 9: data comes back exactly as JSON carries it, by replay and live."""

import asyncio
import json

import pytest

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
    "\u2028",
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
