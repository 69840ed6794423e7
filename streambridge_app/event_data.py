"""
The data of events: what it may be, and how it becomes text.

Text, not a JSON column, is what the log keeps: PostgreSQL's ``jsonb`` refuses U+0000 and reorders
keys.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

import orjson

from .events import is_utf8
from .exceptions import InvalidEvent

MAX_DEPTH: Final = 500
"""Levels of lists and objects in data: Python 3.11 reads a few less than 1,000."""
_BRACKETS: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]')

MAX_ERROR_LENGTH: Final = 16_384
"""Characters of an error's message; the rest is cut."""


_unicode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_ascii = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"))
_MOST_VALUES: Final = 100_000
"""Values that data may have for orjson: circular data has no end of them."""
_SCALARS: Final = frozenset({str, int, bool, type(None)})


def _encode(data: Any) -> str:
    """Return JSON text: by orjson, or by json, ten times slower, where they may differ."""
    if _is_plain(data):
        try:
            return orjson.dumps(data).decode()
        except orjson.JSONEncodeError:  # keys that aren't text, surrogates, numbers over 64 bits
            pass
    text = _unicode.encode(data)
    return text if is_utf8(text) else _ascii.encode(data)


def _is_plain(data: Any) -> bool:
    """
    Return whether data has nothing but what JSON itself knows.

    To orjson NaN is null, and a fragment goes in as it is. It also runs code of a member of an
    enum, and no longer stands when a signal's handler raises in there.
    """
    values = [data]
    for value in values:  # and what is in it, which is added meanwhile
        kind = type(value)
        if kind in _SCALARS or (kind is float and math.isfinite(value)):
            continue
        if kind is dict:
            values += value.values()
        elif kind is list or kind is tuple:
            values += value
        else:
            return False
        if len(values) > _MOST_VALUES:
            return False
    return True


def encode_data(data: Any, max_bytes: float) -> str:
    """
    Return ``data`` as one line of JSON text.

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
