"""
A run that some clients of an event loop follow: its newest state, its tail, and who waits.

It holds nothing per client but a future while that waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol, Self

from ..contract import Batch, RunHead
from ..runtime import Alarm, resolve
from .pages import Pages
from .tail import Tail

JOIN_DEADLINE: Final = 1.0
"""Seconds for which a client waits for the group before it relies on polling."""


class Owner(Protocol):
    """What a followed run asks of the hub that has it."""

    pages: Pages

    def leave(self, followed: Followed) -> None: ...

    async def look(self, run_id: str) -> None: ...

    def check_open(self) -> None: ...


class Followed:
    """A run with its clients: their :class:`streambridge_app.follow.subscription.Source`."""

    __slots__ = ("_owner", "_waiters", "announced", "clients", "joined", "run", "run_id", "tail")

    def __init__(self, owner: Owner, run_id: str, tail: Tail) -> None:
        self.run_id = run_id
        self.run: RunHead | None = None
        self.tail = tail
        self.clients = 0
        self.joined = asyncio.Event()
        """Set once the first attempt to join the group is over."""
        self.announced = 0
        """The head at the last tick: messages should have brought all up to it by the next."""
        self._owner = owner
        self._waiters: set[asyncio.Future[None]] = set()

    def __enter__(self) -> Self:
        self.clients += 1
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.clients -= 1
        if self.clients == 0:
            self._owner.leave(self)

    async def refresh(self) -> None:
        # Join the group, then read the log: in this order nothing falls between the two.
        if not self.joined.is_set():
            try:
                async with asyncio.timeout(JOIN_DEADLINE):
                    await self.joined.wait()
            except TimeoutError:
                self.joined.set()
        await self._owner.look(self.run_id)

    def newest(self, key: int, seq: int) -> Sequence[Batch] | None:
        if self.run is None or self.run.key != key or seq >= self.tail.head:
            return None
        return self.tail.after(seq)

    async def read(self, key: int, epoch: int, seq: int) -> Batch | None:
        head = seq
        if self.run is not None and self.run.key == key:
            head = self.run.head if self.tail.first is None else self.tail.first - 1
        return await self._owner.pages.read(key, epoch, seq, head)

    async def changed(self, alarm: Alarm, seconds: float) -> None:
        self._owner.check_open()
        waiter = alarm.wait(seconds)
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
        self._owner.check_open()

    def is_behind(self, run: RunHead) -> bool:
        """Return whether this state of a run that we know has events that we don't."""
        return self.run is not None and self.run.key == run.key and run.head > self.tail.head

    def may_come(self, run: RunHead) -> bool:
        """Return whether messages may still bring what this state of the run has and we don't."""
        if self.run is None or self.run.key != run.key:
            return False
        lost = self.announced > self.tail.head
        self.announced = run.head
        return run.head > self.tail.head and not lost

    def show(self, run: RunHead | None) -> None:
        """Take a state and wake the clients if it is news."""
        if run == self.run:
            return
        self.run = run
        self.wake()

    def wake(self) -> None:
        """Let the clients that wait look again."""
        for waiter in self._waiters:
            resolve(waiter)
        self._waiters.clear()
