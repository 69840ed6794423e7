"""Clients of a run: each waits for what it expects, and no longer."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator, Iterable

from streambridge_app import END_SENTINEL, HEARTBEAT_SENTINEL, StreamBridge, StreamEvent
from tests.services import TIMEOUT_SCALE, async_wait_until

DEADLINE = 10.0
"""Seconds for what takes milliseconds."""

NEVER = 3600.0
"""A heartbeat interval that no test lives to see."""


def deadline(seconds: float = DEADLINE) -> asyncio.Timeout:
    """Return a context that fails with TimeoutError after `seconds`, scaled like all waits."""
    return asyncio.timeout(seconds * TIMEOUT_SCALE)


class Client:
    """One subscriber."""

    def __init__(self, items: AsyncIterator[StreamEvent]) -> None:
        self._items = items

    async def next(self) -> StreamEvent:
        """Return the next item, whatever it is."""
        async with deadline():
            return await anext(self._items)

    async def attached(self) -> None:
        """Return when it is attached and silent: its heartbeat must be short."""
        assert await self.next() is HEARTBEAT_SENTINEL

    async def take(self, count: int) -> list[StreamEvent]:
        """Return the next `count` items but heartbeats."""
        taken: list[StreamEvent] = []
        async with deadline(3 * DEADLINE):  # heartbeats may come for ever
            while len(taken) < count:
                item = await self.next()
                if item is not HEARTBEAT_SENTINEL:
                    taken.append(item)
        return taken

    async def rest(self) -> list[StreamEvent]:
        """Return all items but heartbeats to the end, and check that it is the end."""
        async with deadline(3 * DEADLINE):
            taken = [item async for item in self._items if item is not HEARTBEAT_SENTINEL]
        assert taken.count(END_SENTINEL) == 1
        assert taken.pop() is END_SENTINEL
        return taken


@contextlib.asynccontextmanager
async def client(
    bridge: StreamBridge, run_id: str, *, after: str | None = None, heartbeat: float = NEVER
) -> AsyncIterator[Client]:
    """Subscribe, and let the subscription go at the end."""
    items = bridge.subscribe(run_id, last_event_id=after, heartbeat_interval=heartbeat)
    async with contextlib.aclosing(items):
        yield Client(items)


async def replay(bridge: StreamBridge, run_id: str, after: str | None = None) -> list[StreamEvent]:
    """Return all items of a run that has ended or will, without the end."""
    async with client(bridge, run_id, after=after) as reader:
        return await reader.rest()


def seqs(items: Iterable[StreamEvent]) -> list[int]:
    """Return the numbers of events, and check that they are of one incarnation."""
    ids = [item.id.split("-") for item in items]
    assert len({epoch for epoch, _ in ids}) <= 1
    return [int(seq) for _, seq in ids]


def data(items: Iterable[StreamEvent]) -> list[object]:
    return [item.data for item in items]


async def publish(bridge: StreamBridge, run_id: str, count: int, first: int = 1) -> None:
    """Publish events whose data are `first`, `first + 1`, …"""
    for number in range(first, first + count):
        await bridge.publish(run_id, "number", number)


async def collected(forgotten: weakref.ref[object]) -> None:
    """Return when an object is gone: a thread may have had it in hand at the first collection."""

    def is_gone() -> bool:
        gc.collect()
        return forgotten() is None

    await async_wait_until(is_gone, DEADLINE, "the object to be collected")
