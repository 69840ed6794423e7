"""
The WebSocket routes, by the communicator of Channels and by a real Daphne and Uvicorn.

As in `test_views.py`: what the routes do with a bridge is tried on the memory backend with
everybody let in, the servers have the default backend and the default rule.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import websockets
from channels.auth import AuthMiddlewareStack
from channels.routing import URLRouter
from channels.testing import WebsocketCommunicator
from pytest_django import Settings

from streambridge_app import get_bridge
from streambridge_app.access import NOT_FOUND, Access, Authorizer, make_run_token
from streambridge_app.asgi import open_streams as streams
from streambridge_app.asgi.open_streams import OpenStream, open_streams
from streambridge_app.backends.memory import MemoryBridge
from streambridge_app.contract.items import Item
from streambridge_app.exceptions import LogUnavailable
from streambridge_app.routing import websocket_urlpatterns
from streambridge_app.serve import consumers as module
from streambridge_app.serve.consumers import (
    IDLE,
    INTERNAL_ERROR,
    MAX_MESSAGE_CHARACTERS,
    MAX_REFUSALS,
    SERVICE_RESTART,
    TOO_MANY_REFUSALS,
    UNAVAILABLE,
)
from tests.conftest import MEMORY
from tests.integration.conftest import OPEN_HOUSE, streams_of
from tests.services import TIMEOUT_SCALE, AsgiServer, async_wait_until

with_database = pytest.mark.django_db(transaction=True)

RUN = "a run"
MANY = "/ws/runs/"
SIMPLE = {"BACKEND": MEMORY, "AUTHORIZER": OPEN_HOUSE}
DEADLINE = 10 * TIMEOUT_SCALE

application = AuthMiddlewareStack(URLRouter(websocket_urlpatterns))


@pytest.fixture(autouse=True)
def simple(settings: Settings) -> None:
    settings.STREAMBRIDGE = SIMPLE


class Socket:
    """A client's end of a WebSocket."""

    def __init__(self, communicator: WebsocketCommunicator) -> None:
        self.communicator = communicator

    async def say(self, **message: Any) -> None:
        await self.communicator.send_json_to(message)

    async def text(self) -> str:
        text: str = await self.communicator.receive_from(DEADLINE)
        return text

    async def frame(self) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(await self.text())
        return frame

    async def frames(self, count: int) -> list[dict[str, Any]]:
        return [await self.frame() for _ in range(count)]

    async def subscribe(self, run_id: str = RUN, **fields: Any) -> None:
        await self.say(type="subscribe", run=run_id, **fields)
        frame = await self.frame()
        assert (frame["type"], frame["run"]) == ("subscribed", run_id)

    async def error(self) -> tuple[str | None, str]:
        frame = await self.frame()
        assert frame["type"] == "error"
        assert frame["message"]
        return frame.get("run"), frame["code"]

    async def closed(self) -> int | None:
        """Return the code with which the server closes next; None is its default, 1000."""
        message = await self.communicator.receive_output(DEADLINE)
        assert message["type"] == "websocket.close"
        code: int | None = message.get("code")
        return code

    def silent(self) -> bool:
        return bool(self.communicator.output_queue.empty())


@contextlib.asynccontextmanager
async def socket(path: str = MANY, app: Any = application) -> AsyncIterator[Socket]:
    communicator = WebsocketCommunicator(app, path)
    connected, _ = await communicator.connect(DEADLINE)
    assert connected
    try:
        yield Socket(communicator)
    finally:
        await communicator.disconnect(timeout=DEADLINE)


def path(run_id: str = RUN, **query: str) -> str:
    return f"/ws/runs/{quote(run_id)}/?{urlencode(query)}"


def followers() -> int:
    """Return how many runs all sockets follow."""
    coroutines = [task.get_coro() for task in asyncio.all_tasks()]
    return sum("._follow" in coroutine.__qualname__ for coroutine in coroutines if coroutine)


async def ended_run(run_id: str = RUN, events: int = 2) -> int:
    """Make a run that has ended and return its epoch."""
    bridge = get_bridge()
    for number in range(1, events + 1):
        await bridge.publish(run_id, "step", number)
    await bridge.publish_end(run_id)
    return (await bridge.get_run(run_id)).epoch


# One run


async def test_frames_to_the_character() -> None:
    epoch = await ended_run(events=2)
    async with socket(path()) as client:
        assert [await client.text() for _ in range(4)] == [
            f'{{"type":"subscribed","run":"a run","last_event_id":"{epoch}-0"}}',
            f'{{"type":"event","run":"a run","id":"{epoch}-1","event":"step","data":1}}',
            f'{{"type":"event","run":"a run","id":"{epoch}-2","event":"step","data":2}}',
            f'{{"type":"end","run":"a run","id":"{epoch}-3","status":"success","error":null}}',
        ]
        assert await client.closed() is None


async def test_follows_from_before_the_run_to_its_end() -> None:
    bridge = get_bridge()
    async with socket(path()) as client:
        assert (await client.frame())["type"] == "subscribed"
        await bridge.publish(RUN, "step", {"text": "ä\u0000"})
        frame = await client.frame()
        assert (frame["event"], frame["data"]) == ("step", {"text": "ä\u0000"})
        await bridge.publish_end(RUN, error="why")
        assert (await client.frame())["data"] == {"error": "Error", "message": "why"}
        end = await client.frame()
        assert (end["type"], end["status"]) == ("end", "error")
        assert end["error"] == {"error": "Error", "message": "why"}
        assert await client.closed() is None


async def test_cursor_in_the_address() -> None:
    epoch = await ended_run(events=3)
    async with socket(path(last_event_id=f"{epoch}-2")) as client:
        frames = await client.frames(3)
        assert frames[0]["last_event_id"] == f"{epoch}-2"
        assert [frame.get("id") for frame in frames[1:]] == [f"{epoch}-3", f"{epoch}-4"]
        assert await client.closed() is None


@pytest.mark.parametrize("seen", [0, 1])
async def test_who_was_away_when_the_run_ended_gets_the_end(seen: int) -> None:
    epoch = await ended_run(events=0)
    async with socket(path(last_event_id=f"{epoch}-{seen}")) as client:
        subscribed, end = await client.frames(2)
        assert subscribed["last_event_id"] == f"{epoch}-0"
        assert end == {
            "type": "end",
            "run": RUN,
            "id": f"{epoch}-1",
            "status": "success",
            "error": None,
        }
        assert await client.closed() is None


@pytest.mark.parametrize("name", ["lastEventId", "lastEventID", "Last-Event-ID"])
async def test_names_by_which_clients_send_their_cursor(name: str) -> None:
    epoch = await ended_run(events=2)
    async with socket(path(**{name: f"{epoch}-1"})) as client:
        assert [frame.get("id") for frame in await client.frames(3)][1:] == [
            f"{epoch}-2",
            f"{epoch}-3",
        ]


@pytest.mark.parametrize("there", [False, True])
async def test_what_comes_while_a_client_of_now_is_away_is_not_lost(there: bool) -> None:
    if there:
        await get_bridge().publish(RUN, "step", "old")
    async with socket(path(last_event_id="now")) as client:
        position = (await client.frame())["last_event_id"]
    await get_bridge().publish(RUN, "step", "missed")
    async with socket(path(last_event_id=position)) as client:
        assert (await client.frame())["type"] == "subscribed"
        frame = await client.frame()
        assert (frame["type"], frame["data"]) == ("event", "missed")


async def test_gap() -> None:
    epoch = await ended_run(events=3)
    await get_bridge().trim(RUN, keep=1)
    async with socket(path(last_event_id=f"{epoch}-1")) as client:
        assert (await client.frames(2))[1] == {
            "type": "gap",
            "run": RUN,
            "requested": f"{epoch}-1",
            "earliest": f"{epoch}-3",
            "latest": f"{epoch}-3",
            "last_event_id": f"{epoch}-2",
        }
        assert [frame["type"] for frame in await client.frames(2)] == ["event", "end"]


async def test_heartbeat(settings: Settings) -> None:
    settings.STREAMBRIDGE = SIMPLE | {"HEARTBEAT_INTERVAL": 0.01}
    async with socket(path()) as client:
        assert await client.frames(3) == [
            {"type": "subscribed", "run": RUN, "last_event_id": "-1"},
            *[{"type": "heartbeat", "run": RUN}] * 2,
        ]


async def test_run_deleted_while_attached_ends() -> None:
    bridge = get_bridge()
    await bridge.publish(RUN, "step", 1)
    async with socket(path()) as client:
        event = (await client.frames(2))[1]
        await bridge.cleanup(RUN)
        end = await client.frame()
        assert (end["type"], end["status"]) == ("end", "lost")
        assert await client.closed() is None
    # Who comes back after that must not wait for ever.
    for position in (event["id"], end["id"]):
        async with socket(path(last_event_id=position)) as client:
            assert await client.error() == (None, "not_found")
            assert await client.closed() == 4404


async def test_what_the_client_of_one_run_says_is_ignored() -> None:
    async with socket(path()) as client:
        assert (await client.frame())["type"] == "subscribed"
        await client.say(type="subscribe", run="another")
        await client.communicator.send_to(bytes_data=b"\x00")
        await get_bridge().publish(RUN, "step", 1)
        assert (await client.frame())["data"] == 1


@pytest.mark.parametrize(
    ("address", "code", "message"),
    [
        (path(last_event_id="nonsense"), 400, "'nonsense' is not a cursor."),
        (path("x" * 201), 400, "A run id may have 200 characters, this one has 201"),
        (path("bell\x07"), 400, "A run id must not have control characters"),
        (path(last_event_id="1-1"), 404, NOT_FOUND),
    ],
)
async def test_refused(address: str, code: int, message: str) -> None:
    async with socket(address) as client:
        frame = await client.frame()
        assert list(frame) == ["type", "code", "message"]
        assert frame["message"].startswith(message)
        assert await client.closed() == 4000 + code
        assert client.silent()


async def test_refused_when_all_streams_are_open(settings: Settings) -> None:
    settings.STREAMBRIDGE = SIMPLE | {"MAX_STREAMS": 1}
    only = OpenStream()
    async with socket(path()) as client:
        assert await client.error() == (None, "too_many_streams")
        assert await client.closed() == 4429
    only.close()
    async with socket(path()) as client:
        assert (await client.frame())["type"] == "subscribed"
        assert open_streams() == 1


# Many runs


async def test_many_runs_over_one_socket() -> None:
    bridge = get_bridge()
    async with socket() as client:
        await client.subscribe("a")
        await client.subscribe("b", last_event_id="-1")
        assert (open_streams(), followers()) == (3, 2)
        for number, run_id in enumerate("abba"):
            await bridge.publish(run_id, "step", number)
            frame = await client.frame()
            assert (frame["type"], frame["run"], frame["data"]) == ("event", run_id, number)


async def test_unsubscribe_and_subscribe_again_from_there() -> None:
    bridge = get_bridge()
    async with socket() as client:
        await client.subscribe()
        await bridge.publish(RUN, "step", 1)
        first = await client.frame()
        await client.say(type="unsubscribe", run=RUN)
        assert await client.text() == '{"type":"unsubscribed","run":"a run"}'
        assert (open_streams(), followers()) == (1, 0)
        await bridge.publish(RUN, "step", 2)
        await client.subscribe(last_event_id=first["id"])
        assert (await client.frame())["data"] == 2


async def test_a_run_that_ended_can_be_subscribed_again() -> None:
    await ended_run(events=1)
    async with socket() as client:
        for _ in range(2):
            await client.subscribe()
            assert [frame["type"] for frame in await client.frames(2)] == ["event", "end"]
            await async_wait_until(lambda: open_streams() == 1, 5, "the end to be over")
        await client.say(type="unsubscribe", run=RUN)
        assert await client.error() == (RUN, "not_subscribed")


async def test_who_has_read_of_the_end_can_subscribe_again_at_once() -> None:
    released = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        async def send_and_wait(message: Any) -> None:
            await send(message)
            if '"type":"end"' in message.get("text", ""):
                await released.wait()

        await application(scope, receive, send_and_wait)

    await ended_run(events=0)
    bridge = get_bridge()
    async with socket(app=slow) as client:
        await client.subscribe()
        assert (await client.frame())["type"] == "end"
        await bridge.cleanup(RUN)
        await client.subscribe()
        released.set()
        await async_wait_until(lambda: followers() == 1, 5, "the end to be over")
        await bridge.publish(RUN, "step", 1)
        assert (await client.frame())["data"] == 1
        await client.say(type="unsubscribe", run=RUN)
        assert (await client.frame())["type"] == "unsubscribed"
        assert (open_streams(), followers()) == (1, 0)
        # The end that is being sent goes with the socket.
        released.clear()
        await bridge.publish_end("another")
        await client.subscribe("another")
        assert (await client.frame())["type"] == "end"
    assert open_streams() == followers() == 0


async def test_unsubscribe_on_the_heels_of_subscribe() -> None:
    async with socket() as client:
        for _ in range(20):
            await client.say(type="subscribe", run=RUN)
            await client.say(type="unsubscribe", run=RUN)
        kinds = [frame["type"] for frame in await client.frames(40)]
        assert kinds == ["subscribed", "unsubscribed"] * 20
        assert (open_streams(), followers()) == (1, 0)


async def test_null_is_as_good_as_nothing() -> None:
    async with socket() as client:
        await client.subscribe(last_event_id=None, token=None)


BAD_MESSAGES: list[str | bytes] = [
    b"\x00\xff",
    b'{"type":"subscribe","run":"a run"}',
    "subscribe",
    "{",
    "null",
    "1" * 4096,
    "[]",
    '["subscribe"]',
    "{}",
    '{"type":"subscribe"}',
    '{"run":"a run"}',
    '{"type":"publish","run":"a run"}',
    '{"type":[],"run":"a run"}',
    '{"type":{},"run":"a run"}',
    '{"type":null,"run":"a run"}',
    '{"type":"subscribe","run":1}',
    '{"type":"subscribe","run":null}',
    '{"type":"subscribe","run":["a run"]}',
    '{"type":"subscribe","run":"a run","last_event_id":1}',
    '{"type":"subscribe","run":"a run","last_event_id":["1-1"]}',
    '{"type":"subscribe","run":"a run","token":1}',
    "[" * MAX_MESSAGE_CHARACTERS,
    '{"a":' * (MAX_MESSAGE_CHARACTERS // 5),
    json.dumps({"type": "subscribe", "run": RUN, "more": "x" * MAX_MESSAGE_CHARACTERS}),
    "x" * 1_000_000,
]


async def test_bad_messages_get_an_error_and_the_socket_stays_open() -> None:
    async with socket() as client:
        for number, message in enumerate(BAD_MESSAGES):
            if number % (MAX_REFUSALS - 1) == 0:
                await client.subscribe(f"run {number}")
            if isinstance(message, bytes):
                await client.communicator.send_to(bytes_data=message)
            else:
                await client.communicator.send_to(text_data=message)
            assert await client.error() == (None, "invalid_message"), message[:80]
        await client.communicator.send_input({"type": "websocket.receive", "text": ""})
        assert await client.error() == (None, "invalid_message")
        await client.subscribe()


async def test_longest_message() -> None:
    message = {"type": "subscribe", "run": RUN, "more": ""}
    message["more"] = "x" * (MAX_MESSAGE_CHARACTERS - len(json.dumps(message)))
    async with socket() as client:
        await client.communicator.send_to(text_data=json.dumps(message))
        assert (await client.frame())["type"] == "subscribed"


async def test_errors_name_the_run_and_the_socket_stays_open(settings: Settings) -> None:
    settings.STREAMBRIDGE = SIMPLE | {"MAX_RUNS_PER_SOCKET": 2}
    async with socket() as client:
        await client.subscribe()
        for refused, code in [
            ({"type": "subscribe", "run": RUN}, "already_subscribed"),
            ({"type": "unsubscribe", "run": "b"}, "not_subscribed"),
            ({"type": "subscribe", "run": ""}, "invalid_run_id"),
            ({"type": "subscribe", "run": "x" * 201}, "invalid_run_id"),
            ({"type": "subscribe", "run": "lone \ud800"}, "invalid_run_id"),
            ({"type": "unsubscribe", "run": "lone \ud800"}, "not_subscribed"),
            ({"type": "subscribe", "run": "b", "last_event_id": "x\ud800"}, "invalid_cursor"),
            ({"type": "subscribe", "run": "b", "last_event_id": "1-1"}, "not_found"),
        ]:
            await client.say(**refused)
            assert await client.error() == (refused["run"], code)
        await client.subscribe("b")
        await client.say(type="subscribe", run="c")
        assert await client.error() == ("c", "too_many_runs")
        assert (open_streams(), followers()) == (3, 2)
        await client.say(type="unsubscribe", run="b")
        assert (await client.frame())["type"] == "unsubscribed"
        await client.subscribe("c")


async def test_subscriptions_of_all_sockets_are_counted(settings: Settings) -> None:
    settings.STREAMBRIDGE = SIMPLE | {"MAX_STREAMS": 4}
    async with socket() as first, socket() as second:
        await first.subscribe("a")
        await second.subscribe("b")
        await second.say(type="subscribe", run="c")
        assert await second.error() == ("c", "too_many_streams")
        await first.say(type="unsubscribe", run="a")
        assert (await first.frame())["type"] == "unsubscribed"
        await second.subscribe("c")


async def test_socket_that_follows_nothing_is_counted_too(settings: Settings) -> None:
    settings.STREAMBRIDGE = SIMPLE | {"MAX_STREAMS": 1}
    async with socket():
        assert open_streams() == 1
        async with socket() as client:
            assert await client.error() == (None, "too_many_streams")
            assert await client.closed() == 4429
            await client.say(type="subscribe", run=RUN)
        assert client.silent()
    assert open_streams() == 0


async def test_socket_that_follows_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_SOCKET_SECONDS", 0.05)
    async with socket() as client:
        assert await client.closed() == 4408
    async with socket() as client:
        await client.say(type="unsubscribe", run=RUN)
        assert await client.error() == (RUN, "not_subscribed")
        assert await client.closed() == 4408
        await client.say(type="subscribe", run=RUN)
    assert client.silent()
    await ended_run(events=0)
    async with socket() as client:
        await client.subscribe()
        assert (await client.frame())["type"] == "end"
        assert await client.closed() == 4408


async def test_socket_that_follows_a_run_is_not_idle(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.STREAMBRIDGE = SIMPLE | {"HEARTBEAT_INTERVAL": 0.1}
    monkeypatch.setattr(module, "IDLE_SOCKET_SECONDS", 1)
    async with socket() as client:
        await client.subscribe()
        assert {frame["type"] for frame in await client.frames(15)} == {"heartbeat"}
        await client.subscribe("another")
        await client.say(type="unsubscribe", run="another")
        assert {frame["type"] for frame in await client.frames(15)} == {"heartbeat", "unsubscribed"}
        await client.say(type="unsubscribe", run=RUN)
        while (await client.frame())["type"] == "heartbeat":
            pass
        assert await client.closed() == 4408


async def test_socket_that_is_refused_again_and_again_is_closed() -> None:
    async with socket() as client:
        for _ in range(MAX_REFUSALS - 1):
            await client.say(type="unsubscribe", run=RUN)
            assert await client.error() == (RUN, "not_subscribed")
        await client.subscribe()
        for _ in range(MAX_REFUSALS):
            await client.say(type="subscribe")
            assert await client.error() == (None, "invalid_message")
        assert await client.closed() == 4400
        await client.say(type="subscribe", run="another")
    assert client.silent()


async def test_tokens_in_the_address_and_in_messages(settings: Settings) -> None:
    settings.STREAMBRIDGE = {"BACKEND": MEMORY}
    a, b = make_run_token("a"), make_run_token("b")
    async with socket(f"{MANY}?{urlencode({'token': a})}") as client:
        await client.subscribe("a")
        await client.subscribe("b", token=b)
        await client.say(type="subscribe", run="c")
        assert await client.error() == ("c", "invalid_token")
        await client.say(type="subscribe", run="c", token="lone \ud800")
        assert await client.error() == ("c", "invalid_token")
    async with socket() as client:
        await client.say(type="subscribe", run="a")
        assert await client.error() == ("a", "not_authenticated")


# What is left behind


@pytest.mark.parametrize("going", [0, 3])
async def test_socket_that_drops_leaves_nothing(going: int) -> None:
    async with socket() as client:
        for number in range(3):
            await client.subscribe(f"run {number}")
        for number in range(going):
            await get_bridge().publish(f"run {number}", "step", 1)
        assert (open_streams(), followers()) == (4, 3)
    assert open_streams() == followers() == 0


async def test_cancelled_consumer_leaves_nothing() -> None:
    """So does a server that shuts down."""
    communicator = WebsocketCommunicator(application, path())
    await communicator.connect(DEADLINE)
    assert (await communicator.receive_json_from(DEADLINE))["type"] == "subscribed"
    assert open_streams() == followers() == 1
    communicator.future.cancel()
    await asyncio.wait([communicator.future], timeout=DEADLINE)
    assert open_streams() == followers() == 0


class Unsure(Authorizer):
    """A rule with a fault."""

    async def can_read(self, access: Access) -> bool:
        if access.run_id == "good":
            return True
        raise ZeroDivisionError


async def test_consumer_that_fails_leaves_nothing(settings: Settings) -> None:
    settings.STREAMBRIDGE = {"BACKEND": MEMORY, "AUTHORIZER": f"{__name__}.Unsure"}
    communicator = WebsocketCommunicator(application, MANY)
    await communicator.connect(DEADLINE)
    client = Socket(communicator)
    await client.subscribe("good")
    await client.say(type="subscribe", run="bad")
    with pytest.raises(ZeroDivisionError):
        await communicator.wait(DEADLINE)
    assert open_streams() == followers() == 0


async def test_server_that_shuts_down_closes_the_socket_once() -> None:
    bridge = get_bridge()
    async with socket() as client:
        await client.subscribe("a")
        await client.subscribe("b")
        await bridge.close()
        assert await client.closed() == SERVICE_RESTART
        await client.say(type="subscribe", run="c")
        await async_wait_until(lambda: followers() == 0, 5, "both to be let go")
    assert client.silent()


async def test_server_that_shuts_down_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_draining", True)
    async with socket(path()) as client:
        assert await client.error() == (None, "shutting_down")
        assert await client.closed() == SERVICE_RESTART


class LosingBridge(MemoryBridge):
    """It loses its log once an event has been seen."""

    error: Exception = LogUnavailable("gone")

    async def follow(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Item]:
        async for item in super().follow(*args, **kwargs):
            yield item
            raise self.error


class FaultyBridge(LosingBridge):
    """It has a fault."""

    error = ZeroDivisionError()


@pytest.mark.parametrize(
    ("backend", "code", "logged"), [("LosingBridge", 4503, 0), ("FaultyBridge", 4500, 1)]
)
async def test_socket_of_a_bridge_that_fails_is_closed_once(
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    backend: str,
    code: int,
    logged: int,
) -> None:
    settings.STREAMBRIDGE = SIMPLE | {"BACKEND": f"{__name__}.{backend}"}
    async with socket() as client:
        await client.subscribe("a")
        await client.subscribe("b")
        await get_bridge().publish("a", "step", 1)
        assert (await client.frame())["run"] == "a"
        assert await client.closed() == code
        # What happens between that and the client's knowing of it is said to nobody.
        await get_bridge().publish("b", "step", 1)
        await client.say(type="subscribe", run="c")
        await async_wait_until(lambda: followers() == 0, 5, "the others to have failed as well")
    assert client.silent()
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 2 * logged


# Over real servers


@pytest.fixture
def default(settings: Settings) -> None:
    settings.STREAMBRIDGE = {}


@contextlib.asynccontextmanager
async def connected(server: AsgiServer, path: str) -> AsyncIterator[websockets.ClientConnection]:
    async with (
        asyncio.timeout(2 * DEADLINE),
        websockets.connect(server.ws_url + path, origin=server.url) as client,  # type: ignore[arg-type]
    ):
        yield client


@with_database
async def test_close_codes_over_the_wire(runs_server: AsgiServer) -> None:
    for code in (IDLE, TOO_MANY_REFUSALS, SERVICE_RESTART, UNAVAILABLE, INTERNAL_ERROR):
        async with connected(runs_server, f"/close/{code}") as client:
            await client.wait_closed()
        assert client.close_code == code


ODD_IDS = ["a/b", "a b", "ünï-日本", "100%", "%2F", "a?b=c&d#e", "a+b", "a//b", "'\"<&>;"]


@with_database
@pytest.mark.usefixtures("default")
async def test_run_ids_of_any_characters(runs_server: AsgiServer) -> None:
    for run_id in ODD_IDS:
        await ended_run(run_id, events=1)
        async with connected(runs_server, path(run_id, token=make_run_token(run_id))) as client:
            frames = [json.loads(text) async for text in client]
        assert [frame["type"] for frame in frames] == ["subscribed", "event", "end"]
        assert {frame["run"] for frame in frames} == {run_id}
        assert client.close_code == 1000


@with_database
@pytest.mark.usefixtures("default")
async def test_refusal_over_the_wire(runs_server: AsgiServer) -> None:
    async with connected(runs_server, path(token="a:b:c")) as client:
        assert json.loads(await client.recv())["code"] == "invalid_token"
        await client.wait_closed()
    assert client.close_code == 4401


@with_database
@pytest.mark.usefixtures("default")
async def test_odd_messages_over_the_wire(runs_server: AsgiServer) -> None:
    token = make_run_token(RUN)
    async with connected(runs_server, MANY) as client:
        for message in [*BAD_MESSAGES[:3], "", b""]:
            await client.send(message)
            assert json.loads(await client.recv())["code"] == "invalid_message"
        await client.send(r'{"type":"subscribe","run":"lone \ud800"}')
        assert json.loads(await client.recv())["code"] == "invalid_run_id"
        await client.send(json.dumps({"type": "subscribe", "run": RUN, "token": token}))
        assert json.loads(await client.recv())["type"] == "subscribed"


@with_database
@pytest.mark.usefixtures("default")
async def test_sockets_that_go_while_events_come_leave_nothing(runs_server: AsgiServer) -> None:
    subscribe = {"type": "subscribe", "run": RUN, "token": make_run_token(RUN)}
    async with get_bridge().producer(RUN) as run:
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(connected(runs_server, MANY)) for _ in range(10)
            ]
            for client in clients:
                await client.send(json.dumps(subscribe))
                assert json.loads(await client.recv())["type"] == "subscribed"
            for number, client in enumerate(clients):
                for _ in range(200):
                    await run.publish("step", number)
                await client.recv()
                client.transport.abort()
        await async_wait_until(
            lambda: asyncio.to_thread(no_stream_is_open, runs_server), 10, "the streams to be over"
        )
    assert "Traceback" not in runs_server.log_text()


def no_stream_is_open(server: AsgiServer) -> bool:
    return streams_of(server) == 0
