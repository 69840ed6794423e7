"""A bare ASGI application that sends numbered frames as fast as the server takes them.

It never reads what the client says and suspends in `send` only: the server alone decides. But
`/listen` hears nothing until it is told to by `/now`, and then answers what it has heard.
"""

import asyncio
import json
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from streambridge_app.asgi import flow_control

_state = {"sent": 0, "running": 0, "ended": 0}
_now = asyncio.Event()


def frames(count: int, size: int) -> Iterator[bytes]:
    """Yield `count` frames of `size` bytes that all differ."""
    filler = bytes(size - 8)
    for number in range(count):
        yield number.to_bytes(8, "big") + filler


async def plain(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        return
    query = dict(parse_qsl(scope["query_string"].decode()))
    if scope["path"] == "/state":
        await _answer(send, json.dumps(_state).encode())
    elif scope["path"] == "/now":
        _now.set()
        await _answer(send, b"")
    elif scope["path"] == "/listen":
        await _listen(receive, send)
    elif scope["path"] == "/":
        await _answer(send, b"")
    elif scope["path"] == "/one-then-block":
        await _one_then_block(send, Path(query["until"]))
    else:
        _state["running"] += 1
        try:
            stream = _http if scope["type"] == "http" else _websocket
            await stream(receive, send, int(query["count"]), int(query["size"]))
        finally:
            _state["running"] -= 1
            _state["ended"] += 1


async def _http(receive: Any, send: Any, count: int, size: int) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for frame in frames(count, size):
        await send({"type": "http.response.body", "body": frame, "more_body": True})
        _state["sent"] += 1
    await send({"type": "http.response.body"})


async def _websocket(receive: Any, send: Any, count: int, size: int) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    for frame in frames(count, size):
        await send({"type": "websocket.send", "bytes": frame})
        _state["sent"] += 1
    await send({"type": "websocket.close"})


async def _listen(receive: Any, send: Any) -> None:
    _now.clear()
    await receive()
    await send({"type": "websocket.accept"})
    await _now.wait()
    crc = length = 0
    while said := (await receive()).get("bytes"):
        crc, length = zlib.crc32(said, crc), length + len(said)
    await send({"type": "websocket.send", "text": json.dumps([length, crc])})
    await send({"type": "websocket.close"})


async def _one_then_block(send: Any, until: Path) -> None:
    """Send one frame, then block the event loop until the client says by a file that it has it."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    body = b"seen" if _exists_in_time(until) else b"late"
    await send({"type": "http.response.body", "body": body})


def _exists_in_time(path: Path) -> bool:
    deadline = time.monotonic() + 5
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    return path.exists()


async def _answer(send: Any, body: bytes) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


application = flow_control(plain)
