"""
The backend of tests: the log of the database, on the connection that the test has.

``django.test.TestCase`` runs each test in a transaction that is never committed, so nobody else can
see its runs: threads and connections of our own, and messages after a commit, are of no use there.
Here all is done by the thread, and in the transaction, in which the ORM would do it: that of the
caller for the sync API, that of ``sync_to_async`` for the async one. There is no thread that
renews leases, ends lost runs or deletes old ones; the rest is the contract.

See :mod:`streambridge_app.testing`, which puts it in the place of the channel layer's.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, ParamSpec, Self, TypeVar, Unpack

from asgiref.sync import sync_to_async
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from .. import log
from ..conf import streambridge_settings
from ..contract import (
    SUCCESS,
    Batch,
    Cursor,
    Item,
    Producer,
    RunHead,
    RunId,
    Runner,
    RunOptions,
    RunState,
    StreamBridge,
    SyncProducer,
    SyncStreamBridge,
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
)
from ..exceptions import LogUnavailable, RunEnded, RunNotFound, bridge_closed, producer_fenced
from ..follow import follow
from ..log import Write, Written, extend_lease, guarded, retention
from ..log import read as reading
from ..publish import refuse_transaction_of, waiting_caller
from ..runtime import Alarm, background, in_transaction, refuse, resolve
from ..signals import send_signals

LOOK_SECONDS: Final = 0.02
"""Seconds between a client's looks for what came past this bridge: from the ORM, for one."""

LOCK_PAUSE: Final = 0.01
"""Seconds between two attempts at what SQLite has locked."""

P = ParamSpec("P")
T = TypeVar("T")

_calls: contextvars.ContextVar[_Calls | None] = contextvars.ContextVar(
    "streambridge_calls", default=None
)
"""Where this coroutine leaves its calls, if it is one of the sync API."""


class InTransactionSyncBridge(SyncStreamBridge):
    """Does on the calling thread what its coroutines ask the database for."""

    _bridge: InTransactionBridge

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return _Calls().run(coroutine)

    def _runner(self) -> Runner:
        return _Calls().run

    def producer(
        self, run_id: RunId, *, take_over: bool = False, raise_on_cancel: bool = False
    ) -> SyncProducer:
        producer = self._bridge.producer(
            run_id, take_over=take_over, raise_on_cancel=raise_on_cancel
        )
        return SyncProducer(producer, self._run, self._refuse_transaction)

    def _refuse_transaction(self, what: str) -> None:
        refuse(connections[self._bridge.using], what)


class _Calls:
    """
    The calls that coroutines leave to the thread that waits for them, whichever that is.

    A generator keeps the same object for all of its life. A read that it tries again may be left
    here while no thread waits: the next thread that does makes it. A nested call has its own.
    """

    def __init__(self) -> None:
        self._left: queue.SimpleQueue[Callable[[], None] | Future[Any]] = queue.SimpleQueue()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the background loop; make on this thread what is left meanwhile."""
        token = _calls.set(self)
        try:
            running = background.submit(coroutine)
        finally:
            _calls.reset(token)
        running.add_done_callback(self._left.put)
        try:
            while not isinstance(call := self._left.get(), Future):
                call()
        except BaseException:
            # Nothing is run here any more: what interrupts a generator ends it.
            running.cancel()
            raise
        return running.result()

    async def make(self, call: Callable[[], T]) -> T:
        """Leave a call to the thread that waits, or to the next one, and return its result."""
        done: Future[T] = Future()
        self._left.put(partial(_settle, done, call))
        # A cancellation here leaves the call behind: it does nothing unless it has begun.
        return await asyncio.wrap_future(done)


class InTransactionBridge(StreamBridge):
    """Keeps every event in the transaction of whoever asks."""

    sync_class = InTransactionSyncBridge

    def __init__(self) -> None:
        settings = streambridge_settings
        self.using = settings.DATABASE
        self._max_event_bytes = settings.MAX_EVENT_BYTES
        self._page_events = settings.PAGE_EVENTS
        self._lease_ms = milliseconds("LEASE_SECONDS", settings.LEASE_SECONDS)
        self._handles: weakref.WeakSet[_Producer] = weakref.WeakSet()
        self._wakers: set[Callable[[], None]] = set()

    async def create_run(self, run_id: RunId | None = None, **options: Unpack[RunOptions]) -> str:
        run_id, new = new_run(run_id, options, self._max_event_bytes)
        await self._write(log.create, run_id, new, self.using)
        return run_id

    async def get_run(self, run_id: RunId) -> RunState:
        return await self.read(log.state, check_run_id(run_id), self.using)

    async def publish(
        self, run_id: RunId, event: str, data: Any = None, *, key: str | None = None
    ) -> None:
        await self.append(self.write_of(run_id, event, data, key))

    async def publish_end(
        self, run_id: RunId, *, status: str = SUCCESS, error: BaseException | str | None = None
    ) -> None:
        with contextlib.suppress(RunEnded):
            await self.append(Write(*new_end(run_id, status, error)))

    def follow(
        self,
        run_id: RunId,
        *,
        last_event_id: str | Cursor | None = None,
        heartbeat_interval: float = 15.0,
        epoch: int | None = None,
    ) -> AsyncGenerator[Item]:
        run_id = check_subscription(run_id, last_event_id, heartbeat_interval)
        return follow(lambda: _Source(self, run_id), last_event_id, heartbeat_interval, epoch)

    async def request_cancel(self, run_id: RunId) -> None:
        run_id = check_run_id(run_id)
        await self._write(log.request_cancel, run_id, self.using)
        for handle in tuple(self._handles):
            if handle.run_id == run_id:
                handle.cancel_requested_by(True)

    async def trim(self, run_id: RunId, *, keep: int) -> int:
        deleted: list[int] = []
        return await self._write(
            retention.trim, check_run_id(run_id), check_keep(keep), self.using, deleted
        )

    async def cleanup(self, run_id: RunId, *, delay: float = 0) -> None:
        key = await self._store_deadline(run_id, delay)
        if key is not None:
            await asyncio.sleep(delay)
            await self._write(retention.delete_all, key, self.using)

    async def schedule_cleanup(self, run_id: RunId, *, delay: float) -> None:
        await self._store_deadline(run_id, delay)

    async def _store_deadline(self, run_id: RunId, delay: float) -> int | None:
        deadline = timezone.now() + check_delay(delay)
        run_id = check_run_id(run_id)
        return await self._write(retention.schedule_cleanup, run_id, deadline, self.using)

    def producer(
        self, run_id: RunId, *, take_over: bool = False, raise_on_cancel: bool = False
    ) -> Producer:
        return _Producer(self, run_id, take_over=take_over, raise_on_cancel=raise_on_cancel)

    async def claim(self, handle: _Producer, take_over: bool) -> log.Claim:
        """Make a run a handle's."""
        claim = await self._write(log.claim, handle.run_id, self._lease_ms, take_over, self.using)
        self._handles.add(handle)
        return claim

    async def release(self, claim: log.Claim, wait_ms: int) -> None:
        """Let the lease of a claimed run last ``wait_ms`` longer than it would."""
        await self._write(extend_lease, claim.key, claim.generation, wait_ms, self.using)

    def write_of(self, run_id: RunId, event: str, data: Any, key: str | None) -> Write:
        """Return what appends an event, after checking it."""
        return Write(
            check_run_id(run_id),
            [check_event_name(event)],
            [encode_data(data, self._max_event_bytes)],
            keys=() if key is None else (check_key(key),),
        )

    async def append(self, write: Write) -> Written:
        """Append to a run, and send the signals at the caller's commit, or now."""
        return await self._write(_append, write, self.using)

    async def read(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that uses the database on the thread on which the ORM would."""
        if self.closed:
            raise bridge_closed()
        call = partial(_guarded, self.using, function, *args, **kwargs)
        if calls := _calls.get():
            return await calls.make(call)
        with _beside_the_loop():
            # pytest-asyncio's loop runs on the thread that has the test's transaction.
            if connections[self.using].in_atomic_block:
                return call()
        return await sync_to_async(call)()

    async def page(self, key: int, epoch: int, seq: int) -> Batch | None:
        """Return events after ``seq``; None if there are none."""
        return await self.read(reading.read_after, key, epoch, seq, self._page_events, self.using)

    async def _write(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        if caller := waiting_caller():
            await refuse_transaction_of(caller, self.using)
        try:
            return await self.read(function, *args, **kwargs)
        finally:
            self._wake()

    def committed(self, written: Sequence[Written]) -> None:
        """Tell of what was written past the bridge: clients, and receivers of signals."""
        self._wake()
        send_signals(written)

    def add_waker(self, waker: Callable[[], None]) -> None:
        """Have ``waker`` called after each write, from whatever thread."""
        self._wakers.add(waker)

    def remove_waker(self, waker: Callable[[], None]) -> None:
        """Undo :meth:`add_waker`."""
        self._wakers.discard(waker)

    def _wake(self) -> None:
        for waker in tuple(self._wakers):
            waker()

    async def close(self) -> None:
        self.shut()

    def shut(self) -> None:
        self.closed = True
        self._wake()


class _Producer(Producer):
    """A handle whose every publish is written when it returns."""

    _bridge: InTransactionBridge
    _claimed: log.Claim | None = None
    _cancel_requested = False

    @property
    def cancel_requested(self) -> bool:
        return self._cancel_requested

    def cancel_requested_by(self, requested: bool) -> None:
        """Note whether the run has been asked to stop."""
        self._cancel_requested = requested

    async def publish(self, event: str, data: Any = None, *, key: str | None = None) -> None:
        self._refuse()
        await self._append(self._bridge.write_of(self.run_id, event, data, key))

    async def _append(self, write: Write) -> None:
        claim = self._claimed
        if claim is not None:
            write = write._replace(epoch=claim.epoch, generation=claim.generation)
        written = await self._bridge.append(write)
        self._cancel_requested = written.cancel_requested

    async def _claim(self) -> None:
        self._claimed = claim = await self._bridge.claim(self, self._take_over)
        self._cancel_requested = claim.cancel_requested

    async def _extend_lease(self, wait_ms: int) -> None:
        if self._claimed is not None:
            await self._bridge.release(self._claimed, wait_ms)

    async def _flush(self) -> None:
        claim = self._claimed
        if claim is None:
            return
        with contextlib.suppress(RunNotFound):
            run = await self._bridge.get_run(self.run_id)
            if run.epoch == claim.epoch and run.generation != claim.generation:
                raise producer_fenced(self.run_id)

    async def _end(self, **how: Any) -> None:
        how = {"status": SUCCESS, "error": None, **how}
        with contextlib.suppress(RunEnded):
            await self._append(Write(*new_end(self.run_id, how["status"], how["error"])))


class _Source:
    """A run that is looked at in the log, again and again."""

    def __init__(self, bridge: InTransactionBridge, run_id: str) -> None:
        self._bridge = bridge
        self._run_id = run_id
        self.run: RunHead | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return

    async def refresh(self) -> None:
        found = await self._bridge.read(reading.heads, [self._run_id], self._bridge.using)
        self.run = found.get(self._run_id)

    def newest(self, key: int, seq: int) -> Sequence[Batch] | None:
        return None

    async def read(self, key: int, epoch: int, seq: int) -> Batch | None:
        return await self._bridge.page(key, epoch, seq)

    async def changed(self, alarm: Alarm, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        waiter = alarm.wait(min(seconds, LOOK_SECONDS))

        def waker() -> None:
            with contextlib.suppress(RuntimeError):  # a loop that was closed has no client left
                loop.call_soon_threadsafe(resolve, waiter)

        self._bridge.add_waker(waker)
        try:
            await waiter
        finally:
            self._bridge.remove_waker(waker)
        with contextlib.suppress(LogUnavailable):  # the next look may succeed
            await self.refresh()


def _guarded(using: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    give_up_at = time.monotonic() + _patience(connections[using])
    while True:
        try:
            return guarded(using, function, *args, **kwargs)
        except LogUnavailable as error:
            if not error.locked:
                raise
            if time.monotonic() >= give_up_at:
                error.add_note(
                    "A test's transaction belongs to its thread: another one, of "
                    "asyncio.to_thread() too, sees nothing of it, and waits for it. Use "
                    "sync_to_async() there, or a TransactionTestCase."
                )
                raise
        time.sleep(LOCK_PAUSE)


def _patience(connection: BaseDatabaseWrapper) -> float:
    """
    Return for how many seconds a thread waits for a lock that its database does not wait for.

    SQLite waits for one on a file, but refuses at once what is locked in memory, where a reader
    locks a table too (https://www.sqlite.org/sharedcache.html, section 2.2). In a block nothing may
    be tried again, for Django may have marked it as one to be rolled back.
    """
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        return 0.0
    return float(connection.settings_dict["OPTIONS"].get("timeout", log.SQLITE_TIMEOUT))


def _append(write: Write, using: str) -> Written:
    connection = connections[using]
    (outcome,) = log.append([write], using, timezone.now(), {}, connection)
    if isinstance(outcome, Exception):
        raise outcome
    if in_transaction(connection):
        transaction.on_commit(partial(send_signals, [outcome]), using=using)
    else:
        send_signals([outcome])
    return outcome


@contextlib.contextmanager
def _beside_the_loop() -> Iterator[None]:
    """Let this thread be one without a running loop: with one, it has other connections."""
    loop = asyncio.get_running_loop()
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)


def _settle(done: Future[T], call: Callable[[], T]) -> None:
    """Let a future have what a call returns or raises, unless nobody waits for it any more."""
    if not done.set_running_or_notify_cancel():
        return
    try:
        done.set_result(call())
    except Exception as error:
        done.set_exception(error)
