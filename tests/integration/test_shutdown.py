"""What a real Daphne and Uvicorn do at SIGTERM, and what is refused meanwhile."""

import array
import asyncio
import fcntl
import json
import os
import re
import signal
import socket as sockets
import termios
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import pytest
import websockets
from django.test import AsyncClient
from django.urls import reverse
from pytest_django import Settings

from streambridge_app import get_bridge
from streambridge_app.access import make_run_token
from streambridge_app.asgi import open_streams as streams
from streambridge_app.serve.consumers import SERVICE_RESTART
from streambridge_app.serve.http_errors import RETRY_AFTER
from tests.conftest import MEMORY
from tests.integration.conftest import APPLICATION, OPEN_HOUSE, requested, streams_of
from tests.integration.test_consumers import MANY, path, socket
from tests.services import HOST, AsgiServer, async_wait_until, async_wait_until_idle

with_database = pytest.mark.django_db(transaction=True)

Kind = Literal["daphne", "uvicorn"]
RUN = "a run"
LIMIT = 20
"""Seconds that a server gets on top: its own work at the end, on a busy machine. Without
SHUTDOWN_SECONDS, or with those of a test that has 60, it would take a minute or for ever."""


@pytest.fixture(params=["daphne", "uvicorn"])
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


@contextmanager
def serving(kind: Kind, seconds: float) -> Iterator[AsgiServer]:
    """A server with this SHUTDOWN_SECONDS, that doesn't give up its streams before."""
    patient = [] if kind == "daphne" else ["--timeout-graceful-shutdown", "60"]
    env = {"RUNS_STREAMBRIDGE": json.dumps({"SHUTDOWN_SECONDS": seconds})}
    with AsgiServer(kind, APPLICATION, env=env, args=patient) as server:
        yield server


async def stopped(server: AsgiServer, seconds: float) -> None:
    await async_wait_until(lambda: not server.running, seconds, f"{server.name} to stop")


def stream_path() -> str:
    return reverse("streambridge:stream", args=[RUN], query={"token": make_run_token(RUN)})


def stall(server: AsgiServer, stack: ExitStack, *upgrade: str) -> sockets.socket:
    """Open a stream and read nothing of it."""
    target = path(RUN, token=make_run_token(RUN)) if upgrade else stream_path()
    client = stack.enter_context(sockets.create_connection((HOST, server.port), timeout=20))
    lines = [f"GET {target} HTTP/1.1", f"Host: {HOST}:{server.port}", *upgrade, "", ""]
    client.sendall("\r\n".join(lines).encode())
    return client


def unread(client: sockets.socket) -> int:
    """Return how many bytes have come that nobody has read."""
    count = array.array("i", [0])
    fcntl.ioctl(client, termios.FIONREAD, count)
    return count[0]


UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    f"Origin: http://{HOST}",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)


async def fill() -> None:
    """Write more than the buffers of a socket take."""
    async with get_bridge().producer(RUN) as run:
        for _ in range(300):
            await run.publish("text", "x" * 100_000)


@with_database
@pytest.mark.parametrize("upgrade", [(), UPGRADE], ids=["sse", "websocket"])
async def test_client_that_stops_reading_does_not_hold_the_server(
    kind: Kind, upgrade: tuple[str, ...]
) -> None:
    await fill()
    with serving(kind, 1) as server, ExitStack() as clients:
        client = stall(server, clients, *upgrade)
        await async_wait_until(lambda: streams_of(server) == 1, 10, "the stream to be open")
        # Less than one of the 300 events, and all that the socket takes.
        await async_wait_until(lambda: unread(client) > 30_000, 10, "the client to be behind")
        await async_wait_until_idle(server)
        os.kill(server.pid, signal.SIGTERM)
        await stopped(server, 1 + LIMIT)
        assert "Traceback" not in server.log_text()


@with_database
async def test_new_streams_are_refused_meanwhile() -> None:
    """Under Daphne; Uvicorn accepts no connection by then."""
    await fill()
    with serving("daphne", 60) as server, ExitStack() as clients:
        stall(server, clients)
        await async_wait_until(lambda: streams_of(server) == 1, 10, "the stream to be open")
        await async_wait_until_idle(server)
        os.kill(server.pid, signal.SIGTERM)

        def refused() -> bool:
            with requested(server, stream_path()) as response:
                return response.status == 503

        await async_wait_until(refused, 10, "a new stream to be refused")
        assert streams_of(server) == 1, "other requests are served as ever"
        url = server.ws_url + path(RUN, token=make_run_token(RUN))
        async with websockets.connect(url, origin=server.url) as client:  # type: ignore[arg-type]
            assert json.loads(await client.recv())["code"] == "shutting_down"
            await client.wait_closed()
        assert client.close_code == SERVICE_RESTART
        # A second signal is the server's own at once.
        os.kill(server.pid, signal.SIGTERM)
        await stopped(server, LIMIT)


@with_database
@pytest.mark.parametrize("before", [lambda server: None, streams_of])
async def test_server_without_streams_stops_at_once(
    kind: Kind, before: Callable[[AsgiServer], Any]
) -> None:
    with serving(kind, 60) as server:
        before(server)
        os.kill(server.pid, signal.SIGTERM)
        await stopped(server, LIMIT)


@with_database
async def test_socket_of_many_runs_is_closed_too(kind: Kind) -> None:
    await get_bridge().create_run(RUN)
    with serving(kind, 60) as server:
        url = f"{server.ws_url}{MANY}?token={make_run_token(RUN)}"
        async with (
            websockets.connect(url, origin=server.url) as idle,  # type: ignore[arg-type]
            websockets.connect(url, origin=server.url) as busy,  # type: ignore[arg-type]
        ):
            await busy.send(json.dumps({"type": "subscribe", "run": RUN}))
            await busy.recv()
            os.kill(server.pid, signal.SIGTERM)
            async with asyncio.timeout(10):
                await idle.wait_closed()
                await busy.wait_closed()
            assert {idle.close_code, busy.close_code} == {SERVICE_RESTART}
            await stopped(server, LIMIT)


@with_database
async def test_every_stream_ends_whole(kind: Kind) -> None:
    await get_bridge().create_run(RUN)

    async def to_the_end(server: AsgiServer) -> bytes:
        reader, writer = await asyncio.open_connection(HOST, server.port)
        writer.write(f"GET {stream_path()} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        try:
            return await reader.read(-1)
        finally:
            writer.close()

    with serving(kind, 60) as server:
        clients = asyncio.gather(*[to_the_end(server) for _ in range(100)])
        await async_wait_until(lambda: streams_of(server) == 100, 20, "the streams to be open")
        os.kill(server.pid, signal.SIGTERM)
        answers = await asyncio.wait_for(clients, 10)
        await stopped(server, LIMIT)
    goodbye = re.compile(rb"retry: \d+\n\n\r\n0\r\n\r\n$")
    assert all(goodbye.search(answer) for answer in answers)
    assert len({answer.split(b"retry: ")[-1] for answer in answers}) > 50, "no jitter"


# Without a server


@pytest.fixture
def draining(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.STREAMBRIDGE = {"BACKEND": MEMORY, "AUTHORIZER": OPEN_HOUSE}
    monkeypatch.setattr(streams, "_draining", True)


@pytest.mark.usefixtures("draining")
async def test_new_stream_is_refused_by_json() -> None:
    await get_bridge().create_run(RUN)
    response = await AsyncClient().get(reverse("streambridge:stream", args=[RUN]))
    assert response.status_code == 503
    assert response["Retry-After"] == str(RETRY_AFTER)
    assert response.json()["code"] == "shutting_down"


@pytest.mark.usefixtures("draining")
@pytest.mark.parametrize("address", [path(RUN), MANY])
async def test_new_socket_is_refused_and_asked_to_come_back(address: str) -> None:
    await get_bridge().create_run(RUN)
    async with socket(address) as client:
        assert await client.error() == (None, "shutting_down")
        assert await client.closed() == SERVICE_RESTART
