"""
What travels: the event, the sentinels, and the rules for names, ids and data.

Nothing here does I/O. Every rule is checked before anything is written, so that bad input
can never leave half a trace.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import uuid
from typing import Any, Final, TypeAlias

from ..exceptions import InvalidEvent, InvalidRunId
from .runs import END_STATUSES

MAX_NAME_LENGTH: Final = 255
MAX_KEY_LENGTH: Final = 255
MAX_RUN_ID_LENGTH: Final = 200
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_DOT_SEGMENTS: Final = frozenset({".", ".."})
_AFTER_RUN_ID: Final = ("/", "/stream", "/cancel")
"""How an address goes on after the run id: an id that ends so has the address of another run."""
_LINE_END: Final = re.compile("[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")
"""What ``str.splitlines``, and so many a client, takes for the end of a line."""

RunId: TypeAlias = str | uuid.UUID
"""What names a run; the run itself, and whatever tells of it, has the text."""


@dataclasses.dataclass(frozen=True)
class StreamEvent:
    """One item of a stream: an event of the run, or one of the sentinels below."""

    id: str
    """``"<epoch>-<seq>"`` for events; empty for everything that isn't in the log."""
    event: str
    """The event's name."""
    data: Any
    """What was published, as JSON carries it."""


HEARTBEAT_SENTINEL: Final = StreamEvent(id="", event="__heartbeat__", data=None)
"""Yielded when nothing happened for a heartbeat interval. Compare with ``is``."""

END_SENTINEL: Final = StreamEvent(id="", event="__end__", data=None)
"""Yielded once, last. Compare with ``is``."""

GAP_EVENT: Final = "__gap__"
"""Name of the item that says that part of what was asked for is not in the log."""


@dataclasses.dataclass(frozen=True, eq=False)
class GapEvent(StreamEvent):
    """The item that says that part of what was asked for is not in the log: what follows is."""

    id: str = ""
    event: str = GAP_EVENT
    data: dict[str, str | None] = dataclasses.field(default_factory=dict)
    """``requested``, ``earliest`` and ``latest``, as the properties have them."""

    @property
    def requested(self) -> str | None:
        """The cursor that can't be honoured in full; None for the start."""
        return self.data["requested"]

    @property
    def earliest(self) -> str | None:
        """Id of the earliest event that is left; None when none is."""
        return self.data["earliest"]

    @property
    def latest(self) -> str | None:
        """Id of the newest event; None when there is none."""
        return self.data["latest"]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StreamEvent):
            return NotImplemented
        return (self.id, self.event, self.data) == (other.id, other.event, other.data)

    __hash__ = StreamEvent.__hash__


def check_run_id(run_id: object) -> str:
    """
    Return ``run_id`` if it can name a run; a :class:`uuid.UUID` does by its text.

    Raises:
        InvalidRunId: not text, empty, over 200 characters, with control characters, with
            surrogates that UTF-8 can't carry, or without an address of its own: what has ``.`` or
            ``..`` between slashes, and what ends in ``/``, ``/stream`` or ``/cancel``.
    """
    if type(run_id) is str:
        return _checked_run_id(run_id)
    if isinstance(run_id, uuid.UUID):
        return str(run_id)
    if not isinstance(run_id, str):
        raise InvalidRunId(f"A run id must be a str, not {type(run_id).__name__}: {run_id!r:.80}.")
    return _checked_run_id(str.__str__(run_id))


@functools.lru_cache(1024)  # many calls name few runs
def _checked_run_id(run_id: str) -> str:
    if not run_id:
        raise InvalidRunId("A run id must not be empty.")
    if len(run_id) > MAX_RUN_ID_LENGTH:
        raise InvalidRunId(
            f"A run id may have {MAX_RUN_ID_LENGTH} characters, this one has {len(run_id)}: "
            f"{run_id[:40]!r}…"
        )
    if _CONTROL.search(run_id):
        raise InvalidRunId(f"A run id must not have control characters: {run_id!r}.")
    if not run_id.isascii() and not is_utf8(run_id):
        raise InvalidRunId(f"A run id must be encodable as UTF-8: {run_id!r}.")
    if not _DOT_SEGMENTS.isdisjoint(run_id.split("/")):
        # https://url.spec.whatwg.org/#double-dot-path-segment: written as %2E too.
        raise InvalidRunId(
            f"A run id must not be '.' or '..', nor have it between slashes: {run_id!r}. Browsers "
            "take that out of addresses, and ask for something else then."
        )
    if run_id.endswith(_AFTER_RUN_ID):
        raise InvalidRunId(
            "A run id must not end in '/', '/stream' or '/cancel': its address would be that of "
            f"another run. Put another character after {run_id!r}."
        )
    return run_id


def check_event_name(name: object) -> str:
    """
    Return ``name`` if an event may have it.

    Raises:
        InvalidEvent: not text, empty, over 255 characters, with NUL or the end of a line (CR and
            LF can't travel in an SSE field, and clients end lines at others as well), starting
            with ``__`` (kept for sentinels), or with surrogates that UTF-8 can't carry.
    """
    if type(name) is str:
        return _checked_event_name(name)
    if not isinstance(name, str):
        raise InvalidEvent(f"An event name must be a str, not {type(name).__name__}: {name!r:.80}.")
    return _checked_event_name(str.__str__(name))


@functools.lru_cache(256)  # a producer uses few names, and this is a tenth of a publish
def _checked_event_name(name: str) -> str:
    if not name:
        raise InvalidEvent("An event name must not be empty.")
    if len(name) > MAX_NAME_LENGTH:
        raise InvalidEvent(
            f"An event name may have {MAX_NAME_LENGTH} characters, this one has {len(name)}: "
            f"{name[:40]!r}…"
        )
    if "\0" in name or _LINE_END.search(name):
        raise InvalidEvent(
            "An event name must not have NUL, CR, LF, or another end of a line (U+000B, U+000C, "
            f"U+001C to U+001E, U+0085, U+2028, U+2029): {name!r}."
        )
    if name.startswith("__"):
        raise InvalidEvent(f"Event names that start with '__' are reserved: {name!r}.")
    if not name.isascii() and not is_utf8(name):
        raise InvalidEvent(f"An event name must be encodable as UTF-8: {name!r}.")
    return name


def check_key(key: object) -> str:
    """
    Return ``key`` if it can tell an event from the others of its run.

    Raises:
        InvalidEvent: not text, empty, over 255 characters, with control characters, or with
            surrogates that UTF-8 can't carry.
    """
    if not isinstance(key, str):
        raise InvalidEvent(f"A key must be a str, not {type(key).__name__}: {key!r:.80}.")
    if not 0 < len(key) <= MAX_KEY_LENGTH:
        raise InvalidEvent(
            f"A key has 1 to {MAX_KEY_LENGTH} characters, this one has {len(key)}: {key[:40]!r}."
        )
    if _CONTROL.search(key):
        raise InvalidEvent(f"A key must not have control characters: {key!r}.")
    if not is_utf8(key):
        raise InvalidEvent(f"A key must be encodable as UTF-8: {key!r}.")
    return str.__str__(key)


def check_end_status(status: object) -> str:
    """
    Return ``status`` if a run may end with it.

    Raises:
        ValueError: not one of success, error, cancelled, lost.
    """
    if status not in END_STATUSES:
        raise ValueError(f"A run ends with one of {', '.join(END_STATUSES)}; not with {status!r}.")
    return str(status)


def is_utf8(text: str) -> bool:
    """Return whether UTF-8 can carry a text: it has no surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
