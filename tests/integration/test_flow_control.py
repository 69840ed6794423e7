"""A client that stops reading costs the server next to nothing, on a real Daphne and Uvicorn."""

import asyncio
import functools
import http.client
import json
import socket
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import websockets.sync.client

from streambridge_app.asgi import daphne, flow_control
from tests.integration.apps.frames import frames
from tests.services import HOST, AsgiServer, wait_until

APPLICATION = "tests.integration.apps.frames:application"
COUNT, SIZE = 3200, 65536  # 200 MB
PATH = f"/frames?count={COUNT}&size={SIZE}"
ALLOWED_GROWTH_KB = 30 * 1024


@pytest.fixture(params=["daphne", "uvicorn"], scope="module")
def shared_server(request: pytest.FixtureRequest) -> Iterator[AsgiServer]:
    with AsgiServer(request.param, APPLICATION) as server:
        yield server


@pytest.fixture
def server(shared_server: AsgiServer) -> AsgiServer:
    wait_until(lambda: state(shared_server)["running"] == 0, 20, "the test before to end")
    return shared_server


def state(server: AsgiServer) -> dict[str, int]:
    with open_http(server, "/state") as response:
        answer: dict[str, int] = json.load(response)
    return answer


def wait_until_stalled(server: AsgiServer) -> None:
    """Wait until the one running stream has sent no frame for 50 polls."""
    last, same = 0, 0

    def stalled() -> bool:
        nonlocal last, same
        now = state(server)
        same = same + 1 if now["running"] == 1 and now["sent"] == last else 0
        last = now["sent"]
        return same >= 50

    wait_until(stalled, 20, "the stream to stall")


def checksum(chunks: Iterable[bytes]) -> tuple[int, int]:
    crc = length = 0
    for chunk in chunks:
        crc, length = zlib.crc32(chunk, crc), length + len(chunk)
    return length, crc


EXPECTED = functools.cache(lambda: checksum(frames(COUNT, SIZE)))


@contextmanager
def open_http(server: AsgiServer, path: str = PATH) -> Iterator[http.client.HTTPResponse]:
    with closing(http.client.HTTPConnection(HOST, server.port, timeout=20)) as connection:
        connection.request("GET", path)
        with connection.getresponse() as response:
            yield response


def open_websocket(server: AsgiServer) -> websockets.sync.client.ClientConnection:
    return websockets.sync.client.connect(
        server.ws_url + PATH, compression=None, max_queue=1, max_size=None, close_timeout=1
    )


def test_stalled_http_client_costs_nothing_and_misses_nothing(server: AsgiServer) -> None:
    before = server.rss_kb()
    with open_http(server) as response:
        wait_until_stalled(server)
        assert server.rss_kb() - before < ALLOWED_GROWTH_KB
        chunks = iter(functools.partial(response.read, 1 << 20), b"")
        assert checksum(chunks) == EXPECTED()
    assert server.rss_kb() - before < ALLOWED_GROWTH_KB


def test_stalled_websocket_client_costs_nothing_and_misses_nothing(server: AsgiServer) -> None:
    before = server.rss_kb()
    with open_websocket(server) as websocket:
        wait_until_stalled(server)
        assert server.rss_kb() - before < ALLOWED_GROWTH_KB
        chunks = (frame for frame in websocket if isinstance(frame, bytes))
        assert checksum(chunks) == EXPECTED()
    assert server.rss_kb() - before < ALLOWED_GROWTH_KB


def test_websocket_client_that_says_more_than_is_heard_costs_nothing(server: AsgiServer) -> None:
    said = 0
    before = server.rss_kb()
    url = f"{server.ws_url}/listen"
    with websockets.sync.client.connect(url, compression=None) as websocket:

        def say() -> None:
            nonlocal said
            for frame in frames(COUNT, SIZE):
                websocket.send(frame)
                said += 1
            websocket.send("that is all")

        seen: list[int] = []

        def kept_waiting() -> bool:
            seen.append(said)
            return len(set(seen[-50:])) == 1 and len(seen) > 50 and said > 0

        client = threading.Thread(target=say)
        client.start()
        wait_until(kept_waiting, 20, "the client to be kept waiting")
        assert said < COUNT
        assert server.rss_kb() - before < ALLOWED_GROWTH_KB
        with open_http(server, "/now"):
            assert json.loads(websocket.recv()) == list(EXPECTED())
        client.join()
    assert server.rss_kb() - before < ALLOWED_GROWTH_KB


def test_http_client_that_goes_while_stalled_ends_the_application(server: AsgiServer) -> None:
    ended = state(server)["ended"]
    with open_http(server):
        wait_until_stalled(server)
    wait_until(lambda: state(server)["ended"] == ended + 1, 10, "the application to end")


def upgrade(path: str) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    ).encode()


def test_websocket_that_goes_while_stalled_ends_the_application(server: AsgiServer) -> None:
    ended = state(server)["ended"]
    with socket.create_connection((HOST, server.port), timeout=20) as client:
        client.sendall(upgrade(PATH))
        wait_until_stalled(server)
    wait_until(lambda: state(server)["ended"] == ended + 1, 10, "the application to end")


def test_websocket_client_that_reads_late_gets_all_before_the_end(server: AsgiServer) -> None:
    ended = state(server)["ended"]
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.settimeout(20)
        client.connect((HOST, server.port))
        client.sendall(upgrade("/frames?count=1&size=1000000"))
        wait_until(lambda: state(server)["ended"] == ended + 1, 10, "the application to end")
        time.sleep(1.5)  # longer than Daphne's library lets a client read by itself
        read = b""
        while not read.endswith(b"\x88\x02\x03\xe8"):  # the close frame, with code 1000
            piece = client.recv(1 << 20)
            assert piece, "the connection ends before the close frame"
            read += piece
    assert len(read) > 1_000_000


def test_connection_serves_the_next_request(server: AsgiServer) -> None:
    connection = http.client.HTTPConnection(HOST, server.port, timeout=20)
    used = set()
    for count in (5, 200, 5):
        connection.request("GET", f"/frames?count={count}&size={SIZE}")
        used.add(connection.sock.getsockname())
        assert len(connection.getresponse().read()) == count * SIZE
    connection.close()
    assert len(used) == 1


def test_pipelined_requests_are_answered_in_order(server: AsgiServer) -> None:
    """The second request is in the server's hands while the first is stalled."""
    with socket.create_connection((HOST, server.port), timeout=20) as client:
        for count in (400, 3):
            request = f"GET /frames?count={count}&size={SIZE} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
            client.sendall(request.encode())
        wait_until_stalled(server)
        reader = client.makefile("rb")
        for count in (400, 3):
            assert reader.readline().split()[1] == b"200"
            body = dechunked(reader)
            assert checksum(body) == checksum(frames(count, SIZE))


def dechunked(reader: Any) -> Iterator[bytes]:
    while reader.readline() != b"\r\n":
        pass  # a header
    while size := int(reader.readline(), 16):
        yield reader.read(size)
        reader.readline()
    reader.readline()


def test_first_frame_leaves_though_the_application_blocks_the_loop(
    server: AsgiServer, tmp_path: Path
) -> None:
    until = tmp_path / "seen"
    with open_http(server, f"/one-then-block?until={until}") as response:
        assert response.read(5) == b"first"
        until.touch()
        assert response.read() == b"seen"


def test_daphnes_own_timeout_wakes_the_sender() -> None:
    with AsgiServer("daphne", APPLICATION, args=["--http-timeout", "1"]) as daphne:
        with open_http(daphne):
            # Daphne would kill the application after 10 more seconds.
            wait_until(lambda: state(daphne)["ended"] == 1, 8, "the application to end")
        assert "killed" not in daphne.log_text()


# What needs no server: any other send is left alone, and a Daphne of another shape is survived.


async def run(application: Any, send: Any, kind: str = "http") -> None:
    await application({"type": kind}, _receive, send)


async def _receive() -> Any:
    raise AssertionError("nobody reads here")


async def _server_send(protocol: Any, message: Any) -> None:
    protocol.messages.append(message)


_server_send.__module__ = "daphne.server"


class FakeRequest(SimpleNamespace):
    """The part of Daphne's request that flow control uses."""

    def __init__(self, **attributes: Any) -> None:
        ended = SimpleNamespace(addBoth=lambda callback: None)
        defaults = {"finished": 0, "channel": object(), "producer": None, "messages": []}
        super().__init__(notifyFinish=lambda: ended, **(defaults | attributes))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None


BODY = {"type": "http.response.body", "body": b"x", "more_body": True}


async def _send_body(scope: Any, receive: Any, send: Any) -> None:
    await send(BODY)


async def test_other_servers_get_their_own_callables_back() -> None:
    seen = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append((receive, send))

    async def send(message: Any) -> None: ...

    partial = functools.partial(send)
    await run(flow_control(application), send)
    await run(flow_control(application), partial)
    assert seen == [(_receive, send), (_receive, partial)]


async def test_sender_waits_while_paused_and_can_be_cancelled() -> None:
    request = FakeRequest()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(BODY)
        request.producer.pauseProducing()
        await send(BODY)

    send = functools.partial(_server_send, request)
    task = asyncio.create_task(run(flow_control(application), send))
    done, _ = await asyncio.wait([task], timeout=0.05)
    assert not done
    assert len(request.messages) == 2
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert request.producer is None


async def test_producer_that_is_registered_already_stays() -> None:
    request = FakeRequest(producer="daphne's own")
    await run(flow_control(_send_body), functools.partial(_server_send, request))
    assert request.producer == "daphne's own"
    assert request.messages == [BODY]


async def test_client_that_went_before_the_first_frame_is_left_alone() -> None:
    request = FakeRequest(channel=None)
    await run(flow_control(_send_body), functools.partial(_server_send, request))
    assert request.producer is None
    assert request.messages == [BODY]


class NoProducers(SimpleNamespace):
    """A connection of a Daphne to come that has nothing to register with."""


class NoNotification(FakeRequest):
    """A connection of a Daphne to come that can register, but lacks a part."""

    def __init__(self) -> None:
        super().__init__()
        del self.notifyFinish


@pytest.mark.parametrize("shape", [lambda: NoProducers(messages=[]), NoNotification])
async def test_unknown_daphne_is_warned_of_once_and_served(
    shape: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(daphne, "_warned", False)
    for _ in range(2):
        protocol = shape()
        await run(flow_control(_send_body), functools.partial(_server_send, protocol))
        assert protocol.messages == [BODY]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "No flow control" in caplog.text
