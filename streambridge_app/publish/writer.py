"""
Group commit: whatever the publishers of a process have waiting shares one transaction.

Publishers hand in *slots*, of one or of several that publish to one run, and go on or wait; one
thread takes from all slots that are ready, appends across runs in one commit, announces it, and
settles the slots. A run's slots are taken in the order in which they came, and runs that have more
than a commit takes get their turns. While it commits, the next group fills: the batch size follows
the load, and a lone publish goes straight through. A process that writes many runs at once also
pauses between commits, for up to :data:`LONGEST_PAUSE`, unless somebody waits: fifty runs of twenty
events a second would otherwise take hundreds of commits, of an event or two each. It must settle
every slot it took exactly once, with what became of it.

A run that somebody else's transaction holds locked waits by itself: what was taken of it is tried
again from time to time, what comes after stays in the queue, and all other runs go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import Empty
from typing import Final, NamedTuple

from ..exceptions import InvalidEvent, InvalidRunId, StreamBridgeError, bridge_closed
from ..log import Appender, Locked, LogThreads, Outcome, Write, Written
from ..runtime import Complaints
from .queue import COMMIT_EVENTS, COMMIT_SIZE, Group, SharedPublication, Slot

PAUSE_PER_RUN: Final = 0.002
"""Seconds between two commits for each run but one that the first was for."""

LONGEST_PAUSE: Final = 0.005

LOCKED_PAUSE: Final = 0.05
"""Seconds between two attempts to write to the runs that others hold locked."""

LINGER: Final = 0.05
"""Seconds for which the thread waits for a slot before it ends: to be started takes longer."""

logger = logging.getLogger("streambridge")


class _HeldUp(NamedTuple):
    """What was taken of a run and can't be written yet: another transaction holds it locked."""

    group: Group
    write: Write
    locked: Locked
    give_up_at: float
    """On the monotonic clock."""


class Writer:
    """The one thread of a process that appends for everybody but the sync API."""

    def __init__(
        self,
        using: str,
        appender: Appender,
        announce: Callable[[Sequence[Written]], None],
    ) -> None:
        self._appender = appender
        self._announce = announce
        self._threads = LogThreads(using, threads=1, name="writer")
        self._ready: dict[str, deque[Slot]] = {}
        """The slots of each run in their order; the runs in the order of their turns."""
        # A signal's handler may publish in the middle of a publish, and of its haste: so neither
        # is a Lock, nor an Event, which has one inside.
        self._lock = threading.RLock()
        self._haste: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._draining = False
        """Whether the thread is at it, or lingers."""
        self._idle = False
        """Whether it lingers, and has to be woken."""
        self._closed = False
        self._prepared = False
        self._next_commit = 0.0
        self._has_more = False
        """Whether the last commit could not take all that was ready."""
        self._complaints = Complaints("A run is locked.")
        self._held_up: dict[str, _HeldUp] = {}
        """By run; nothing more is taken of these. For the thread only."""
        self._next_attempt = 0.0

    def publish(self, run_id: str, name: str, text: str) -> asyncio.Future[Written]:
        """
        Put an event into the queue, and return what is written, after the commit. Never blocks.

        A future that is cancelled leaves the event in the queue: it may still be written.

        Raises:
            BridgeClosed: the writer takes no more.
        """
        loop = asyncio.get_running_loop()
        self._threads.check_process()  # before the lock, which a fork may have caught held
        with self._lock:
            self._start()
            slots = self._ready.get(run_id)
            last = slots[-1] if slots else None
            if isinstance(last, SharedPublication) and last.loop is loop and last.has_room():
                return last.add(name, text)
            slot = SharedPublication(run_id, loop)
            written = slot.add(name, text)
            self._queue(slot)
            return written

    def submit(self, slot: Slot) -> None:
        """
        Put a slot into the queue. Never blocks.

        Raises:
            BridgeClosed: the writer takes no more.
        """
        self._threads.check_process()
        with self._lock:
            self._start()
            self._queue(slot)

    def _start(self) -> None:
        """
        See to it that the thread is at it, before there is something for it. Under the lock.

        An interrupt may come at any line: what is in the queue must never wait for a thread that
        nobody starts.
        """
        if self._closed:
            raise bridge_closed()
        if self._draining:
            return
        try:
            # Who comes in the middle of the start leaves it to us.
            self._draining = True
            self._threads.start(self._drain)
        except BaseException:  # no thread to be had, or an interrupt
            self._draining = False
            raise

    def _queue(self, slot: Slot) -> None:
        self._ready.setdefault(slot.run_id, deque()).append(slot)
        if slot.urgent or self._idle:
            self.hurry()

    def check_process(self) -> None:
        """Raise BridgeClosed in a child process."""
        self._threads.check_process()

    def prepare(self) -> None:
        """Connect to the database, without waiting for it: the first event is about to come."""
        if not self._prepared:
            self._prepared = True
            self._threads.submit(_nothing)

    def hurry(self) -> None:
        """Commit without a pause: somebody waits, or a whole commit's worth has come."""
        if self._haste.empty():
            self._haste.put(None)

    def close(self) -> None:
        """Refuse new slots, write what is queued if the database can be reached, end the thread."""
        with self._lock:
            self._closed = True
        self._appender.close()
        self.hurry()
        self._threads.close()

    def _drain(self) -> None:
        while True:
            with contextlib.suppress(Empty):
                if (pause := self._next_commit - time.monotonic()) > 0:
                    self._haste.get(timeout=pause)
                while True:
                    self._haste.get_nowait()
            groups = self._collect()
            try:
                if groups:
                    self._commit(groups)
                if self._held_up and time.monotonic() >= self._next_attempt:
                    self._try_again()
            except Exception:
                logger.exception("The writer failed in a way it should not; it goes on.")
            if not groups:
                if self._lingers():
                    continue
                return
            pause = min(LONGEST_PAUSE, PAUSE_PER_RUN * (len(groups) - 1))
            self._next_commit = time.monotonic() + (0 if self._has_more else pause)

    def _lingers(self) -> bool:
        """Wait for a slot, and return whether one has come; if not, who comes has to start us."""
        with self._lock:
            self._idle = not self._has_ready()
        if self._idle:
            seconds = self._next_attempt - time.monotonic() if self._held_up else LINGER
            with contextlib.suppress(Empty):
                self._haste.get(timeout=max(0, seconds))
        with self._lock:
            self._idle = False
            # A publisher that comes now may have lost its wake-up: let the writer not pause.
            self._next_commit = 0.0
            self._draining = bool(self._ready or self._held_up)
            return self._draining

    def _has_ready(self) -> bool:
        """Return whether something could be taken. Under the lock."""
        if not self._held_up:
            return bool(self._ready)
        return any(run_id not in self._held_up for run_id in self._ready)

    def _collect(self) -> dict[str, Group]:
        """Take from the slots that are ready as much as one transaction may hold."""
        groups: dict[str, Group] = {}
        events = size = 0
        with self._lock:
            runs = list(self._ready)
        if self._held_up:
            runs = [run_id for run_id in runs if run_id not in self._held_up]
        for run_id in runs:
            group = None
            while events < COMMIT_EVENTS and size < COMMIT_SIZE:
                slot = self._take(run_id, group)
                if slot is None:
                    break
                group = group or Group(slot)
                events_before, size_before = len(group.names), group.size
                if slot.give(group, COMMIT_EVENTS - events):
                    self._put_back(slot)
                count = len(group.names) - events_before
                if not count and group.end is None:
                    group = groups.get(run_id)  # it has failed meanwhile and dropped what it had
                    continue
                groups[run_id] = group
                group.slots.append((slot, count))
                events += count
                size += group.size - size_before
        with self._lock:
            self._has_more = self._has_ready()
            for run_id in groups:
                if run_id in self._ready:  # it is the others' turn
                    self._ready[run_id] = self._ready.pop(run_id)
        return groups

    def _take(self, run_id: str, group: Group | None) -> Slot | None:
        """Take a run's next slot if there is one, and if it may share the group. None joins it."""
        with self._lock:
            slots = self._ready.get(run_id)
            if not slots:
                self._ready.pop(run_id, None)
                return None
            if group is not None and not group.takes(slots[0]):
                return None  # what comes after an end learns so from the log
            slot = slots.popleft()
            if not slots:
                del self._ready[run_id]
            return slot

    def _put_back(self, slot: Slot) -> None:
        """Let a slot that has more be its run's next one again."""
        with self._lock:
            self._ready.setdefault(slot.run_id, deque()).appendleft(slot)

    def _commit(self, groups: dict[str, Group]) -> None:
        writes = [
            Write(
                run_id,
                group.names,
                group.data,
                group.end,
                group.epoch,
                group.generation,
                group.keys,
            )
            for run_id, group in groups.items()
        ]
        settled: list[tuple[Group, Write, Outcome]] = []
        for group, write, outcome in zip(
            groups.values(), writes, self._append(writes), strict=True
        ):
            if isinstance(outcome, Locked):
                self._hold_up(group, write, outcome)
            else:
                settled.append((group, write, outcome))
        self._settle(settled)

    def _hold_up(self, group: Group, write: Write, locked: Locked) -> None:
        if self._complaints.is_due(write.run_id):
            logger.warning(
                "Another transaction holds the run %r locked; its events wait for that. Keep "
                "transactions short that publish to it or change it.",
                write.run_id,
            )
        if not self._held_up:
            self._next_attempt = time.monotonic() + LOCKED_PAUSE
        self._held_up[write.run_id] = _HeldUp(group, write, locked, self._appender.gives_up_at())

    def _try_again(self) -> None:
        """Write to the runs that are locked no more; give those up whose time is over."""
        held_up = list(self._held_up.values())
        outcomes: Sequence[Outcome | Locked]
        try:
            outcomes = self._appender.append_again([(one.write, one.locked) for one in held_up])
        except Exception as error:  # whoever waits must be told
            logger.exception("The writer failed in a way it should not; it goes on.")
            outcomes = [error] * len(held_up)
        settled: list[tuple[Group, Write, Outcome]] = []
        for one, outcome in zip(held_up, outcomes, strict=True):
            run_id = one.write.run_id
            if not isinstance(outcome, Locked):
                del self._held_up[run_id]
                settled.append((one.group, one.write, outcome))
            elif self._appender.is_over(one.give_up_at):
                del self._held_up[run_id]
                settled.append((one.group, one.write, outcome.given_up()))
            else:
                self._held_up[run_id] = one._replace(locked=outcome)
        self._next_attempt = time.monotonic() + LOCKED_PAUSE
        self._settle(settled)

    def _settle(self, settled: Sequence[tuple[Group, Write, Outcome]]) -> None:
        """Announce what was written, and tell each publisher what became of it."""
        written = [outcome for *_, outcome in settled if isinstance(outcome, Written)]
        if written:
            self._tell(written)
        wakeups: dict[asyncio.AbstractEventLoop, list[Callable[[], None]]] = {}
        for group, write, outcome in settled:
            each: Iterator[tuple[Slot, int, Outcome]]
            if isinstance(outcome, InvalidEvent) and len(write.names) > 1:
                each = self._append_singly(group, write)
            else:
                each = ((slot, count, outcome) for slot, count in group.slots)
            for slot, count, its in each:
                for loop, call in slot.settle(count, its):
                    wakeups.setdefault(loop, []).append(call)
        for loop, calls in wakeups.items():
            _call_on(loop, calls)

    def _tell(self, written: Sequence[Written]) -> None:
        try:
            self._announce(written)
        except Exception:  # it is committed, and whoever waits must be told so
            logger.exception("Clients were not told of a commit; they get it by polling.")

    def _append_singly(self, group: Group, write: Write) -> Iterator[tuple[Slot, int, Outcome]]:
        """Append what is in a group bit by bit: others must not fail with one's data."""
        start = 0
        for slot, count in group.slots:
            upto = start + count
            ends = write.end is not None and slot is group.slots[-1][0]
            for index in range(start, max(upto, start + 1)):
                one = slice(index, min(index + 1, upto))
                part = write._replace(
                    names=write.names[one],
                    data=write.data[one],
                    keys=write.keys[one],
                    end=write.end if ends and index + 1 >= upto else None,
                )
                (outcome,) = self._append([part])
                if isinstance(outcome, Locked):
                    outcome = outcome.given_up()
                if isinstance(outcome, Written):
                    self._tell([outcome])
                yield slot, one.stop - one.start, outcome
                if isinstance(outcome, Exception) and not isinstance(slot, SharedPublication):
                    break  # what a handle accepted after it is dropped
            start = upto

    def _append(self, writes: list[Write]) -> Sequence[Outcome | Locked]:
        try:
            outcomes = self._appender.append(writes)
        except Exception as error:  # whoever waits must be told
            logger.exception("The writer failed in a way it should not; it goes on.")
            return [error] * len(writes)
        if len(writes) == 1:
            return outcomes
        # One run's data may be to blame: the others' must not fail with it.
        return [
            self._append([write])[0] if _is_unexpected(outcome) else outcome
            for write, outcome in zip(writes, outcomes, strict=True)
        ]


def _nothing() -> None:
    return None


def _call_on(loop: asyncio.AbstractEventLoop, calls: Sequence[Callable[[], None]]) -> None:
    try:
        loop.call_soon_threadsafe(_call_all, calls)
    except RuntimeError:
        if not loop.is_closed():
            raise
        # The loop was closed with its publishers: nobody is left to tell.


def _call_all(calls: Sequence[Callable[[], None]]) -> None:
    for call in calls:
        call()


def _is_unexpected(outcome: Outcome | Locked) -> bool:
    known = isinstance(outcome, Written | Locked | StreamBridgeError)
    return not known or isinstance(outcome, InvalidEvent | InvalidRunId)
