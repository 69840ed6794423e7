"""A proxy in front of PostgreSQL that cuts a connection at a chosen statement."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from typing import Literal, Self

from tests.services import HOST, free_port

READY = b"Z\x00\x00\x00\x05I"
"""ReadyForQuery outside a transaction: the end of the answer to a commit."""


class PostgresProxy:
    """Forwards connections to a port, until :meth:`cut` tells it to break one."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self.cuts = 0
        """How often a connection was cut as told."""
        self.refusing = False
        """Whether new connections are turned away."""
        self._target = target
        self._marker: bytes | None = None
        self._when: Literal["before", "after"] = "before"
        self._times = 0
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server((HOST, self.port))

    def cut(self, marker: str, when: Literal["before", "after"], *, times: int = 1) -> None:
        """Cut the connection on which `marker` is sent: before it arrives, or after its commit."""
        self._when = when
        self._times = times
        self._marker = marker.encode()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(OSError):  # wakes the thread that accepts
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._sockets:
            _reset(one)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                _reset(client)
                continue
            server = socket.create_connection((HOST, self._target))
            self._sockets += [client, server]
            pair = _Pair(self, client, server)
            threading.Thread(target=pair.pump_to_server, daemon=True).start()
            threading.Thread(target=pair.pump_to_client, daemon=True).start()

    def take(self, data: bytes) -> Literal["before", "after"] | None:
        """Return what is to be done to the connection that has sent `data`."""
        if not self._times or self._marker is None or self._marker not in data:
            return None
        self._times -= 1
        return self._when


class _Pair:
    def __init__(self, proxy: PostgresProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._swallowing = threading.Event()

    def pump_to_server(self) -> None:
        with suppress(OSError):
            while data := self._client.recv(2**16):
                fate = self._proxy.take(data)
                if fate == "before":
                    self._cut()
                    return
                if fate == "after":
                    self._swallowing.set()
                self._server.sendall(data)
        _reset(self._server)

    def pump_to_client(self) -> None:
        swallowed = b""
        with suppress(OSError):
            while data := self._server.recv(2**16):
                if not self._swallowing.is_set():
                    self._client.sendall(data)
                    continue
                swallowed += data
                if swallowed.endswith(READY):
                    self._cut()
                    return
        _reset(self._client)

    def _cut(self) -> None:
        self._proxy.cuts += 1
        _reset(self._client)
        _reset(self._server)


def _reset(one: socket.socket) -> None:
    with suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.shutdown(socket.SHUT_RDWR)
    one.close()
