"""
What waits for the writer: a slot for each publisher, or for several that publish to one run.

The writer asks a slot for what it has, and tells it once what became of that.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from ..log import Outcome, Written

COMMIT_EVENTS: Final = 512
"""Events in one transaction, at most."""

COMMIT_SIZE: Final = 4_194_304
"""
Characters of data after which a transaction takes no further slot, and a slot no further event.

So a transaction has twice that, and an event more, at most.
"""

Wakeup = tuple[asyncio.AbstractEventLoop, Callable[[], None]]


class Group:
    """What one transaction appends to one run, and the slots it came from."""

    __slots__ = ("data", "end", "epoch", "generation", "keyed", "keys", "names", "size", "slots")

    def __init__(self, slot: Slot) -> None:
        self.epoch = slot.epoch
        self.generation = slot.generation
        self.keyed = slot.keyed
        self.names: list[str] = []
        self.data: list[str] = []
        self.keys: list[str | None] = []
        """A key or None for each of the first events, if any has one."""
        self.size = 0
        """Characters of data."""
        self.end: str | None = None
        self.slots: list[tuple[Slot, int]] = []

    def takes(self, slot: Slot) -> bool:
        """Return whether what a slot gives may share the fate of what is here."""
        return (
            self.end is None
            and self.epoch == slot.epoch
            and self.generation == slot.generation
            and not (self.keyed or slot.keyed)
        )

    def add(
        self, names: Sequence[str], data: Sequence[str], keys: Sequence[str | None] = ()
    ) -> int:
        """Add events, and return how many characters of data they have."""
        if keys:
            self.keyed = True
            self.keys += [None] * (len(self.names) - len(self.keys))
            self.keys += keys
        self.names += names
        self.data += data
        size = sum(map(len, data))
        self.size += size
        return size


class Slot(Protocol):
    """A publisher's place in the queue. Its methods are called on the writer's thread."""

    run_id: str
    epoch: int | None
    """The incarnation of the run that it is for; None: whichever there is."""
    generation: int | None
    """The generation of the producer that it is from; None: of no handle."""
    keyed: bool
    """Whether events may have keys: what becomes of them is no other slot's business."""
    urgent: bool
    """Whether somebody waits for it already."""

    def give(self, group: Group, most: int) -> bool:
        """Add up to ``most`` events, or an end, to a group; return whether there is more."""

    def settle(self, count: int, outcome: Outcome) -> Sequence[Wakeup]:
        """Learn what became of ``count`` events given; return what to call on which loops."""


class Publication:
    """The slot of one awaited call whose fate is its own: an end, or an event with a key."""

    __slots__ = (
        *("_data", "_end", "_future", "_keys", "_loop", "_names"),
        *("epoch", "generation", "keyed", "run_id"),
    )

    urgent = True

    def __init__(
        self,
        run_id: str,
        names: Sequence[str],
        data: Sequence[str],
        end: str | None = None,
        epoch: int | None = None,
        generation: int | None = None,
        key: str | None = None,
    ) -> None:
        self.run_id = run_id
        self.epoch = epoch
        self.generation = generation
        self.keyed = key is not None
        self._names = names
        self._data = data
        self._end = end
        self._keys = () if key is None else (key,)
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[Written] = self._loop.create_future()

    def give(self, group: Group, most: int) -> bool:
        group.add(self._names, self._data, self._keys)
        group.end = self._end
        return False

    def settle(self, count: int, outcome: Outcome) -> Sequence[Wakeup]:
        return ((self._loop, functools.partial(_resolve, (self._future,), outcome)),)

    async def written(self) -> Written:
        """
        Return what was written, after the commit.

        A cancellation leaves the slot in the queue: the event may still be written.
        """
        return await self._future


class SharedPublication:
    """
    The slot of awaited calls on one event loop: of all that publish to a run before it is taken.

    They go from thread to thread and back together, which costs a call a fraction of what it costs
    alone. Others join it under the writer's lock, while it is in the queue.
    """

    __slots__ = ("_events", "_given", "_size", "loop", "run_id")

    epoch: int | None = None
    generation: int | None = None
    keyed = False
    urgent = True

    def __init__(self, run_id: str, loop: asyncio.AbstractEventLoop) -> None:
        self.run_id = run_id
        self.loop = loop
        self._events: list[tuple[str, str, asyncio.Future[Written]]] = []
        self._given: list[asyncio.Future[Written]] = []
        self._size = 0

    def has_room(self) -> bool:
        return len(self._events) < COMMIT_EVENTS and self._size < COMMIT_SIZE

    def add(self, name: str, text: str) -> asyncio.Future[Written]:
        """Take an event, and return what becomes of it."""
        future: asyncio.Future[Written] = self.loop.create_future()
        self._size += len(text)
        self._events.append((name, text, future))
        return future

    def give(self, group: Group, most: int) -> bool:
        given = self._events[:most]
        del self._events[:most]
        names, data, futures = zip(*given, strict=True)
        group.add(names, data)
        self._given += futures
        return bool(self._events)

    def settle(self, count: int, outcome: Outcome) -> Sequence[Wakeup]:
        settled = self._given[:count]
        del self._given[:count]
        return ((self.loop, functools.partial(_resolve, settled, outcome)),)


def _resolve(futures: Sequence[asyncio.Future[Written]], outcome: Outcome) -> None:
    for future in futures:
        if future.done():  # the publisher was cancelled
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
