"""A TCP proxy between clients and servers: it balances them, and cuts in the middle of a frame."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
import struct
from collections.abc import Sequence
from typing import Final

from tests.services import HOST

SHARE_CUT: Final = 0.3
"""Of the connections: cut after a number of bytes of the answer."""

CUT_BYTES: Final = 200_000
"""The highest of these numbers."""


class Proxy:
    """Forwards each connection to the next of the ports on which a server accepts."""

    def __init__(self, ports: Sequence[int], rng: random.Random) -> None:
        self.cuts = 0
        """How many connections it has cut."""
        self._ports = itertools.cycle(ports)
        self._count = len(ports)
        self._rng = rng
        self._open: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, ...]] = {}

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://{HOST}:{self.port}"

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._connected, HOST, 0, backlog=2048)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        self.cut_all()
        if self._open:
            await asyncio.wait(self._open)

    def cut_all(self) -> None:
        """Cut every connection at once."""
        for writers in self._open.values():
            self.cuts += 1
            for writer in writers:
                _reset(writer)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._open[task] = (writer,)
        try:
            upstream = await self._connect()
            if upstream is None:
                return
            self._open[task] = (writer, upstream[1])
            left = self._rng.randrange(1, CUT_BYTES) if self._rng.random() < SHARE_CUT else None
            pumps = [
                asyncio.create_task(self._pump(reader, upstream[1], None)),
                asyncio.create_task(self._pump(upstream[0], writer, left)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            upstream[1].transport.abort()  # whoever is left has nobody to talk to
            await asyncio.wait(pumps[1:])  # but what was sent still arrives
            writer.close()
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
        finally:
            del self._open[task]
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for _ in range(self._count):
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(HOST, next(self._ports))
        return None

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int | None
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(2**16):
                writer.write(data[:left])
                await writer.drain()
                if left is not None:
                    left -= len(data)
                    if left <= 0:
                        self.cuts += 1
                        if self._rng.random() < 0.5:
                            _reset(writer)
                        return


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
    writer.transport.abort()
