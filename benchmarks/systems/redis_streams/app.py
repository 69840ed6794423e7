"""The server: one blocking XREAD at a time for each client, on a connection of its own."""

from __future__ import annotations

import os
from typing import Any

import redis.asyncio

from benchmarks.systems import sse

COUNT = 500
BLOCK_MS = 10_000

# A socket timeout would end an XREAD that blocks for longer.
_redis = redis.asyncio.Redis.from_url(
    os.environ["REDIS_URL"], max_connections=10_000, socket_timeout=None
)


async def follow(scope: sse.Message, send: sse.Send) -> None:
    run = sse.run_of(scope)
    last = sse.header(scope, b"last-event-id") or b"0"
    await send(sse.HEAD)
    await send(sse.body(b""))
    while True:
        reply: Any = await _redis.xread({run: last}, count=COUNT, block=BLOCK_MS)
        for _, entries in reply:
            last = entries[-1][0]
            frames = [
                sse.frame(fields[b"event"], fields[b"data"], entry_id)
                for entry_id, fields in entries
            ]
            await send(sse.body(b"".join(frames)))


application = sse.application(follow)
