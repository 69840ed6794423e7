"""The server: writes frames encoded before, so many per body message, and suspends after each."""

from __future__ import annotations

import asyncio
import functools
import json
from urllib.parse import parse_qs

from benchmarks.load import payload
from benchmarks.systems import sse

FIRST = 1_700_000_000_000
"""The ids look like times in milliseconds."""


@functools.cache
def encoded(events: int, per_message: int) -> tuple[bytes, ...]:
    """Return the bodies of all messages; the time in each event is that of the first call."""
    frames = [
        sse.frame(
            b"message", json.dumps(payload(number, events)).encode(), b"%d-1" % (FIRST + number)
        )
        for number in range(events)
    ]
    return tuple(
        b"".join(frames[start : start + per_message])
        for start in range(0, len(frames), per_message)
    )


async def write(scope: sse.Message, send: sse.Send) -> None:
    query = parse_qs(scope["query_string"].decode())
    bodies = encoded(int(query["events"][0]), int(query["frames"][0]))
    await send(sse.HEAD)
    if scope["method"] == "GET":
        for body in bodies:
            await send(sse.body(body))
            await asyncio.sleep(0)
    await send(sse.body(b"", more=False))


application = sse.application(write)
