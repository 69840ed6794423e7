"""
What one event loop knows about the runs its clients follow.

The hub is in a run's group while it has a client of that run, however many there are; it
keeps the newest events in a tail that all of them share, and looks at the log for all runs at
once on every tick. Messages only wake it: whatever they lose, double or reorder, the state it
shows never goes back and its tails have no hole.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Any

from channels.layers import BaseChannelLayer

from ..contract import Batch
from ..exceptions import BridgeClosed, bridge_closed
from ..log import LOOK_INTERVAL, LogThreads, Watch, read, sweep
from ..runtime import Complaints, background
from ..wake import Membership, News, Outage, is_process_local
from .garbage import tune
from .pages import Pages
from .poller import Poller
from .shared_run import Followed
from .tail import Tail

logger = logging.getLogger("streambridge")


@dataclasses.dataclass(frozen=True, slots=True)
class HubOptions:
    """What the settings say about hubs."""

    using: str
    poll_interval: float | None
    sweep_interval: float
    page_events: int
    tail_events: int
    tail_bytes: int


class Hub:
    """The followed runs of one event loop. Use it on that loop only."""

    def __init__(
        self,
        layer: BaseChannelLayer | None,
        options: HubOptions,
        *,
        poller: LogThreads,
        readers: LogThreads,
        sweeper: LogThreads,
        watcher: LogThreads,
        watch: Watch,
        outage: Outage,
    ) -> None:
        self._options = options
        self._readers = readers
        self._sweeper = sweeper
        self._watcher = watcher
        self._watch = watch
        self.pages = Pages(self._read, options.page_events)
        self._runs: dict[str, Followed] = {}
        self._visited: set[str] = set()
        """Runs that have got a client since the last look for runs that were left."""
        self._closed = False
        self._membership: Membership | None = None
        if layer is not None:
            self._membership = Membership(
                layer, self._runs, self.receive, outage=outage, missed=self._look_soon
            )
        self._poller = Poller(
            self._runs,
            self._membership,
            using=options.using,
            interval=options.poll_interval,
            page_events=options.page_events,
            local=is_process_local(layer),
            threads=poller,
            readers=readers,
        )
        duties = (self._poller.run(), self._sweep(), self._keep_watch())
        self._tasks = [asyncio.ensure_future(duty) for duty in duties]
        for task in self._tasks:
            task.add_done_callback(self._duty_ended)
        background.hold(self)
        tune()

    # Clients

    def follow(self, run_id: str) -> Followed:
        """Return a run to enter as a context; its first client makes the hub join the group."""
        followed = self._runs.get(run_id)
        if followed is None:
            tail = Tail(0, max_events=self._options.tail_events, max_size=self._options.tail_bytes)
            followed = self._runs[run_id] = Followed(self, run_id, tail)
            self._visited.add(run_id)
            if self._membership is None:
                followed.joined.set()
            else:
                self._membership.changed(run_id)
        return followed

    def leave(self, followed: Followed) -> None:
        """Forget a run that has no client any more, and leave its group."""
        del self._runs[followed.run_id]
        if self._membership is not None:
            self._membership.changed(followed.run_id)

    async def look(self, run_id: str) -> None:
        """
        Wait for a look at the log that starts after this call.

        Raises:
            LogUnavailable: the look failed.
        """
        self.check_open()
        await self._poller.look(run_id)

    def _look_soon(self, run_id: str) -> None:
        self._poller.look_soon(run_id)

    async def _read(self, key: int, epoch: int, seq: int, limit: int) -> Batch | None:
        place = (key, epoch, seq, limit)
        return await self._readers.call(read.read_after, *place, self._options.using)

    # Messages

    def receive(self, message: dict[str, Any]) -> None:
        """Take a message of the layer: show what continues the tail, look at the log if not."""
        try:
            news = News.decode(message)
        except (KeyError, TypeError, AttributeError):
            logger.warning("Ignored a message in a StreamBridge group that is not one of ours.")
            return
        followed = self._runs.get(news.run_id)
        if followed is None:
            return
        run = followed.run
        if run is None or news.epoch is None or news.epoch > run.epoch:
            self._poller.look_soon(news.run_id)
            return
        if news.epoch < run.epoch:
            return  # late word of an earlier incarnation
        if news.batch is not None:
            followed.tail.append(news.batch)
        if news.head > followed.tail.head:
            self._poller.look_soon(news.run_id)
        elif news.head == followed.tail.head:
            followed.show(run.merged(news.head, run.floor, news.status))

    # Duties

    async def _sweep(self) -> None:
        using = self._options.using
        complaints = Complaints("Sweeping the log failed.")
        while True:
            await asyncio.sleep(self._options.sweep_interval)
            steps = sweep(using)
            try:
                while await self._sweeper.call(next, steps, None) is not None:
                    pass
            except BridgeClosed:  # the interpreter is ending
                return
            except Exception as error:
                complaints.about(error)

    async def _keep_watch(self) -> None:
        complaints = Complaints("Looking for runs that were left failed.")
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            visited, self._visited = self._visited, set()
            followed = visited.union(self._runs)
            try:
                await self._watcher.call(self._watch.look, followed)
            except BridgeClosed:
                return
            except Exception as error:
                self._visited |= visited
                complaints.about(error)

    @property
    def closed(self) -> bool:
        """Whether it looks no more: after :meth:`close`, or as its loop has ended."""
        return self._closed

    def check_open(self) -> None:
        """Raise BridgeClosed once it is closed."""
        if self._closed:
            raise bridge_closed()

    async def close(self) -> None:
        """Stop looking, leave the groups, and let nobody wait for ever: BridgeClosed for all."""
        self._stop()
        await asyncio.wait(self._tasks)
        self._let_go()
        if self._membership is not None:
            await self._membership.close()
        await self.pages.close()
        background.release(self)

    def _duty_ended(self, task: asyncio.Task[None]) -> None:
        """
        End with the first duty that ends although nobody closes us.

        A loop that ends cancels all its tasks, and so does a test between two of its tests: clients
        that came to the same loop later would wait for looks that nobody takes.
        """
        if self._closed:
            return
        self._stop()
        self._let_go()
        if self._membership is not None:
            self._membership.stop()
        background.release(self)

    def _stop(self) -> None:
        self._closed = True
        for task in self._tasks:
            task.cancel()

    def _let_go(self) -> None:
        self._poller.close()
        for followed in self._runs.values():
            followed.wake()
