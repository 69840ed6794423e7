"""
The bridge without ``await``: for Celery tasks, management commands, threads and plain views.

This is the form that works for any backend, by way of the process's background event loop.
A backend may name a better one in :attr:`StreamBridge.sync_class`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack

from ..exceptions import InsideEventLoop, InsideTransaction, RunNotFound
from ..runtime import background
from . import closing
from .arguments import check_iterable
from .bridge import Producer, StreamBridge, named
from .cursor import Cursor
from .events import RunId, StreamEvent
from .items import Item
from .lifecycle import RunOptions
from .runs import SUCCESS, RunState

T = TypeVar("T")

Runner = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine of a bridge, and waits for it on the calling thread."""

PRODUCE: Final = "async with get_bridge().producer(…) as run: await run.publish(…)"
_FOLLOW: Final = "async for event in get_bridge().subscribe(…)"
_HANDLE: Final = "A producer handle"


class SyncStreamBridge:
    """
    The methods of :class:`StreamBridge`, blocking. Arguments and errors are the same.

    Get one from :func:`streambridge_app.get_sync_bridge`. Any thread may use it, but none that
    runs an event loop, as an async view or a notebook does: every call, of a handle as well, raises
    InsideEventLoop there, before it does anything. With ``DJANGO_ALLOW_ASYNC_UNSAFE`` in the
    environment, calls of the bridge that only read or write go through.
    """

    def __init__(self, bridge: StreamBridge) -> None:
        self._bridge = bridge

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the bridge and wait for it."""
        return background.run(coroutine)

    def _runner(self) -> Runner:
        """Return what runs the coroutines of one generator, one after the other."""
        return self._run

    def create_run(self, run_id: RunId | None = None, **options: Unpack[RunOptions]) -> str:
        """
        Create a run and return its id: see :meth:`StreamBridge.create_run`.

        Its options are documented by :class:`streambridge_app.RunOptions`.
        """
        refuse_event_loop("create_run")
        return self._run(self._bridge.create_run(run_id, **options))

    def get_run(self, run_id: RunId) -> RunState:
        """Return the state of a run: see :meth:`StreamBridge.get_run`."""
        refuse_event_loop("get_run")
        return self._run(self._bridge.get_run(run_id))

    def publish(
        self,
        run_id: RunId,
        event: str,
        data: Any = None,
        *,
        key: str | None = None,
        at_once: bool = False,
    ) -> None:
        """
        Append an event to a run: see :meth:`StreamBridge.publish`.

        Where the log is in the database, it belongs to the caller's transaction, if there is one.

        Args:
            run_id, event, data, key: as there.
            at_once: commit the event by itself, on a connection of the bridge, whatever becomes of
                the caller's transaction: for a view under ``ATOMIC_REQUESTS``, for one.

        Raises:
            InsideTransaction: with ``at_once``, what it needs is the caller's transaction's: the
                run itself, or on SQLite the whole database.
            What :meth:`StreamBridge.publish` raises.
        """
        refuse_event_loop("publish")
        self._run(self._bridge.publish(run_id, event, data, key=key))

    def publish_end(
        self, run_id: RunId, *, status: str = SUCCESS, error: BaseException | str | None = None
    ) -> None:
        """End a run: see :meth:`StreamBridge.publish_end`."""
        refuse_event_loop("publish_end")
        self._run(self._bridge.publish_end(run_id, status=status, error=error))

    def run_exists(self, run_id: RunId) -> bool:
        """Return whether there is a run with this id: see :meth:`StreamBridge.run_exists`."""
        try:
            self.get_run(run_id)
        except RunNotFound:
            return False
        return True

    def events(
        self, run_id: RunId, *, last_event_id: str | None = None, limit: int = 1000
    ) -> list[StreamEvent]:
        """
        Return the events that a run has now: see :meth:`StreamBridge.events`.

        Those of the caller's own open transaction are not among them.
        """
        refuse_event_loop("events")
        return self._run(self._bridge.events(run_id, last_event_id=last_event_id, limit=limit))

    def wait(self, run_id: RunId, *, timeout: float | None = None) -> RunState:
        """Wait for a run to end: see :meth:`StreamBridge.wait`."""
        refuse_event_loop("wait", blocks=True)
        return self._run(self._bridge.wait(run_id, timeout=timeout))

    def subscribe(
        self, run_id: RunId, *, last_event_id: str | None = None, heartbeat_interval: float = 15.0
    ) -> Generator[StreamEvent]:
        """
        Yield a run's events to its end: see :meth:`StreamBridge.subscribe`.

        Of a run that goes on, this blocks its thread until the run has ended, and so does
        ``list(bridge.subscribe(run_id))``; in silence it yields ``HEARTBEAT_SENTINEL``, so that
        the loop over it can stop.
        """
        refuse_event_loop("subscribe", _FOLLOW, blocks=True)
        return _blocking(
            self._bridge.subscribe(
                run_id, last_event_id=last_event_id, heartbeat_interval=heartbeat_interval
            ),
            self._runner(),
        )

    def follow(
        self,
        run_id: RunId,
        *,
        last_event_id: str | Cursor | None = None,
        heartbeat_interval: float = 15.0,
        epoch: int | None = None,
    ) -> Generator[Item]:
        """Yield a run in batches: see :meth:`StreamBridge.follow`."""
        refuse_event_loop("follow", blocks=True)
        return _blocking(
            self._bridge.follow(
                run_id,
                last_event_id=last_event_id,
                heartbeat_interval=heartbeat_interval,
                epoch=epoch,
            ),
            self._runner(),
        )

    def request_cancel(self, run_id: RunId) -> None:
        """Ask the producer of a run to stop: see :meth:`StreamBridge.request_cancel`."""
        refuse_event_loop("request_cancel")
        self._run(self._bridge.request_cancel(run_id))

    def trim(self, run_id: RunId, *, keep: int) -> int:
        """Delete old events of a run: see :meth:`StreamBridge.trim`."""
        refuse_event_loop("trim")
        return self._run(self._bridge.trim(run_id, keep=keep))

    def cleanup(self, run_id: RunId, *, delay: float = 0) -> None:
        """
        Delete a run: see :meth:`StreamBridge.cleanup`.

        Without a delay, the run is deleted on return. With one, only the deadline is stored, and
        the thread goes on: the sweeper of whichever process has one deletes the run then.
        """
        refuse_event_loop("cleanup")
        if delay:
            self._run(self._bridge.schedule_cleanup(run_id, delay=delay))
        else:
            self._run(self._bridge.cleanup(run_id, delay=delay))

    def producer(
        self, run_id: RunId, *, take_over: bool = False, raise_on_cancel: bool = False
    ) -> SyncProducer:
        """Return a handle to publish through: see :meth:`StreamBridge.producer`."""
        return SyncProducer(
            self._bridge.producer(run_id, take_over=take_over, raise_on_cancel=raise_on_cancel),
            self._run,
        )

    def close(self) -> None:
        """Close the bridge, for async users as well: see :meth:`StreamBridge.close`."""
        refuse_event_loop("close", blocks=True)
        background.check_thread()
        closing.close(self._bridge)


class SyncProducer:
    """The blocking form of :class:`streambridge_app.contract.bridge.Producer`."""

    def __init__(
        self,
        producer: Producer,
        run: Runner = background.run,
        refuse_transaction: Callable[[str], object] = str,
    ) -> None:
        """
        Make the blocking form of a handle.

        Args:
            producer: the handle.
            run: runs its coroutines.
            refuse_transaction: raises InsideTransaction if what it is told of could wait for the
                caller's transaction; ``str`` refuses nothing.

        Raises:
            InsideTransaction: the handle could.
        """
        refuse_transaction(_HANDLE)
        self.run_id = producer.run_id
        self._producer = producer
        self._run = run
        self._refuse_transaction = refuse_transaction

    @property
    def cancel_requested(self) -> bool:
        """Whether the run has been asked to stop: see :attr:`Producer.cancel_requested`."""
        return self._producer.cancel_requested

    def publish(self, event: str, data: Any = None, *, key: str | None = None) -> None:
        """Accept an event: see :meth:`Producer.publish`."""
        refuse_event_loop("publish", PRODUCE, blocks=True)
        self._run(self._producer.publish(event, data, key=key))

    def publish_all(self, event: str | Iterable[Any], items: Iterable[Any] | None = None) -> None:
        """Publish what an iterable brings: see :meth:`Producer.publish_all`."""
        name, items = (event, items) if isinstance(event, str) else (None, event)
        for item in check_iterable(items):
            self.publish(*named(name, item))

    def flush(self) -> None:
        """Return when all that was accepted is committed: see :meth:`Producer.flush`."""
        self._refuse("flush")
        self._run(self._producer.flush())

    def release(self, *, wait: float = 0) -> None:
        """Leave the run to its next producer: see :meth:`Producer.release`."""
        self._refuse("release")
        self._run(self._producer.release(wait=wait))

    def __enter__(self) -> Self:
        self._refuse("producer")
        self._run(self._producer.__aenter__())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._refuse("producer", "Ending a producer handle")
        except (InsideEventLoop, InsideTransaction) as error:
            if exc is None:
                raise
            exc.add_note(f"The run {self.run_id!r} could not be ended: {error}")
            return
        self._run(self._producer.__aexit__(exc_type, exc, traceback))

    def _refuse(self, call: str, what: str = _HANDLE) -> None:
        """Raise the error of a call that would wait for its own caller: its loop, its block."""
        refuse_event_loop(call, PRODUCE, blocks=True)
        self._refuse_transaction(what)


def _blocking(events: AsyncGenerator[T], run: Runner) -> Generator[T]:
    try:
        while True:
            refuse_event_loop("subscribe", _FOLLOW, blocks=True)
            try:
                yield run(anext(events))
            except StopAsyncIteration:
                return
    finally:
        # When no thread runs any more, or the loop was let go, nothing would come of it.
        if not sys.is_finalizing() and background.is_running():
            ending = background.submit(events.aclose())
            if not background.is_current_thread():  # a garbage collection may run anywhere
                ending.result()


def refuse_event_loop(call: str, instead: str | None = None, *, blocks: bool = False) -> None:
    """
    Raise InsideEventLoop in a thread that runs an event loop, which would stand still meanwhile.

    Args:
        call: the method of the sync API.
        instead: what to write instead, if it isn't the same method with ``await``.
        blocks: whether it may wait for what that loop has to do: then it is refused even where
            Django's own check is off.
    """
    if asyncio._get_running_loop() is None:
        return
    if not blocks and os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE"):
        return
    raise InsideEventLoop(
        f"{call}() of the sync API blocks its thread, and an event loop runs in this one. Write "
        f"`{instead or f'await get_bridge().{call}(…)'}` instead, or call it in another thread, "
        "by sync_to_async() for example."
    )
