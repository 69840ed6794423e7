"""
A process that opens streams and holds them while nothing happens.

    python -m benchmarks.open_streams

It takes orders by lines of JSON on standard input: a list of requests opens a stream each, and is
answered once every response has begun; the end of the input closes all of them, and is answered by
the fewest heartbeats that any stream has had. Until then nothing is read, so that the process
uses no processor time.
"""

from __future__ import annotations

import itertools
import json
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Self

from benchmarks.systems.base import Request
from tests.services import spawn

AT_ONCE = 100
"""Requests under way at the same time: as many browsers as come back after a restart."""

_HEAD_END = b"\r\n\r\n"
_HEARTBEAT = b": heartbeat\n\n"


class OpenStreams:
    """Streams of a process of their own."""

    def __init__(self) -> None:
        self._process = spawn(
            [sys.executable, "-m", "benchmarks.open_streams"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def open(self, requests: Sequence[Request]) -> None:
        """Open more streams; every response has begun when this returns."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps([request.spec() for request in requests]) + "\n")
        self._process.stdin.flush()
        self._answer()

    def close(self) -> int:
        """Close all; return how many heartbeats each has had at least. Again: 0."""
        assert self._process.stdin
        if self._process.stdin.closed:
            return 0
        self._process.stdin.close()
        heartbeats = self._answer()
        self._process.wait(20)
        return heartbeats

    def _answer(self) -> int:
        assert self._process.stdout
        answer: dict[str, Any] = json.loads(
            self._process.stdout.readline() or '{"error": "the process with the streams died"}'
        )
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return int(answer["heartbeats"])


def allow_open_files() -> None:
    """Let this process, and those that it starts, have as many sockets as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _open(requests: Sequence[dict[str, Any]]) -> Iterator[socket.socket]:
    waiting = iter(requests)
    while some := list(itertools.islice(waiting, AT_ONCE)):
        opened = []
        for request in some:
            stream = socket.create_connection((request["host"], request["port"]), timeout=60)
            lines = [
                f"GET {request['path']} HTTP/1.1",
                f"Host: {request['host']}:{request['port']}",
                "Accept: text/event-stream",
            ]
            stream.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
            opened.append(stream)
        for stream in opened:
            head = b""
            while _HEAD_END not in head:
                if not (piece := stream.recv(65_536)):
                    raise ConnectionError("the server closed the connection before the response")
                head += piece
            if not head.startswith(b"HTTP/1.1 200"):
                raise ConnectionError(f"the server answered {head[:500]!r}")
            yield stream


def _heartbeats(stream: socket.socket) -> int:
    """Return how many have come; the stream must be open still."""
    stream.setblocking(False)
    body = b""
    while True:
        try:
            piece = stream.recv(65_536)
        except BlockingIOError:
            return body.count(_HEARTBEAT)
        if not piece:
            raise ConnectionError("the server closed a stream")
        body += piece


def main() -> None:
    streams: list[socket.socket] = []
    try:
        for line in sys.stdin:
            streams += _open(json.loads(line))
            print(json.dumps({"heartbeats": 0}), flush=True)
        heartbeats = min(map(_heartbeats, streams), default=0)
    except OSError as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        return
    for stream in streams:
        stream.close()
    print(json.dumps({"heartbeats": heartbeats}), flush=True)


if __name__ == "__main__":
    main()
