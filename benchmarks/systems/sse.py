"""Server-Sent Events from ASGI applications with no framework under them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]
Handler = Callable[[Message, Send], Awaitable[None]]
"""Takes the scope of a GET request and answers it."""

UVICORN_ARGS = ("--lifespan", "off", "--no-access-log", "--log-level", "warning")
"""What makes Uvicorn do nothing besides running the application."""

HEAD: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")],
}


def body(frames: bytes, *, more: bool = True) -> Message:
    """Return the ASGI message that writes ``frames``."""
    return {"type": "http.response.body", "body": frames, "more_body": more}


def frame(event: bytes, data: bytes, event_id: bytes) -> bytes:
    """Encode one event whose data is a single line."""
    return b"event: %b\ndata: %b\nid: %b\n\n" % (event, data, event_id)


def run_of(scope: Message) -> str:
    """Return the run that a request for ``/RUN`` asks for."""
    path: str = scope["path"]
    return path[1:]


def header(scope: Message, name: bytes) -> bytes | None:
    """Return the value of a request header; ``name`` is in lower case."""
    return dict(scope["headers"]).get(name)


def application(handler: Handler) -> Application:
    """
    Return an application that runs ``handler`` until it returns or the client leaves.

    A request for ``/`` without a query is only answered: it asks whether the server is up.
    """

    async def answer(scope: Message, receive: Receive, send: Send) -> None:
        if scope["path"] == "/" and not scope["query_string"]:
            await send({"type": "http.response.start", "status": 204})
            await send(body(b"", more=False))
            return
        writing = asyncio.ensure_future(handler(scope, send))
        leaving = asyncio.ensure_future(_until_disconnect(receive))
        tasks = (writing, leaving)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not writing.cancelled():
            writing.result()

    return answer


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
