"""
The HTTP routes, by Django's client and by a real Daphne and Uvicorn.

What the routes do with a bridge is tried on the memory backend with everybody let in: it is the
same on all, and needs no database. The servers have the default backend and the default rule.
"""

import asyncio
import contextlib
import gc
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.http import StreamingHttpResponse
from django.test import AsyncClient
from django.urls import reverse
from pytest_django import Settings

from streambridge_app import get_bridge
from streambridge_app.access import NOT_FOUND, make_run_token
from streambridge_app.asgi import open_streams as streams
from streambridge_app.asgi.open_streams import open_streams
from streambridge_app.serve.http_errors import RETRY_AFTER
from tests.conftest import MEMORY
from tests.integration.conftest import OPEN_HOUSE, requested, streams_of
from tests.services import TIMEOUT_SCALE, AsgiServer, async_wait_until, wait_until

with_database = pytest.mark.django_db(transaction=True)

RUN = "a run"
SIMPLE = {"BACKEND": MEMORY, "AUTHORIZER": OPEN_HOUSE, "RETRY_MS": (7, 7)}


@pytest.fixture(autouse=True)
def simple(settings: Settings) -> None:
    settings.STREAMBRIDGE = SIMPLE


@pytest.fixture
def client() -> AsyncClient:
    return AsyncClient()


def opening(position: str | None = "-1") -> bytes:
    """Return the first frame; without a run yet, its position is the start."""
    return b"retry: 7\n" + (f"id: {position}\n\n" if position else "\n").encode()


def url(name: str, run_id: str = RUN, **query: str) -> str:
    return reverse(f"streambridge:{name}", args=[run_id], query=query)


def token_url(name: str, run_id: str = RUN) -> str:
    return url(name, run_id, token=make_run_token(run_id))


async def read(response: Any) -> bytes:
    """Return the whole of a stream that ends."""
    assert response.status_code == 200, response.content
    async with asyncio.timeout(10 * TIMEOUT_SCALE):
        return b"".join([part async for part in response])


class Stream:
    """A stream that goes on."""

    def __init__(self, response: StreamingHttpResponse) -> None:
        self._parts: AsyncGenerator[bytes] = aiter(response)  # type: ignore[assignment]

    async def part(self) -> bytes:
        async with asyncio.timeout(10 * TIMEOUT_SCALE):
            return await anext(self._parts)

    async def close(self) -> None:
        await self._parts.aclose()


@contextlib.asynccontextmanager
async def streaming(client: AsyncClient, path: str, **headers: str) -> AsyncIterator[Stream]:
    response = await client.get(path, headers=headers)
    assert response.status_code == 200, response.content
    stream = Stream(response)
    try:
        yield stream
    finally:
        await stream.close()


async def until_no_stream_is_open() -> None:
    def none_is_open() -> bool:
        gc.collect()  # Django's test client ties responses in a knot
        return open_streams() == 0

    await async_wait_until(none_is_open, 5, "the stream to count no longer")


def position_in(frame: bytes) -> str:
    """Return the id in a frame."""
    found = re.search(rb"^id: (.*)$", frame, re.MULTILINE)
    assert found, frame
    return found[1].decode()


def end_frame(status: str, position: str) -> bytes:
    """Return the end of a run that gave no reason."""
    return f'event: end\ndata: {{"status":"{status}","error":null}}\nid: {position}\n\n'.encode()


async def ended_run(run_id: str = RUN, events: int = 2, **end: Any) -> int:
    """Make a run that has ended and return its epoch."""
    bridge = get_bridge()
    await bridge.create_run(run_id)
    for number in range(1, events + 1):
        await bridge.publish(run_id, "step", {"n": number})
    await bridge.publish_end(run_id, **end)
    return (await bridge.get_run(run_id)).epoch


def body(status: int, code: str, message: str) -> tuple[int, bytes]:
    return status, json.dumps({"code": code, "message": message}).encode()


# The stream


async def test_frames_to_the_byte(client: AsyncClient) -> None:
    bridge = get_bridge()
    await bridge.publish(RUN, "step", {"text": 'ä "q"\n\u0000', "n": 1.5})
    await bridge.publish(RUN, "a name: of, words", [None, True])
    await bridge.publish_end(RUN, error=ValueError("oh\nno"))
    epoch = (await bridge.get_run(RUN)).epoch
    assert await read(await client.get(url("stream"))) == (
        opening(f"{epoch}-0")
        + 'event: step\ndata: {"text":"ä \\"q\\"\\n\\u0000","n":1.5}\n'
        f"id: {epoch}-1\n\n"
        "event: a name: of, words\ndata: [null,true]\n"
        f"id: {epoch}-2\n\n"
        'event: __error\ndata: {"error":"ValueError","message":"oh\\nno"}\n'
        f"id: {epoch}-3\n\n"
        'event: end\ndata: {"status":"error","error":{"error":"ValueError","message":"oh\\nno"}}\n'
        f"id: {epoch}-4\n\n".encode()
    )


async def test_headers(client: AsyncClient) -> None:
    await ended_run()
    response = await client.get(url("stream"), headers={"Accept-Encoding": "gzip"})
    assert response["Content-Type"] == "text/event-stream; charset=utf-8"
    assert response["Cache-Control"] == "no-cache, no-transform"
    assert response["X-Accel-Buffering"] == "no"
    assert "Content-Length" not in response


async def test_gzip_middleware_leaves_the_stream_alone(settings: Settings) -> None:
    settings.MIDDLEWARE = ["django.middleware.gzip.GZipMiddleware", *settings.MIDDLEWARE]
    client = AsyncClient()
    epoch = await ended_run(events=100)
    async with streaming(client, url("stream"), **{"Accept-Encoding": "gzip"}) as stream:
        assert await stream.part() == opening(f"{epoch}-0")
        assert (await stream.part()).startswith(b"event: step\n")


async def test_retry_is_drawn_between_its_bounds(client: AsyncClient, settings: Settings) -> None:
    settings.STREAMBRIDGE = SIMPLE | {"RETRY_MS": (100, 100_000)}
    epoch = await ended_run()
    drawn = set()
    for _ in range(4):
        text = await read(await client.get(url("stream", last_event_id=f"{epoch}-1")))
        retry = re.match(rb"retry: (\d+)\n", text)
        assert retry
        drawn.add(int(retry[1]))
    assert all(100 <= delay <= 100_000 for delay in drawn)
    assert len(drawn) > 1


async def test_follows_from_before_the_run_to_its_end(client: AsyncClient) -> None:
    bridge = get_bridge()
    async with streaming(client, url("stream")) as stream:
        assert await stream.part() == opening()
        await bridge.publish(RUN, "step", 1)
        assert (await stream.part()).startswith(b"event: step\ndata: 1\n")
        await bridge.publish_end(RUN, status="cancelled")
        epoch = (await bridge.get_run(RUN)).epoch
        assert await stream.part() == end_frame("cancelled", f"{epoch}-2")
        with pytest.raises(StopAsyncIteration):
            await stream.part()


async def test_heartbeat_is_a_comment(client: AsyncClient, settings: Settings) -> None:
    settings.STREAMBRIDGE = SIMPLE | {"HEARTBEAT_INTERVAL": 0.01}
    async with streaming(client, url("stream")) as stream:
        assert [await stream.part() for _ in range(3)] == [opening()] + [b": heartbeat\n\n"] * 2


async def test_gap_has_no_id_but_is_followed_by_one(client: AsyncClient) -> None:
    epoch = await ended_run(events=3)
    await get_bridge().trim(RUN, keep=1)
    text = await read(await client.get(url("stream", last_event_id=f"{epoch}-1")))
    assert text == (
        opening(None)
        + f'event: gap\ndata: {{"requested":"{epoch}-1","earliest":"{epoch}-3",'
        f'"latest":"{epoch}-3"}}\n\n'
        f"id: {epoch}-2\n\n"
        f'event: step\ndata: {{"n":3}}\nid: {epoch}-3\n\n'.encode()
        + end_frame("success", f"{epoch}-4")
    )


async def test_run_deleted_while_attached_ends_the_stream(client: AsyncClient) -> None:
    bridge = get_bridge()
    await bridge.publish(RUN, "step", 1)
    async with streaming(client, url("stream")) as stream:
        assert (await stream.part()).startswith(b"retry: ")
        assert (await stream.part()).startswith(b"event: step\n")
        await bridge.cleanup(RUN)
        end = await stream.part()
        assert end.startswith(b'event: end\ndata: {"status":"lost","error":null}\nid: ')
        with pytest.raises(StopAsyncIteration):
            await stream.part()
    # The id of that end is what its EventSource comes back with: it must not wait for ever.
    position = end.removesuffix(b"\n\n").rpartition(b"id: ")[2].decode()
    response = await client.get(url("stream"), headers={"Last-Event-ID": position})
    assert (response.status_code, response.content) == body(404, "not_found", NOT_FOUND)


# Where it starts


@pytest.mark.parametrize(
    ("header", "query", "first"),
    [
        (None, None, 1),
        (None, "", 1),
        (None, "-1", 1),
        (None, "{epoch}-2", 3),
        ("{epoch}-2", None, 3),
        ("{epoch}-2", "{epoch}-1", 3),
        ("{epoch}-1", "nonsense", 2),
        ("-1", "{epoch}-2", 1),
        ("", "{epoch}-2", 3),
    ],
)
async def test_cursor(
    client: AsyncClient, header: str | None, query: str | None, first: int
) -> None:
    epoch = await ended_run(events=3)
    parameters = {} if query is None else {"last_event_id": query.format(epoch=epoch)}
    headers = {} if header is None else {"Last-Event-ID": header.format(epoch=epoch)}
    text = await read(await client.get(url("stream", **parameters), headers=headers))
    ids = re.findall(rb"\nid: (.*)\n", text)
    expected = [*range(first - 1, 4), 4]  # where it starts, the events, the end
    assert ids == [f"{epoch}-{seq}".encode() for seq in expected]


async def test_now_is_what_comes_next(client: AsyncClient, settings: Settings) -> None:
    settings.STREAMBRIDGE = SIMPLE | {"HEARTBEAT_INTERVAL": 0.01}
    bridge = get_bridge()
    await bridge.publish(RUN, "step", "old")
    async with streaming(client, url("stream", last_event_id="now")) as stream:
        position = f"{(await bridge.get_run(RUN)).epoch}-1"
        assert [await stream.part() for _ in range(2)] == [opening(position), b": heartbeat\n\n"]
        await bridge.publish(RUN, "step", "new")
        while (part := await stream.part()) == b": heartbeat\n\n":
            pass
        assert b'data: "new"\n' in part


async def test_what_comes_while_a_client_of_now_is_away_is_not_lost(
    client: AsyncClient, settings: Settings
) -> None:
    settings.STREAMBRIDGE = SIMPLE | {"HEARTBEAT_INTERVAL": 0.01}
    bridge = get_bridge()
    for old in range(2):  # an empty run, and one with an event
        run_id = f"with {old}"
        await bridge.create_run(run_id)
        for _ in range(old):
            await bridge.publish(run_id, "step", "old")
        path = url("stream", run_id, last_event_id="now")
        async with streaming(client, path) as stream:
            position = position_in(await stream.part())
            assert await stream.part() == b": heartbeat\n\n"
        await bridge.publish(run_id, "step", "missed")
        await bridge.publish_end(run_id)
        text = await read(await client.get(path, headers={"Last-Event-ID": position}))
        assert b'data: "missed"\n' in text
        assert b"old" not in text
        assert b"event: gap" not in text


@pytest.mark.parametrize("cursor", ["now", "-1", ""])
async def test_what_comes_before_a_run_is_there_is_not_lost(
    client: AsyncClient, cursor: str
) -> None:
    bridge = get_bridge()
    path = url("stream", last_event_id=cursor)
    async with streaming(client, path) as stream:
        position = position_in(await stream.part())
    await bridge.publish(RUN, "step", "missed")
    await bridge.publish_end(RUN)
    text = await read(await client.get(path, headers={"Last-Event-ID": position}))
    assert b'data: "missed"\n' in text
    assert b"event: gap" not in text


async def test_a_gap_is_told_once(client: AsyncClient) -> None:
    epoch = await ended_run(events=3)
    await get_bridge().trim(RUN, keep=1)
    text = await read(await client.get(url("stream", last_event_id=f"{epoch}-1")))
    frames = text.split(b"\n\n")
    assert frames[1].startswith(b"event: gap\n")
    position = position_in(frames[2])
    text = await read(await client.get(url("stream"), headers={"Last-Event-ID": position}))
    assert b"event: gap" not in text
    assert f"\nid: {epoch}-3\n".encode() in text


@pytest.mark.parametrize(
    "header", ["17", "undefined", '"{epoch}-1"', "{epoch}-1,{epoch}-1", "{epoch}-1 ", "x" * 2000]
)
async def test_a_cursor_that_only_a_machine_can_have_written_is_a_gap_and_then_the_run(
    client: AsyncClient, header: str
) -> None:
    epoch = await ended_run(events=2)
    header = header.format(epoch=epoch)
    text = await read(await client.get(url("stream"), headers={"Last-Event-ID": header}))
    first, gap, *rest = text.split(b"\n\n")
    assert b"id:" not in first
    data = json.loads(gap.removeprefix(b"event: gap\ndata: "))
    assert data == {
        "requested": header[:60],
        "earliest": f"{epoch}-1",
        "latest": f"{epoch}-2",
    }
    assert [position_in(frame) for frame in rest[:-1]] == [f"{epoch}-{n}" for n in range(4)]


async def test_such_a_cursor_waits_for_a_run_that_is_not_there_yet(client: AsyncClient) -> None:
    async with streaming(client, url("stream"), **{"Last-Event-ID": "undefined"}) as stream:
        assert await stream.part() == opening(None)
        await get_bridge().publish(RUN, "step", 1)
        assert (await stream.part()).startswith(b"event: gap\n")
        assert b"\ndata: 1\n" in await stream.part()


@pytest.mark.parametrize("name", ["lastEventId", "lastEventID", "Last-Event-ID", "last_event_id"])
async def test_names_by_which_clients_send_their_cursor(client: AsyncClient, name: str) -> None:
    epoch = await ended_run(events=2)
    text = await read(await client.get(url("stream", **{name: f"{epoch}-1"})))
    assert b'{"n":1}' not in text
    assert b'{"n":2}' in text
    response = await client.get(url("stream", **{name: "nonsense"}))
    assert (response.status_code, response.json()["code"]) == (400, "invalid_cursor")


async def test_what_a_client_appends_wins_over_what_the_developer_wrote(
    client: AsyncClient,
) -> None:
    epoch = await ended_run(events=2)
    path = url("stream", last_event_id="now", lastEventId=f"{epoch}-1")
    assert b'{"n":2}' in await read(await client.get(path))
    text = await read(await client.get(path, headers={"Last-Event-ID": f"{epoch}-2"}))
    assert b"event: step" not in text


@pytest.mark.parametrize("events", [0, 1, 3])
async def test_who_was_away_when_the_run_ended_hears_of_it_and_then_gets_204(
    client: AsyncClient, events: int
) -> None:
    epoch = await ended_run(events=events, status="cancelled")
    path = url("stream", last_event_id=f"{epoch}-{events}")
    text = await read(await client.get(path))
    end = end_frame("cancelled", f"{epoch}-{events + 1}")
    assert text == opening(f"{epoch}-{events}") + end
    for parameters in (
        {"path": url("stream"), "headers": {"Last-Event-ID": position_in(end)}},
        {"path": url("stream", last_event_id=position_in(end))},
    ):
        response = await client.get(**parameters)
        assert (response.status_code, response.content) == (204, b"")
        assert response["Cache-Control"] == "private, no-store"
        assert "Content-Type" not in response


async def test_no_204_before_the_end_or_elsewhere(client: AsyncClient) -> None:
    epoch = await ended_run(events=2)
    for cursor in (f"{epoch}-1", f"{epoch}-2", f"{epoch}-4", f"{epoch - 1}-3", "now"):
        text = await read(await client.get(url("stream", last_event_id=cursor)))
        assert text.endswith(end_frame("success", f"{epoch}-3"))
    await get_bridge().publish("going", "step", 1)
    going = await get_bridge().get_run("going")
    ahead = f"{going.epoch}-2"  # what its end will have
    async with streaming(client, url("stream", "going", last_event_id=ahead)) as stream:
        assert await stream.part() == opening(None)
        assert (await stream.part()).startswith(b"event: gap\n")


@pytest.mark.parametrize("name", ["end", "gap", "open", "error"])
async def test_events_of_the_run_are_never_taken_for_those_of_the_stream(
    client: AsyncClient, name: str
) -> None:
    await get_bridge().publish(RUN, name, {"status": "success", "error": None})
    await get_bridge().publish_end(RUN)
    text = await read(await client.get(url("stream")))
    assert text.count(f"event: __{name}\n".encode()) == 1
    assert text.count(f"event: {name}\n".encode()) == (name == "end")


# The state


async def test_state(client: AsyncClient) -> None:
    bridge = get_bridge()
    await bridge.create_run(RUN, owner=7, metadata={"title": "ä", "n": [1]})
    run = await bridge.get_run(RUN)
    response = await client.get(url("run"))
    assert response["Content-Type"] == "application/json"
    assert response["Cache-Control"] == "private, no-store"
    assert response.json() == {
        "run_id": RUN,
        "status": "running",
        "head": 0,
        "earliest": None,
        "last_event_id": None,
        "created_at": run.created_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "ended_at": None,
        "cancel_requested": False,
        "error": None,
        "silent_seconds": None,
        "metadata": {"title": "ä", "n": [1]},
    }


async def test_state_of_a_trimmed_and_ended_run(client: AsyncClient) -> None:
    epoch = await ended_run(events=3, status="lost")
    await get_bridge().trim(RUN, keep=1)
    state = (await client.get(url("run"))).json()
    assert (state["status"], state["head"], state["earliest"]) == ("lost", 3, 3)
    assert state["last_event_id"] == f"{epoch}-3"
    assert state["ended_at"] >= state["created_at"]


async def test_state_of_a_run_that_failed(client: AsyncClient) -> None:
    await ended_run(error=KeyError("x"))
    state = (await client.get(url("run"))).json()
    assert (state["status"], state["error"]) == (
        "error",
        {"error": "KeyError", "message": "'x'"},
    )


async def test_state_of_no_run(client: AsyncClient) -> None:
    response = await client.get(url("run"))
    assert (response.status_code, response.content) == body(404, "not_found", NOT_FOUND)


# Cancel


async def test_cancel(client: AsyncClient) -> None:
    await get_bridge().create_run(RUN)
    for _ in range(2):
        response = await client.post(url("cancel"))
        assert response.status_code == 202
        assert response.json() == {"run_id": RUN, "cancel_requested": True}
    assert (await client.get(url("run"))).json()["cancel_requested"] is True


async def test_cancel_of_an_ended_run(client: AsyncClient) -> None:
    await ended_run()
    response = await client.post(url("cancel"))
    message = f"The run {RUN!r} has ended; there is nothing left to cancel."
    assert (response.status_code, response.content) == body(409, "run_ended", message)


async def test_cancel_of_no_run(client: AsyncClient) -> None:
    response = await client.post(url("cancel"))
    assert (response.status_code, response.content) == body(404, "not_found", NOT_FOUND)


@with_database
@pytest.mark.parametrize("use_sessions", [False, True])
async def test_cancel_needs_the_csrf_token(settings: Settings, use_sessions: bool) -> None:
    settings.CSRF_USE_SESSIONS = use_sessions
    await get_bridge().create_run(RUN)
    client = AsyncClient(enforce_csrf_checks=True)
    response = await client.post(url("cancel"))
    assert (response.status_code, response.json()["code"]) == (403, "csrf_failed")
    assert response["Cache-Control"] == "private, no-store"
    assert (await get_bridge().get_run(RUN)).cancel_requested is False

    secret = "s" * 32
    if use_sessions:
        session = await client.asession()
        await session.aset("_csrftoken", secret)
        await session.asave()
    else:
        client.cookies["csrftoken"] = secret
    response = await client.post(url("cancel"), headers={"X-CSRFToken": secret})
    assert response.status_code == 202


async def test_cancel_from_another_site() -> None:
    client = AsyncClient(enforce_csrf_checks=True)
    client.cookies["csrftoken"] = "s" * 32
    headers = {"X-CSRFToken": "s" * 32, "Origin": "https://elsewhere.example"}
    response = await client.post(url("cancel"), headers=headers)
    assert (response.status_code, response.json()["code"]) == (403, "csrf_failed")


# Refusals


@pytest.mark.parametrize(
    ("name", "allowed"), [("stream", "GET, HEAD"), ("run", "GET, HEAD"), ("cancel", "POST")]
)
async def test_other_methods(name: str, allowed: str) -> None:
    client = AsyncClient(enforce_csrf_checks=True)
    for method in {"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"} - {
        *allowed.split(", ")
    }:
        response = await client.generic(method, url(name))
        expected = body(405, "method_not_allowed", f"Use {allowed.split(', ')[0]} here.")
        if method == "HEAD":
            expected = 405, b""
        assert (response.status_code, response.content) == expected
        assert response["Allow"] == allowed


@pytest.mark.parametrize("cursor", ["nonsense", "1", "1-", "-2", "1-2-3", "٣-٤", "1" * 99, "1-2\n"])
async def test_bad_cursor(cursor: str) -> None:
    """Whoever asks, for whichever run: the answer is about the cursor alone."""
    response = await AsyncClient().get(url("stream", last_event_id=cursor))
    assert (response.status_code, response.json()["code"]) == (400, "invalid_cursor")
    assert response["Content-Type"] == "application/json"
    assert repr(cursor)[:20] in response.json()["message"]


@pytest.mark.parametrize("name", ["stream", "run", "cancel"])
@pytest.mark.parametrize(
    "run_id",
    ["x" * 201, "bell\x07", "nul\x00", "\x85", "line\nfeed", "..", "x//"],
)
async def test_bad_run_id(name: str, run_id: str) -> None:
    client = AsyncClient()
    method = client.post if name == "cancel" else client.get
    response = await method(url(name, run_id))
    assert (response.status_code, response.json()["code"]) == (400, "invalid_run_id")


@pytest.mark.parametrize("name", ["stream", "run"])
async def test_parameters_that_django_does_not_read(
    client: AsyncClient, settings: Settings, name: str
) -> None:
    settings.DATA_UPLOAD_MAX_NUMBER_FIELDS = 1
    response = await client.get(url(name, one="1", two="2"))
    assert (response.status_code, response.json()["code"]) == (400, "bad_request")


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "multipart/form-data"]
)
async def test_body_that_django_does_not_read(settings: Settings, content_type: str) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1
    client = AsyncClient(enforce_csrf_checks=True)
    client.cookies["csrftoken"] = "a" * 32
    response = await client.post(url("cancel"), "a=1&b=2", content_type=content_type)
    assert (response.status_code, response.json()["code"]) == (400, "bad_request")


async def test_too_many_streams(client: AsyncClient, settings: Settings) -> None:
    settings.STREAMBRIDGE = SIMPLE | {"MAX_STREAMS": 2}
    # Their first frames have not been asked for yet: they count from their answer on.
    first, second = [await client.get(url("stream")) for _ in range(2)]
    assert (first.status_code, second.status_code, open_streams()) == (200, 200, 2)
    refused = await client.get(url("stream"))
    message = "This server has its 2 streams open. Try again later."
    assert (refused.status_code, refused.content) == body(429, "too_many_streams", message)
    assert refused["Retry-After"] == str(RETRY_AFTER)
    assert (await client.get(url("run"))).status_code == 404  # other routes need no room

    stream = Stream(first)
    await stream.part()
    await stream.close()
    assert open_streams() == 1
    async with streaming(client, url("stream")):
        assert open_streams() == 2


async def test_strangers_do_not_learn_that_the_server_is_full(settings: Settings) -> None:
    settings.STREAMBRIDGE = {"BACKEND": MEMORY, "MAX_STREAMS": 1}
    async with streaming(AsyncClient(), token_url("stream")):
        assert (await AsyncClient().get(token_url("stream"))).status_code == 429
        assert (await AsyncClient().get(url("stream"))).status_code == 401


async def test_response_that_nobody_reads_counts_no_longer(client: AsyncClient) -> None:
    response = await client.get(url("stream"))
    assert open_streams() == 1
    del response
    await until_no_stream_is_open()


async def ask_all(client: AsyncClient) -> list[tuple[int, bytes, str]]:
    """Return the answer of each route."""
    answers = [
        await client.get(url("stream")),
        await client.get(url("run")),
        await client.post(url("cancel")),
    ]
    return [(answer.status_code, answer.content, answer["Retry-After"]) for answer in answers]


@with_database
async def test_log_that_cannot_be_reached(
    client: AsyncClient, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nowhere = tmp_path / "missing" / "log.sqlite3"
    monkeypatch.setitem(connections.settings["default"], "NAME", nowhere)
    settings.STREAMBRIDGE = {"AUTHORIZER": OPEN_HOUSE}
    refusal = body(503, "log_unavailable", "The log can't be reached right now. Try again.")
    assert await ask_all(client) == [(*refusal, str(RETRY_AFTER))] * 3


async def test_server_that_shuts_down_takes_no_stream(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_draining", True)
    response = await client.get(url("stream"))
    refusal = body(503, "shutting_down", "This server is shutting down. Connect again.")
    assert (response.status_code, response.content) == refusal
    assert response["Retry-After"] == str(RETRY_AFTER)


async def test_a_bridge_that_was_closed_serves_again(client: AsyncClient) -> None:
    await get_bridge().close()
    await ended_run()
    assert b"event: end\n" in await read(await client.get(url("stream")))


async def test_server_that_shuts_down_lets_its_streams_go(client: AsyncClient) -> None:
    bridge = get_bridge()
    await bridge.publish(RUN, "step", 1)
    async with streaming(client, url("stream")) as stream:
        assert (await stream.part()).startswith(b"retry: ")
        assert (await stream.part()).startswith(b"event: step\n")
        await bridge.close()
        with pytest.raises(StopAsyncIteration):  # without an end: the client comes back
            await stream.part()


# Over real servers


@pytest.fixture
def default(settings: Settings) -> None:
    settings.STREAMBRIDGE = {}


@with_database
def test_first_bytes_leave_at_once(runs_server: AsgiServer) -> None:
    with requested(runs_server, token_url("stream"), **{"Accept-Encoding": "gzip"}) as answer:
        assert answer.status == 200
        assert re.fullmatch(rb"retry: \d+\n", answer.readline())
        assert answer.readline() == b"id: -1\n"
        assert answer.readline() == b"\n"
        assert streams_of(runs_server) == 1
    wait_until(lambda: streams_of(runs_server) == 0, 10, "the stream to count no longer")


@with_database
@pytest.mark.usefixtures("default")
async def test_events_of_another_process_arrive_until_the_end(runs_server: AsgiServer) -> None:
    await get_bridge().publish(RUN, "step", 1)
    with requested(runs_server, token_url("stream")) as answer:
        lines = (line for line in iter(answer.readline, b"") if line.startswith(b"data: "))
        assert await asyncio.to_thread(next, lines) == b"data: 1\n"
        await get_bridge().publish(RUN, "step", 2)
        assert await asyncio.to_thread(next, lines) == b"data: 2\n"
        await get_bridge().publish_end(RUN)
        assert await asyncio.to_thread(list, lines) == [
            b'data: {"status":"success","error":null}\n'
        ]
    await async_wait_until(lambda: streams_of(runs_server) == 0, 10, "the stream to be over")


ODD_IDS = [
    "a/b",
    "a b",
    "ünï-日本",
    "100%",
    "%2F",
    "a?b=c&d#e",
    "a+b",
    "a//b",
    "//a",
    "'\"<&>;",
]


@with_database
@pytest.mark.usefixtures("default")
async def test_run_ids_of_any_characters(runs_server: AsgiServer) -> None:
    for run_id in ODD_IDS:
        await get_bridge().publish(run_id, "step", run_id)
        await get_bridge().publish_end(run_id)
        with requested(runs_server, token_url("run", run_id)) as answer:
            assert json.load(answer)["run_id"] == run_id
        with requested(runs_server, token_url("stream", run_id)) as answer:
            expected = f"data: {json.dumps(run_id, ensure_ascii=False)}\n".encode()
            assert expected in answer.readlines()
