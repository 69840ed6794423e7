"""An open event stream that holds no thread and no database connection.

Django runs a request's synchronous parts (middleware, ORM calls) on a thread of the request's own,
and keeps the thread, with the database connections opened on it, until the response has ended. For
a stream that is hours, once per open browser tab. :func:`event_stream_response` gives both back
when the stream starts. It also ends the stream when the server stops, so that its client reconnects
elsewhere.

It must never touch a thread or a connection that belongs to anyone but its own request, nor a
connection inside a transaction.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Executor
from typing import Any

from asgiref.sync import SyncToAsync, sync_to_async
from django.db import connections
from django.http import HttpRequest, StreamingHttpResponse

from ..asgi import OpenConnection, is_draining
from ..conf import streambridge_settings
from . import sse

__all__ = ["close_request_connections", "event_stream_response", "release_request_thread"]

EVENT_STREAM_HEADERS: Mapping[str, str] = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
    # GZipMiddleware compresses whatever has no Content-Encoding, and holds frames back (Django 6.0)
    # or spends a gzip member on each (5.2). RFC 9110 section 8.4.1 keeps "identity" for
    # Accept-Encoding, but clients and proxies take it for what it says: no coding.
    "Content-Encoding": "identity",
}

_FORGOTTEN = ("headers", "COOKIES", "GET", "_messages")
"""Attributes of a request that take 2 KB. Django parses the first three again for whoever asks;
the storage of messages has been read and written by its middleware when a stream starts."""


def event_stream_response(
    frames: AsyncIterator[bytes],
    *,
    request: HttpRequest | None = None,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> StreamingHttpResponse:
    """Build a Server-Sent Events response that holds no thread and no database connection.

    Args:
        frames: encoded frames; closed (``aclose``) when the response ends or the client goes. When
            the server stops, they are cancelled where they wait and a last ``retry`` ends the
            response. What they run by ``sync_to_async`` or the async ORM would bring a thread back,
            and with it a connection: they need an executor of their own. They must suspend now and
            then, for a disconnect reaches them only there.
        request: what Django made of it and no stream needs is forgotten when the stream starts.
        status: the HTTP status code.
        headers: more headers; they win over those of :data:`EVENT_STREAM_HEADERS`.

    Returns:
        A response to return from an async view.
    """
    merged = {**EVENT_STREAM_HEADERS, **(headers or {})}
    return _EventStreamResponse(frames, request, status=status, headers=merged)


async def close_request_connections() -> None:
    """Close the database connections that this request opened on its own thread.

    Connections inside an atomic block stay open. Does nothing when the request has no thread of its
    own: under WSGI, in the test client, or before any synchronous code ran.
    """
    if _request_executor() is not None:
        # Cancelled here, the thread still finishes closing.
        await sync_to_async(_close_connections)()


def release_request_thread() -> None:
    """End the thread that Django keeps for this request's synchronous code.

    Work already on the thread is finished. Later synchronous code of the request gets a new thread,
    which ends with the request. Does nothing when the request has no thread of its own.
    """
    executor = _request_executor()
    if executor is not None:
        del SyncToAsync.context_to_thread_executor[SyncToAsync.thread_sensitive_context.get()]
        executor.shutdown(wait=False)


class _EventStreamResponse(StreamingHttpResponse):
    def __init__(
        self, frames: AsyncIterator[bytes], request: HttpRequest | None, **kwargs: Any
    ) -> None:
        super().__init__(frames, **kwargs)
        self._frames = frames
        self._request = request
        self._waiting: asyncio.Task[Any] | None = None
        """The task that waits for the next frames, while it does."""
        self._told_to_leave = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        connection = OpenConnection(self._leave)
        # Not in the view: middleware runs after it, on the same thread, and may use the database.
        try:
            await close_request_connections()
            release_request_thread()
            if self._request is not None:
                for name in _FORGOTTEN:
                    vars(self._request).pop(name, None)
            # The frames, or what middleware made of them.
            content: Any = self.streaming_content
            while not is_draining():
                # What asyncio.timeout() does, at a tenth of its price, which every client pays.
                self._waiting = task = asyncio.current_task()
                try:
                    part = await anext(content, None)
                except asyncio.CancelledError:
                    if self._told_to_leave and task is not None and not task.uncancel():
                        break
                    raise
                finally:
                    self._waiting = None
                if part is None:
                    break
                yield part
                del part  # an idle stream must not hold on to what it sent last
            if is_draining():
                yield sse.encode_retry(*streambridge_settings.RETRY_MS)
        finally:
            connection.close()
            # Cancelled while waiting for a frame, the frames have ended by themselves. Cancelled
            # while sending one, they are suspended, and only garbage collection would end them.
            aclose = getattr(self._frames, "aclose", None)
            if aclose is not None:
                await aclose()

    def _leave(self) -> None:
        if self._waiting is not None:  # else frames are being sent, which must not be cut
            self._told_to_leave = True
            self._waiting.cancel()


def _request_executor() -> Executor | None:
    """Return the executor that asgiref made for the current request alone, if there is one."""
    context = SyncToAsync.thread_sensitive_context.get(None)
    if context is None or getattr(context, "_executor", None) is not None:
        # An executor that someone handed to the context stays theirs, for others may use it too.
        return None
    return SyncToAsync.context_to_thread_executor.get(context)


def _close_connections() -> None:
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()
