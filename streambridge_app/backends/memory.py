"""
The reference backend: all in the memory of one process, with the whole contract.

For the unit tests of projects that use StreamBridge: no database, no layer, and no thread but that
of the signals. It works across threads and event loops of its process, and forgets everything with
it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import itertools
import json
import math
import threading
import time
import weakref
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import Any, Final, Self, Unpack

from ..conf import streambridge_settings
from ..contract import (
    RUNNING,
    SUCCESS,
    Batch,
    Cursor,
    Item,
    NewRun,
    Producer,
    RunHead,
    RunId,
    RunOptions,
    RunState,
    StreamBridge,
    check_delay,
    check_event_name,
    check_keep,
    check_key,
    check_run_id,
    check_subscription,
    encode_data,
    error_in,
    milliseconds,
    new_end,
    new_loss,
    new_run,
    shut,
)
from ..exceptions import (
    RunEnded,
    bridge_closed,
    nothing_to_cancel,
    producer_fenced,
    run_ended,
    run_exists,
    run_not_found,
)
from ..follow import follow
from ..log import Written
from ..runtime import Alarm, background, resolve
from ..signals import SignalThread

HELD_LOOK: Final = 1.0
"""Seconds between a client's looks whether a run that is past its lease still has a handle."""


@dataclasses.dataclass
class _Run:
    key: int
    epoch: int
    owner_id: Any = None
    metadata_json: str = "{}"
    created_at: datetime.datetime = dataclasses.field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC)
    )
    ended_at: datetime.datetime | None = None
    status: str = RUNNING
    cancel_requested: bool = False
    generation: int = 0
    lease: float = math.inf
    """Seconds."""
    lease_expires: float = math.inf
    """In seconds of the monotonic clock; of no account while a handle is open."""
    handles: weakref.WeakSet[_Producer] = dataclasses.field(default_factory=weakref.WeakSet)
    cancel_after: float = math.inf
    """Seconds."""
    left_at: float = math.inf
    """When its last client left, in seconds of the monotonic clock."""
    delete_at: float = math.inf
    """When to forget it, in seconds of the monotonic clock."""
    keep: float = math.inf
    """Seconds from its end to its deletion."""
    max_events: int | None = None
    max_bytes: int | None = None
    floor: int = 0
    keys: set[str] = dataclasses.field(default_factory=set)
    names: list[str] = dataclasses.field(default_factory=list)
    data: list[str] = dataclasses.field(default_factory=list)

    @property
    def head(self) -> int:
        return self.floor + len(self.names)

    @property
    def error(self) -> dict[str, str] | None:
        """Why it failed, if its last event says so."""
        failed = self.status not in (RUNNING, SUCCESS) and self.names
        return error_in(self.names[-1], self.data[-1]) if failed else None

    @property
    def silent_seconds(self) -> float | None:
        """Seconds since somebody published or held a handle; None while nobody has to."""
        begun = self.head or self.generation or self.handles
        if self.status != RUNNING or math.isinf(self.lease) or not begun:
            return None
        if self.handles:
            return 0.0
        left = self.lease_expires - time.monotonic()
        return None if left > self.lease else self.lease - left

    def renew(self) -> None:
        """Let it last for its length from now on; the wait that a release asked for is no less."""
        self.lease_expires = max(self.lease_expires, time.monotonic() + self.lease)

    def start_lease(self, wait: float = 0) -> None:
        """Let it last for its length and ``wait`` seconds from now on, whatever was left of it."""
        self.lease_expires = time.monotonic() + self.lease + wait

    def append(self, names: Sequence[str], data: Sequence[str], end: str | None) -> None:
        self.names += names
        self.data += data
        if end is not None:
            self.status = end
            self.ended_at = datetime.datetime.now(datetime.UTC)
            self.delete_at = min(self.delete_at, time.monotonic() + self.keep)

    def trim(self, keep: int) -> int:
        """Forget all but the newest ``keep`` events; return how many that were."""
        count = max(0, len(self.names) - keep)
        del self.names[:count], self.data[:count]
        self.floor += count
        return count

    def trim_to_limits(self) -> None:
        """Forget what is over its limits, but not the newest event."""
        if self.max_events is not None:
            self.trim(self.max_events)
        if self.max_bytes is not None:
            sizes = itertools.accumulate(len(text.encode()) for text in reversed(self.data))
            self.trim(max(1, sum(size <= self.max_bytes for size in sizes)))


class MemoryBridge(StreamBridge):
    """Keeps every event in a dict of this process."""

    def __init__(self) -> None:
        self._max_event_bytes = streambridge_settings.MAX_EVENT_BYTES
        self._page_events = streambridge_settings.PAGE_EVENTS
        self._lease_ms = milliseconds("LEASE_SECONDS", streambridge_settings.LEASE_SECONDS)
        self._lock = threading.RLock()
        self._runs: dict[str, _Run] = {}
        self._keys = itertools.count(1)
        self._highest_epoch = 0
        self._clients: Counter[str] = Counter()
        self._wakers: dict[str, set[Callable[[], None]]] = {}
        self._signals = SignalThread()

    async def create_run(self, run_id: RunId | None = None, **options: Unpack[RunOptions]) -> str:
        run_id, new = new_run(run_id, options, self._max_event_bytes)
        with self._lock:
            if self._find(run_id) is not None:
                raise run_exists(run_id)
            self._create(run_id, new)
        self._wake(run_id)
        return run_id

    async def get_run(self, run_id: RunId) -> RunState:
        run_id = check_run_id(run_id)
        with self._lock:
            run = self._existing(run_id)
            return RunState(
                run_id=run_id,
                epoch=run.epoch,
                status=run.status,
                head=run.head,
                earliest=run.floor + 1 if run.names else None,
                created_at=run.created_at,
                ended_at=run.ended_at,
                owner_id=run.owner_id,
                metadata=json.loads(run.metadata_json),
                cancel_requested=run.cancel_requested,
                generation=run.generation,
                error=run.error,
                silent_seconds=run.silent_seconds,
            )

    async def publish(
        self,
        run_id: RunId,
        event: str,
        data: Any = None,
        *,
        key: str | None = None,
        epoch: int | None = None,
        generation: int | None = None,
    ) -> None:
        """
        Append an event: see :meth:`StreamBridge.publish`.

        Args and errors are those, and:

        Args:
            epoch: append to this incarnation of the run only.
            generation: append only if no later producer has taken it over.

        Raises:
            ProducerFenced: one has.
        """
        run_id = check_run_id(run_id)
        names, texts = [check_event_name(event)], [encode_data(data, self._max_event_bytes)]
        if key is not None:
            key = check_key(key)
        self._append(run_id, names, texts, None, epoch, generation, key)

    async def publish_end(
        self,
        run_id: RunId,
        *,
        status: str = SUCCESS,
        error: BaseException | str | None = None,
        epoch: int | None = None,
        generation: int | None = None,
    ) -> None:
        """End a run: see :meth:`StreamBridge.publish_end`, and :meth:`publish`."""
        try:
            self._append(*new_end(run_id, status, error), epoch, generation)
        except RunEnded:
            return

    def follow(
        self,
        run_id: RunId,
        *,
        last_event_id: str | Cursor | None = None,
        heartbeat_interval: float = 15.0,
        epoch: int | None = None,
    ) -> AsyncGenerator[Item]:
        run_id = check_subscription(run_id, last_event_id, heartbeat_interval)
        return follow(
            lambda: _Source(self, run_id),
            last_event_id,
            heartbeat_interval,
            epoch,
        )

    async def request_cancel(self, run_id: RunId) -> None:
        run_id = check_run_id(run_id)
        with self._lock:
            run = self._existing(run_id)
            if run.status != RUNNING:
                raise nothing_to_cancel(run_id)
            run.cancel_requested = True

    async def trim(self, run_id: RunId, *, keep: int) -> int:
        run_id = check_run_id(run_id)
        with self._lock:
            run = self._existing(run_id)
            count = run.trim(check_keep(keep))
        self._wake(run_id)
        return count

    async def cleanup(self, run_id: RunId, *, delay: float = 0) -> None:
        run_id = check_run_id(run_id)
        run = self._set_deadline(run_id, delay)
        if run is None:
            return
        # A caller that is cancelled leaves the deadline to whoever looks next.
        await asyncio.sleep(delay)
        with self._lock:
            if self._runs.get(run_id) is not run:
                return
            del self._runs[run_id]
        self._wake(run_id)

    async def schedule_cleanup(self, run_id: RunId, *, delay: float) -> None:
        self._set_deadline(run_id, delay)

    def _set_deadline(self, run_id: RunId, delay: float) -> _Run | None:
        check_delay(delay)
        run_id = check_run_id(run_id)
        with self._lock:
            run = self._find(run_id)
            if run is None:
                return None
            deadline = time.monotonic() + delay
            run.delete_at = deadline if run.status == RUNNING else min(run.delete_at, deadline)
        self._wake(run_id)
        return run

    def producer(
        self, run_id: RunId, *, take_over: bool = False, raise_on_cancel: bool = False
    ) -> Producer:
        return _Producer(self, run_id, take_over=take_over, raise_on_cancel=raise_on_cancel)

    def claim(self, handle: _Producer, take_over: bool) -> tuple[int, int]:
        """Hold a run for an open handle; return its epoch and generation."""
        with self._lock:
            run = self._find(handle.run_id) or self._create(handle.run_id, NewRun())
            if run.status != RUNNING:
                raise run_ended(handle.run_id)
            run.generation += take_over
            if self._lease_ms is not None:
                run.lease = self._lease_ms / 1000
            run.start_lease()
            run.handles.add(handle)
            return run.epoch, run.generation

    def release(self, handle: _Producer, wait: float = 0) -> None:
        """Hold the run no more; its lease goes on from here, ``wait`` seconds longer."""
        with self._lock:
            run = self._runs.get(handle.run_id)
            if run is not None and handle in run.handles:
                run.handles.discard(handle)
                run.start_lease(wait)

    def check_generation(self, run_id: str, epoch: int | None, generation: int | None) -> None:
        """Raise ProducerFenced if a later producer has taken the run over."""
        with self._lock:
            run = self._find(run_id)
            if run is not None and run.epoch == epoch and run.generation != generation:
                raise producer_fenced(run_id)

    async def close(self) -> None:
        self.closed = True
        await background.in_thread(partial(shut, self))

    def shut(self) -> None:
        with self._lock:
            self.closed = True
            self._runs.clear()
            run_ids = list(self._wakers)
        for run_id in run_ids:
            self._wake(run_id)
        self._signals.close()

    def _create(self, run_id: str, new: NewRun) -> _Run:
        settings = streambridge_settings
        epoch = max(time.time_ns() // 1_000_000, self._highest_epoch + 1)
        self._highest_epoch = epoch
        run = _Run(next(self._keys), epoch, new.owner_id, new.metadata_json)
        self._runs[run_id] = run
        if new.lease_ms is not None:
            run.lease = new.lease_ms / 1000
            run.start_lease()
        if new.cancel_after_ms is not None:
            run.cancel_after = new.cancel_after_ms / 1000
        run.max_events = settings.MAX_RUN_EVENTS if new.max_events is None else new.max_events
        run.max_bytes = settings.MAX_RUN_BYTES if new.max_bytes is None else new.max_bytes
        seconds = settings.KEEP_SECONDS
        if new.owner_id is None and settings.KEEP_UNOWNED_SECONDS is not None:
            seconds = settings.KEEP_UNOWNED_SECONDS
        if new.keep is not None:
            seconds = new.keep.total_seconds()
        run.keep = math.inf if seconds is None else seconds
        return run

    def _find(self, run_id: str) -> _Run | None:
        if self.closed:
            raise bridge_closed()
        run = self._runs.get(run_id)
        if run is None:
            return None
        now = time.monotonic()
        if now >= run.delete_at:
            del self._runs[run_id]
            return None
        if now >= run.lease_expires and run.status == RUNNING and not run.handles:
            loss = self._write(run, *new_loss(run_id))
            self._signals.send([loss])
        if now >= run.left_at + run.cancel_after and run.status == RUNNING:
            run.cancel_requested = True
        return run

    def _write(
        self, run: _Run, run_id: str, names: Sequence[str], data: Sequence[str], end: str | None
    ) -> Written:
        batch = Batch(run.epoch, run.head + 1, names, data)
        run.append(names, data, end)
        run.trim_to_limits()
        ended = end is not None
        return Written(run_id, run.key, run.epoch, batch, run.status, run.cancel_requested, ended)

    def _existing(self, run_id: str) -> _Run:
        run = self._find(run_id)
        if run is None:
            raise run_not_found(run_id)
        return run

    def _append(
        self,
        run_id: str,
        names: Sequence[str],
        data: Sequence[str],
        end: str | None,
        epoch: int | None,
        generation: int | None,
        key: str | None = None,
    ) -> None:
        with self._lock:
            if generation is not None:
                self.check_generation(run_id, epoch, generation)
            run = self._find(run_id)
            if run is None and epoch is None:
                run = self._create(run_id, NewRun())
            if run is None or epoch not in (None, run.epoch):
                raise run_ended(run_id)
            if key in run.keys:
                return
            if run.status != RUNNING:
                raise run_ended(run_id)
            written = self._write(run, run_id, names, data, end)
            if key is not None:
                run.keys.add(key)
            run.renew()
        self._wake(run_id)
        self._signals.send([written])

    def _wake(self, run_id: str) -> None:
        with self._lock:
            wakers = tuple(self._wakers.get(run_id, ()))
        for waker in wakers:
            waker()

    def head(self, run_id: str) -> RunHead | None:
        """Return the head of a run, or None if there is no such run."""
        with self._lock:
            run = self._find(run_id)
            if run is None:
                return None
            return RunHead(run.key, run.epoch, run.head, run.floor, run.status)

    def page(self, run_id: str, key: int, seq: int) -> Batch | None:
        """Return events after ``seq``, or None if they are trimmed or the run is gone."""
        with self._lock:
            run = self._find(run_id)
            if run is None or run.key != key or seq < run.floor or seq >= run.head:
                return None
            start = seq - run.floor
            page = slice(start, start + self._page_events)
            return Batch(run.epoch, seq + 1, run.names[page], run.data[page])

    def cancel_requested(self, run_id: str) -> bool:
        """Return whether a run has been asked to stop."""
        with self._lock:
            run = self._find(run_id)
            return run is not None and run.cancel_requested

    def seconds_left(self, run_id: str) -> float:
        """Return the seconds after which to look whether a run is deleted or lost, or infinity."""
        with self._lock:
            run = self._find(run_id)
            if run is None:
                return math.inf
            now = time.monotonic()
            lease_left = run.lease_expires - now if run.status == RUNNING else math.inf
            if run.handles:
                lease_left = max(lease_left, HELD_LOOK)
            return min(run.delete_at - now, lease_left)

    def enter(self, run_id: str) -> None:
        """Count a client."""
        with self._lock:
            self._clients[run_id] += 1
            if run_id in self._runs:
                self._runs[run_id].left_at = math.inf

    def leave(self, run_id: str) -> None:
        """Count it no more."""
        with self._lock:
            self._clients[run_id] -= 1
            if not self._clients[run_id]:
                del self._clients[run_id]
                if run_id in self._runs:
                    self._runs[run_id].left_at = time.monotonic()

    def add_waker(self, run_id: str, waker: Callable[[], None]) -> None:
        """Have ``waker`` called after each change of a run, from whatever thread."""
        with self._lock:
            self._wakers.setdefault(run_id, set()).add(waker)

    def remove_waker(self, run_id: str, waker: Callable[[], None]) -> None:
        """Undo :meth:`add_waker`."""
        with self._lock:
            wakers = self._wakers[run_id]
            wakers.discard(waker)
            if not wakers:
                del self._wakers[run_id]


class _Producer(Producer):
    """A handle that knows at once what becomes of its run."""

    _bridge: MemoryBridge
    _epoch: int | None = None
    _generation: int | None = None

    @property
    def cancel_requested(self) -> bool:
        return self._bridge.cancel_requested(self.run_id)

    async def publish(self, event: str, data: Any = None, *, key: str | None = None) -> None:
        self._refuse()
        await self._bridge.publish(
            self.run_id, event, data, key=key, epoch=self._epoch, generation=self._generation
        )

    async def _claim(self) -> None:
        self._epoch, self._generation = self._bridge.claim(self, self._take_over)

    async def _extend_lease(self, wait_ms: int) -> None:
        self._bridge.release(self, wait_ms / 1000)

    def _release(self) -> None:
        self._bridge.release(self)

    async def _flush(self) -> None:
        if self._generation is not None:
            self._bridge.check_generation(self.run_id, self._epoch, self._generation)

    async def _end(self, **how: Any) -> None:
        await self._bridge.publish_end(
            self.run_id, epoch=self._epoch, generation=self._generation, **how
        )


class _Source:
    """A :class:`streambridge_app.follow.subscription.Source` over the dict."""

    def __init__(self, bridge: MemoryBridge, run_id: str) -> None:
        self._bridge = bridge
        self._run_id = run_id
        self._seen: RunHead | None = None

    def __enter__(self) -> Self:
        self._bridge.enter(self._run_id)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bridge.leave(self._run_id)

    @property
    def run(self) -> RunHead | None:
        self._seen = self._bridge.head(self._run_id)
        return self._seen

    async def refresh(self) -> None:
        return

    def newest(self, key: int, seq: int) -> Sequence[Batch] | None:
        page = self._bridge.page(self._run_id, key, seq)
        return None if page is None else (page,)

    async def read(self, key: int, epoch: int, seq: int) -> Batch | None:
        return self._bridge.page(self._run_id, key, seq)

    async def changed(self, alarm: Alarm, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        waiter = alarm.wait(min(seconds, self._bridge.seconds_left(self._run_id)))

        def waker() -> None:
            with contextlib.suppress(RuntimeError):  # a loop that was closed has no client left
                loop.call_soon_threadsafe(resolve, waiter)

        self._bridge.add_waker(self._run_id, waker)
        try:
            # A change between the client's last look and add_waker() woke nobody.
            if self._bridge.head(self._run_id) == self._seen:
                await waiter
        finally:
            self._bridge.remove_waker(self._run_id, waker)
