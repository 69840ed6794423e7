"""Clients over real sockets, which may drop at any byte and come back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import websockets

from tests.services import HOST, TIMEOUT_SCALE, AsgiServer

DEADLINE = 60 * TIMEOUT_SCALE


class Frame(NamedTuple):
    """An SSE frame; what it lacks is None."""

    event: str | None
    data: Any
    id: str | None


class SseClient:
    """An EventSource: remembers the last id, and stops at the end or at 204."""

    def __init__(self, server: AsgiServer, run_id: str) -> None:
        self.server = server
        """Where it connects next."""
        self._path = f"/runs/{quote(run_id)}/stream"
        self.last_id: str | None = None
        self.frames: list[Frame] = []
        self.ended: str | None = None
        """The status that the end frame brought."""
        self.connections = 0
        self.delays: list[int] = []
        """What it was told of when to come back, in milliseconds."""

    async def follow(self, drops: random.Random | None = None) -> None:
        """Follow to the end; with `drops`, hang up again and again after some bytes."""
        async with asyncio.timeout(DEADLINE), httpx.AsyncClient(timeout=DEADLINE) as http:
            while self.ended is None:
                headers = {"Last-Event-ID": self.last_id} if self.last_id else {}
                left = drops.randrange(1, 60_000) if drops else None
                async with http.stream(
                    "GET", self.server.url + self._path, headers=headers
                ) as response:
                    self.connections += 1
                    if response.status_code == 204:
                        return
                    assert response.status_code == 200, await response.aread()
                    await self._read(response, left)

    async def _read(self, response: httpx.Response, left: int | None) -> None:
        buffer = b""
        async for chunk in response.aiter_raw():
            part = chunk if left is None else chunk[:left]
            buffer += part
            *frames, buffer = buffer.split(b"\n\n")
            for frame in frames:
                self._take(frame.decode())
            if left is not None:
                left -= len(part)
                if left <= 0:
                    return

    def _take(self, text: str) -> None:
        fields = dict(line.split(": ", 1) for line in text.split("\n") if not line.startswith(":"))
        if "retry" in fields:
            self.delays.append(int(fields["retry"]))
        if "data" not in fields:
            return
        frame = Frame(fields.get("event"), json.loads(fields["data"]), fields.get("id"))
        self.last_id = frame.id or self.last_id
        if frame.event == "end":
            self.ended = frame.data["status"]
        else:
            self.frames.append(frame)


async def socket_frames(
    server: AsgiServer, run_id: str, last_id: str | None = None
) -> AsyncIterator[dict[str, Any]]:
    """Yield the frames of a WebSocket to its end."""
    url = f"{server.ws_url}/ws/runs/{quote(run_id)}/"
    if last_id:
        url += f"?last_event_id={last_id}"
    async with websockets.connect(url, max_size=None, origin=server.url) as socket:
        try:
            async for message in socket:
                yield json.loads(message)
        finally:
            socket.transport.abort()  # a client that drops doesn't say so


async def follow_by_socket(
    server: AsgiServer, run_id: str, drops: random.Random
) -> list[dict[str, Any]]:
    """Follow a run to its end by WebSockets that are dropped after some frames."""
    events: list[dict[str, Any]] = []
    async with asyncio.timeout(DEADLINE):
        while True:
            left = drops.randrange(1, 800)
            frames = socket_frames(server, run_id, events[-1]["id"] if events else None)
            async for frame in frames:
                if frame["type"] == "end":
                    return events
                if frame["type"] == "event":
                    events.append(frame)
                    left -= 1
                assert frame["type"] in {"subscribed", "event", "heartbeat"}
                if not left:
                    break
            await frames.aclose()  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def open_stream(server: AsgiServer, run_id: str) -> AsyncIterator[asyncio.StreamReader]:
    """Open an SSE stream by hand, and yield it once its first bytes are here."""
    reader, writer = await asyncio.open_connection(HOST, server.port, limit=2**16)
    try:
        path = f"/runs/{quote(run_id)}/stream"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {HOST}:{server.port}\r\n\r\n".encode())
        async with asyncio.timeout(DEADLINE):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            await reader.readuntil(b"retry: ")
        yield reader
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
