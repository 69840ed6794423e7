"""
The contract: what a bridge and a producer can do, whatever carries the events.

A backend implements the abstract methods. ``subscribe`` is written once, here, over
:meth:`StreamBridge.follow`, which views and consumers use as well: it hands out batches whose
frames are encoded once per process.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import datetime
import itertools
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from types import TracebackType
from typing import Any, Self, Unpack

from ..exceptions import (
    CancelRequested,
    LogUnavailable,
    RunNotFound,
    StreamBridgeError,
    cancel_requested,
    producer_left,
    producer_released,
)
from ..runtime import background
from . import cursor as cursors
from . import unreadable
from .arguments import check_delay, check_iterable, check_limit
from .batch import Batch
from .cursor import Cursor
from .events import END_SENTINEL, HEARTBEAT_SENTINEL, GapEvent, RunId, StreamEvent, check_run_id
from .items import End, Gap, Heartbeat, Item
from .lifecycle import RunOptions
from .runs import CANCELLED, ERROR, SUCCESS, RunState
from .unreadable import Unreadable


class StreamBridge(abc.ABC):
    """
    Decouples the producers of a run's events from the clients that follow it.

    Get one from :func:`streambridge_app.get_bridge`. Every method may be called from any
    event loop; for code without one, see :func:`streambridge_app.get_sync_bridge`.
    """

    sync_class: type[Any] | None = None
    """The :class:`SyncStreamBridge` that ``get_sync_bridge()`` makes of it; None: that itself."""

    supports_cross_process: bool = False
    """Whether what one process publishes reaches the subscribers of another."""

    closed: bool = False
    """Whether it was closed; a backend says so as the first thing that :meth:`close` does."""

    @abc.abstractmethod
    async def create_run(self, run_id: RunId | None = None, **options: Unpack[RunOptions]) -> str:
        """
        Create a run and return its id.

        Args:
            run_id: up to 200 characters without control characters, or a UUID; a new one if None.
            options: what is said of the run; each is documented, with its default and its errors,
                by :class:`streambridge_app.RunOptions`.

        Raises:
            InvalidRunId: the id can't name a run.
            TypeError, ValueError, InvalidEvent: an unknown option, or what ``RunOptions`` refuses.
            RunExists: a run has this id.
            LogUnavailable: the log can't be reached.
        """

    @abc.abstractmethod
    async def get_run(self, run_id: RunId) -> RunState:
        """
        Return the state of a run.

        Raises:
            RunNotFound: no run has this id.
            InvalidRunId: the id can't name a run.
            LogUnavailable: the log can't be reached.
        """

    @abc.abstractmethod
    async def publish(
        self, run_id: RunId, event: str, data: Any = None, *, key: str | None = None
    ) -> None:
        """
        Append an event to a run, and return when it is committed.

        A run that doesn't exist is created, without an owner. While the database can't be
        reached, this waits for it, up to ``RETRY_SECONDS``. A caller that is cancelled meanwhile
        can't know whether the event was written.

        Args:
            run_id: the run.
            event: the event's name: 1 to 255 characters, no NUL or end of a line, not ``__…``.
            data: anything that JSON can express, up to ``MAX_EVENT_BYTES`` as UTF-8; besides, what
                ``DjangoJSONEncoder`` knows (dates, ``Decimal``, ``UUID``, lazy text), dataclasses,
                enums, whatever has ``model_dump(mode="json")``, numpy's numbers and arrays, and
                what the setting ``ENCODER`` knows. Whole numbers beyond 2**53 come back as they
                were in Python, but browsers round them: send such as text.
            key: 1 to 255 characters that tell this event from the others of its run. To publish
                again with the same key changes nothing and is no error, also after the end.

        Raises:
            InvalidRunId, InvalidEvent: before anything is written.
            RunEnded: the run has ended.
            LogUnavailable: the log can't be reached. The event is not in it, unless the error's
                ``written`` is None: then nobody knows.
            BridgeClosed: after :meth:`close`.
        """

    @abc.abstractmethod
    async def publish_end(
        self, run_id: RunId, *, status: str = SUCCESS, error: BaseException | str | None = None
    ) -> None:
        """
        End a run. Ending a run that has ended changes nothing.

        Args:
            run_id: the run; created if it doesn't exist.
            status: ``success``, ``error``, ``cancelled`` or ``lost``.
            error: why it failed. An ``error`` event with the data ``{"error": type,
                "message": text}`` is appended first, and ``success`` becomes ``error``.

        Raises:
            ValueError: an unknown status.
            InvalidRunId, LogUnavailable, BridgeClosed: as for :meth:`publish`.
        """

    @abc.abstractmethod
    def follow(
        self,
        run_id: RunId,
        *,
        last_event_id: str | Cursor | None = None,
        heartbeat_interval: float = 15.0,
        epoch: int | None = None,
    ) -> AsyncGenerator[Item]:
        """
        Yield a run as batches of events, gaps, heartbeats and one end: for views.

        Arguments and errors are those of :meth:`subscribe`, and:

        Args:
            last_event_id: may also be a cursor that was read already.
            epoch: follow this incarnation of the run only, the one that access was granted to.
        """

    def subscribe(
        self, run_id: RunId, *, last_event_id: str | None = None, heartbeat_interval: float = 15.0
    ) -> AsyncGenerator[StreamEvent]:
        """
        Yield every event after the cursor once and in order, then follow the run to its end.

        Yields ``HEARTBEAT_SENTINEL`` in silence, ``END_SENTINEL`` once and last, and a
        :class:`GapEvent` before a replay that can't be whole, and in the place of events whose rows
        somebody has deleted, or has changed to what is no JSON. The run need not exist yet.

        Args:
            run_id: the run.
            last_event_id: None, ``""`` or ``"-1"``: from the start; the id of an event: after
                it; ``"now"``: only what comes next.
            heartbeat_interval: seconds of silence between heartbeats; more than 0.

        Raises:
            InvalidRunId, InvalidCursor, ValueError: at the call.
        """
        return _unbatched(
            self,
            run_id,
            self.follow(run_id, last_event_id=last_event_id, heartbeat_interval=heartbeat_interval),
        )

    async def events(
        self, run_id: RunId, *, last_event_id: str | None = None, limit: int = 1000
    ) -> list[StreamEvent]:
        """
        Return the events that a run has now, without waiting for more.

        A page that can't be whole begins with a :class:`GapEvent`. For the next page, give the id
        of the last event.

        Args:
            run_id: the run.
            last_event_id: as for :meth:`subscribe`.
            limit: events to return, at most.

        Raises:
            InvalidRunId, InvalidCursor; ValueError if ``limit`` is below 1.
            RunNotFound: no run has this id.
            LogUnavailable: the log can't be reached.
        """
        check_limit("limit", limit)
        cursor = cursors.parse(last_event_id)
        run = await self.get_run(run_id)
        seq, gap = cursors.resolve(cursor, run)
        found: list[StreamEvent] = []
        if seq >= run.head and not gap:
            return found
        items = self.follow(run_id, last_event_id=cursor, epoch=run.epoch)
        async with contextlib.aclosing(items):
            async for item in items:
                if isinstance(item, Heartbeat):
                    raise LogUnavailable(f"The log takes too long to be read: run {run_id!r}.")
                if isinstance(item, Gap):
                    found.append(item.event())
                    if item.earliest is None:
                        break
                elif isinstance(item, End):
                    break
                else:
                    left = limit - sum(not isinstance(one, GapEvent) for one in found)
                    events, count = await _parsed(self, run_id, item, left)
                    found += events
                    if count == left or item[-1].last >= run.head:
                        break
        return found

    async def wait(self, run_id: RunId, *, timeout: float | None = None) -> RunState:
        """
        Wait for a run to end and return its final state. It need not exist yet.

        Args:
            run_id: the run.
            timeout: seconds after which to give up; None: never.

        Raises:
            TimeoutError: it has not ended by then.
            RunNotFound: it was deleted meanwhile.
            InvalidRunId, LogUnavailable.
        """
        try:
            async with asyncio.timeout(timeout):
                items = self.follow(run_id, last_event_id="now")
                async with contextlib.aclosing(items):
                    async for item in items:
                        if isinstance(item, End):
                            break
                return await self.get_run(run_id)
        except TimeoutError as error:
            if timeout is None:
                raise  # somebody else's
            raise TimeoutError(f"The run {run_id!r} has not ended in {timeout:g} s.") from error

    async def run_exists(self, run_id: RunId) -> bool:
        """
        Return whether there is a run with this id.

        Raises:
            InvalidRunId, LogUnavailable.
        """
        try:
            await self.get_run(run_id)
        except RunNotFound:
            return False
        return True

    @abc.abstractmethod
    async def request_cancel(self, run_id: RunId) -> None:
        """
        Ask the producer of a run to stop; the run goes on until it does.

        Raises:
            RunNotFound, RunEnded, InvalidRunId, LogUnavailable.
        """

    @abc.abstractmethod
    async def trim(self, run_id: RunId, *, keep: int) -> int:
        """
        Delete all but the newest ``keep`` events of a run, and return how many that were.

        A cursor into what was trimmed gets a gap.

        Raises:
            RunNotFound, InvalidRunId, LogUnavailable; ValueError if ``keep`` is negative.
        """

    @abc.abstractmethod
    async def cleanup(self, run_id: RunId, *, delay: float = 0) -> None:
        """
        Delete a run and its events after ``delay`` seconds; clients are let go with an end.

        The deadline is stored before the wait, so that the run is deleted even if this
        process dies or the caller is cancelled meanwhile. Unknown runs are ignored.

        Raises:
            InvalidRunId, LogUnavailable; ValueError if ``delay`` is negative.
        """

    async def schedule_cleanup(self, run_id: RunId, *, delay: float) -> None:
        """
        Store when a run is to be deleted, and return: what the sync ``cleanup`` does.

        Arguments and errors are those of :meth:`cleanup`. This base has no sweeper, so it waits.
        """
        await self.cleanup(run_id, delay=delay)

    def producer(
        self, run_id: RunId, *, take_over: bool = False, raise_on_cancel: bool = False
    ) -> Producer:
        """
        Return a handle to publish a run's events through: ``async with bridge.producer(id)``.

        Args:
            run_id: the run.
            take_over: be its only producer from the entry of the block on: the next publish of
                every earlier handle raises ProducerFenced. Without, handles share a run.
            raise_on_cancel: let ``publish`` and ``flush`` raise CancelRequested when the run is
                asked to stop.

        Raises:
            InvalidRunId: the id can't name a run.
        """
        return Producer(self, run_id, take_over=take_over, raise_on_cancel=raise_on_cancel)

    async def close(self) -> None:  # noqa: B027 - a backend without resources needs none
        """
        Release threads and connections, after what was accepted is written, or can't be.

        From then on ``get_bridge()`` gives another bridge, and whoever holds this one gets
        BridgeClosed.
        """

    def shut(self) -> None:
        """Do the same on this thread, which runs no event loop. A backend may know a better way."""
        background.run(self.close())


class Producer:
    """
    Publishes the events of one run and ends it.

    Entering the block claims the run: it is created if need be, and its lease is renewed until
    the block is left, so that a run whose process dies is ended ``lost``. Leaving the block ends
    the run ``success``; an exception ends it ``error``, with its type and message, and goes on
    up; a cancellation or CancelRequested ends it ``cancelled``. This base awaits each commit, and
    knows no leases; backends do better.
    """

    def __init__(
        self,
        bridge: StreamBridge,
        run_id: RunId,
        *,
        take_over: bool = False,
        raise_on_cancel: bool = False,
    ) -> None:
        self.run_id = check_run_id(run_id)
        self._bridge = bridge
        self._take_over = take_over
        self._raise_on_cancel = raise_on_cancel
        self._refusal: StreamBridgeError | None = None
        self._released = False

    @property
    def cancel_requested(self) -> bool:
        """Whether the run has been asked to stop: known within about a second."""
        return False

    async def publish(self, event: str, data: Any = None, *, key: str | None = None) -> None:
        """
        Accept an event: it is on its way in at most 20 ms. Waits while the buffer is full.

        Events of one handle keep their order. Before another publisher of the same run is to go
        on after them, :meth:`flush`. With a key it is written once: see
        :meth:`StreamBridge.publish`.

        Raises:
            InvalidEvent: nothing was accepted.
            RunEnded, ProducerFenced, LogUnavailable: this or an earlier event could not be
                written.
            CancelRequested: nothing was accepted (with ``raise_on_cancel``).
        """
        self._refuse()
        await self._bridge.publish(self.run_id, event, data, key=key)

    async def publish_all(
        self, event: str | Iterable[Any] | AsyncIterable[Any], items: Any = None
    ) -> None:
        """
        Publish what an iterable brings, sync or async: tokens of a model's answer, for one.

        Args:
            event: the name of all these events; or, without ``items``, an iterable of pairs of
                name and data.
            items: an iterable of the events' data.

        Raises:
            TypeError: what was given is no iterable.
            What :meth:`publish` raises; what came before is accepted then.
        """
        name, items = (event, items) if isinstance(event, str) else (None, event)
        if isinstance(items, AsyncIterable):
            async for item in items:
                await self.publish(*named(name, item))
        else:
            for item in check_iterable(items):
                await self.publish(*named(name, item))

    async def flush(self) -> None:
        """
        Return when all that was accepted is committed.

        Raises:
            RunEnded, ProducerFenced, LogUnavailable: some of it could not be written.
            CancelRequested: all of it was written (with ``raise_on_cancel``).
        """
        await self._flush()
        self._refuse()

    async def release(self, *, wait: float = 0) -> None:
        """
        Leave the run to its next producer: it does not end when the block is left.

        Returns when all that was accepted is committed; nothing more is accepted. The lease goes
        on from here: if nobody claims the run meanwhile, it ends as lost.

        Args:
            wait: seconds that the next producer may take beside the length of a lease.

        Raises:
            ValueError: ``wait`` is negative.
            RunEnded, ProducerFenced, LogUnavailable: the handle is not released.
        """
        wait_ms = check_delay(wait) // datetime.timedelta(milliseconds=1)
        self._refuse_all(producer_released(self.run_id))
        await self._flush()
        await self._extend_lease(wait_ms)
        self._released = True

    def _refuse_all(self, error: StreamBridgeError) -> None:
        """Accept nothing more."""
        self._refusal = error

    async def _extend_lease(self, wait_ms: int) -> None:
        """Let the lease last for its full length and ``wait_ms`` from now."""

    def _refuse(self) -> None:
        if self._refusal is not None:
            raise self._refusal
        if self._raise_on_cancel and self.cancel_requested:
            raise cancel_requested(self.run_id)

    async def _claim(self) -> None:
        """Create the run or find it, and start its lease."""

    def _release(self) -> None:
        """Renew the lease no more."""

    async def _flush(self) -> None:
        """Return when all that was accepted is committed."""

    async def _end(self, **how: Any) -> None:
        await self._bridge.publish_end(self.run_id, **how)

    async def __aenter__(self) -> Self:
        # A cancellation here may leave a run with a lease that nobody renews: it ends as lost.
        await self._claim()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if not self._released:
                # Before the last flush: nobody would hear of what came after it.
                self._refuse_all(producer_left(self.run_id))
                await self._leave(exc)
        finally:
            self._release()

    async def _leave(self, exc: BaseException | None) -> None:
        if exc is None:
            try:
                await self._flush()
            except StreamBridgeError as error:
                # What was accepted is not in the log: no success, but an end all the same.
                with contextlib.suppress(StreamBridgeError):
                    await self._end(error=error)
                raise
            except asyncio.CancelledError:
                with contextlib.suppress(StreamBridgeError):
                    await self._end(status=CANCELLED)
                raise
            await self._end()
            return
        try:
            try:
                await self._flush()
            finally:
                await self._end(**end_of(exc))
        except StreamBridgeError as error:
            exc.add_note(f"The run {self.run_id!r} could not be ended in full: {error}")


def named(name: str | None, item: Any) -> tuple[str, Any]:
    """Return name and data of an item of ``publish_all``."""
    if name is not None:
        return name, item
    try:
        event, data = item
    except (TypeError, ValueError):
        raise TypeError(f"publish_all() takes pairs of name and data, not {item!r:.80}.") from None
    return event, data


def end_of(exc: BaseException) -> dict[str, Any]:
    """Return the arguments of ``publish_end`` for a block that ``exc`` has left."""
    stopped = asyncio.CancelledError | KeyboardInterrupt | GeneratorExit | CancelRequested
    if isinstance(exc, stopped):
        return {"status": CANCELLED}
    return {"status": ERROR, "error": exc}


async def _unbatched(
    bridge: StreamBridge, run_id: RunId, items: AsyncGenerator[Item]
) -> AsyncGenerator[StreamEvent]:
    try:
        async for item in items:
            if isinstance(item, Heartbeat):
                yield HEARTBEAT_SENTINEL
            elif isinstance(item, Gap):
                yield item.event()
            elif isinstance(item, End):
                yield END_SENTINEL
            else:
                for batch in item:
                    after = 0
                    while after < batch.last:
                        try:
                            for event in batch.events(after):
                                yield event
                            break
                        except Unreadable as error:
                            after = error.last
                            gap = _gap(bridge, run_id, batch, error)
                        yield await gap
    finally:
        await items.aclose()


async def _parsed(
    bridge: StreamBridge, run_id: RunId, batches: Iterable[Batch], most: int
) -> tuple[list[StreamEvent], int]:
    """Return events with the gaps before and between them, and how many that are without gaps."""
    found: list[StreamEvent] = []
    count = 0
    for batch in batches:
        after = 0
        while after < batch.last and count < most:
            try:
                for event in itertools.islice(batch.events(after), most - count):
                    found.append(event)
                    count += 1
                break
            except Unreadable as error:
                after = error.last
                gap = _gap(bridge, run_id, batch, error)
            found.append(await gap)
    return found, count


async def _gap(bridge: StreamBridge, run_id: RunId, batch: Batch, error: Unreadable) -> GapEvent:
    """Name events whose data is no JSON, and return the gap that takes their place."""
    unreadable.name(str(run_id), batch.epoch, error.first, error.last)
    head = batch.last
    with contextlib.suppress(RunNotFound, LogUnavailable):
        run = await bridge.get_run(run_id)
        if run.epoch == batch.epoch:
            head = max(head, run.head)
    return unreadable.gap(batch.epoch, error.first, error.last, head)
