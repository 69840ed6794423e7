"""
Batches of consecutive events, and the bounded window of the newest ones of a run.

A batch is what one commit appended or one page of the log holds. It is shared by every
client of the process and encodes its frames at most once. Nothing here does I/O.
"""

from __future__ import annotations

import bisect
import itertools
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from . import cursor, socket_frames, sse
from .events import StreamEvent
from .unreadable import Unreadable, decode, is_readable

JOINED: Final = 8
"""Small batches of a tail that become one, once as many newer ones follow."""

SMALL: Final = 32
"""Events of a batch from which on it is not small."""

BATCH_BYTES: Final = 400
"""Of memory that a batch takes without its events."""

EVENT_BYTES: Final = 32
"""The same of an event besides its texts: two places in lists, and what is lost in rounding up."""

FRAME_BYTES: Final = 16
"""The same of a frame in a list."""

_size_of_text: Final = str.__sizeof__


class Batch:
    """Consecutive events of one run: ``first``, ``first + 1``, … ``last``."""

    __slots__ = (
        *("_made", "_own", "_rest", "_socket_frames", "_sse", "_tail"),
        *("data", "epoch", "first", "last", "names"),
    )

    def __init__(self, epoch: int, first: int, names: Sequence[str], data: Sequence[str]) -> None:
        self.epoch = epoch
        self.first = first
        self.last = first + len(names) - 1
        self.names = names
        self.data = data
        """Each one line of JSON text."""
        self._rest: Batch | None = None
        """What followed the last position asked for: clients that fell behind together share it."""
        self._sse: bytes | None = None
        self._socket_frames: list[str] | None = None
        self._own = 0
        """Bytes of memory that it takes in a tail, without what is made of it."""
        self._made = 0
        """Bytes of its frames."""
        self._tail: weakref.ref[Tail] | None = None
        """Who has to make room for what it takes."""

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"<Batch {self.epoch}-{self.first}…{self.last}>"

    def after(self, seq: int) -> Batch:
        """Return the events after ``seq``: this batch itself when that is all of it."""
        skip = seq + 1 - self.first
        if skip <= 0:
            return self
        rest = self._rest
        if rest is None or rest.first != seq + 1:
            rest = Batch(self.epoch, seq + 1, self.names[skip:], self.data[skip:])
            rest._made = BATCH_BYTES + EVENT_BYTES * len(rest)  # lists of its own, no texts
            before, self._rest = self._rest, rest
            if self._tail is not None:
                self._replace(before, rest, self._tail)
        return rest

    def _replace(self, before: Batch | None, rest: Batch, tail: weakref.ref[Tail]) -> None:
        freed = 0 if before is None else before.leave()
        rest._tail = tail
        self._grow(rest._made - freed)

    def weigh(self) -> int:
        """Return how many bytes of memory this takes without frames, once it is in a tail."""
        names, data = self.names, self.data
        if len(names) == 1:
            texts = _size_of_text(names[0]) + _size_of_text(data[0])
        else:
            texts = sum(map(_size_of_text, names)) + sum(map(_size_of_text, data))
        self._own = BATCH_BYTES + EVENT_BYTES * len(names) + texts
        return self._own

    def settle(self, tail: weakref.ref[Tail]) -> int:
        """Tell a tail of all frames that are made from now on; return the bytes of those before."""
        self._tail = tail
        if self._rest is None:
            return self._made
        return self._made + self._rest.settle(tail)

    def leave(self) -> int:
        """Tell the tail of nothing more; return the bytes this took there, with all made of it."""
        self._tail = None
        taken = self._own + self._made
        return taken if self._rest is None else taken + self._rest.leave()

    def _grow(self, size: int) -> None:
        if self._tail is not None and (tail := self._tail()) is not None:
            tail.grow(size)

    def sse(self) -> bytes:
        """Return the events as SSE frames, encoded on the first call."""
        if self._sse is None:
            self._sse = sse.encode_events(self.epoch, self.first, self.names, self.data)
            size = len(self._sse)
            self._made += size
            self._grow(size)
        return self._sse

    def events(self, after: int = 0) -> Iterator[StreamEvent]:
        """
        Yield the events after a number, each with data of its own that the caller may change.

        Raises:
            Unreadable: the data of the next event, or of several, is no JSON.
        """
        skip = max(0, after + 1 - self.first)
        rows: Iterator[tuple[str, str]] = zip(self.names, self.data, strict=True)
        if skip:
            rows = itertools.islice(rows, skip, None)
        for seq, (name, text) in enumerate(rows, self.first + skip):
            try:
                data = decode(text)
            except ValueError:
                raise self._unreadable(seq) from None
            yield StreamEvent(f"{self.epoch}-{seq}", name, data)

    def _unreadable(self, first: int) -> Unreadable:
        last = first
        while last < self.last and not is_readable(self.data[last + 1 - self.first]):
            last += 1
        return Unreadable(first, last)

    def socket_frames(self, run_id: str) -> list[str]:
        """Return the events as WebSocket frames of their run, encoded on the first call."""
        if self._socket_frames is None:
            self._socket_frames = socket_frames.encode_events(
                run_id, self.epoch, self.first, self.names, self.data
            )
            frames = self._socket_frames
            size = sum(map(_size_of_text, frames)) + FRAME_BYTES * len(frames)
            self._made += size
            self._grow(size)
        return self._socket_frames

    def pack(self) -> str:
        """Return names and data as lines: neither has an LF, so this takes no escaping."""
        return "\n".join(
            [line for pair in zip(self.names, self.data, strict=True) for line in pair]
        )

    @classmethod
    def unpack(cls, epoch: int, first: int, packed: str) -> Batch:
        """Return the batch that :meth:`pack` made."""
        lines = packed.split("\n")
        return cls(epoch, first, lines[0::2], lines[1::2])

    @classmethod
    def join(cls, batches: Sequence[Batch]) -> Batch:
        """Return the events of batches that continue each other."""
        return cls(
            batches[0].epoch,
            batches[0].first,
            [name for batch in batches for name in batch.names],
            [text for batch in batches for text in batch.data],
        )

    @property
    def size(self) -> int:
        """Bytes of names and data as UTF-8."""
        text = "".join([*self.names, *self.data])
        return len(text) if text.isascii() else len(text.encode())


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
        self._ref = weakref.ref(self)

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
                newest._tail = self._ref
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
        joined._tail = self._ref
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
