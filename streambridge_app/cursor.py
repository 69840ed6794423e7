"""
Where a reader stands in a run's log, decided without I/O.

This module is to ``subscribe`` what a protocol state machine is to a connection: it says
what a cursor means against a run's head, and what a batch of events means against a position.
"""

from __future__ import annotations

import enum
import re
from typing import Final, NamedTuple

from .exceptions import InvalidCursor
from .runs import RunHead


class After(NamedTuple):
    """The cursor that asks for everything after one event."""

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"


class Special(enum.Enum):
    """The cursors that name no event."""

    START = "from the start"
    NOW = "only what comes next"


Cursor = After | Special
START: Final = Special.START
NOW: Final = Special.NOW

_EVENT_ID = re.compile(r"([0-9]{1,19})-([0-9]{1,19})")


def parse(text: str | None) -> Cursor:
    """
    Return the cursor that ``text`` means.

    ``None``, ``""`` and ``"-1"`` mean from the start, ``"now"`` only what comes next, and
    ``"<epoch>-<seq>"`` everything after that event.

    Raises:
        InvalidCursor: anything else.
    """
    if text is None or text == "" or text == "-1":
        return START
    if text == "now":
        return NOW
    match = _EVENT_ID.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise InvalidCursor(
            f"{text!r:.60} is not a cursor. Give the id of the last event you have "
            "('<epoch>-<seq>'), '-1' for all of the run, or 'now' for what comes next."
        )
    return After(int(match[1]), int(match[2]))


class Position(NamedTuple):
    """Where reading starts, and whether that is less than was asked for."""

    seq: int
    """Reading goes on with the event after this one."""
    gap: bool


def resolve(cursor: Cursor, run: RunHead) -> Position:
    """Return where a reader with ``cursor`` starts in ``run``."""
    if cursor is NOW:
        return Position(run.head, gap=False)
    if isinstance(cursor, After):
        if cursor.epoch == run.epoch and run.floor <= cursor.seq <= run.head:
            return Position(cursor.seq, gap=False)
        return Position(run.floor, gap=True)
    return Position(run.floor, gap=run.floor > 0)


class Verdict(enum.Enum):
    """What a batch of events is to a reader that has everything up to some ``seq``."""

    DELIVER = "begins with or before the next event and brings something new"
    DUPLICATE = "brings nothing new"
    GAP = "something between is missing: read the log"


def accept(have: int, first: int, last: int) -> Verdict:
    """Judge the events ``first``…``last`` for a reader that has everything up to ``have``."""
    if last <= have:
        return Verdict.DUPLICATE
    if first > have + 1:
        return Verdict.GAP
    return Verdict.DELIVER
