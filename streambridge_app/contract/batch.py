"""
Consecutive events of a run, as one value: what a commit appended, or what a page of the log holds.

All clients of a process share it. It keeps the frames that an encoding made of it, so that each
encoding is asked once; it knows no encoding itself. Nothing here does I/O.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol, TypeVar

from .events import StreamEvent
from .unreadable import Unreadable, decode, is_readable

BATCH_BYTES: Final = 400
"""Of memory that a batch takes without its events."""

EVENT_BYTES: Final = 32
"""The same of an event besides its texts: two places in lists, and what is lost in rounding up."""

FRAME_BYTES: Final = 16
"""The same of a frame in a list."""

CACHE_BYTES: Final = 184
"""The same of the dictionary of a batch's frames."""

_size_of_text: Final = str.__sizeof__

Frames = TypeVar("Frames", bytes, list[str])
Encoding = Callable[["Batch", str], Frames]
"""Makes frames of a batch, given the id of its run."""


class Holder(Protocol):
    """Who keeps batches, and has to make room for what they grow by."""

    def grow(self, size: int) -> None:
        """Hold so many bytes more."""


class Batch:
    """Consecutive events of one run: ``first``, ``first + 1``, … ``last``."""

    __slots__ = (
        *("_frames", "_holder", "_made", "_own", "_rest"),
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
        self._frames: dict[Encoding[Any], Any] | None = None
        self._own = 0
        """Bytes of memory that it takes in a tail, without what is made of it."""
        self._made = 0
        """Bytes of its frames."""
        self._holder: weakref.ref[Holder] | None = None

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
            if self._holder is not None:
                self._replace(before, rest, self._holder)
        return rest

    def _replace(self, before: Batch | None, rest: Batch, holder: weakref.ref[Holder]) -> None:
        freed = 0 if before is None else before.leave()
        rest._holder = holder
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

    def settle(self, holder: weakref.ref[Holder]) -> int:
        """Tell a holder of the frames made from now on; return the bytes of those made before."""
        self._holder = holder
        if self._rest is None:
            return self._made
        return self._made + self._rest.settle(holder)

    def leave(self) -> int:
        """Tell the holder of nothing more; return the bytes this took, with all made of it."""
        self._holder = None
        taken = self._own + self._made
        return taken if self._rest is None else taken + self._rest.leave()

    def _grow(self, size: int) -> None:
        if self._holder is not None and (holder := self._holder()) is not None:
            holder.grow(size)

    def encoded(self, encoding: Encoding[Frames], run_id: str) -> Frames:
        """Return the events as frames of their run, encoded on the first call."""
        made = self._frames
        if made is None:
            made = self._frames = {}
        frames: Frames | None = made.get(encoding)
        if frames is None:
            frames = encoding(self, run_id)
            size = _size_of(frames) if made else CACHE_BYTES + _size_of(frames)
            made[encoding] = frames
            self._made += size
            self._grow(size)
        return frames

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


def _size_of(frames: bytes | list[str]) -> int:
    if isinstance(frames, bytes):
        return len(frames)
    return sum(map(_size_of_text, frames)) + FRAME_BYTES * len(frames)
