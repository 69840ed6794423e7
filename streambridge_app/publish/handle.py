"""Producer handles that accept events ahead of their commit."""

from __future__ import annotations

import abc
import asyncio
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..contract import (
    PRODUCE,
    SUCCESS,
    Producer,
    RunId,
    StreamBridge,
    SyncProducer,
    refuse_event_loop,
)
from ..exceptions import StreamBridgeError
from ..runtime import SIGNAL_SECONDS, resolve
from .callers import refuse_transaction_of, waiting_caller
from .keeper import Keeper
from .pipeline import Pipeline
from .queue import Wakeup


class PipelineBridge(StreamBridge):
    """A bridge whose handles publish through pipelines."""

    using: str
    """Alias of the database of its log."""
    keeper: Keeper

    @abc.abstractmethod
    async def publish_end(
        self,
        run_id: RunId,
        *,
        status: str = SUCCESS,
        error: BaseException | str | None = None,
        epoch: int | None = None,
        generation: int | None = None,
    ) -> None: ...

    @abc.abstractmethod
    async def claim(self, pipeline: Pipeline, *, take_over: bool) -> None:
        """Make the run of a pipeline its own, and keep its lease."""

    @abc.abstractmethod
    async def extend_lease(self, pipeline: Pipeline, wait_ms: int) -> None:
        """Let the lease of a pipeline's run last for so many milliseconds from now, at least."""


class PipelinedProducer(Producer):
    """Publishes through a pipeline; waits on its event loop while that is full."""

    _bridge: PipelineBridge

    def __init__(self, bridge: PipelineBridge, pipeline: Pipeline, *, take_over: bool) -> None:
        super().__init__(bridge, pipeline.run_id, take_over=take_over)
        self.pipeline = pipeline
        self._waiters: set[asyncio.Future[None]] = set()
        # Weak: a handle that is forgotten must be gone, and its lease with it, before a garbage
        # collection, which an idle process may never have.
        wakeup = weakref.WeakMethod(self._wakeup)
        pipeline.on_settled = lambda: known() if (known := wakeup()) else ()

    @property
    def cancel_requested(self) -> bool:
        return self.pipeline.cancel_requested

    async def publish(self, event: str, data: Any = None, *, key: str | None = None) -> None:
        name, text = self.pipeline.encode(event, data)
        while not self.pipeline.accept(name, text, key):
            self.pipeline.hurry()
            await self._until(self.pipeline.has_room)

    async def flush(self) -> None:
        await self._flush()
        self.pipeline.check()

    async def _claim(self) -> None:
        await self._bridge.claim(self.pipeline, take_over=self._take_over)

    def _refuse_all(self, error: StreamBridgeError) -> None:
        self.pipeline.refuse(error)

    async def _extend_lease(self, wait_ms: int) -> None:
        await self._bridge.extend_lease(self.pipeline, wait_ms)

    def _release(self) -> None:
        self._bridge.keeper.release(self.pipeline)

    async def _flush(self) -> None:
        await self._until(self.pipeline.settles_all())

    async def _end(self, **how: Any) -> None:
        pipeline = self.pipeline
        await self._bridge.publish_end(
            self.run_id, epoch=pipeline.epoch, generation=pipeline.generation, **how
        )

    async def _until(self, ready: Callable[[], bool]) -> None:
        # A cancellation here has accepted nothing and leaves the buffer as it is.
        while not ready():
            self.pipeline.check_process()
            if caller := waiting_caller():
                await refuse_transaction_of(caller, self._bridge.using)
            waiter = asyncio.get_running_loop().create_future()
            with self.pipeline.settled:
                if ready():  # settled between the look and the lock
                    return
                self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

    def _wakeup(self) -> Sequence[Wakeup]:
        """Return what wakes those who wait, each on its own loop, which may be several."""
        if not self._waiters:
            return ()
        loops = {waiter.get_loop() for waiter in tuple(self._waiters)}
        return [(loop, partial(self._wake, loop)) for loop in loops]

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        for waiter in tuple(self._waiters):
            if waiter.get_loop() is loop:
                resolve(waiter)


class PipelinedSyncProducer(SyncProducer):
    """Publishes through a pipeline; blocks its thread while that is full."""

    _producer: PipelinedProducer

    def __init__(
        self, producer: PipelinedProducer, refuse_transaction: Callable[[str], object]
    ) -> None:
        super().__init__(producer, refuse_transaction=refuse_transaction)
        self._pipeline = producer.pipeline

    def publish(self, event: str, data: Any = None, *, key: str | None = None) -> None:
        refuse_event_loop("publish", PRODUCE, blocks=True)
        name, text = self._pipeline.encode(event, data)
        while not self._pipeline.accept(name, text, key):
            self._pipeline.hurry()
            self._until(self._pipeline.has_room)

    def flush(self) -> None:
        self._refuse("flush")
        self._until(self._pipeline.settles_all())
        self._pipeline.check()

    def _until(self, ready: Callable[[], bool]) -> None:
        if ready():
            return
        self._refuse_transaction("Waiting for a producer handle's commit")
        with self._pipeline.settled:
            self._pipeline.check_process()
            while not self._pipeline.settled.wait_for(ready, SIGNAL_SECONDS):
                pass
