"""Clients that follow a run to its end, whatever happens to their connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import quote

import websockets

from tests.chaos.invariants import Followed, Transcript
from tests.chaos.proxy import Proxy
from tests.chaos.schedule import ClientPlan
from tests.services import HOST

WATCHDOG: Final = 4.0
"""Seconds of silence, heartbeats included, after which a client connects anew."""

LATER: Final = 503
"""The only refusal that an outage explains."""

STOPPED: Final = 500
"""
What Uvicorn, told to stop, answers a WebSocket's handshake that is under way.

The application's own failures have the same status, and an error in the server's log, which
:func:`tests.chaos.leftovers.check_logs` finds.
"""


class Dropped(Exception):
    """The client itself hangs up."""


class Client(ABC):
    """What SSE and WebSocket clients have in common: they come back."""

    def __init__(self, proxy: Proxy, run_id: str, plan: ClientPlan, number: int) -> None:
        self.followed = Followed(f"{number} ({plan.kind})", run_id, Transcript())
        self.connections = 0
        self.outages: list[tuple[float, float]] = []
        """When it lost a stream and when it had the next, in seconds of the monotonic clock."""
        self.refusals: Counter[str] = Counter()
        self._proxy = proxy
        self._plan = plan
        self._rng = random.Random(plan.seed)
        self._last_id: str | None = None
        self._lost_at: float | None = None
        self._left = 0
        self._until_stall = 0

    async def follow(self) -> Followed:
        """Follow to the end."""
        await asyncio.sleep(self._plan.delay)
        while not self.followed.ended:
            rng = self._rng
            self._left = rng.randrange(1, 100_000) if self._plan.drops else 2**60
            self._until_stall = rng.randrange(1, 200_000) if self._plan.stalls else 2**60
            self.connections += 1
            with contextlib.suppress(
                *(OSError, EOFError, TimeoutError, Dropped, websockets.WebSocketException)
            ):
                await self._connection()
            if self._lost_at is None:
                self._lost_at = time.monotonic()
            if not self.followed.ended:
                await asyncio.sleep(rng.uniform(0.05, 0.3))
        return self.followed

    @abstractmethod
    async def _connection(self) -> None:
        """Follow over one connection."""

    def _has_stream(self) -> None:
        if self._lost_at is not None:
            self.outages.append((self._lost_at, time.monotonic()))
            self._lost_at = None

    def _refused(self, why: str, explained: bool) -> None:
        self.refusals[why] += 1
        if not explained:
            self.followed.failures[why] += 1

    async def _spend(self, count: int) -> None:
        """Stall or hang up after so many more bytes."""
        self._until_stall -= count
        if self._until_stall <= 0:
            self._until_stall = 2**60
            await asyncio.sleep(self._rng.uniform(0.5, 3))
        self._left -= count
        if self._left <= 0:
            raise Dropped

    def _event(self, id: bytes, event: bytes, data: bytes) -> None:
        self.followed.transcript.add(id, event, data)
        self._last_id = id.decode()

    def _end(self, status: str | None) -> None:
        self.followed.status = status
        self.followed.ended = True


class SseClient(Client):
    """An EventSource over a raw socket: half a frame is no frame."""

    async def _connection(self) -> None:
        async with asyncio.timeout(WATCHDOG):
            reader, writer = await asyncio.open_connection(HOST, self._proxy.port)
        try:
            cursor = f"Last-Event-ID: {self._last_id}\r\n" if self._last_id else ""
            path = f"/runs/{quote(self.followed.run_id)}/stream"
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{cursor}\r\n".encode())
            async with asyncio.timeout(WATCHDOG):
                head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            if status == 204:
                self._end(None)
            elif status != 200:
                self._refused(f"HTTP {status}", explained=status == LATER)
            else:
                self._has_stream()
                await self._read(_chunks(reader, b"chunked" in head.lower()))
        finally:
            writer.transport.abort()

    async def _read(self, chunks: AsyncIterator[bytes]) -> None:
        buffer = b""
        async for chunk in chunks:
            part = chunk[: self._left]
            *frames, buffer = (buffer + part).split(b"\n\n")
            for frame in frames:
                self._take(frame)
            await self._spend(len(chunk))

    def _take(self, frame: bytes) -> None:
        if not frame.startswith(b"event: "):
            # An id without data is where it stands: before its first event, or behind a gap.
            for line in frame.split(b"\n"):
                if line.startswith(b"id: "):
                    self._last_id = line.removeprefix(b"id: ").decode()
            return
        event, data, *id = (line.partition(b": ")[2] for line in frame.split(b"\n"))
        if event == b"end":
            self._end(data.split(b'"')[3].decode())
        elif event == b"gap":
            self.followed.transcript.add_gap(json.loads(data))
        else:
            self._event(id[0], event.removeprefix(b"__"), data)


async def _chunks(reader: asyncio.StreamReader, chunked: bool) -> AsyncIterator[bytes]:
    """Yield what comes, also of a chunk that is cut."""
    while True:
        left = 2**16
        async with asyncio.timeout(WATCHDOG):
            if chunked:
                size = await reader.readline()
                left = int(size, 16) if size.endswith(b"\n") else 0
        if not left:
            return
        while left:
            async with asyncio.timeout(WATCHDOG):
                part = await reader.read(left)
            if not part:
                return
            yield part
            if not chunked:
                break
            left -= len(part)
        if chunked:
            async with asyncio.timeout(WATCHDOG):
                await reader.readexactly(2)


class SocketClient(Client):
    """Follows over WebSockets."""

    async def _connection(self) -> None:
        url = f"{self._proxy.ws_url}/ws/runs/{quote(self.followed.run_id)}/"
        if self._last_id:
            url += f"?last_event_id={self._last_id}"
        try:
            await self._read(url)
        except websockets.InvalidStatus as error:
            status = error.response.status_code
            self._refused(f"WebSocket handshake {status}", status in {LATER, STOPPED})
        except websockets.ConnectionClosed as error:
            code = error.rcvd.code if error.rcvd else None
            known = code in {None, 1001, 1006, 1012, 4000 + LATER}
            self._refused(f"WebSocket close {code}", explained=known)

    async def _read(self, url: str) -> None:
        connecting = websockets.connect(
            url, max_size=None, origin=self._proxy.url, open_timeout=WATCHDOG, ping_interval=None
        )
        async with asyncio.timeout(2 * WATCHDOG):
            socket = await connecting
        try:
            while not self.followed.ended:
                async with asyncio.timeout(WATCHDOG):
                    message = await socket.recv(decode=False)
                self._take(bytes(message))
                await self._spend(len(message))
        finally:
            socket.transport.abort()

    def _take(self, message: bytes) -> None:
        kind = message.split(b'"', 4)[3]
        if kind == b"subscribed":
            self._has_stream()
        elif kind == b"event":
            head, _, data = message.partition(b',"data":')
            values = head.split(b'"')
            self._event(values[11], values[15], data[:-1])
        elif kind == b"gap":
            self.followed.transcript.add_gap(json.loads(message))
        elif kind == b"end":
            self._end(message.rpartition(b'"status":"')[2].split(b'"')[0].decode())
        elif kind == b"error":
            code = message.partition(b'"code":"')[2].split(b'"')[0].decode()
            explained = code in {"log_unavailable", "shutting_down"}
            self._refused(f"WebSocket error {code}", explained)


def client(proxy: Proxy, run_id: str, plan: ClientPlan, number: int) -> Client:
    """Return the client of a plan."""
    kind = SseClient if plan.kind == "sse" else SocketClient
    return kind(proxy, run_id, plan, number)
