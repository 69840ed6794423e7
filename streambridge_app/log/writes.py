"""What an append is asked to write to a run, and what it has written."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from ..contract import Batch


class Write(NamedTuple):
    """What to append to one run, and whether to end it."""

    run_id: str
    names: Sequence[str]
    data: Sequence[str]
    """Each one line of JSON text."""
    end: str | None = None
    """The status to end the run with after these events."""
    epoch: int | None = None
    """Write to this incarnation of the run only; None: to whichever there is, or a new one."""
    generation: int | None = None
    """Write only if no later producer has taken the run over; None: in any case."""
    keys: Sequence[str | None] = ()
    """Keys of the first events, if any has one; for :func:`streambridge_app.log.append.append`."""


class Written(NamedTuple):
    """What was done for one run."""

    run_id: str
    key: int
    epoch: int
    batch: Batch
    """The events appended; empty when only the end was written."""
    status: str
    cancel_requested: bool
    ended: bool = False
    """Whether it was this that ended the run."""


def sizes_of(data: Sequence[str]) -> list[int]:
    """Return the bytes that each takes as UTF-8."""
    if "".join(data).isascii():
        return list(map(len, data))
    return [len(text.encode()) for text in data]


def offsets_of(sizes: Sequence[int], start: int = 0) -> list[int]:
    """Return for each event of these sizes how many bytes are before it, ``start`` included."""
    return list(itertools.accumulate(sizes, initial=start))[: len(sizes)]
