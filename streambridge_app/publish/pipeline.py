"""
A producer's bounded buffer between its caller and the writer.

It decides what is accepted, waits to be taken and is settled; who waits, and how, is the
business of the handles in :mod:`streambridge_app.publish.handle`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from .. import log
from ..contract import check_event_name, check_key, encode_data
from ..exceptions import cancel_requested, producer_fenced
from ..log import Outcome, leases
from .queue import COMMIT_EVENTS, COMMIT_SIZE, Group, Wakeup
from .writer import Writer


class Pipeline:
    """
    A producer's bounded buffer: accepts events ahead of their commit. A slot of the writer.

    After a failure it gives nothing more and accepts nothing more: what follows a lost event
    is never written as if nothing had happened.
    """

    urgent = False

    def __init__(
        self,
        run_id: str,
        writer: Writer,
        *,
        limit: int,
        max_event_bytes: int,
        raise_on_cancel: bool = False,
    ) -> None:
        self.run_id = run_id
        self._lock = threading.RLock()  # a signal's handler may publish in the middle of a publish
        self.settled = threading.Condition(self._lock)
        """Notified after each commit; guards all that the writer's thread changes."""
        self.on_settled: Callable[[], Sequence[Wakeup]] = _nobody
        """Called on the writer's thread after each commit; says whom else to wake."""
        self.cancel_requested = False
        self.key = 0
        """The primary key of the run, once it is claimed."""
        self.epoch: int | None = None
        """The incarnation claimed, or that the first event went to: all others go to it."""
        self.keyed = False
        """Whether any event has had a key."""
        self.generation: int | None = None
        """The generation claimed: when there is a later one, nothing more is written."""
        self._raise_on_cancel = raise_on_cancel
        self._writer = writer
        self._limit = limit
        self._max_event_bytes = max_event_bytes
        self._events: list[tuple[str, str, str | None]] = []
        self._size = 0
        self._queued = False
        self._accepted = 0
        self._settled = 0
        self._error: Exception | None = None
        """Why something that was accepted is not in the log."""
        self._refusal: Exception | None = None
        """Why nothing more is accepted."""

    def claimed(self, claim: log.Claim) -> None:
        """Belong to a run: before the first event."""
        self.key, self.epoch, self.generation = claim.key, claim.epoch, claim.generation
        self._learn_cancel(claim.cancel_requested)

    def learn(self, held: leases.Held) -> None:
        """Take what a look at the run has brought."""
        with self._lock:
            if held.generation != self.generation:
                self._refusal = producer_fenced(self.run_id)
            self._learn_cancel(held.cancel_requested)

    def _learn_cancel(self, requested: bool) -> None:
        if requested and not self.cancel_requested:  # an older commit may say no afterwards
            self.cancel_requested = True
            if self._raise_on_cancel and self._refusal is None:
                self._refusal = cancel_requested(self.run_id)

    def encode(self, event: str, data: Any) -> tuple[str, str]:
        """Check an event and return its name and JSON text; may raise InvalidEvent."""
        return check_event_name(event), encode_data(data, self._max_event_bytes)

    def has_room(self) -> bool:
        """Return whether an event may be accepted, or will be refused."""
        return self._refusal is not None or not self._is_full()

    def _is_full(self) -> bool:
        return self._accepted - self._settled >= self._limit or self._size >= COMMIT_SIZE

    def hurry(self) -> None:
        """Let the writer commit at once: somebody is about to wait."""
        self._writer.hurry()

    def check_process(self) -> None:
        """Raise BridgeClosed in a child process, where nothing is ever settled."""
        self._writer.check_process()

    def settles_all(self) -> Callable[[], bool]:
        """Return a test for all that is accepted by now being committed; it raises if not."""
        target = self._accepted
        self.hurry()

        def settled() -> bool:
            if self._error is not None:
                raise self._error
            return self._settled >= target

        return settled

    def check(self) -> None:
        """
        Raise what the next event would be refused with.

        Raises:
            CancelRequested, ProducerFenced; RunEnded, LogUnavailable after a failure.
        """
        if self._refusal is not None:
            raise self._refusal

    def refuse(self, error: Exception) -> None:
        """Accept nothing more; what was accepted is written all the same."""
        with self._lock:
            self._refusal = error

    def accept(self, name: str, text: str, key: str | None) -> bool:
        """
        Take an event, and return whether there was room for it.

        Raises:
            InvalidEvent: it can't have this key.
            RunEnded, ProducerFenced, LogUnavailable: an earlier event could not be written.
            ProducerFenced, CancelRequested: as was learned meanwhile.
            BridgeClosed: after ``close()``.
        """
        if key is not None:
            key = check_key(key)
            self.keyed = True
        with self._lock:  # itself: to enter its condition takes ten times as long
            if self._refusal is not None:
                raise self._refusal
            if self._is_full():
                return False
            # In this order, a KeyboardInterrupt at any line leaves an event that is whole and
            # will be taken, or none: the writer takes nothing before the lock is released.
            if not self._queued:
                self._writer.submit(self)
                self._queued = True
            self._events.append((name, text, key))
            self._accepted += 1
            self._size += len(text)
            if len(self._events) == COMMIT_EVENTS:
                self._writer.hurry()
            return True

    def give(self, group: Group, most: int) -> bool:
        with self._lock:
            taken = self._events[:most]
            del self._events[:most]
            self._queued = bool(self._events)
            if taken:
                names, data, keys = zip(*taken, strict=True)
                self._size -= group.add(names, data, keys if self.keyed and any(keys) else ())
            return self._queued

    def settle(self, count: int, outcome: Outcome) -> Sequence[Wakeup]:
        if isinstance(outcome, Exception):
            self._fail(outcome)
        else:
            with self.settled:
                self._settled += count
                self.epoch = outcome.epoch
                self._learn_cancel(outcome.cancel_requested)
                self.settled.notify_all()
        return self.on_settled()

    def _fail(self, error: Exception) -> None:
        with self.settled:
            self._error = self._refusal = error
            self._settled = self._accepted
            self._events.clear()
            self._size = 0
            self.settled.notify_all()


def _nobody() -> Sequence[Wakeup]:
    return ()
