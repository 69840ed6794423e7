"""
The server: passes on what Redis publishes, for each client on a connection of its own.

It speaks to Redis by itself: a client library would be the limit instead.
"""

from __future__ import annotations

import asyncio
import os
from urllib.parse import urlsplit

from benchmarks.systems import sse

_redis = urlsplit(os.environ["REDIS_URL"])
_READ_BYTES = 262_144


async def follow(scope: sse.Message, send: sse.Send) -> None:
    run = sse.run_of(scope).encode()
    reader, writer = await asyncio.open_connection(_redis.hostname, _redis.port)
    try:
        writer.write(b"SUBSCRIBE %b\r\n" % run)
        await reader.readuntil(b":1\r\n")
        await send(sse.HEAD)
        await send(sse.body(b""))
        before = b"*3\r\n$7\r\nmessage\r\n$%d\r\n%b\r\n$" % (len(run), run)
        rest = b""
        while received := await reader.read(_READ_BYTES):
            frames, rest = messages(rest + received, before)
            if frames:
                await send(sse.body(b"".join(frames)))
    finally:
        writer.close()


def messages(replies: bytes, before: bytes) -> tuple[list[bytes], bytes]:
    """
    Return what was published, and the beginning of a reply that has not come whole yet.

    Args:
        replies: what Redis sent to a connection with one subscription.
        before: what stands in each reply before the length of the message.
    """
    found = []
    start = 0
    while (line_end := replies.find(b"\r\n", start + len(before))) >= 0:
        message = line_end + 2
        end = message + int(replies[start + len(before) : line_end])
        if len(replies) < end + 2:
            break
        found.append(replies[message:end])
        start = end + 2
    return found, replies[start:]


application = sse.application(follow)
