"""What Daphne lacks when it serves streams: backpressure, and discretion.

Uvicorn, Hypercorn and Granian let ``await send(...)`` wait while the client's socket is full.
Daphne returns at once, so one stalled reader of a long stream grows the server by all of it. And it
reads all that the client of a WebSocket says, however much of it waits for the application.
This gives Daphne the same behaviour from outside, with Twisted's own producer API.

It must never change a message or its order, and it must never keep a sender waiting for a client
that has gone.
"""

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ..runtime import redact

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[..., Any]
"""An ASGI 3 application: each library has types of its own for one, and takes no other's."""

_FLOWING = frozenset({"http.response.body", "websocket.send"})

logger = logging.getLogger("streambridge")

MOST_WAITING = 16
"""Messages of a WebSocket's client that wait for the application before Daphne reads no more."""

CLOSE_SECONDS = 10.0
"""Seconds in which a WebSocket's client may read the rest and answer the close frame.

Daphne's WebSocket library gives it one, and then cuts the connection with what it has not read.
"""

YIELD_INTERVAL = 0.005
"""Seconds that an application which never suspends may keep written bytes from the socket."""


class Valve:
    """Send for one connection; to Twisted a push producer, which the full transport pauses.

    Daphne runs applications on the reactor's own event loop, so the producer callbacks and
    :meth:`send` share one thread and need no lock. There is one for each open stream: it is small.
    """

    __slots__ = ("_attached", "_offered", "_protocol", "_resumed", "_send", "_yielded_at")

    def __init__(self, protocol: Any, send: Send) -> None:
        self._protocol = protocol
        self._send = send
        self._resumed: asyncio.Future[None] | None = None
        """While the transport is full: done when it wants more."""
        self._offered = False
        self._attached = False
        self._yielded_at = 0.0

    async def send(self, message: Message) -> None:
        """Pass a message to Daphne, then wait until the transport wants more."""
        kind = message["type"]
        if kind == "websocket.close":
            self._protocol.closeHandshakeTimeout = CLOSE_SECONDS
        last = kind == "http.response.body" and not message.get("more_body", False)
        if last:
            # Twisted refuses to finish a request that still has a producer. After this message the
            # connection belongs to the next request.
            self.detach()
        if kind == "websocket.close" and 1000 < (message.get("code") or 0) < 3000 and self._is_open:
            # Daphne's WebSocket library fails at an application's codes of this range.
            self._protocol.sendCloseFrame(code=message["code"])
        elif kind == "websocket.send":
            await self._send_of_any_size(message)
        else:
            await self._send(message)
        if last or kind not in _FLOWING:
            return
        if not self._offered:
            self._offered = True
            self._attach(kind)
        # Cancelled from here on, the message has been handed over whole and nothing is left behind.
        while self._resumed is not None:
            await asyncio.wait((self._resumed,))  # which other senders may wait for as well
        # Twisted writes to the socket from the event loop only: the first turn polls the socket and
        # runs this task again, the second one writes. Without it an application that never
        # suspends would send nothing until 64 KiB are buffered, and would never see a disconnect.
        now = time.monotonic()
        if now - self._yielded_at >= YIELD_INTERVAL:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self._yielded_at = time.monotonic()

    async def _send_of_any_size(self, message: Message) -> None:
        # Daphne's WebSocket library takes its limit for what clients say as one for us, too.
        protocol = self._protocol
        limit = protocol.maxMessagePayloadSize
        protocol.maxMessagePayloadSize = 0  # none
        try:
            await self._send(message)  # it doesn't suspend, so nothing is received meanwhile
        finally:
            protocol.maxMessagePayloadSize = limit

    def detach(self) -> None:
        """Give the transport back to Daphne. Idempotent."""
        if self._attached:
            self._attached = False
            self._protocol.unregisterProducer()
        self.resumeProducing()

    def pauseProducing(self) -> None:
        """Stop the sender: the transport's buffer is full."""
        if self._resumed is None:
            self._resumed = asyncio.get_running_loop().create_future()

    def resumeProducing(self) -> None:
        """Let the sender go on: the transport's buffer is empty."""
        if self._resumed is not None:
            self._resumed.set_result(None)
            self._resumed = None

    def stopProducing(self) -> None:
        """Let the sender go on for good: the connection is lost, Daphne drops what it sends."""
        self._attached = False
        self.resumeProducing()

    @property
    def _is_open(self) -> bool:
        """Whether the handshake of a WebSocket is over; after the end too."""
        return bool(self._protocol.state != self._protocol.STATE_CONNECTING)

    def _attach(self, kind: str) -> None:
        protocol = self._protocol
        try:
            if kind.startswith("http."):
                if protocol.finished or protocol.channel is None or protocol.producer is not None:
                    return
                ended = protocol.notifyFinish()
            else:
                # The HTTP channel that this connection was upgraded from is still registered.
                protocol.unregisterProducer()
                ended = protocol.is_closed
            protocol.registerProducer(self, True)
            self._attached = True
            # A pipelined response starts while the one before still fills the transport, and a TLS
            # transport that has paused the channel already doesn't say so again.
            if getattr(getattr(protocol, "channel", None), "_waitingForTransport", False):
                self.pauseProducing()
            # Daphne's timeouts end a connection without a word to its producer.
            ended.addBoth(self._ended)
        except Exception:
            _warn_unsupported("its connections have changed", exc_info=True)

    def _ended(self, _result: object) -> None:
        self.stopProducing()


class Intake:
    """Receive for one WebSocket: its client is read no further than the application listens."""

    __slots__ = ("_paused", "_protocol", "_queue", "_receive")

    def __init__(self, protocol: Any, receive: Receive) -> None:
        self._protocol = protocol
        self._receive = receive
        self._queue: Any = getattr(receive, "__self__", None)
        self._paused = False
        if isinstance(self._queue, asyncio.Queue) and hasattr(protocol, "onMessage"):
            protocol.onMessage = self._on_message
        else:
            _warn_unsupported("its messages have changed")

    async def receive(self) -> Message:
        """Take the next message from Daphne."""
        message = await self._receive()
        if self._paused and self._queue.empty():
            self._resume()
        return message

    def detach(self) -> None:
        """Give the messages back to Daphne. Idempotent."""
        vars(self._protocol).pop("onMessage", None)
        self._resume()

    def _on_message(self, payload: bytes, is_binary: bool) -> None:
        type(self._protocol).onMessage(self._protocol, payload, is_binary)
        if self._queue.qsize() >= MOST_WAITING:
            # Again at each message: the HTTP channel, which stays the transport's producer until
            # the first frame is sent, may have made it read on.
            self._paused = True
            self._protocol.transport.pauseProducing()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._protocol.transport.resumeProducing()


def protocol_behind(send: Send) -> Any | None:
    """Return the Twisted request or WebSocket protocol behind Daphne's ``send``, else None."""
    if not isinstance(send, functools.partial):
        return None
    if getattr(send.func, "__module__", None) != "daphne.server":
        return None
    protocol = send.args[0] if send.args else None
    if hasattr(protocol, "registerProducer") and hasattr(protocol, "unregisterProducer"):
        return protocol
    _warn_unsupported("its send() is not bound to a connection")
    return None


def redact_address(protocol: Any) -> None:
    """Take tokens out of what Daphne writes about a request; it has read the address before."""
    uri = getattr(protocol, "uri", None)
    if isinstance(uri, bytes):  # a WebSocket's address is logged without its query
        protocol.uri = redact(uri.decode("latin-1")).encode("latin-1")


_warned = False


def _warn_unsupported(reason: str, *, exc_info: bool = False) -> None:
    """Log once per process that this Daphne can't be controlled."""
    global _warned
    if not _warned:
        _warned = True
        logger.warning(
            "No flow control under this Daphne, because %s: clients that stop reading, or that say "
            "more than is heard, will grow this process. Use Uvicorn, or report the version of "
            "Daphne.",
            reason,
            exc_info=exc_info,
        )
