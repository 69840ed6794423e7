"""A server that is told to stop sends its clients elsewhere, and they miss nothing."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import websockets

from streambridge_app import get_bridge
from streambridge_app.conf import OPTIONS
from streambridge_app.serve.consumers import SERVICE_RESTART
from tests.acceptance.clients import SseClient, socket_frames
from tests.acceptance.conftest import STACKS, VISIBLE, Deployment
from tests.services import AsgiServer, async_wait_until

LIMIT = 20
"""Seconds in which a server stops whose clients read, on a busy machine."""

EXIT_CODES = {
    ("daphne", signal.SIGTERM): 0,
    ("daphne", signal.SIGINT): 0,
    ("uvicorn", signal.SIGTERM): -signal.SIGTERM,
    ("uvicorn", signal.SIGINT): 0,
}
"""The servers' own."""


@pytest.fixture
def other(deployment: Deployment) -> Iterator[AsgiServer]:
    with AsgiServer(deployment.server.name, env=deployment.env) as server:  # type: ignore[arg-type]
        yield server


class SocketClient:
    """Follows a run over WebSockets, and comes back when it is asked to."""

    def __init__(self, server: AsgiServer, run_id: str) -> None:
        self.server = server
        self.events: list[dict[str, Any]] = []
        self.connections = 0
        self.close_codes: list[int | None] = []
        """How connections ended before the run did."""
        self._run_id = run_id

    async def follow(self) -> None:
        while True:
            self.connections += 1
            try:
                async for frame in self._frames():
                    if frame["type"] == "end":
                        return
                    if frame["type"] == "event":
                        self.events.append(frame)
            except websockets.ConnectionClosedError as error:
                self.close_codes.append(error.rcvd and error.rcvd.code)

    def _frames(self) -> AsyncIterator[dict[str, Any]]:
        last_id = self.events[-1]["id"] if self.events else None
        return socket_frames(self.server, self._run_id, last_id)


@pytest.mark.parametrize("database", STACKS[:1], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_clients_go_on_elsewhere_and_miss_nothing(
    deployment: Deployment, other: AsgiServer, number: signal.Signals
) -> None:
    server = deployment.server
    run_id = await get_bridge().create_run(metadata=VISIBLE)
    by_sse, by_socket = SseClient(server, run_id), SocketClient(server, run_id)
    with deployment.endless_worker(run_id, pause=0.0005):
        following = asyncio.gather(by_sse.follow(), by_socket.follow())
        await _further(by_sse, by_socket)
        by_sse.server = by_socket.server = other
        os.kill(server.pid, number)
        await async_wait_until(lambda: not server.running, LIMIT, f"{server.name} to stop")
        await _further(by_sse, by_socket)
    await following

    head = (await get_bridge().get_run(run_id)).head
    assert [frame.data["n"] for frame in by_sse.frames] == list(range(1, head + 1))
    assert [frame["data"]["n"] for frame in by_socket.events] == list(range(1, head + 1))
    assert (by_sse.connections, by_socket.connections) == (2, 2)
    assert by_socket.close_codes == [SERVICE_RESTART]
    lowest, highest = OPTIONS["RETRY_MS"].default
    assert len(by_sse.delays) == 3, "one at each start, and one to say goodbye"
    assert all(lowest <= delay <= highest for delay in by_sse.delays)
    assert server.exit_code == EXIT_CODES[server.name, number]
    assert "Traceback" not in server.log_text()


async def _further(by_sse: SseClient, by_socket: SocketClient) -> None:
    """Return when both clients have got some more events."""
    wanted = 400 + max(len(by_sse.frames), len(by_socket.events))
    await async_wait_until(
        lambda: min(len(by_sse.frames), len(by_socket.events)) > wanted, 20, "some events"
    )
