"""
The data of events: what it may be, and how it becomes text.

Text, not a JSON column, is what the log keeps: PostgreSQL's ``jsonb`` refuses U+0000 and reorders
keys.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

import orjson
from django.core.exceptions import ImproperlyConfigured

from ..exceptions import InvalidEvent
from .events import is_utf8
from .plain_data import to_plain

MAX_ERROR_LENGTH: Final = 16_384
"""Characters of an error's message; the rest is cut."""

MAX_ERROR_DATA: Final = 8 * MAX_ERROR_LENGTH
"""Characters of its JSON, of which an escaped one takes six; a type's name is shorter."""


_unicode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_ascii = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"))
_MOST_VALUES: Final = 1_000_000
"""Values that data may have for orjson: circular data has no end of them."""
_LINE_ENDS: Final = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
"""
Characters that JSON need not escape, but at which ``str.splitlines`` and many clients end a line.
"""
_SCALARS: Final = frozenset({str, int, bool, type(None)})


def _encode(data: Any, name: str, max_bytes: float) -> bytes:
    """Return JSON by orjson if data is plain, else of a plain copy, a good deal slower."""
    if _is_plain(data):
        try:
            return orjson.dumps(data)
        except orjson.JSONEncodeError:  # keys that aren't text, and what is said below
            pass
    plain = to_plain(data, name, max_bytes)
    try:
        return orjson.dumps(plain)
    except orjson.JSONEncodeError:  # surrogates, numbers over 64 bits, more than 254 levels
        text = _unicode.encode(plain)
        return text.encode() if is_utf8(text) else _ascii.encode(plain).encode()


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


def encode_data(data: Any, max_bytes: float, name: str = "data") -> str:
    """
    Return ``data`` as one line of JSON text.

    Args:
        data: what :func:`streambridge_app.contract.plain_data.to_plain` takes.
        max_bytes: the largest size allowed, in bytes of UTF-8.
        name: what to call it in errors.

    Raises:
        InvalidEvent: JSON can't express it (NaN and infinities included), or it is too large or
            too deep.
    """
    try:
        encoded = _encode(data, name, max_bytes)
    except (InvalidEvent, ImproperlyConfigured):
        raise
    except Exception as error:  # it changes meanwhile, or its caller is deep in calls
        raise InvalidEvent(f"The {name} can't be expressed as JSON: {error}.") from error
    text = encoded.decode()
    size = len(encoded)
    if size != len(text) and ("\u2028" in text or "\u2029" in text or "\x85" in text):
        text = text.translate(_LINE_ENDS)
        size = len(text.encode())
    if size > max_bytes:
        raise InvalidEvent(
            f"The {name} takes {size} bytes as JSON; STREAMBRIDGE['MAX_EVENT_BYTES'] allows "
            f"{max_bytes}. Publish a reference to it, or in parts."
        )
    return text


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
