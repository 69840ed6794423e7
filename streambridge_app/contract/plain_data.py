"""
What a project publishes, in the words that JSON has: dates as text, models as objects.

It must never lose a value in silence, and whatever is wrong with data, or goes wrong while it is
read, is an :class:`InvalidEvent` that names the place.
"""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.core.serializers.json import DjangoJSONEncoder
from django.db.models import Model, QuerySet
from django.utils.functional import LazyObject
from django.utils.module_loading import import_string

from ..conf import NAME, streambridge_settings
from ..exceptions import InvalidEvent

MAX_DEPTH: Final = 500
"""Levels of lists and objects in data: Python 3.11 reads a few less than 1,000."""

_MOST_CONVERSIONS: Final = 10
"""How often what one value was turned into may be turned into something else again."""

_SHOWN_STEPS: Final = 6
"""Steps at either end of a place; what is between is left out."""

_MACHINE_BITS: Final = 64
"""Of a whole number that is written without a look at its digits."""

_django: Final = DjangoJSONEncoder()

_ADVICE: Final[tuple[tuple[tuple[type, ...], str], ...]] = (
    (
        (bytes, bytearray, memoryview),
        "Decode it, or send base64.b64encode(…).decode().",
    ),
    ((set, frozenset), "A set has no order: give sorted(…) or list(…)."),
    ((Model, LazyObject), "Give what the reader needs of it: its pk, or a dict of some fields."),
    ((QuerySet,), "Give a list of what the reader needs: list(….values(…))."),
    ((Awaitable, AsyncIterable), "Await it, and give what comes of it."),
    ((type,), "Give an instance, or its name."),
    ((Iterable,), "Give a list: list(…)."),
)
_OTHERWISE: Final = (
    f"Give text, numbers, lists and dicts, or let {NAME}['ENCODER'] turn it into these."
)


def to_plain(data: Any, name: str, most_values: float) -> Any:
    """
    Return a copy of data that has nothing but dict, list, str, int, float, bool and None.

    Args:
        data: what was published: besides what JSON knows, what ``DjangoJSONEncoder`` knows,
            dataclasses, enums, whatever has ``model_dump(mode="json")`` or is numpy's, and what
            the setting ``ENCODER`` turns into any of these.
        name: what to call it in errors.
        most_values: values that it may have.

    Raises:
        InvalidEvent: something in it can't be expressed.
        ImproperlyConfigured: ``ENCODER`` can't be imported.
    """
    return _Copying(name, most_values).copy(data)


class _Level:
    """A list or an object that is being copied."""

    __slots__ = ("items", "key", "source", "target")

    def __init__(
        self, source: Any, items: Iterable[tuple[Any, Any]], target: list[Any] | dict[str, Any]
    ) -> None:
        self.source = source
        """What was published, kept so that its identity is nobody else's meanwhile."""
        self.items: Iterator[tuple[Any, Any]] = iter(items)
        self.target = target
        self.key: Any = None
        """Of the item that is being copied."""

    def put(self, plain: Any) -> None:
        if isinstance(self.target, list):
            self.target.append(plain)
        else:
            self.target[self.key] = plain


class _Copying:
    """One copy, level by level and without recursion: who publishes may be deep in calls."""

    def __init__(self, name: str, most_values: float) -> None:
        self._name = name
        self._most_values = most_values
        self._levels: list[_Level] = []
        """From the outermost to the one that is being copied."""
        self._open: set[int] = set()
        """Identities of what these are copies of."""

    def copy(self, data: Any) -> Any:
        root: list[Any] = []
        self._levels.append(_Level(None, [(None, data)], root))
        values = 0
        while self._levels:
            level = self._levels[-1]
            for key, value in level.items:
                level.key = key
                values += 1
                if values > self._most_values:
                    raise InvalidEvent(
                        f"The {self._name} has more than {self._most_values} values, and "
                        f"{NAME}['MAX_EVENT_BYTES'] allows no more bytes. Publish a reference to "
                        "it, or in parts."
                    )
                plain = self._read(value)
                if isinstance(plain, _Level):
                    level.put(plain.target)
                    self._levels.append(plain)
                    break
                level.put(plain)
            else:
                self._open.discard(id(level.source))
                self._levels.pop()
        return root[0]

    def _read(self, value: Any) -> Any:
        try:
            return self._plain(value)
        except (InvalidEvent, ImproperlyConfigured):
            raise
        except Exception as error:  # of code that is not ours
            raise self._refusal(
                f"is a {_named(type(value))} that can't be read: {_told(error)}. {_OTHERWISE}"
            ) from error

    def _plain(self, value: Any) -> Any:
        """Return a value if it needs no copy or has none in it; a list or object to copy if not."""
        source = value
        for _ in range(_MOST_CONVERSIONS):
            kind = type(value)
            if value is None or kind is bool:
                return value
            if issubclass(kind, str):
                return str.__str__(value)
            if issubclass(kind, int):
                return self._whole(int.__pos__(value))
            if issubclass(kind, float):
                return self._finite(float.__pos__(value))
            if issubclass(kind, list | tuple):
                return self._opened(source, enumerate(tuple(value)), [])
            if issubclass(kind, Mapping):
                return self._opened(source, self._pairs(value), {})
            value = self._converted(value, kind)
        raise self._refusal(
            f"is a {_named(type(source))} that is turned into another {_named(type(value))} each "
            f"time. {_OTHERWISE}"
        )

    def _whole(self, number: int) -> int:
        if number.bit_length() > _MACHINE_BITS:
            repr(number)  # or it says that there are too many digits
        return number

    def _finite(self, number: float) -> float:
        if math.isfinite(number):
            return number
        raise self._refusal(f"is {number!r}, which JSON has no word for. Give None, or text.")

    def _opened(
        self, source: Any, items: Iterable[tuple[Any, Any]], target: list[Any] | dict[str, Any]
    ) -> _Level:
        if id(source) in self._open:
            raise self._refusal("contains itself: circular data has no end. Give its id instead.")
        if len(self._levels) > MAX_DEPTH:  # the first of them is nobody's
            raise self._refusal(
                f"is in more than {MAX_DEPTH} levels of lists and objects. Publish it in parts, "
                "or as a list of nodes that name each other."
            )
        self._open.add(id(source))
        return _Level(source, items, target)

    def _pairs(self, mapping: Mapping[Any, Any]) -> Iterable[tuple[str, Any]]:
        kind = type(mapping)
        if hasattr(kind, "getlist") or hasattr(kind, "getall"):
            raise self._refusal(
                f"is a {_named(kind)}, which may have several values for a key: all but "
                "one would be lost. Give dict(….lists()) for all of them, or ….dict()."
            )
        pairs: dict[str, tuple[Any, Any]] = {}
        for key, value in tuple(mapping.items()):
            text = self._key(key)
            if text in pairs:
                raise self._refusal(
                    f"has the keys {reprlib.repr(pairs[text][0])} and {reprlib.repr(key)}, which "
                    "are the same in JSON: one value would be lost. Let their texts differ."
                )
            pairs[text] = key, value
        return [(text, value) for text, (_, value) in pairs.items()]

    def _key(self, key: Any) -> str:
        """Return the key that JSON has in place of one that Python has."""
        kind = type(key)
        if issubclass(kind, str):
            return str.__str__(key)
        if key is None:
            return "null"
        if kind is bool:
            return "true" if key else "false"
        if issubclass(kind, int):
            return int.__repr__(key)
        if issubclass(kind, float) and math.isfinite(key):
            return float.__repr__(key)
        raise self._refusal(
            f"has the key {reprlib.repr(key)}, a {_named(kind)}. Keys are text, or numbers that "
            "become text: give str(key), or a list of pairs."
        )

    def _converted(self, value: Any, kind: type) -> Any:
        """Return what to publish in place of something that JSON doesn't know."""
        if issubclass(kind, Enum):
            return value.value
        # Of the class, not of the instance: some objects claim to have everything.
        if hasattr(kind, "model_dump") and not issubclass(kind, type):
            return value.model_dump(mode="json")
        if dataclasses.is_dataclass(kind):
            return {field.name: getattr(value, field.name) for field in dataclasses.fields(kind)}
        if hasattr(kind, "tolist") and hasattr(kind, "dtype"):
            if getattr(value.dtype, "kind", None) in ("m", "M"):  # some become bare numbers
                raise self._refusal(
                    f"is a {_named(kind)} of dates or durations. Give "
                    "….astype('datetime64[us]').tolist(), or text."
                )
            return value.tolist()
        try:
            return _django.default(value)
        except TypeError:
            pass
        encoder = _encoder()
        if encoder is not None:
            try:
                return encoder(value)
            except TypeError:
                pass
        advice = next((text for kinds, text in _ADVICE if issubclass(kind, kinds)), _OTHERWISE)
        raise self._refusal(f"is a {_named(kind)}. {advice}")

    def _refusal(self, problem: str) -> InvalidEvent:
        return InvalidEvent(
            f"The {self._name} can't be expressed as JSON: {self._place()} {problem}"
        )

    def _place(self) -> str:
        """Return where the item is that is being copied, as one would write it in Python."""
        steps = [f"[{_step(level.key)}]" for level in self._levels[1:]]
        if len(steps) > 2 * _SHOWN_STEPS:
            steps[_SHOWN_STEPS:-_SHOWN_STEPS] = ["…"]
        return "".join([self._name, *steps])


def _step(key: str | int) -> str:
    if isinstance(key, int):
        return str(key)
    return json.dumps(key if len(key) <= 40 else f"{key[:39]}…", ensure_ascii=not key.isprintable())


def _named(kind: type) -> str:
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _told(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {error!s:.200}"
    except Exception:
        return type(error).__name__


def _encoder() -> Callable[[Any], Any] | None:
    path = streambridge_settings.ENCODER
    if path is None:
        return None
    try:
        encoder: Callable[[Any], Any] = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(f"{NAME}['ENCODER'] can't be imported: {error}.") from error
    return encoder
