"""
The client process: opens many streams at once, then checks every event of each.

    python -m benchmarks.clients < SPEC

While the clock runs it only stores what comes and when. It is told what to request by one line of
JSON on standard input, prints ``connected`` once every response has begun, ``finished`` once every
client has the last event, and at the end one line of JSON; ``error`` in it says which client
missed, doubled or reordered an event.
"""

from __future__ import annotations

import bisect
import json
import re
import select
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.load import LAST

_EVENT = re.compile(rb'"n": ?(\d+), ?"at": ?(\d+), ?"text": ?"[^"]*"')
_MARK = LAST.encode()
_HEAD_END = b"\r\n\r\n"
_RECENT = 4096
"""The last bytes of what a client has read, in which the mark is looked for: little follows it."""
_received = memoryview(bytearray(4_194_304))
"""What all clients read into: a buffer for each read would cost more than the read."""


class WrongStreamError(Exception):
    """A client got something else than the run's events, each once and in order."""


class Client:
    """One connection: its bytes as they came, and when."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.socket = socket.create_connection((request["host"], request["port"]), timeout=60)
        self.pieces: list[bytes] = []
        self.arrivals: list[float] = []
        self._recent = b""
        lines = [
            f"GET {request['path']} HTTP/1.1",
            f"Host: {request['host']}:{request['port']}",
            "Accept: text/event-stream",
            *(f"{name}: {value}" for name, value in request.get("headers", {}).items()),
        ]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())

    def read_head(self) -> None:
        """Wait for the response to begin."""
        while _HEAD_END not in b"".join(self.pieces):
            piece = self.socket.recv(65_536)
            if not piece:
                raise WrongStreamError("the server closed the connection before the response")
            self._store(piece)
        head = self.pieces[0]
        if not head.startswith(b"HTTP/1.1 200"):
            raise WrongStreamError(f"the server answered {head[:500]!r}")

    def read(self) -> bool:
        """Store what there is; return whether the last event of the run was in it."""
        size = self.socket.recv_into(_received)
        if not size:
            raise WrongStreamError("the stream ended before the last event")
        return self._store(bytes(_received[:size]))

    def _store(self, piece: bytes) -> bool:
        self.pieces.append(piece)
        self.arrivals.append(time.time())
        self._recent = (self._recent + piece[-_RECENT:])[-_RECENT:]
        return _MARK in self._recent

    def events(self) -> Iterator[tuple[int, float, float]]:
        """Yield number, time sent and time of arrival of each event."""
        raw = b"".join(self.pieces)
        head, _, _ = raw.partition(_HEAD_END)
        chunked = b"transfer-encoding: chunked" in head.lower()
        ends = []
        total = 0
        for piece in self.pieces:
            total += len(piece)
            ends.append(total)
        body, starts, offsets = _dechunk(raw, len(head) + 4, chunked)
        for match in _EVENT.finditer(body):
            chunk = bisect.bisect_right(starts, match.end() - 1) - 1
            offset = offsets[chunk] + match.end() - starts[chunk]
            arrival = self.arrivals[bisect.bisect_left(ends, offset)]
            yield int(match[1]), int(match[2]) / 1_000_000, arrival


def _dechunk(raw: bytes, start: int, chunked: bool) -> tuple[bytes, list[int], list[int]]:
    """Return the body, and where in it and in ``raw`` each of its chunks begins."""
    if not chunked:
        return raw[start:], [0], [start]
    parts = []
    starts = []
    offsets = []
    total = 0
    while (line_end := raw.find(b"\r\n", start)) >= 0:
        size = int(raw[start:line_end].split(b";")[0], 16)
        if size == 0:
            break
        part = raw[line_end + 2 : line_end + 2 + size]
        parts.append(part)
        starts.append(total)
        offsets.append(line_end + 2)
        total += len(part)
        start = line_end + 2 + size + 2
    return b"".join(parts), starts, offsets


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Open the streams, read all of them to the last event, then check and sum up."""
    opened = time.time()
    poll = select.epoll()
    clients: dict[int, Client] = {}
    for request in spec["requests"]:
        client = Client(request)
        clients[client.socket.fileno()] = client
    for number, client in clients.items():
        client.read_head()
        poll.register(number, select.EPOLLIN)
    print("connected", flush=True)
    cpu = time.process_time()

    waiting = {number for number, client in clients.items() if _MARK not in b"".join(client.pieces)}
    deadline = time.monotonic() + spec["timeout"]
    while waiting:
        for number, _ in poll.poll(1):
            if number in waiting and clients[number].read():
                poll.unregister(number)
                waiting.discard(number)
        if time.monotonic() > deadline:
            raise WrongStreamError(f"{len(waiting)} clients still wait after {spec['timeout']} s")
    cpu = time.process_time() - cpu
    print("finished", flush=True)
    for client in clients.values():
        client.socket.close()
    found = _checked(spec, list(clients.values()))
    return {**found, "opened": opened, "cpu": {"clients": cpu}}


def measure_arrivals(
    request: dict[str, Any], begin: Callable[[], None]
) -> list[tuple[int, float, float]]:
    """Read one stream, after ``begin()``; return number, time sent and of arrival of each event."""
    client = Client(request)
    client.read_head()
    begin()
    while not client.read():
        pass
    client.socket.close()
    return list(client.events())


def _checked(spec: dict[str, Any], clients: list[Client]) -> dict[str, Any]:
    expected = list(range(spec["first"], spec["events"]))
    latencies: list[float] = []
    started = float("inf")
    finished = longest = 0.0
    for position, client in enumerate(clients):
        found = list(client.events())
        numbers = [number for number, _, _ in found]
        if numbers != expected:
            raise WrongStreamError(f"client {position}: {_difference(numbers, expected)}")
        started = min(started, found[0][1])
        finished = max(finished, found[-1][2])
        longest = max(longest, found[-1][2] - found[0][1])
        latencies += [1000 * (arrival - sent) for _, sent, arrival in found]
    quantiles = (
        statistics.quantiles(latencies, n=1000, method="inclusive")
        if len(latencies) > 1
        else latencies * 999
    )
    return {
        "events": len(latencies),
        "bytes": sum(len(piece) for client in clients for piece in client.pieces),
        "started": started,
        "finished": finished,
        "longest": longest,
        "p50": quantiles[499],
        "p99": quantiles[989],
        "p999": quantiles[998],
        "max": max(latencies),
    }


def _difference(numbers: list[int], expected: list[int]) -> str:
    missing = sorted(set(expected) - set(numbers))
    doubled = len(numbers) - len(set(numbers))
    return (
        f"{len(numbers)} of {len(expected)} events, {len(missing)} missing "
        f"(first: {missing[:3]}), {doubled} doubled, in order: {numbers == sorted(numbers)}"
    )


def main() -> None:
    spec = json.loads(sys.stdin.readline())
    try:
        result = measure(spec)
    except (WrongStreamError, OSError) as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
