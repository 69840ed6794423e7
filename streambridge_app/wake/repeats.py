"""
Say the newest word of each run a second time, once nothing newer was said for a moment.

A message that a layer loses is betrayed by the next one of its run. After the last one of a burst
none comes, and whoever follows would learn of it only by its next look at the log. So the last word
is repeated: one message per run and quiet moment, none while a run is busy, and no query.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

from ..runtime import background

REPEAT_AFTER: Final = 0.1
"""Seconds of silence of a run after which its newest word is repeated."""

T = TypeVar("T")


class Repeats(Generic[T]):
    """The words of one sender that may yet be the last ones of their runs, from any thread."""

    def __init__(self, say: Callable[[list[T]], None]) -> None:
        """
        Args:
            say: says words again, without failing; called on the background loop.
        """
        self._say = say
        self._waiting: dict[str, tuple[float, T]] = {}
        """When and what was said last of each run, the longest ago first."""
        self._lock = threading.Lock()
        self._armed_on: asyncio.AbstractEventLoop | None = None
        """The loop that will look at what waits; it may end before."""

    def note(self, words: Iterable[tuple[str, T]]) -> None:
        """Note what has just been said: words by run id."""
        now = time.monotonic()
        with self._lock:
            waiting = self._waiting
            for run_id, word in words:
                waiting.pop(run_id, None)  # to the end with it
                waiting[run_id] = (now, word)
            if self._armed_on is not None and not self._armed_on.is_closed():
                return
        try:
            self._armed_on = loop = background.loop()
            loop.call_soon_threadsafe(loop.call_later, REPEAT_AFTER, self._repeat, loop)
        except RuntimeError:  # the interpreter is ending, and this process with what it says
            self.take()

    def take(self) -> list[T]:
        """Return what would be said again, and forget it."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        return [word for _, word in waiting.values()]

    def _repeat(self, loop: asyncio.AbstractEventLoop) -> None:
        due: list[T] = []
        now = time.monotonic()
        wait = 0.0
        with self._lock:
            for run_id, (said_at, word) in list(self._waiting.items()):
                wait = said_at + REPEAT_AFTER - now
                if wait > 0:
                    break
                del self._waiting[run_id]
                due.append(word)
            if self._waiting:
                loop.call_later(wait, self._repeat, loop)
            else:
                self._armed_on = None
        if due:
            self._say(due)
