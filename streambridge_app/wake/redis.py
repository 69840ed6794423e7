"""
The wire of ``channels_redis.pubsub``, spoken over connections of our own.

What the layer sends and receives is what goes over these connections too: the same channels, the
same messages. But its client takes 0.3 ms of processor for a message at either end, and 50 ms to
join a group while Redis is silent. Here a commit's messages are one ``send()`` on the thread that
committed, a message received costs a tenth, any number of groups are joined in one round trip, and
a connection that is gone is noticed. Only the layer itself is known, on one Redis without TLS: for
every other, and for one whose inside has changed, :func:`address_of` says None.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Self

from channels.layers import BaseChannelLayer

CONNECT_DEADLINE: Final = 2.0
"""Seconds for each step of connecting, and for joining groups."""

SEND_DEADLINE: Final = 0.1
"""Seconds for which a publisher waits for a Redis that takes nothing more."""

RETRY_DELAY: Final = 1.0
"""Seconds before a connection is tried again."""

PING_INTERVAL: Final = 5.0
"""Seconds of silence after which a subscriber asks whether Redis is there; after two, it is not."""

KEEPALIVE: Final = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""
Seconds of silence before the kernel asks whether the other side is there, between two such
questions, and how many remain unanswered by one that isn't.

It keeps the routers between us from forgetting a silent connection, too.
"""

UNACKNOWLEDGED_MS: Final = 5_000
"""Milliseconds after which a connection is lost whose other side confirms no data."""

logger = logging.getLogger("streambridge")

Message = tuple[str, dict[str, Any]]
"""A group's name and what to send to it."""


class Refused(Exception):
    """Redis is there, but does not know or not allow what we need."""


class Address(NamedTuple):
    """Where a layer's Redis is, and what its groups and messages look like there."""

    options: dict[str, Any]
    prefix: str
    layer: Any

    def channel(self, group: str) -> bytes:
        """Return the Redis channel of a group."""
        return f"{self.prefix}__group__{group}".encode()

    def connect(self) -> Any:
        """
        Return a connection of redis-py, after its handshake: it knows every way to log in.

        Raises:
            redis.RedisError, OSError: no connection.
        """
        import redis  # it comes with channels_redis

        options = {
            "protocol": 2,
            "socket_connect_timeout": CONNECT_DEADLINE,
            "socket_timeout": CONNECT_DEADLINE,
            **self.options,
        }
        url = options.pop("address", None)
        kind = redis.ConnectionPool
        pool = kind.from_url(url, **options) if url else kind(**options)
        connection: Any = pool.make_connection()
        connection.connect()
        return connection


def address_of(layer: BaseChannelLayer | None) -> Address | None:
    """Return where a layer's Redis is, if it is one whose wire we speak."""
    kind = type(layer)
    if (kind.__module__, kind.__name__) != ("channels_redis.pubsub", "RedisPubSubChannelLayer"):
        return None
    try:
        import hiredis  # noqa: F401 - without it, a reply takes as long as before
        from channels_redis.utils import decode_hosts

        arguments = layer._kwargs  # type: ignore[union-attr]
        if layer._args:  # type: ignore[union-attr]
            return None
        hosts = decode_hosts(arguments.get("hosts"))
    except (ImportError, AttributeError):
        logger.debug("channels_redis has changed, or hiredis is missing: its own way is taken.")
        return None
    if len(hosts) != 1 or "sentinels" in hosts[0]:
        return None
    if str(hosts[0].get("address", "redis://")).startswith("rediss:") or hosts[0].get("ssl"):
        return None
    return Address(dict(hosts[0]), arguments.get("prefix", "asgi"), layer)


def _take_socket(connection: Any) -> socket.socket:
    taken: socket.socket = connection._sock
    connection._sock = None
    taken.setblocking(False)
    if taken.family in (socket.AF_INET, socket.AF_INET6):
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in {**KEEPALIVE, "TCP_USER_TIMEOUT": UNACKNOWLEDGED_MS}.items():
            if hasattr(socket, name):  # each system has its own
                taken.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return taken


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(w), w) for w in words])


class Publisher:
    """
    Sends messages from any thread, without waiting for Redis and without failing.

    It asks Redis for no replies, so that a message is one system call.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._incoming = select.poll()
        """Tells whether the socket can be read."""
        self._connecting: threading.Thread | None = None
        self._retry_at = float("-inf")
        self._closed = False

    @property
    def connected(self) -> bool:
        return self._socket is not None

    def send(self, messages: Sequence[Message]) -> bool:
        """Send each message to its group; return whether there was a connection to send on."""
        if self._socket is None:
            return False
        channel, serialize = self._address.channel, self._address.layer.serialize
        packed = b"".join(
            [
                _command(b"PUBLISH", channel(group), serialize(message))
                for group, message in messages
            ]
        )
        with self._lock:
            if self._socket is None:
                return False
            try:
                # Redis was asked to say nothing, so it is the end that can be read: a connection
                # that was closed would take one message more, and lose it.
                if self._incoming.poll(0):
                    raise ConnectionError("Redis closed the connection")
                _send_all(self._socket, packed)
            except OSError:
                self._socket.close()
                self._socket = None
                return False
            return True

    def connect(self, done: Callable[[Exception | None], None]) -> bool:
        """
        Connect in the background, unless that is done, or has just failed.

        Args:
            done: called on another thread, with what went wrong.

        Returns:
            Whether there is a connection, or will be one before ``done`` is called.
        """
        with self._lock:
            if self._closed:
                return False
            if self._socket is not None:  # made since the caller looked
                return True
            if self._connecting is None:
                if time.monotonic() < self._retry_at:
                    return False
                connecting = threading.Thread(
                    target=self._connect, args=(done,), name="streambridge-redis", daemon=True
                )
                try:
                    connecting.start()
                except RuntimeError:  # there are too many, or the interpreter is ending
                    self._retry_at = time.monotonic() + RETRY_DELAY
                    return False
                self._connecting = connecting
            return True

    def _connect(self, done: Callable[[Exception | None], None]) -> None:
        error: Exception | None = None
        try:
            connected = self._open()
        except Exception as caught:
            error = caught
        with self._lock:
            if error is not None:
                self._retry_at = time.monotonic() + RETRY_DELAY
            elif self._closed:
                connected.close()
            else:
                self._incoming = select.poll()
                self._incoming.register(connected, select.POLLIN)
                self._socket = connected
            self._connecting = None
        done(error)

    def _open(self) -> socket.socket:
        from redis.exceptions import ResponseError

        connection = self._address.connect()
        try:
            for command in (
                ("PUBLISH", self._address.channel("streambridge"), b""),
                ("CLIENT", "REPLY", "ON"),
            ):
                connection.send_command(*command)
                connection.read_response()
            connection.send_command("CLIENT", "REPLY", "OFF")
        except Exception as error:
            connection.disconnect()
            if isinstance(error, ResponseError):
                raise Refused(str(error)) from error
            raise
        return _take_socket(connection)

    def close(self) -> None:
        """Wait for a connection that is being made, and for what is sent then; and close it."""
        connecting = self._connecting
        if connecting is not None:
            connecting.join(CONNECT_DEADLINE)
        with self._lock:
            self._closed = True
            if self._socket is not None:
                self._socket.close()
                self._socket = None


def _send_all(connection: socket.socket, data: bytes) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[connection.send(left) :]
        except BlockingIOError:
            ready = select.poll()
            ready.register(connection, select.POLLOUT)
            if not ready.poll(1000 * SEND_DEADLINE):
                raise TimeoutError("Redis takes nothing more.") from None


class Subscriber(asyncio.Protocol):
    """The groups of one hub, on a connection of its own. A ``Groups``."""

    def __init__(self, address: Address, receive: Callable[[dict[str, Any]], None]) -> None:
        import hiredis

        self._address = address
        self._receive = receive
        self._replies = hiredis.Reader()
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unconfirmed = 0
        self._confirmed = asyncio.Event()
        self._heard = True
        self._transport: Any = None

    @classmethod
    async def connect(cls, address: Address, receive: Callable[[dict[str, Any]], None]) -> Self:
        """
        Return a subscriber that is connected.

        Raises:
            Exception: of the connection.
        """
        loop = asyncio.get_running_loop()
        connecting = loop.run_in_executor(None, lambda: _take_socket(address.connect()))
        try:
            connected = await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(_close_result)
            await asyncio.wait((connecting,), timeout=CONNECT_DEADLINE)  # the loop may end with us
            raise
        try:
            _, subscriber = await loop.create_connection(
                lambda: cls(address, receive), sock=connected
            )
        except BaseException:
            connected.close()
            raise
        return subscriber

    async def serve(self) -> None:
        """Hand every message to ``receive``; raise once the connection is lost."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PING_INTERVAL):
                    await asyncio.shield(self._lost)
            if not self._heard:
                raise ConnectionError("Redis does not answer")
            self._heard = False
            self._transport.write(_command(b"PING"))

    async def join(self, groups: Sequence[str]) -> None:
        """Return once messages of all these groups come."""
        if not groups:
            return
        self._unconfirmed += len(groups)
        self._confirmed.clear()
        self._transport.write(_command(b"SUBSCRIBE", *map(self._address.channel, groups)))
        async with asyncio.timeout(CONNECT_DEADLINE):
            await self._confirmed.wait()

    async def leave(self, groups: Sequence[str]) -> None:
        if groups:
            self._transport.write(_command(b"UNSUBSCRIBE", *map(self._address.channel, groups)))

    async def close(self) -> None:
        """Leave all groups, with the connection."""
        self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._heard = True
        self._replies.feed(data)
        while (reply := self._replies.gets()) is not False:
            if isinstance(reply, Exception):
                self._fail(reply)
            elif reply[0] == b"message":
                self._take(reply[2])
            elif reply[0] == b"subscribe":
                self._unconfirmed -= 1
                if not self._unconfirmed:
                    self._confirmed.set()

    def _take(self, packed: bytes) -> None:
        try:
            message = self._address.layer.deserialize(packed)
        except Exception:
            logger.warning("Ignored a message in a StreamBridge group that can't be read.")
        else:
            self._receive(message)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or ConnectionError("Redis closed the connection"))

    def _fail(self, error: Exception) -> None:
        if not self._lost.done():
            self._lost.set_exception(error)
            self._lost.exception()  # marks it as seen: nobody may be waiting


def _close_result(connecting: asyncio.Future[socket.socket]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close()
