"""
A client's waits, each for a change or until its time is up, on one timer.

While events come, a change ends nearly every wait. To set a timer for each, and to cancel it, took
a seventh of what a client costs its server; here the timer is left running, and looked at when it
rings.
"""

from __future__ import annotations

import asyncio
from typing import Final, Self

RESOLUTION: Final = 0.001
"""Seconds that a timer is set later: some loops count in these, and would ring too early."""


class Alarm:
    """Gives futures that are resolved after some seconds at the latest; one at a time."""

    __slots__ = ("_due", "_loop", "_timer", "_waiter")

    def __init__(self) -> None:
        self._due = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def wait(self, seconds: float) -> asyncio.Future[None]:
        """Return a future that :func:`resolve` may end before so many seconds have passed."""
        loop = asyncio.get_running_loop()
        self._waiter = waiter = loop.create_future()
        self._due = due = loop.time() + seconds
        if self._timer is not None and (
            self._loop is not loop or self._timer.when() > due + RESOLUTION
        ):
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._set(loop)
        return waiter

    def _set(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer = loop.call_at(self._due + RESOLUTION, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if loop.time() < self._due:
            self._set(loop)
        else:
            resolve(waiter)


def resolve(waiter: asyncio.Future[None]) -> None:
    """End a wait, unless it has ended."""
    if not waiter.done():
        waiter.set_result(None)
