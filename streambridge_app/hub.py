"""
What one event loop knows about the runs its clients follow.

The hub is in a run's group while it has a client of that run, however many there are; it
keeps the newest events in a tail that all of them share, and looks at the log for all runs at
once on every tick. Messages only wake it: whatever they lose, double or reorder, the state it
shows never goes back and its tails have no hole. It holds nothing per client but a future
while that waits.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, ParamSpec, Self, TypeVar

from channels.layers import BaseChannelLayer

from . import reading
from .announce import News, is_process_local
from .cursor import Verdict
from .exceptions import BridgeClosed, LogUnavailable
from .follow import RETRY_DELAY
from .garbage import freeze
from .leases import LOOK_INTERVAL, Watch
from .log_threads import LogThreads
from .membership import Membership
from .pages import Pages
from .reading import FEW, Place
from .runs import RUNNING, RunHead
from .sweeper import sweep
from .tail import Batch, Tail

LOCAL_POLL_INTERVAL: Final = 0.05
"""Seconds between looks at the log when no message can come from another process."""

LAYER_POLL_INTERVAL: Final = 1.0
"""The same while messages come through a layer."""

ACTIVE_POLL_INTERVAL: Final = 0.005
"""The same for a short while after a look that found events, where a look is almost free."""

ACTIVE_SECONDS: Final = 0.25
"""How long that while is."""

JOIN_DEADLINE: Final = 1.0
"""Seconds for which a client waits for the group before it relies on polling."""

logger = logging.getLogger("streambridge")

P = ParamSpec("P")
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class HubOptions:
    """What the settings say about hubs."""

    using: str
    poll_interval: float | None
    sweep_interval: float
    page_events: int
    tail_events: int
    tail_bytes: int


class Followed:
    """One followed run: the :class:`streambridge_app.follow.Source` of its clients."""

    __slots__ = ("_hub", "_waiters", "announced", "clients", "joined", "run", "run_id", "tail")

    def __init__(self, hub: Hub, run_id: str, tail: Tail) -> None:
        self.run_id = run_id
        self.run: RunHead | None = None
        self.tail = tail
        self.clients = 0
        self.joined = asyncio.Event()
        """Set once the first attempt to join the group is over."""
        self.announced = 0
        """The head at the last tick: messages should have brought all up to it by the next."""
        self._hub = hub
        self._waiters: set[asyncio.Future[None]] = set()

    def __enter__(self) -> Self:
        self.clients += 1
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.clients -= 1
        if self.clients == 0:
            self._hub.leave(self)

    async def refresh(self) -> None:
        # Join the group, then read the log: in this order nothing falls between the two.
        if not self.joined.is_set():
            try:
                async with asyncio.timeout(JOIN_DEADLINE):
                    await self.joined.wait()
            except TimeoutError:
                self.joined.set()
        await self._hub.look(self.run_id)

    def newest(self, key: int, seq: int) -> Sequence[Batch] | None:
        if self.run is None or self.run.key != key or seq >= self.tail.head:
            return None
        return self.tail.after(seq)

    async def read(self, key: int, epoch: int, seq: int) -> Batch | None:
        head = self.run.head if self.run is not None and self.run.key == key else seq
        return await self._hub.pages.read(key, epoch, seq, head)

    async def changed(self, seconds: float) -> None:
        self._hub.check_open()
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(seconds, _resolve, waiter)
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiters.discard(waiter)
        self._hub.check_open()

    def is_behind(self, run: RunHead) -> bool:
        """Return whether this state of a run that we know has events that we don't."""
        return self.run is not None and self.run.key == run.key and run.head > self.tail.head

    def may_come(self, run: RunHead) -> bool:
        """Return whether messages may still bring what this state of the run has and we don't."""
        if self.run is None or self.run.key != run.key:
            return False
        lost = self.announced > self.tail.head
        self.announced = run.head
        return run.head > self.tail.head and not lost

    def show(self, run: RunHead | None) -> None:
        """Take a state and wake the clients if it is news."""
        if run == self.run:
            return
        self.run = run
        self.wake()

    def wake(self) -> None:
        """Let the clients that wait look again."""
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            _resolve(waiter)


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
    ) -> None:
        self._options = options
        self._poller = poller
        self._readers = readers
        self._sweeper = sweeper
        self._watcher = watcher
        self._watch = watch
        self._local = is_process_local(layer)
        self._poll_interval = options.poll_interval or (
            LOCAL_POLL_INTERVAL if self._local else LAYER_POLL_INTERVAL
        )
        self.pages = Pages(self._read, options.page_events)
        self._runs: dict[str, Followed] = {}
        self._visited: set[str] = set()
        """Runs that have got a client since the last look for runs that were left."""
        self._looks: dict[str, asyncio.Future[None]] = {}
        self._stale: set[str] = set()
        self._wanted = asyncio.Event()
        self._active_until = 0.0
        self._look_seconds = 0.0
        self._awaiting = False
        """Whether the last tick left something to the messages."""
        self._data_version: int | None = None
        self._closed = False
        duties = (self._poll(), self._sweep(), self._keep_watch())
        self._tasks = [asyncio.ensure_future(duty) for duty in duties]
        self._membership: Membership | None = None
        if layer is not None:
            self._membership = Membership(layer, self._runs, self.receive)
        freeze()

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
        Wait for a look at the log that starts after this call; shared among all who ask.

        Raises:
            LogUnavailable: the look failed.
        """
        self.check_open()
        look = self._looks.get(run_id)
        if look is None:
            look = self._looks[run_id] = asyncio.get_running_loop().create_future()
            self._wanted.set()
        await asyncio.shield(look)  # a client that goes away must not take it from the others

    async def _read(self, key: int, epoch: int, seq: int, limit: int) -> Batch | None:
        return await _on(
            self._readers, reading.read_after, key, epoch, seq, limit, self._options.using
        )

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
            self._look_soon(news.run_id)
            return
        if news.epoch < run.epoch:
            return  # late word of an earlier incarnation
        if news.batch is not None:
            followed.tail.append(news.batch)
        if news.head > followed.tail.head:
            self._look_soon(news.run_id)
        elif news.head == followed.tail.head:
            followed.show(_merge(run, run._replace(head=news.head, status=news.status)))

    def _look_soon(self, run_id: str) -> None:
        self._stale.add(run_id)
        self._wanted.set()

    # The log

    async def _poll(self) -> None:
        next_tick = 0.0
        loop = asyncio.get_running_loop()
        while True:
            await self._next_look(next_tick)
            looks, self._looks = self._looks, {}
            stale, self._stale = self._stale, set()
            self._wanted.clear()
            asked = stale.union(looks)
            try:
                if asked:
                    await self._update(asked)
                if loop.time() >= next_tick:
                    await self._tick()
            except Exception as error:
                _settle(looks.values(), error)
                self._stale |= stale
                self._data_version = None  # a new connection counts from anew
                if not isinstance(error, LogUnavailable):
                    logger.exception("Looking at the log failed.")
                await asyncio.sleep(RETRY_DELAY)
            except asyncio.CancelledError:
                _settle(looks.values(), _closed())
                raise
            else:
                _settle(looks.values(), None)
            if loop.time() >= next_tick:
                next_tick = loop.time() + self._interval()

    def _interval(self) -> float:
        """Return the seconds to the next tick: events that no message told may not be the last."""
        if self._membership is not None and self._membership.joining:
            return min(self._poll_interval, LOCAL_POLL_INTERVAL)
        if asyncio.get_running_loop().time() >= self._active_until:
            return self._poll_interval
        if self._data_version is None:
            return min(self._poll_interval, LOCAL_POLL_INTERVAL)
        # However many runs are followed, looking takes a fifth of the time at most.
        return min(self._poll_interval, max(ACTIVE_POLL_INTERVAL, 4 * self._look_seconds))

    async def _next_look(self, next_tick: float) -> None:
        """Return when somebody asks for a look, or runs are followed and a tick is due."""
        if self._wanted.is_set():
            return
        if not self._runs:
            await self._wanted.wait()
            return
        try:
            async with asyncio.timeout_at(next_tick):
                await self._wanted.wait()
        except TimeoutError:
            pass

    async def _tick(self) -> None:
        version = await _on(self._poller, reading.data_version, self._options.using)
        if version is None or version != self._data_version:
            loop = asyncio.get_running_loop()
            began = loop.time()
            self._awaiting = False
            if await self._update(self._runs.keys(), patient=not self._local):
                self._active_until = loop.time() + ACTIVE_SECONDS
            # What was left to the messages must be looked for again, even if nothing is written.
            self._data_version = None if self._awaiting else version
            self._look_seconds = loop.time() - began

    async def _update(self, run_ids: Collection[str], patient: bool = False) -> bool:
        """
        Look at the log for some runs; return whether it had events that no message brought.

        Args:
            run_ids: the runs.
            patient: leave what came since the last tick to the messages, if we are in the group.
                On a busy machine they are late; to read what they bring, for hundreds of runs,
                would make them later.
        """
        found = await _on(self._poller, reading.heads, list(run_ids), self._options.using)
        states = []
        for run_id in list(run_ids):
            followed = self._runs.get(run_id)
            if followed is None:
                continue
            run = found.get(run_id)
            if patient and run and self._is_member(run_id) and followed.may_come(run):
                self._awaiting = True
                continue
            states.append((followed, run))
        behind = [(followed, run) for followed, run in states if run and followed.is_behind(run)]
        await self._read_few(behind)
        for followed, run in states:
            await self._catch_up(followed, run)
        return bool(behind)

    def _is_member(self, run_id: str) -> bool:
        return self._membership is not None and self._membership.has_joined(run_id)

    async def _read_few(self, behind: Iterable[tuple[Followed, RunHead]]) -> None:
        """Let runs catch up by one query if they miss a few events each, and are several."""
        places = {
            Place(run.key, run.epoch, followed.tail.head): followed
            for followed, run in behind
            if run.head - followed.tail.head <= FEW
        }
        if len(places) < 2:
            return
        found = await _on(self._readers, reading.read_few, list(places), self._options.using)
        for place, batch in found.items():
            places[place].tail.append(batch)

    async def _catch_up(self, followed: Followed, run: RunHead | None) -> None:
        tail = followed.tail
        if run is None or followed.run is None or followed.run.key != run.key:
            if run is not None:
                tail.restart(run.head)
            followed.show(run)
            return
        if run.head - tail.head > self._options.page_events:
            tail.restart(run.head)  # clients read what is between from the log
        while run.head > tail.head:
            page = await self._read(run.key, run.epoch, tail.head, self._options.page_events)
            if page is None:  # deleted or trimmed since
                tail.restart(run.head)
            elif tail.append(page) is Verdict.GAP:
                tail.restart(page.first - 1)
                tail.append(page)
        followed.show(_merge(followed.run, run))

    async def _sweep(self) -> None:
        using = self._options.using
        while True:
            await asyncio.sleep(self._options.sweep_interval)
            steps = sweep(using)
            try:
                while await _on(self._sweeper, next, steps, None) is not None:
                    pass
            except LogUnavailable:
                continue
            except Exception:
                logger.exception("Sweeping the log failed.")

    async def _keep_watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            visited, self._visited = self._visited, set()
            followed = visited.union(self._runs)
            try:
                await _on(self._watcher, self._watch.look, followed)
            except Exception as error:
                self._visited |= visited
                if not isinstance(error, LogUnavailable):
                    logger.exception("Looking for runs that were left failed.")

    def check_open(self) -> None:
        """Raise BridgeClosed after :meth:`close`."""
        if self._closed:
            raise _closed()

    async def close(self) -> None:
        """Stop looking, leave the groups, and let nobody wait for ever: BridgeClosed for all."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        _settle(self._looks.values(), _closed())
        for followed in self._runs.values():
            followed.wake()
        if self._membership is not None:
            await self._membership.close()
        await self.pages.close()


def _closed() -> BridgeClosed:
    return BridgeClosed("This bridge was closed. Get a new one from get_bridge().")


def _merge(known: RunHead, other: RunHead) -> RunHead:
    """Return the newer of each part: neither source may take the state back."""
    return known._replace(
        head=max(known.head, other.head),
        floor=max(known.floor, other.floor),
        status=known.status if known.status != RUNNING else other.status,
    )


async def _on(
    threads: LogThreads, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    return await asyncio.wrap_future(threads.submit(function, *args, **kwargs))


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _settle(looks: Iterable[asyncio.Future[None]], error: Exception | None) -> None:
    for look in looks:
        if look.done():
            continue
        if error is None:
            look.set_result(None)
        else:
            look.set_exception(error)
            look.exception()  # marks it as seen: those who asked may have gone
