"""
Looking at the log for all runs that a hub follows, at once.

It is the safety net under the messages, and the only way where none come: SQLite with the
in-memory layer. It asks for the heads of all runs in one query, and reads what those that have
news miss in one more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from ..contract import RunHead, Verdict
from ..exceptions import BridgeClosed, bridge_closed
from ..log import FEW, LogThreads, Place, read
from ..runtime import Complaints
from ..wake import Membership
from .shared_run import Followed
from .subscription import RETRY_DELAY

LOCAL_POLL_INTERVAL: Final = 0.05
"""Seconds between looks at the log when no message can come from another process."""

LAYER_POLL_INTERVAL: Final = 1.0
"""The same while messages come through a layer."""

ACTIVE_POLL_INTERVAL: Final = 0.005
"""The same for a short while after a look that found events, where a look is almost free."""

ACTIVE_SECONDS: Final = 0.25
"""How long that while is."""

MANY: Final = 64
"""Runs from which on a look, where looks are frequent, takes only those that got events."""

ALL_SHARE: Final = 0.05
"""Part of the time that looks at all of them may take then."""

LIVELY_SECONDS: Final = 2.0
"""How long a run that got events is looked at each time: its end may come without one."""


class Poller:
    """The looks of one hub. Use it on the hub's event loop only."""

    def __init__(
        self,
        runs: Mapping[str, Followed],
        membership: Membership | None,
        *,
        using: str,
        interval: float | None,
        page_events: int,
        local: bool,
        threads: LogThreads,
        readers: LogThreads,
    ) -> None:
        """
        Args:
            runs: what the hub follows, by id; it changes meanwhile.
            membership: the hub's groups, if it has a layer.
            using: alias of the database.
            interval: seconds between two ticks; None: whatever suits the layer.
            page_events: events in a page of the log, at most.
            local: whether no message comes from other processes.
            threads: look at the heads.
            readers: read events.
        """
        self._runs = runs
        self._membership = membership
        self._using = using
        self._poll_interval = interval or (LOCAL_POLL_INTERVAL if local else LAYER_POLL_INTERVAL)
        self._page_events = page_events
        self._local = local
        self._threads = threads
        self._readers = readers
        self._looks: dict[str, asyncio.Future[None]] = {}
        self._stale: set[str] = set()
        self._wanted = asyncio.Event()
        self._active_until = 0.0
        self._look_seconds = 0.0
        self._awaiting = False
        """Whether the last tick left something to the messages."""
        self._complaints = Complaints("Looking at the log failed.")
        self._data_version: int | None = None
        self._all_version: int | None = None
        """The same when all runs were looked at, and when they may be again."""
        self._all_at = 0.0
        self._place: int | None = None
        """The newest event of the log at the last look at many runs."""
        self._lively: dict[str, float] = {}
        """Until when runs are looked at each time."""

    async def look(self, run_id: str) -> None:
        """
        Wait for a look at the log that starts after this call; shared among all who ask.

        Raises:
            LogUnavailable: the look failed.
            BridgeClosed: the hub was closed meanwhile.
        """
        look = self._looks.get(run_id)
        if look is None:
            look = self._looks[run_id] = asyncio.get_running_loop().create_future()
            self._wanted.set()
        await asyncio.shield(look)  # a client that goes away must not take it from the others

    def look_soon(self, run_id: str) -> None:
        """Look at a run without anybody who waits for it."""
        self._stale.add(run_id)
        self._wanted.set()

    def close(self) -> None:
        """Let nobody wait for a look, once :meth:`run` has been cancelled."""
        _settle(self._looks.values(), bridge_closed())

    async def run(self) -> None:
        """Look whenever somebody asks or a tick is due, until cancelled."""
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
            except BridgeClosed as error:  # the interpreter is ending
                _settle(looks.values(), error)
                return
            except Exception as error:
                _settle(looks.values(), error)
                self._stale |= stale
                self._data_version = self._all_version = None  # a new connection counts from anew
                self._complaints.about(error)
                await asyncio.sleep(RETRY_DELAY)
            except asyncio.CancelledError:
                _settle(looks.values(), bridge_closed())
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
        version = await self._threads.call(read.data_version, self._using)
        if version is not None and self._local and len(self._runs) > MANY:
            await self._tick_many(version)
        elif version is None or version != self._data_version:
            loop = asyncio.get_running_loop()
            began = loop.time()
            self._awaiting = False
            self._place = None
            if await self._update(self._runs.keys(), patient=not self._local):
                self._active_until = loop.time() + ACTIVE_SECONDS
            # What was left to the messages must be looked for again, even if nothing is written.
            self._data_version = None if self._awaiting else version
            self._look_seconds = loop.time() - began

    async def _tick_many(self, version: int) -> None:
        """Look at the runs that got events, as often as at few; at all of them less often."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        look_at_all = version != self._all_version and began >= self._all_at
        if not look_at_all and version == self._data_version:
            return
        place, written = await self._threads.call(read.written_since, self._place, self._using)
        followed = self._runs.keys()
        run_ids: Collection[str] = followed
        if written is not None:
            self._lively = {one: until for one, until in self._lively.items() if until > began}
            self._lively |= dict.fromkeys(written & followed, began + LIVELY_SECONDS)
            if not look_at_all:
                run_ids = self._lively.keys() & followed
        if run_ids and await self._update(run_ids):
            self._active_until = loop.time() + ACTIVE_SECONDS
        self._place, self._data_version = place, version
        self._look_seconds = loop.time() - began
        if written is None or look_at_all:
            self._all_version = version
            self._all_at = loop.time() + self._look_seconds / ALL_SHARE

    async def _update(self, run_ids: Collection[str], patient: bool = False) -> bool:
        """
        Look at the log for some runs; return whether it had events that no message brought.

        Args:
            run_ids: the runs.
            patient: leave what came since the last tick to the messages, if we are in the group.
                On a busy machine they are late; to read what they bring, for hundreds of runs,
                would make them later.
        """
        found = await self._threads.call(read.heads, list(run_ids), self._using)
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

    async def _read_few(self, behind: Iterable[tuple[Followed, RunHead]]) -> None:
        """Let runs catch up by one query if they miss a few events each, and are several."""
        places = {
            Place(run.key, run.epoch, followed.tail.head): followed
            for followed, run in behind
            if run.head - followed.tail.head <= FEW
        }
        if len(places) < 2:
            return
        found = await self._readers.call(read.read_few, list(places), self._using)
        for place, batch in found.items():
            places[place].tail.append(batch)

    async def _catch_up(self, followed: Followed, run: RunHead | None) -> None:
        tail = followed.tail
        if run is None or followed.run is None or followed.run.key != run.key:
            if run is not None:
                tail.restart(run.head)
            followed.show(run)
            return
        if run.head - tail.head > self._page_events:
            tail.restart(run.head)  # clients read what is between from the log
        while run.head > tail.head:
            place = (run.key, run.epoch, tail.head, self._page_events)
            page = await self._readers.call(read.read_after, *place, self._using)
            if page is None:  # deleted or trimmed since
                tail.restart(run.head)
            elif tail.append(page) is Verdict.GAP:
                tail.restart(page.first - 1)
                tail.append(page)
        followed.show(followed.run.merged(run.head, run.floor, run.status))

    def _is_member(self, run_id: str) -> bool:
        return self._membership is not None and self._membership.has_joined(run_id)


def _settle(looks: Iterable[asyncio.Future[None]], error: Exception | None) -> None:
    for look in looks:
        if look.done():
            continue
        if error is None:
            look.set_result(None)
        else:
            look.set_exception(error)
            look.exception()  # marks it as seen: those who asked may have gone
