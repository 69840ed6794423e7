"""Clause 9: what can't be published is refused before anything is written, saying what and why."""

import re

import pytest
from django.http import QueryDict

from streambridge_app import get_bridge, get_sync_bridge
from streambridge_app.exceptions import InvalidEvent, InvalidRunId, RunNotFound
from tests.contract.clients import publish


def _circle():
    circle = []
    circle.append(circle)
    return circle


def _deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


NAMES = {
    "empty": ("", "must not be empty"),
    "too long": ("n" * 256, "may have 255 characters, this one has 256"),
    "CR": ("a\rb", "NUL, CR, LF"),
    "LF": ("a\nb", "NUL, CR, LF"),
    "NUL": ("a\0b", "NUL, CR, LF"),
    "next line": ("a\x85b", "U+0085"),
    "line separator": ("a\u2028b", "U+2028"),
    "reserved": ("__end__", "start with '__'"),
    "lone surrogate": ("\ud800", "UTF-8"),
    "not text": (7, "must be a str, not int"),
    "None": (None, "must be a str, not NoneType"),
}
DATA = {
    "NaN": (float("nan"), "data is nan"),
    "infinity": ({"deep": [float("inf")]}, 'data["deep"][0] is inf'),
    "minus infinity": (float("-inf"), "data is -inf"),
    "NaN as key": ({float("nan"): 1}, "the key nan"),
    "bytes": (b"x", "bytes"),
    "set": ({1}, "set"),
    "set in a list": ({"rows": [1, {"when": {1}}]}, 'data["rows"][1]["when"] is a set'),
    "the same key twice": ({1: "a", "1": "b"}, "would be lost"),
    "query": (QueryDict("a=1&a=2"), "QueryDict"),
    "object": (object(), "object"),
    "tuple as key": ({(1, 2): 3}, "tuple"),
    "circle": (_circle(), "Circular"),
    "too deep for Python": (_deep(100_000), "more than 500 levels"),
    "too deep": (_deep(501), "more than 500 levels"),
    "too many digits": (10**5000, "digits"),
}
RUN_IDS = {
    "empty": ("", "must not be empty"),
    "too long": ("r" * 201, "may have 200 characters, this one has 201"),
    "LF": ("a\nb", "control characters"),
    "NUL": ("a\0b", "control characters"),
    "DEL": ("a\x7fb", "control characters"),
    "C1": ("a\x85b", "control characters"),
    "lone surrogate": ("\udfff", "UTF-8"),
    "a dot segment": ("..", "Browsers take that out of addresses"),
    "a dot segment before another": ("../orders/5", "Browsers take that out of addresses"),
    "a dot segment between others": ("a/../victim", "Browsers take that out of addresses"),
    "a single dot at the end": ("x/.", "Browsers take that out of addresses"),
    "another's address": ("x/stream", "its address would be that of another run"),
    "not text": (7, "must be a str, not int"),
}


@pytest.fixture(params=["async", "sync", "handle", "sync handle"])
def publish_by(request, bridge, sync_bridge, in_thread):
    """Publish one event in each of the four ways."""

    async def by_handle(run_id, event, value):
        handle = bridge.producer(run_id)
        await handle.publish(event, value)
        await handle.flush()

    def by_sync_handle(run_id, event, value):
        handle = sync_bridge.producer(run_id)
        handle.publish(event, value)
        handle.flush()

    async def by_sync(run_id, event, value):
        await in_thread(sync_bridge.publish, run_id, event, value)

    async def by_sync_handle_in_thread(run_id, event, value):
        await in_thread(by_sync_handle, run_id, event, value)

    return {
        "async": bridge.publish,
        "sync": by_sync,
        "handle": by_handle,
        "sync handle": by_sync_handle_in_thread,
    }[request.param]


async def _refuses_all(bridge, publish_by, cases, error, arguments):
    await publish(bridge, "run", 1)
    for value, message in cases.values():
        with pytest.raises(error, match=f"(?i){re.escape(message)}"):
            await publish_by(*arguments(value))
    assert (await bridge.get_run("run")).head == 1


async def test_bad_event_names_are_refused(bridge, publish_by):
    await _refuses_all(bridge, publish_by, NAMES, InvalidEvent, lambda bad: ("run", bad, 1))


async def test_bad_data_is_refused(bridge, publish_by):
    await _refuses_all(bridge, publish_by, DATA, InvalidEvent, lambda bad: ("run", "name", bad))


async def test_bad_run_ids_are_refused(bridge, publish_by):
    await _refuses_all(bridge, publish_by, RUN_IDS, InvalidRunId, lambda bad: (bad, "name", 1))


async def test_bad_input_makes_no_run(bridge, publish_by):
    with pytest.raises(InvalidEvent):
        await publish_by("new", "", 1)
    with pytest.raises(InvalidEvent):
        await publish_by("new", "name", {1})
    with pytest.raises(RunNotFound):
        await bridge.get_run("new")


async def test_a_handle_goes_on_after_bad_input(bridge):
    async with bridge.producer("run") as run:
        await run.publish("good", 1)
        with pytest.raises(InvalidEvent):
            await run.publish("bad", {1})
        await run.publish("good", 2)
    assert (await bridge.get_run("run")).head == 2


async def test_every_method_refuses_a_bad_run_id(bridge, sync_bridge, in_thread):
    for api, call in ((bridge, _now), (sync_bridge, in_thread)):
        for method, arguments in [
            ("create_run", {}),
            ("get_run", {}),
            ("publish_end", {}),
            ("request_cancel", {}),
            ("trim", {"keep": 1}),
            ("cleanup", {}),
        ]:
            for bad, _ in RUN_IDS.values():
                with pytest.raises(InvalidRunId):
                    await call(getattr(api, method), bad, **arguments)
    with pytest.raises(InvalidRunId):
        bridge.producer("")


async def _now(function, *args, **kwargs):
    return await function(*args, **kwargs)


async def test_the_longest_names_and_run_ids_are_accepted(bridge):
    run_id, name = "ü" * 200, "ü" * 255
    await bridge.publish(run_id, name, None)
    assert (await bridge.get_run(run_id)).head == 1


@pytest.mark.parametrize("run_id", ["a/b?c#d", "..a/b..", "' OR 1=1 --", "%s", "*", "ünï🎉", " "])
async def test_any_other_run_id_is_fine(bridge, run_id):
    await bridge.publish(run_id, "name", 1)
    assert (await bridge.get_run(run_id)).run_id == run_id


async def test_the_size_limit_counts_bytes(stack, settings, in_thread):
    settings.STREAMBRIDGE = {**settings.STREAMBRIDGE, "MAX_EVENT_BYTES": 10}
    bridge, sync_bridge = get_bridge(), get_sync_bridge()
    for fits in ("x" * 8, "ü" * 4, 1234567890):
        await bridge.publish("run", "name", fits)
    for too_large in ("x" * 9, "ü" * 5, 12345678901, "\ud800abc"):
        with pytest.raises(InvalidEvent, match=r"MAX_EVENT_BYTES'\] allows 10"):
            await bridge.publish("run", "name", too_large)
        with pytest.raises(InvalidEvent, match="MAX_EVENT_BYTES"):
            await in_thread(sync_bridge.publish, "run", "name", too_large)
        with pytest.raises(InvalidEvent, match="MAX_EVENT_BYTES"):
            await bridge.producer("run").publish("name", too_large)
    with pytest.raises(InvalidEvent, match="MAX_EVENT_BYTES"):
        await bridge.create_run(metadata={"much": "too much"})
    assert (await bridge.get_run("run")).head == 3
    await bridge.close()


async def test_an_unknown_option_of_a_run_is_named_and_makes_no_run(bridge, sync_bridge, in_thread):
    for api, call in ((bridge, _now), (sync_bridge, in_thread)):
        with pytest.raises(TypeError, match="no option 'max_event'; it has owner, metadata"):
            await call(api.create_run, "run", max_event=1)
    with pytest.raises(RunNotFound):
        await bridge.get_run("run")


async def test_a_negative_keep_is_refused(bridge):
    await publish(bridge, "run", 1)
    with pytest.raises(ValueError, match="keep must be 0 or more"):
        await bridge.trim("run", keep=-1)
