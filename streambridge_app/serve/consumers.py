"""
The WebSocket routes: one run per socket, or many runs over one.

A socket costs a task per run that it follows, and no thread, database connection or channel
of the layer: the hub of the process is in the groups, not the sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final
from urllib.parse import parse_qs

from channels.auth import UserLazyObject, get_user
from channels.db import aclose_old_connections
from channels.generic.websocket import AsyncWebsocketConsumer

from ..access import Access, Refusal, admit_follower, bearer_token, run_token, state_or_none
from ..asgi import OpenConnection, OpenStream
from ..conf import streambridge_settings
from ..contract import End, Gap, Heartbeat, Item, check_run_id
from ..contract import cursor as cursors
from ..exceptions import BridgeClosed, LogUnavailable, StreamBridgeError
from ..registry import get_bridge
from . import socket_frames
from .http_errors import SHUTTING_DOWN, refusal_of
from .users import known_user

MAX_MESSAGE_CHARACTERS: Final = 4096
"""A client's message may not be longer."""

IDLE_SOCKET_SECONDS: Final = 60.0
"""Seconds for which a socket of many runs may follow none."""

MAX_REFUSALS: Final = 20
"""A socket is closed after as many refused messages in a row."""

REFUSED: Final = 4000
"""
Close code of a refused socket, less the HTTP status: 4401, 4404, 4429, …

The codes below 3000 that would say the same can't be sent under Daphne, which fails at them, unless
:func:`streambridge_app.asgi.flow_control` is there.
"""

IDLE: Final = REFUSED + 408
"""Close code of a socket that has followed no run for :data:`IDLE_SOCKET_SECONDS`."""

TOO_MANY_REFUSALS: Final = REFUSED + 400
"""Close code of a socket whose messages were refused :data:`MAX_REFUSALS` times in a row."""

SERVICE_RESTART: Final = 1012
"""
Close code that asks the client to connect again, because this server stops.

Source: the registry of WebSocket close codes, https://www.iana.org/assignments/websocket.
"""

UNAVAILABLE: Final = REFUSED + 503
"""Close code of a socket whose log can't be reached: connect again."""

INTERNAL_ERROR: Final = REFUSED + 500
"""Close code of a socket whose server failed."""

logger = logging.getLogger("streambridge")


_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""Source: RFC 9110, section 5.6.2."""


def _chosen_subprotocol(scope: Mapping[str, Any]) -> str | None:
    """
    Return the first subprotocol that a client offers: a browser hangs up where none is chosen.

    None if the offer is not what it seems: Daphne decodes percent signs in it, and then refuses
    what the client has not offered to the letter.
    """
    offered = [value for name, value in scope["headers"] if name == b"sec-websocket-protocol"]
    literal = {text.strip() for text in b",".join(offered).decode("latin-1").split(",")}
    for text in scope.get("subprotocols") or ():
        if text in literal and _TOKEN.fullmatch(text):
            return str(text)
    return None


class _Consumer(AsyncWebsocketConsumer):
    """What both routes share."""

    # Channels would open a channel of the layer per socket.
    channel_layer_alias = None  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.followers: dict[str, asyncio.Task[None]] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        """The followers, with those that have only the end of their run left to send, and what
        closes the socket of a server that stops."""
        self.query: dict[str, list[str]] = {}
        self.connection: OpenConnection | None = None
        self.closed = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # The client has gone, this consumer failed, or the server cancels it: no word of
            # the protocol comes in all three cases.
            if self.connection is not None:
                self.connection.close()
            for task in self.tasks:
                task.cancel()
            if self.tasks:
                await asyncio.wait(list(self.tasks))

    async def connect(self) -> None:
        query = self.scope.get("query_string", b"").decode("latin-1")
        self.query = parse_qs(query)
        await self.accept(_chosen_subprotocol(self.scope))
        self.connection = OpenConnection(self._leave)

    def _leave(self) -> None:
        for follower in self.tasks:
            follower.cancel()
        closing = asyncio.create_task(self.hang_up(SERVICE_RESTART))
        self.tasks.add(closing)
        closing.add_done_callback(self.tasks.discard)

    async def say(self, frame: str) -> None:
        """Send a frame, unless this side has closed: servers take that for a fault of ours."""
        if not self.closed:
            await self.send(frame)

    async def hang_up(self, code: int | None = None) -> None:
        """Close the socket. Idempotent."""
        if not self.closed:
            self.closed = True
            with contextlib.suppress(OSError):  # Uvicorn's word for a client that has gone
                await self.close(code)

    def parameter(self, name: str) -> str | None:
        """Return a parameter of the socket's address."""
        return self.query.get(name, [None])[-1]

    def token(self, said: str | None = None) -> str | None:
        """Return the run token of a message, of the socket's address, or of its bearer."""
        headers = dict(self.scope.get("headers", ()))
        bearer = bearer_token(headers.get(b"authorization", b"").decode("latin-1"))
        return run_token(said, self.parameter("token"), bearer)

    async def open(self, run_id: str, last_event_id: str | None, token: str | None) -> None:
        """
        Begin to follow a run.

        Raises:
            Refusal, StreamBridgeError: it can't be followed.
        """
        check_run_id(run_id)
        cursor = cursors.parse(last_event_id)
        access = Access(
            user=await self.user(),
            run_id=run_id,
            run=await state_or_none(run_id),
            token=token,
            scope=self.scope,
        )
        run = await admit_follower(access, cursor)
        cursor, position = cursors.start(cursor, run)
        # A permission may have been looked up on the thread that all sockets share.
        await aclose_old_connections()
        counted = OpenStream()
        items = get_bridge().follow(
            run_id,
            last_event_id=cursor,
            heartbeat_interval=streambridge_settings.HEARTBEAT_INTERVAL,
            epoch=run.epoch if run else None,
        )
        await self.say(socket_frames.encode("subscribed", run_id, last_event_id=position))
        follower = asyncio.create_task(self._follow(run_id, counted, items))
        self.followers[run_id] = follower
        self.tasks.add(follower)
        follower.add_done_callback(self.tasks.discard)

    async def user(self) -> Any:
        """Return whose rights count."""
        return await known_user(self.scope.get("user"))

    async def _follow(self, run_id: str, counted: OpenStream, items: AsyncGenerator[Item]) -> None:
        try:
            async for item in items:
                if isinstance(item, End):
                    self._forget(run_id)  # who has read of the end may subscribe again
                await self._send_item(run_id, item)
                del item  # an idle socket must not hold on to the last page that it sent
            await self.ended(run_id)
        except BridgeClosed:
            await self.hang_up(SERVICE_RESTART)
        except LogUnavailable:
            await self.hang_up(UNAVAILABLE)
        except OSError:
            return  # Uvicorn's word for a client that went while a frame was on its way
        except Exception:
            logger.exception("A WebSocket stopped following a run.")
            await self.hang_up(INTERNAL_ERROR)
        finally:
            counted.close()
            if self.followers.get(run_id) is asyncio.current_task():
                self._forget(run_id)
            await items.aclose()

    def _forget(self, run_id: str) -> None:
        self.followers.pop(run_id, None)

    async def _send_item(self, run_id: str, item: Item) -> None:
        if isinstance(item, Heartbeat):
            await self.say(socket_frames.encode("heartbeat", run_id))
        elif isinstance(item, Gap):
            gap = {**item.data(), "last_event_id": item.position}
            await self.say(socket_frames.encode("gap", run_id, **gap))
        elif isinstance(item, End):
            await self.say(
                socket_frames.encode(
                    "end", run_id, id=item.position, status=item.status, error=item.error
                )
            )
        else:
            for batch in item:
                for frame in batch.encoded(socket_frames.encode_events, run_id):
                    await self.say(frame)

    async def ended(self, run_id: str) -> None:
        """Do what the route does after the last frame of a run."""

    async def refuse(self, refusal: Refusal, run_id: str | None = None) -> None:
        """Send an error frame."""
        await self.say(
            socket_frames.encode("error", run_id, code=refusal.code, message=refusal.message)
        )

    async def turn_away(self, refusal: Refusal) -> None:
        """Send an error frame and close the socket."""
        await self.refuse(refusal)
        stopping = refusal.code == SHUTTING_DOWN
        await self.hang_up(SERVICE_RESTART if stopping else REFUSED + refusal.status)


class OriginRefused(_Consumer):
    """Any address, from a page of another site: told why, and closed."""

    async def connect(self) -> None:
        await super().connect()
        await self.turn_away(
            Refusal(
                403,
                "origin_refused",
                "This server takes no WebSockets from pages of this origin. Is its host in "
                "ALLOWED_HOSTS?",
            )
        )


class RunConsumer(_Consumer):
    """``ws/runs/<run_id>/?last_event_id=&token=``: one run, to its end."""

    async def connect(self) -> None:
        await super().connect()
        run_id = self.scope["url_route"]["kwargs"]["run_id"]
        try:
            await self.open(run_id, cursors.parameter(self.parameter), self.token())
        except (Refusal, StreamBridgeError) as error:
            await self.turn_away(refusal_of(error))

    async def ended(self, run_id: str) -> None:
        await self.hang_up()


class RunsConsumer(_Consumer):
    """
    ``ws/runs/``: any number of runs, by the client's messages.

    ``{"type": "subscribe", "run", "last_event_id", "token"}`` and ``{"type": "unsubscribe",
    "run"}``. An error is a frame; the socket stays open, unless it is of no use.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.counted: OpenStream | None = None
        self.refusals = 0
        """Messages refused since the last one that was not."""
        self.idle_timer: asyncio.TimerHandle | None = None
        self.idle_closing: asyncio.Task[None] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._not_idle()
            if self.idle_closing is not None:
                self.idle_closing.cancel()
            if self.counted is not None:
                self.counted.close()

    async def connect(self) -> None:
        await super().connect()
        try:
            self.counted = OpenStream()
        except (Refusal, BridgeClosed) as error:
            await self.turn_away(refusal_of(error))
        else:
            self._wait_idle()

    async def user(self) -> Any:
        """
        Return the user as of now: a socket may be older than a logout, or outlive its user.

        Another middleware's user than that of Channels' sessions stays the one of the scope.
        """
        user = await super().user()
        session = self.scope.get("session")
        if session is None or not isinstance(user, UserLazyObject) or not user.is_authenticated:
            return user
        # The scope's session is as it was read when the socket came.
        scope: Any = {"session": session.__class__(session.session_key)}
        return await get_user(scope)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if self.closed:
            return  # said before the client knew
        run_id = None
        try:
            message = _parse(text_data)
            run_id = message["run"]
            if message["type"] == "subscribe":
                await self._subscribe(run_id, message)
            else:
                await self._unsubscribe(run_id)
        except (Refusal, StreamBridgeError) as error:
            await self._refuse_message(refusal_of(error), run_id)
        else:
            self.refusals = 0

    async def _refuse_message(self, refusal: Refusal, run_id: str | None) -> None:
        await self.refuse(refusal, run_id)
        self.refusals += 1
        if self.refusals >= MAX_REFUSALS:
            await self.hang_up(TOO_MANY_REFUSALS)

    def _wait_idle(self) -> None:
        self._not_idle()
        loop = asyncio.get_running_loop()
        self.idle_timer = loop.call_later(IDLE_SOCKET_SECONDS, self._close_idle)

    def _not_idle(self) -> None:
        if self.idle_timer is not None:
            self.idle_timer.cancel()
            self.idle_timer = None

    def _close_idle(self) -> None:
        self.idle_closing = asyncio.create_task(self.hang_up(IDLE))

    def _forget(self, run_id: str) -> None:
        super()._forget(run_id)
        if not self.followers and not self.closed:
            self._wait_idle()

    async def _subscribe(self, run_id: str, message: dict[str, Any]) -> None:
        limit = streambridge_settings.MAX_RUNS_PER_SOCKET
        if run_id in self.followers:
            raise Refusal(409, "already_subscribed", "This socket follows that run already.")
        if len(self.followers) >= limit:
            raise Refusal(429, "too_many_runs", f"One socket may follow {limit} runs at once.")
        token = self.token(message.get("token") or None)
        await self.open(run_id, message.get("last_event_id"), token)
        if self.followers:  # a run that has ended may be over already
            self._not_idle()

    async def _unsubscribe(self, run_id: str) -> None:
        follower = self.followers.get(run_id)
        if follower is None:
            raise Refusal(404, "not_subscribed", "This socket doesn't follow that run.")
        follower.cancel()
        await asyncio.wait((follower,))
        self._forget(run_id)  # a task cancelled before its first step did not
        await self.say(socket_frames.encode("unsubscribed", run_id))


def _parse(text: str | None) -> dict[str, Any]:
    """
    Return a client's message, its shape checked.

    Raises:
        Refusal: it is none.
    """
    if text is not None and len(text) <= MAX_MESSAGE_CHARACTERS:
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            message = None
        if (
            isinstance(message, dict)
            and message.get("type") in ("subscribe", "unsubscribe")
            and isinstance(message.get("run"), str)
            and isinstance(message.get("last_event_id", ""), str | None)
            and isinstance(message.get("token", ""), str | None)
        ):
            return message
    raise Refusal(
        400,
        "invalid_message",
        'Send {"type": "subscribe" or "unsubscribe", "run": id} as text, with "last_event_id" '
        f'and "token" as text if wanted, in at most {MAX_MESSAGE_CHARACTERS} characters.',
    )
