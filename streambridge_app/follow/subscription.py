"""
The life of one subscription, the same on every backend.

A subscription is a position in a log, no more: no queue, no thread, no connection. It reads
from the tail while it keeps up, pages of the log while it doesn't, and waits in between.
It must never yield an event twice, out of order, or past a hole without saying so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Final, Generic, Protocol, Self, TypeVar

from ..contract import HEARTBEAT, LOST, RUNNING, SUCCESS, Batch, End, Gap, Item, RunHead, error_in
from ..contract import cursor as cursors
from ..exceptions import LogUnavailable
from ..runtime import Alarm

RETRY_DELAY: Final = 0.5
"""Seconds between two attempts to read a log that can't be reached."""


T = TypeVar("T")


class Source(Protocol):
    """A run as its backend shows it to one event loop."""

    @property
    def run(self) -> RunHead | None:
        """The newest state known; None when there is no such run."""

    async def refresh(self) -> None:
        """Make :attr:`run` at least as new as this call. May raise LogUnavailable."""

    def newest(self, key: int, seq: int) -> Sequence[Batch] | None:
        """Return what is in memory after ``seq`` (not empty), or None if that must be read."""

    async def read(self, key: int, epoch: int, seq: int) -> Batch | None:
        """Read a page of the log after ``seq``; None if empty. May raise LogUnavailable."""

    async def changed(self, alarm: Alarm, seconds: float) -> None:
        """Return at the next change of :attr:`run`, or when ``alarm`` rings after ``seconds``."""


async def follow(
    open_source: Callable[[], AbstractContextManager[Source]],
    requested: str | cursors.Cursor | None,
    heartbeat_interval: float,
    epoch: int | None = None,
) -> AsyncGenerator[Item]:
    """
    Yield what the run has after the cursor, then what comes, then :class:`End`.

    Args:
        open_source: returns the run's source, entered for as long as somebody follows.
        requested: the cursor, as the client gave it.
        heartbeat_interval: seconds of silence after which :data:`HEARTBEAT` is yielded.
        epoch: the only incarnation of the run to follow; None: whichever there is, or will be.

    Raises:
        InvalidCursor: before the first item.
    """
    cursor = cursors.parse(requested)
    # A cancellation at any await below leaves nothing behind: the position is local.
    with open_source() as source, Alarm() as alarm:
        with _Attempt(source.refresh) as refresh:
            while not await refresh.done(heartbeat_interval):
                yield HEARTBEAT
            refresh.result()
        silent_until = time.monotonic() + heartbeat_interval
        while (run := source.run) is None and epoch is None:
            cursor = cursors.START if cursor is cursors.NOW else cursor
            if (left := silent_until - time.monotonic()) > 0:
                await source.changed(alarm, left)
            else:
                yield HEARTBEAT
                silent_until = time.monotonic() + heartbeat_interval

        if run is None or epoch not in (None, run.epoch):
            yield End(LOST, f"{epoch}-0")  # deleted since, and perhaps made again by another
            return
        key, epoch = run.key, run.epoch
        seq, gap = cursors.resolve(cursor, run)
        if gap:
            yield _gap(run, None if cursor is cursors.START else str(requested))

        while True:
            now = source.run
            if now is None or now.key != key:
                # The run was deleted (and may have been made again): its readers are let go.
                if seq < run.head:
                    yield Gap(f"{epoch}-{seq}", None, f"{epoch}-{run.head}")
                yield _end(run, LOST if run.status == RUNNING else run.status)
                return
            run = now
            if seq < run.head:
                batches = source.newest(key, seq)
                if batches is None:
                    with _Attempt(partial(source.read, key, epoch, seq)) as read:
                        while not await read.done(heartbeat_interval):
                            yield HEARTBEAT
                        page = read.result()
                    if page is None or page.first != seq + 1:
                        # Trimmed or deleted since the head was known, or missing: ask what is left.
                        with _Attempt(source.refresh) as refresh:
                            while not await refresh.done(heartbeat_interval):
                                yield HEARTBEAT
                            refresh.result()
                        now = source.run
                        if now is not None and now.key == key and now.floor > seq:
                            yield _gap(now, f"{epoch}-{seq}")
                            seq = now.floor
                        elif now is not None and now.key == key:
                            # Everything up to the head is committed: somebody deleted rows by hand.
                            earliest = None if page is None else _id(epoch, page.first)
                            missing = f"{epoch}-{seq}"
                            seq = run.head if page is None else page.first - 1
                            yield Gap(missing, earliest, _id(epoch, now.head), f"{epoch}-{seq}")
                        continue
                    batches = (page,)
                    del page
                seq = batches[-1].last
                yield batches
                del batches  # a reader that waits must hold no page
                silent_until = time.monotonic() + heartbeat_interval
                continue
            if run.status != RUNNING:
                error = None
                if run.status != SUCCESS and run.head > run.floor:
                    last = partial(_read_last, source, run)
                    with _Attempt(last) as read_last:
                        while not await read_last.done(heartbeat_interval):
                            yield HEARTBEAT
                        error = read_last.result()
                yield _end(run, run.status, error)
                return
            if (left := silent_until - time.monotonic()) > 0:
                await source.changed(alarm, left)
            else:
                yield HEARTBEAT
                silent_until = time.monotonic() + heartbeat_interval


class _Attempt(Generic[T]):
    """A call to the log, repeated until the log can be reached; ended with its block."""

    def __init__(self, call: Callable[[], Awaitable[T]]) -> None:
        self._task = asyncio.ensure_future(_until_reached(call))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._task.cancel()
        del self._task  # and the page that it brought

    async def done(self, seconds: float) -> bool:
        """Wait for up to ``seconds``; return whether the call has come back."""
        await asyncio.wait((self._task,), timeout=seconds)
        return self._task.done()

    def result(self) -> T:
        return self._task.result()


async def _until_reached(call: Callable[[], Awaitable[T]]) -> T:
    while True:
        try:
            return await call()
        except LogUnavailable:
            await asyncio.sleep(RETRY_DELAY)


async def _read_last(source: Source, run: RunHead) -> dict[str, str] | None:
    """Return what the last event of a run says of its failure."""
    batches = source.newest(run.key, run.head - 1)
    last = batches[-1] if batches else await source.read(run.key, run.epoch, run.head - 1)
    if last is None or last.last != run.head:  # trimmed or deleted meanwhile
        return None
    return error_in(last.names[-1], last.data[-1])


def _end(run: RunHead, status: str, error: dict[str, str] | None = None) -> End:
    return End(status, str(cursors.end_of(run.epoch, run.head)), error)


def _gap(run: RunHead, requested: str | None) -> Gap:
    earliest = _id(run.epoch, run.floor + 1) if run.head > run.floor else None
    position = str(cursors.After(run.epoch, run.floor))
    return Gap(requested, earliest, _id(run.epoch, run.head), position)


def _id(epoch: int, seq: int) -> str | None:
    return f"{epoch}-{seq}" if seq else None
