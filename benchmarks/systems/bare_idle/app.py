"""The server: a heartbeat at the start of each stream, and one every ten seconds."""

from __future__ import annotations

import asyncio

from benchmarks.systems import sse

HEARTBEAT_SECONDS = 10


async def beat(scope: sse.Message, send: sse.Send) -> None:
    await send(sse.HEAD)
    while True:
        await send(sse.body(b": heartbeat\n\n"))
        await asyncio.sleep(HEARTBEAT_SECONDS)


application = sse.application(beat)
