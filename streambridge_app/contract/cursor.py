"""
Where a reader stands in a run's log, decided without I/O.

This module is to ``subscribe`` what a protocol state machine is to a connection: it says
what a cursor means against a run's head, and what a batch of events means against a position.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from ..exceptions import InvalidCursor
from .runs import RUNNING


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


class Unreadable(NamedTuple):
    """What a client sent as its cursor by itself, and is none: it has lost its place."""

    text: str

    def __str__(self) -> str:
        return self.text


Cursor = After | Special | Unreadable
START: Final = Special.START
NOW: Final = Special.NOW

BEGINNING: Final = "-1"
"""Where a client stands whose run doesn't exist yet: a cursor that means from the start."""

PARAMETERS: Final = ("lastEventId", "lastEventID", "Last-Event-ID", "last_event_id")
"""
Names by which the address of a stream may carry a cursor; the first that is there wins.

Those before our own are what clients append by themselves to an address that a developer wrote:
event-source-polyfill and reconnecting-eventsource, and those of the Mercure protocol.
"""

_EVENT_ID = re.compile(r"([0-9]{1,19})-([0-9]{1,19})")
_SHOWN: Final = 60
"""Characters of a cursor that is none which its client is shown."""


def parse(text: str | Cursor | None) -> Cursor:
    """
    Return the cursor that ``text`` means; a cursor means itself.

    ``None``, ``""`` and ``"-1"`` mean from the start, ``"now"`` only what comes next, and
    ``"<epoch>-<seq>"`` everything after that event.

    Raises:
        InvalidCursor: anything else.
    """
    if isinstance(text, Cursor):
        return text
    if text is None or text == "" or text == BEGINNING:
        return START
    if text == "now":
        return NOW
    match = _EVENT_ID.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise InvalidCursor(
            f"{text!r:.{_SHOWN}} is not a cursor. Give the id of the last event you have "
            "('<epoch>-<seq>'), '-1' for all of the run, or 'now' for what comes next."
        )
    return After(int(match[1]), int(match[2]))


def parse_header(text: str | None) -> Cursor | None:
    """
    Return the cursor of a ``Last-Event-ID`` header; None if it says nothing.

    No developer writes this header, so that nobody would read of a mistake in it: what is no
    cursor is one that can't be honoured.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.4.
    """
    if not text:
        return None
    try:
        return parse(text)
    except InvalidCursor:
        return Unreadable(text[:_SHOWN])


def parameter(get: Callable[[str], str | None]) -> str | None:
    """Return the cursor in the parameters of an address, by whichever of :data:`PARAMETERS`."""
    return next((text for name in PARAMETERS if (text := get(name))), None)


class Standing(Protocol):
    """Where a run stands: what :class:`RunHead` and :class:`RunState` have in common."""

    @property
    def epoch(self) -> int: ...
    @property
    def head(self) -> int: ...
    @property
    def floor(self) -> int: ...
    @property
    def status(self) -> str: ...


class Position(NamedTuple):
    """Where reading starts, and whether that is less than was asked for."""

    seq: int
    """Reading goes on with the event after this one."""
    gap: bool


def resolve(cursor: Cursor, run: Standing) -> Position:
    """Return where a reader with ``cursor`` starts in ``run``."""
    if cursor is NOW or is_end(cursor, run):
        return Position(run.head, gap=False)
    if cursor is START:
        return Position(run.floor, gap=run.floor > 0)
    if (
        isinstance(cursor, After)
        and cursor.epoch == run.epoch
        and run.floor <= cursor.seq <= run.head
    ):
        return Position(cursor.seq, gap=False)
    return Position(run.floor, gap=True)


def end_of(epoch: int, head: int) -> After:
    """Return the cursor of a run's end: who comes with it has heard of the end."""
    return After(epoch, head + 1)


def is_end(cursor: Cursor, run: Standing) -> bool:
    """Return whether a cursor is the one of the end of a run that has ended."""
    return run.status != RUNNING and cursor == end_of(run.epoch, run.head)


class Start(NamedTuple):
    """Where a client starts, as it can be told before anything is read."""

    cursor: Cursor
    """What to follow from: it means the same whatever is published meanwhile."""
    position: str | None
    """The cursor to come back with until the first event; None if a gap comes first."""


def start(cursor: Cursor, run: Standing | None) -> Start:
    """Return where a client with ``cursor`` starts; ``run`` is None if there is no such run yet."""
    if run is None:
        waits = cursor in (START, NOW)
        return Start(START, BEGINNING) if waits else Start(cursor, None)
    seq, gap = resolve(cursor, run)
    after = After(run.epoch, seq)
    return Start(after if cursor is NOW else cursor, None if gap else str(after))


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
