"""
Tell the servers that a run's log has grown: one message per run and commit, to the run's group.

A layer that is down costs a publisher nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from channels.layers import BaseChannelLayer

from ..contract import RUNNING, Batch
from ..exceptions import BridgeClosed
from ..log import Written
from ..runtime import background
from .groups import group_send_all
from .layer import Outage, group_name, is_process_local
from .news import News
from .redis import Message, Publisher, Refused, address_of
from .repeats import Repeats

SEND_DEADLINE: Final = 2.0
"""Seconds after which a send to the layer is given up."""

SENT_AT_ONCE: Final = 256
"""Messages that share one such deadline."""

logger = logging.getLogger("streambridge")


class Announcer:
    """
    Sends news to the layer, from any thread, without waiting and without failing.

    What waits to be sent is one piece of news per run: newer news replaces older.
    """

    def __init__(
        self,
        layer: BaseChannelLayer | None,
        message_bytes: int,
        local_loop: Callable[[], asyncio.AbstractEventLoop | None],
    ) -> None:
        self._layer = layer
        self._message_bytes = message_bytes
        self._local_loop = local_loop
        address = address_of(layer)
        self._publisher = None if address is None else Publisher(address)
        """Sends on the thread that announces; None: a loop sends, by the layer's own methods."""
        self._repeats: Repeats[News] | None = None
        """None: whoever could miss a message of ours looks at the log all the time anyway."""
        if not is_process_local(layer):
            self._repeats = Repeats(self._say_again)
        self._waiting: dict[str, News] = {}
        self._lock = threading.Lock()
        self._sending: asyncio.Future[None] | None = None
        self._sender: asyncio.AbstractEventLoop | None = None
        """The loop that was asked to send what waits, until nothing waits."""
        self.outage = Outage()
        self._failing = False
        self._closed = False

    def prepare(self) -> None:
        """Connect, without waiting for it: the first news is about to come."""
        publisher = self._publisher
        if publisher is not None and not publisher.connected:
            publisher.connect(self._connected)

    def announce(self, written: Sequence[Written]) -> None:
        """Send word of what was committed, soon."""
        self._tell(
            [News(one.run_id, one.epoch, one.batch.last, one.status, one.batch) for one in written]
        )

    def announce_deletion(self, run_id: str) -> None:
        """Send word that a run is gone, soon."""
        self._tell([News(run_id)])

    def _tell(self, news: Sequence[News]) -> None:
        self._send_soon(news)
        if self._repeats is not None:
            self._repeats.note([(one.run_id, one) for one in news])

    def _say_again(self, news: Iterable[News]) -> None:
        # Without the events: who has missed them reads them from the log, and the others have them.
        self._send_soon([one._replace(batch=None) for one in news])

    async def close(self) -> None:
        """Wait until what was announced before is sent, or given up. On the loop of the layer."""
        self._say_last()
        if self._publisher is not None:
            await background.in_thread(self._publisher.close)
        await self._all_sent()

    def shut(self) -> None:
        """Do the same on a thread without a loop, for so long at most; and announce no more."""
        self._say_last()
        if self._publisher is not None:
            self._publisher.close()
        self._closed = True
        sender = self._sender
        if sender is None or sender.is_closed() or is_process_local(self._layer):
            return
        with contextlib.suppress(TimeoutError, BridgeClosed):
            background.submit(self._all_sent()).result(SEND_DEADLINE)

    def _say_last(self) -> None:
        """Say again, now, what would be said again later."""
        last = self._repeats.take() if self._repeats is not None else []
        if last and (self._publisher is None or self._publisher.connected):
            self._say_again(last)

    async def _all_sent(self) -> None:
        while self._sender is not None:
            sending = self._sending
            if sending is None:
                await asyncio.sleep(0)
            else:
                await asyncio.wait((sending,))

    def _send_soon(self, news: Sequence[News]) -> None:
        publisher = self._publisher
        if publisher is None:
            self._send_on_loop(news)
            return
        if not (publisher.connected and publisher.send([self._message(one) for one in news])):
            self._hold(news)
            if publisher.connect(self._connected):
                self._send_held()  # it may have been connected meanwhile
            else:
                self._take_held()  # it has just failed: clients get the events by polling

    def _message(self, news: News) -> Message:
        if news.batch is not None and not self._may_travel(news.batch):
            news = news._replace(batch=None)
        return group_name(news.run_id), news.encode()

    def _may_travel(self, batch: Batch) -> bool:
        return len(batch) > 0 and batch.size <= self._message_bytes

    def _hold(self, news: Iterable[News]) -> None:
        with self._lock:
            for one in news:
                self._waiting[one.run_id] = self._merge(self._waiting.get(one.run_id), one)

    def _take_held(self) -> list[News]:
        with self._lock:
            held, self._waiting = self._waiting, {}
        return list(held.values())

    # Over a connection of our own

    def _connected(self, error: Exception | None) -> None:
        if isinstance(error, Refused):
            logger.warning("Redis refused (%s): events are sent the layer's own way.", error)
            self._publisher = None
            self._send_on_loop(self._take_held())
        elif error is not None:
            self._take_held()
            self._fails(error)
        else:
            self._works()
            self._send_held()

    def _send_held(self) -> None:
        publisher = self._publisher
        if publisher is not None and publisher.connected and (held := self._take_held()):
            publisher.send([self._message(one) for one in held])

    # By the layer's own methods

    def _send_on_loop(self, news: Iterable[News]) -> None:
        try:
            loop = self._loop()
        except BridgeClosed:  # the interpreter is ending: clients get the events by polling
            return
        if loop is None or self._closed:
            return
        self._hold(news)
        with self._lock:
            if self._sender is loop:
                return
            self._sender = loop
        try:
            loop.call_soon_threadsafe(self._start)
        except RuntimeError:  # the loop was closed meanwhile; its clients went with it
            with self._lock:
                self._sender = None
                self._waiting.clear()

    def _loop(self) -> asyncio.AbstractEventLoop | None:
        if self._layer is None:
            return None
        if is_process_local(self._layer):
            return self._local_loop()
        return background.loop()

    def _merge(self, waiting: News | None, news: News) -> News:
        batch = news.batch
        if waiting is not None:
            if waiting.epoch != news.epoch:  # deleted, and perhaps made again
                return News(news.run_id)
            # Two threads may announce in another order than they committed.
            older, news = sorted((waiting, news), key=_progress)
            batch = _joined(older.batch, news.batch)
        if batch is not None and not self._may_travel(batch):
            batch = None
        return news._replace(batch=batch)

    def _start(self) -> None:
        self._sending = asyncio.ensure_future(self._send_all())

    async def _send_all(self) -> None:
        try:
            while True:
                with self._lock:
                    waiting, self._waiting = self._waiting, {}
                    if not waiting:
                        self._sender = None
                        return
                news = list(waiting.values())
                for start in range(0, len(news), SENT_AT_ONCE):
                    if not await self._send(news[start : start + SENT_AT_ONCE]):
                        break  # or more would come to wait than goes
        except asyncio.CancelledError:  # with its loop: the next news starts another
            with self._lock:
                self._sender = None
            raise

    async def _send(self, news: Sequence[News]) -> bool:
        """Send some news; return whether the layer answers."""
        layer: Any = self._layer  # nothing is queued without one
        messages = [self._message(one) for one in news]
        try:
            async with asyncio.timeout(SEND_DEADLINE):
                await group_send_all(layer, messages)
        except Exception as error:  # whatever it is: clients get the events by polling
            self._fails(error)
            return not isinstance(error, TimeoutError)
        self._works()
        return True

    def _fails(self, error: Exception) -> None:
        self._failing = True
        self.outage.began(error)

    def _works(self) -> None:
        if self._failing:
            self._failing = False
            self.outage.is_over()


def _progress(news: News) -> tuple[int, bool]:
    return news.head, news.status != RUNNING


def _joined(older: Batch | None, newer: Batch | None) -> Batch | None:
    if older is None or newer is None or older.last + 1 != newer.first:
        return None
    return Batch.join((older, newer))
