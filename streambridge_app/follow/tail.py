"""
The bounded window of the newest events of a run, which all its clients share. It does no I/O.
"""

from __future__ import annotations

import bisect
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Final

from ..contract import BATCH_BYTES, Batch, Holder, cursor

JOINED: Final = 8
"""Small batches of a tail that become one, once as many newer ones follow."""

SMALL: Final = 32
"""Events of a batch from which on it is not small."""


class Tail:
    """
    The newest events of a run, up to a number of events and of bytes of memory.

    The bytes are those of all that it holds, with the frames that clients have had made of it.

    It has no hole: :meth:`append` takes only what continues it. Clients that keep up share the
    newest batches as they came. Older ones are joined, if they are small: Python's garbage
    collector looks at three objects of each, whatever it holds.
    """

    __slots__ = (
        *("_apart", "_batches", "_count", "_held", "_max_events", "_max_size", "_ref"),
        *("__weakref__", "head"),
    )

    def __init__(self, head: int, *, max_events: int, max_size: int) -> None:
        self.head = head
        """``seq`` of the newest event it covers; at first, of the event before its first."""
        self._batches: deque[Batch] = deque()
        self._apart = 0
        """Small batches at its end, which are not joined yet."""
        self._count = 0
        self._held = 0
        self._max_events = max_events
        self._max_size = max_size
        self._ref: weakref.ref[Holder] = weakref.ref(self)

    @property
    def first(self) -> int | None:
        """``seq`` of the oldest event that is here; None if there is none."""
        return self._batches[0].first if self._batches else None

    def append(self, batch: Batch) -> cursor.Verdict:
        """Take what is new in ``batch`` if it continues the tail, and say whether it did."""
        verdict = cursor.accept(self.head, batch.first, batch.last)
        if verdict is cursor.Verdict.DELIVER:
            fresh = batch.after(self.head)
            if self._batches:  # most frames are made of the newest batch: no word of each of them
                newest = self._batches[-1]
                newest._holder = self._ref
                if newest._made or newest._rest is not None:
                    self._held += newest.settle(self._ref)
            self._batches.append(fresh)
            self._count += len(fresh)
            self._held += fresh.weigh()
            self.head = fresh.last
            self._apart = self._apart + 1 if len(fresh) < SMALL else 0
            self._shrink()
            if self._apart == 2 * JOINED:
                self._join()
        return verdict

    def extend(self, batches: Iterable[Batch]) -> None:
        """Append each of ``batches``."""
        for batch in batches:
            self.append(batch)

    def restart(self, head: int) -> None:
        """Forget everything and cover what comes after ``head``."""
        for batch in self._batches:
            batch.leave()
        self._batches.clear()
        self._apart = self._count = self._held = 0
        self.head = head

    def grow(self, size: int) -> None:
        """Hold so many bytes more, of frames, and make room for them."""
        self._held += size
        if self._held > self._max_size:
            self._shrink()

    def after(self, seq: int) -> list[Batch] | None:
        """Return all that is here after ``seq``, or None if the tail begins later than that."""
        batches = self._batches
        if seq >= self.head:
            return []
        if not batches or seq + 1 < batches[0].first:
            return None
        newest = batches[-1]
        if newest.first <= seq + 1:
            return [newest.after(seq)]
        start = bisect.bisect_right(batches, seq + 1, key=_first) - 1
        found = [batches[index] for index in range(start, len(batches))]
        found[0] = found[0].after(seq)
        return found

    def _join(self) -> None:
        apart = [self._batches.pop() for _ in range(2 * JOINED)][::-1]
        older = apart[:JOINED]
        joined = Batch.join(older)
        joined._own = sum([batch._own for batch in older]) - (JOINED - 1) * BATCH_BYTES
        joined._holder = self._ref
        self._held += joined._own - sum([batch.leave() for batch in older])
        self._batches.append(joined)
        self._batches.extend(apart[JOINED:])
        self._apart = JOINED

    def _shrink(self) -> None:
        while len(self._batches) > 1 and (
            self._count > self._max_events or self._held > self._max_size
        ):
            oldest = self._batches.popleft()
            self._count -= len(oldest)
            self._held -= oldest.leave()
        self._apart = min(self._apart, len(self._batches))


def _first(batch: Batch) -> int:
    return batch.first
