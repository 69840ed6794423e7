"""
The default backend: the log in the database, news of it over the channel layer.

It puts the pieces together: the writer that commits for everybody, the announcer that sends
word, one hub per event loop that follows, and the threads that read.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar, Unpack

from channels.layers import get_channel_layer
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils import timezone

from .. import log
from ..conf import NAME, streambridge_settings
from ..contract import (
    SUCCESS,
    Cursor,
    Item,
    RunId,
    RunOptions,
    RunState,
    check_delay,
    check_event_name,
    check_keep,
    check_key,
    check_run_id,
    check_subscription,
    encode_data,
    milliseconds,
    new_end,
    new_run,
    shut,
)
from ..exceptions import LogUnavailable, RunEnded, bridge_closed
from ..follow import Hub, HubOptions, follow
from ..log import Appender, LogThreads, Watch, Written, extend_lease, retention
from ..publish import (
    Keeper,
    Pipeline,
    PipelinedProducer,
    Publication,
    Writer,
    refuse_transaction_of,
    waiting_caller,
)
from ..runtime import background
from ..signals import SignalThread
from ..wake import Announcer, is_process_local
from .transactional import DatabaseBridge, TransactionalBridge

HUB_DEADLINE: Final = 2.0
"""Seconds for which closing waits for the part of an event loop, which may be busy or stopped."""

HUB_LOOK: Final = 0.05
"""Seconds after which it looks whether that loop still runs."""

CLAIM_PAUSE: Final = 0.2
"""
Seconds between two attempts to write to a run that is locked.

Or to claim one while the log can't be reached.
"""

P = ParamSpec("P")
T = TypeVar("T")


class ChannelLayerBridge(DatabaseBridge):
    """Keeps every event in the database and tells servers over the channel layer."""

    sync_class = TransactionalBridge
    supports_cross_process = True

    def __init__(self) -> None:
        settings = streambridge_settings
        self.using = settings.DATABASE
        if self.using not in connections:
            raise ImproperlyConfigured(
                f"{NAME}['DATABASE'] must be an alias in DATABASES, not {self.using!r}."
            )
        self._waits_for_locks = connections[self.using].vendor == "postgresql"
        """Whether locks are given up early, to come again; SQLite has waited for long enough."""
        self.max_event_bytes = settings.MAX_EVENT_BYTES
        self._layer = get_channel_layer(settings.CHANNEL_LAYER)
        self.announcer = Announcer(self._layer, settings.MESSAGE_BYTES, self._local_loop)
        self._retry_seconds = settings.RETRY_SECONDS
        self.appender = Appender(self.using, self._retry_seconds)
        self._signals = SignalThread()
        self.writer = Writer(self.using, self.appender, self.committed)
        self._producer_buffer = settings.PRODUCER_BUFFER
        self._lease_ms = milliseconds("LEASE_SECONDS", settings.LEASE_SECONDS)
        self.keeper = Keeper(self.using, settings.LEASE_SECONDS)
        self._watch = Watch(self.using, self.committed)
        self._readers = LogThreads(self.using, threads=settings.READ_THREADS, name="read")
        self._poller = LogThreads(self.using, threads=1, name="poll")
        # A deletion may take long: it must keep no reader and no look at the log waiting.
        self._sweeper = LogThreads(self.using, threads=1, name="sweep")
        # The end of a lost run must wait for neither.
        self._watcher = LogThreads(self.using, threads=1, name="watch")
        self._hub_options = HubOptions(
            using=self.using,
            poll_interval=settings.POLL_INTERVAL,
            sweep_interval=settings.SWEEP_INTERVAL,
            page_events=settings.PAGE_EVENTS,
            tail_events=settings.TAIL_EVENTS,
            tail_bytes=settings.TAIL_BYTES,
        )
        self._process = os.getpid()
        self._hubs: dict[asyncio.AbstractEventLoop, Hub] = {}
        self._hubs_lock = threading.Lock()
        self._local_hub_loop: asyncio.AbstractEventLoop | None = None

    async def create_run(self, run_id: RunId | None = None, **options: Unpack[RunOptions]) -> str:
        run_id, new = new_run(run_id, options, self.max_event_bytes)
        await self._writing(self._readers.submit, log.create, run_id, new, self.using)
        return run_id

    async def get_run(self, run_id: RunId) -> RunState:
        return await self._repeatable(log.state, check_run_id(run_id), self.using)

    async def publish(
        self, run_id: RunId, event: str, data: Any = None, *, key: str | None = None
    ) -> None:
        run_id, name = check_run_id(run_id), check_event_name(event)
        text = encode_data(data, self.max_event_bytes)
        if caller := waiting_caller():
            await refuse_transaction_of(caller, self.using)
        if key is None:
            await self.writer.publish(run_id, name, text)
            return
        publication = Publication(run_id, (name,), (text,), key=check_key(key))
        self.writer.submit(publication)
        await publication.written()

    async def publish_end(
        self,
        run_id: RunId,
        *,
        status: str = SUCCESS,
        error: BaseException | str | None = None,
        epoch: int | None = None,
        generation: int | None = None,
    ) -> None:
        """
        End a run: see :meth:`StreamBridge.publish_end`.

        Args and errors are those, and:

        Args:
            epoch: end this incarnation of the run only.
            generation: end it only if no later producer has taken it over.

        Raises:
            ProducerFenced: one has.
        """
        publication = Publication(*new_end(run_id, status, error), epoch, generation)
        if caller := waiting_caller():
            await refuse_transaction_of(caller, self.using)
        self.writer.submit(publication)
        with contextlib.suppress(RunEnded):
            await publication.written()

    def follow(
        self,
        run_id: RunId,
        *,
        last_event_id: str | Cursor | None = None,
        heartbeat_interval: float = 15.0,
        epoch: int | None = None,
    ) -> AsyncGenerator[Item]:
        run_id = check_subscription(run_id, last_event_id, heartbeat_interval)
        return follow(lambda: self._hub().follow(run_id), last_event_id, heartbeat_interval, epoch)

    async def request_cancel(self, run_id: RunId) -> None:
        await self._writing(
            self._readers.submit_repeatable,
            log.request_cancel,
            check_run_id(run_id),
            self.using,
        )

    async def schedule_cleanup(self, run_id: RunId, *, delay: float) -> None:
        await self._store_deadline(check_run_id(run_id), timezone.now() + check_delay(delay))

    async def _store_deadline(self, run_id: str, deadline: datetime.datetime) -> int | None:
        return await self._writing(
            self._readers.submit_repeatable,
            retention.schedule_cleanup,
            run_id,
            deadline,
            self.using,
        )

    async def trim(self, run_id: RunId, *, keep: int) -> int:
        deleted: list[int] = []
        return await self._writing(
            self._readers.submit,
            retention.trim,
            check_run_id(run_id),
            check_keep(keep),
            self.using,
            deleted,
        )

    async def cleanup(self, run_id: RunId, *, delay: float = 0) -> None:
        deadline = timezone.now() + check_delay(delay)
        run_id = check_run_id(run_id)
        key = await self._store_deadline(run_id, deadline)
        if key is None:
            return
        # From here on, a caller that is cancelled leaves the deadline to the sweeper.
        await asyncio.sleep(delay)
        await self._writing(self._sweeper.submit_repeatable, retention.delete_all, key, self.using)
        self.announcer.announce_deletion(run_id)

    async def is_unlocked(self, run_id: str) -> bool:
        """Return whether no transaction has the row of a run locked, on PostgreSQL."""
        return (await self._repeatable(log.unlocked, [run_id], self.using)).get(run_id, True)

    def producer(
        self, run_id: RunId, *, take_over: bool = False, raise_on_cancel: bool = False
    ) -> PipelinedProducer:
        pipeline = Pipeline(
            check_run_id(run_id),
            self.writer,
            limit=self._producer_buffer,
            max_event_bytes=self.max_event_bytes,
            raise_on_cancel=raise_on_cancel,
        )
        return PipelinedProducer(self, pipeline, take_over=take_over)

    async def claim(self, pipeline: Pipeline, *, take_over: bool) -> None:
        """Claim a handle's run and keep its lease until the handle is released."""
        if caller := waiting_caller():
            await refuse_transaction_of(caller, self.using)
        self.writer.prepare()
        self.announcer.prepare()
        give_up_at = time.monotonic() + self._retry_seconds
        while True:
            try:
                # A claim that was lost is nobody's: the next one may go past its generation.
                claim = await self._repeatable(
                    log.claim, pipeline.run_id, self._lease_ms, take_over, self.using
                )
                break
            except LogUnavailable as error:
                if not (error.transient or self._may_pass(error)) or time.monotonic() > give_up_at:
                    raise
            await asyncio.sleep(CLAIM_PAUSE)
        pipeline.claimed(claim)
        self.keeper.hold(pipeline)

    async def extend_lease(self, pipeline: Pipeline, wait_ms: int) -> None:
        """Keep the lease of a claimed run no more; it lasts ``wait_ms`` longer than it would."""
        if pipeline.generation is None:  # the block was not entered
            return
        self.keeper.release(pipeline)
        await self._writing(
            self._readers.submit_repeatable,
            extend_lease,
            pipeline.key,
            pipeline.generation,
            wait_ms,
            self.using,
        )

    def check_open(self) -> None:
        """Raise BridgeClosed after :meth:`close`, and in a process forked from ours."""
        self._readers.check_process()
        if self.closed:
            raise bridge_closed()

    def committed(self, written: Sequence[Written]) -> None:
        """Tell the world what was committed: clients first."""
        self.announcer.announce(written)
        self._signals.send(written)

    async def close(self) -> None:
        self.closed = True
        await background.in_thread(partial(shut, self))

    def shut(self) -> None:
        self.closed = True
        if self._process != os.getpid():
            return  # threads and connections are the parent's
        # Each step may be taken again, by another thread at the same time.
        self.writer.close()  # it first writes all that it has accepted
        self.keeper.close()
        self.announcer.shut()
        self._close_hubs()
        for threads in (self._readers, self._poller, self._sweeper, self._watcher):
            threads.close()
        self._signals.close()

    def _close_hubs(self) -> None:
        with self._hubs_lock:
            hubs = list(self._hubs.items())
        closing = [(loop, _close_soon(loop, hub)) for loop, hub in hubs]
        give_up_at = time.monotonic() + HUB_DEADLINE
        for loop, done in closing:
            # A loop that is stopped closes its part when it runs again.
            while loop.is_running() and time.monotonic() < give_up_at:
                if done.wait(HUB_LOOK):
                    break
        with self._hubs_lock:
            self._hubs.clear()

    def _hub(self) -> Hub:
        self.check_open()
        loop = asyncio.get_running_loop()
        hub = self._hubs.get(loop)
        if hub is None or hub.closed:
            with self._hubs_lock:
                self.check_open()  # close() takes the hubs under this lock
                for other in [other for other in self._hubs if self._has_ended(other)]:
                    del self._hubs[other]
                layer = self._layer
                if is_process_local(layer):
                    # Such a layer may be used from one loop only; other loops poll.
                    if self._local_hub_loop in self._hubs:
                        layer = None
                    else:
                        self._local_hub_loop = loop
                hub = self._hubs[loop] = Hub(
                    layer,
                    self._hub_options,
                    poller=self._poller,
                    readers=self._readers,
                    sweeper=self._sweeper,
                    watcher=self._watcher,
                    watch=self._watch,
                    outage=self.announcer.outage,
                )
        return hub

    def _has_ended(self, loop: asyncio.AbstractEventLoop) -> bool:
        return loop.is_closed() or self._hubs[loop].closed

    def _local_loop(self) -> asyncio.AbstractEventLoop | None:
        loop = self._local_hub_loop
        return None if loop is None or loop.is_closed() else loop

    async def _writing(
        self, submit: Callable[..., Future[T]], function: Callable[..., T], /, *args: Any
    ) -> T:
        """
        Call one that writes to a run, again while others hold that locked, for RETRY_SECONDS.

        It waits here in between, since to wait on a thread of the readers would keep the readers
        of all other runs waiting.
        """
        if caller := waiting_caller():
            await refuse_transaction_of(caller, self.using)
        give_up_at = time.monotonic() + self._retry_seconds
        while True:
            try:
                return await asyncio.wrap_future(submit(function, *args))
            except LogUnavailable as error:
                if not self._may_pass(error) or time.monotonic() > give_up_at:
                    raise
            await asyncio.sleep(CLAIM_PAUSE)

    def _may_pass(self, error: LogUnavailable) -> bool:
        return error.locked and self._waits_for_locks

    async def _repeatable(
        self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call one that may be called twice: a connection that broke meanwhile costs no error."""
        calling = self._readers.submit_repeatable(function, *args, **kwargs)
        return await asyncio.wrap_future(calling)


def _close_soon(loop: asyncio.AbstractEventLoop, hub: Hub) -> threading.Event:
    """Have a loop close its hub when it gets round to it, and return what is set then."""
    done = threading.Event()

    def start() -> None:  # no coroutine is made that a loop which ends would never await
        asyncio.ensure_future(hub.close()).add_done_callback(lambda _: done.set())

    try:
        loop.call_soon_threadsafe(start)
    except RuntimeError:  # it is closed
        done.set()
    return done
