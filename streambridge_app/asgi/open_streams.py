"""
The open streams of this process: counted against ``STREAMBRIDGE["MAX_STREAMS"]``, and told to
reconnect elsewhere when their server stops.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from ..access import Refusal
from ..conf import streambridge_settings
from ..exceptions import bridge_closed

server_send: ContextVar[Any] = ContextVar("server_send", default=None)
"""The server's own ``send`` of the connection that the current task serves."""


class OpenStream:
    """
    One SSE response, WebSocket subscription or socket of many runs.

    It is counted from its creation to :meth:`close`.

    One that is forgotten counts no longer either: a client may go, and middleware may put
    another response in its place, before the first frame, and then nobody closes it.

    Raises:
        BridgeClosed: the server stops.
        Refusal: the limit is reached.
    """

    __slots__ = ("__weakref__",)

    def __init__(self) -> None:
        if _draining:
            raise bridge_closed()
        limit = streambridge_settings.MAX_STREAMS
        if len(_open) >= limit:
            raise Refusal(
                429,
                "too_many_streams",
                f"This server has its {limit} streams open. Try again later.",
            )
        _open.add(self)

    def close(self) -> None:
        """Count it no longer. Idempotent."""
        _open.discard(self)


class OpenConnection:
    """
    The connection that the current task serves: :func:`drain` tells it to go.

    Args:
        leave: called once, on the connection's event loop, to say goodbye to the client and end
            the task. It must not wait. A connection that is made while the server drains has to
            leave by itself.
    """

    __slots__ = ("__weakref__", "_send", "leave", "task")

    def __init__(self, leave: Callable[[], None]) -> None:
        self.task: Any = asyncio.current_task()
        """Done when all has been handed to the server, the end of the response included."""
        self.leave = leave
        self._send = server_send.get()
        _connections.add(self)

    def close(self) -> None:
        """Tell it nothing any more. Idempotent."""
        _connections.discard(self)

    def abort(self) -> None:
        """Cut the connection with what its client has not read; Uvicorn would wait for that."""
        transport = getattr(getattr(self._send, "__self__", None), "transport", None)
        if transport is None:
            self.task.cancel()
        else:
            transport.abort()


_open: weakref.WeakSet[OpenStream] = weakref.WeakSet()
_connections: weakref.WeakSet[OpenConnection] = weakref.WeakSet()
_draining = False


def open_streams() -> int:
    """Return how many streams, SSE and WebSocket together, are open."""
    return len(_open)


def drain() -> list[OpenConnection]:
    """Refuse new streams for good, tell the open ones to go, and return their connections."""
    global _draining
    _draining = True
    told = list(_connections)
    for connection in told:
        connection.leave()
    return told


def is_draining() -> bool:
    """Return whether the server stops, so that streams have to end."""
    return _draining
