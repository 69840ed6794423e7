"""
What a server does with its open streams when it is told to stop.

Left alone, Daphne cuts them at once, in the middle of a frame, and Uvicorn waits for them for ever.
So the signals that stop a server come here first: new streams are refused, the open ones are told
to reconnect elsewhere and end, and whatever is left of them after ``SHUTDOWN_SECONDS`` is cut.

The server's own handler always gets the signal in the end, whatever goes wrong here; and a second
signal at once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, Final

from ..conf import streambridge_settings
from .open_streams import drain

FLUSH_SECONDS: Final = 0.1
"""Seconds that Daphne gets to write what the last streams have handed over."""

Handler = Callable[[int, FrameType | None], Any]

logger = logging.getLogger("streambridge")

_asked = False


def install(*, drops: bool) -> None:
    """
    Take SIGTERM and SIGINT before the server's own handlers; once per process.

    Called on the server's event loop when its first connection comes, for its handlers are in
    place by then. Does nothing where the loop is not in the main thread, as in ``runserver`` with
    its autoreloader, or where SIGTERM has no handler: who runs the loop there is no server that
    stops in an orderly way, and only its own code may change what Ctrl-C does to it.

    Args:
        drops: whether the server's handler drops all connections, so that it has to wait for
            them; otherwise it is called at once, so that the server accepts no more.
    """
    global _asked
    if _asked:
        return
    _asked = True
    if threading.current_thread() is not threading.main_thread():
        return
    if not callable(signal.getsignal(signal.SIGTERM)):
        return
    stop = _Stop(asyncio.get_running_loop(), drops)
    for number in (signal.SIGTERM, signal.SIGINT):
        handler = signal.getsignal(number)
        if callable(handler):
            signal.signal(number, partial(stop.receive, handler))


class _Stop:
    def __init__(self, loop: asyncio.AbstractEventLoop, drops: bool) -> None:
        self._loop = loop
        self._drops = drops
        self._begun = False
        self._handed_on = False
        self._task: asyncio.Task[None] | None = None

    def receive(self, handler: Handler, number: int, frame: FrameType | None) -> None:
        """Take a signal, between any two steps of the event loop's thread."""
        first, self._begun = not self._begun, True
        if first:
            try:
                self._loop.call_soon_threadsafe(self._begin, partial(handler, number, None))
            except RuntimeError:  # the loop is closed, and with it all connections
                first = False
        if not (first and self._drops):
            self._handed_on = True
            handler(number, frame)

    def _begin(self, hand_on: Callable[[], Any]) -> None:
        self._task = self._loop.create_task(self._drain(hand_on))

    async def _drain(self, hand_on: Callable[[], Any]) -> None:
        try:
            told = drain()
            if told:
                logger.info("Stopping: %d connections are told to reconnect.", len(told))
                seconds = streambridge_settings.SHUTDOWN_SECONDS
                if self._drops:
                    await self._wait({connection.task for connection in told}, seconds)
                else:
                    # Those that have gone need no more; and the loop ends with the last one.
                    await asyncio.sleep(seconds)
                    for connection in told:
                        connection.abort()
        except Exception:
            logger.exception("The open streams could not be ended.")
        finally:
            if not self._handed_on:
                hand_on()

    async def _wait(self, tasks: set[asyncio.Task[Any]], seconds: float) -> None:
        _, left = await asyncio.wait(tasks, timeout=seconds)
        if not left:
            await asyncio.sleep(FLUSH_SECONDS)
