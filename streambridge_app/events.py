"""
What travels: the event, the sentinels, and the rules for names, ids and data.

Nothing here does I/O. Every rule is checked before anything is written, so that bad input
can never leave half a trace.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import math
import re
import uuid
from typing import Any, Final

import orjson

from .exceptions import InvalidEvent, InvalidRunId
from .runs import END_STATUSES

MAX_NAME_LENGTH: Final = 255
MAX_KEY_LENGTH: Final = 255
MAX_RUN_ID_LENGTH: Final = 200
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")

MAX_DEPTH: Final = 500
"""Levels of lists and objects in data: Python 3.11 reads a few less than 1,000."""
_BRACKETS: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]')

MAX_ERROR_LENGTH: Final = 16_384
"""Characters of an error's message; the rest is cut."""


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


def check_run_id(run_id: object) -> str:
    """
    Return ``run_id`` if it can name a run.

    Raises:
        InvalidRunId: not text, empty, over 200 characters, with control characters, or
            with surrogates that UTF-8 can't carry.
    """
    if type(run_id) is str:
        return _checked_run_id(run_id)
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
    if not run_id.isascii() and not _is_utf8(run_id):
        raise InvalidRunId(f"A run id must be encodable as UTF-8: {run_id!r}.")
    return run_id


def check_event_name(name: object) -> str:
    """
    Return ``name`` if an event may have it.

    Raises:
        InvalidEvent: not text, empty, over 255 characters, with CR, LF or NUL (they can't
            travel in an SSE field), starting with ``__`` (kept for sentinels), or with
            surrogates that UTF-8 can't carry.
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
    if "\n" in name or "\r" in name or "\0" in name:
        raise InvalidEvent(f"An event name must not have CR, LF or NUL: {name!r}.")
    if name.startswith("__"):
        raise InvalidEvent(f"Event names that start with '__' are reserved: {name!r}.")
    if not name.isascii() and not _is_utf8(name):
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
    if not _is_utf8(key):
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


def _plain(value: object) -> Any:
    """Return what stands for a value that json doesn't know, as orjson would."""
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.value
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


_unicode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
)
_ascii = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"), default=_plain)
_OPTIONS: Final = (
    orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)


def _encode(data: Any) -> str:
    """Return JSON text: by orjson, or by json, ten times slower, where that is not exact."""
    try:
        text = orjson.dumps(data, None, _OPTIONS).decode()
    except orjson.JSONEncodeError:
        pass
    else:
        # NaN is null to it, and an orjson.Fragment goes in as it is, on many lines even.
        if ("null" not in text or _is_exact(data)) and "\n" not in text:
            return text
    text = _unicode.encode(data)
    return text if _is_utf8(text) else _ascii.encode(data)


def _is_exact(data: Any) -> bool:
    """Return whether JSON has all of some data: no NaN, no infinity, no type of one's own."""
    values = [data]
    for value in values:  # and what is in it, which is added meanwhile
        kind = type(value)
        if kind in _EXACT or (kind is float and math.isfinite(value)):
            continue
        if kind is dict:
            values += value.values()
        elif kind is list or kind is tuple:
            values += value
        else:
            return False
    return True


_EXACT: Final = frozenset({str, int, bool, type(None)})


def encode_data(data: Any, max_bytes: float) -> str:
    """
    Return ``data`` as one line of JSON text.

    Text, not a JSON column, is what the log keeps: PostgreSQL's ``jsonb`` refuses U+0000 and
    reorders keys.

    Args:
        data: anything that JSON can express.
        max_bytes: the largest size allowed, in bytes of UTF-8.

    Raises:
        InvalidEvent: JSON can't express it (NaN and infinities included), or it is too large or
            too deep.
    """
    try:
        text = _encode(data)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEvent(f"The data can't be expressed as JSON: {error}.") from error
    size = len(text) if text.isascii() else len(text.encode())
    if size > max_bytes:
        raise InvalidEvent(
            f"The data takes {size} bytes as JSON; STREAMBRIDGE['MAX_EVENT_BYTES'] allows "
            f"{max_bytes}. Publish a reference to it, or in parts."
        )
    # Each level takes two brackets.
    if (
        size > 2 * MAX_DEPTH
        and text.count("[") + text.count("{") > MAX_DEPTH
        and _depth(text) > MAX_DEPTH
    ):
        raise InvalidEvent(
            f"The data has more than {MAX_DEPTH} levels of lists and objects in each other."
        )
    return text


def _depth(text: str) -> int:
    """Return how deep lists and objects are in each other in JSON text."""
    level = deepest = 0
    for token in _BRACKETS.finditer(text):
        first = text[token.start()]
        if first in "[{":
            level += 1
            deepest = max(deepest, level)
        elif first in "]}":
            level -= 1
    return deepest


def error_data(error: BaseException | str) -> dict[str, str]:
    """
    Return the data of the ``error`` event that says why a run failed.

    Whatever the error, this never fails and stays small: a run must be able to end.
    """
    if not isinstance(error, BaseException):
        return {"error": "Error", "message": _shortened(str(error))}
    try:
        message = str(error)
    except Exception:
        message = f"<{type(error).__qualname__} that can't be printed>"
    return {"error": type(error).__name__, "message": _shortened(message)}


def _shortened(message: str) -> str:
    if len(message) <= MAX_ERROR_LENGTH:
        return message
    return message[: MAX_ERROR_LENGTH - 1] + "…"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
