"""
Where the routes of this app are in a project, found by walking its patterns.

``reverse()`` needs a value for each part that a project's ``include()`` captures, and nobody here
knows a tenant. So a part of one of Django's own converters gets a value that fits it, which is said
to be a guess; for any other part there is none, which is said too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import quote

from channels.routing import URLRouter
from django.urls import converters, get_resolver

from ..serve import RunIdConverter

MOST_OBJECTS: Final = 1000
"""Parts of an ASGI application that are looked at for routes, at most."""

_PART: Final = re.compile(r"<(?:[^<>:]+:)?(\w+)>")
_GUESSES: Final[dict[type, str]] = {
    converters.IntConverter: "1",
    converters.PathConverter: "doctor",
    converters.SlugConverter: "doctor",
    converters.StringConverter: "doctor",
    converters.UUIDConverter: "00000000-0000-0000-0000-000000000000",
}


@dataclasses.dataclass(frozen=True)
class Address:
    """The address of a route."""

    route: str
    """As the patterns have it, from the root on."""
    path: str
    """With a value for each part; empty if there is none for one."""
    guessed: bool
    """Whether a value is a guess."""


def http_addresses(view: Any, run_id: str) -> list[Address]:
    """Return the addresses of a view in ``ROOT_URLCONF``, the best for a try first."""

    def walk(patterns: list[Any], before: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        for one in patterns:
            way = (*before, one.pattern)
            if hasattr(one, "url_patterns"):
                yield from walk(one.url_patterns, way)
            elif one.callback is view:
                yield way

    return _sorted(walk(get_resolver().url_patterns, ()), run_id, slash=False)


def socket_addresses(application: Any, consumer: type, run_id: str) -> list[Address]:
    """Return the addresses of a consumer in an ASGI application, as far as routes can be seen."""

    def walk(router: Any, before: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        for route in router.routes:
            way = (*before, route.pattern)
            if isinstance(route.callback, URLRouter):
                yield from walk(route.callback, way)
            else:
                found = getattr(route.callback, "consumer_class", None)
                if isinstance(found, type) and issubclass(found, consumer):
                    yield way

    ways = (way for router in _routers(application) for way in walk(router, ()))
    return _sorted(ways, run_id, slash=True)


def _routers(application: Any) -> Iterator[Any]:
    """Look for routers in the attributes and closures of wrappers; what is found is outermost."""
    waiting, seen = [application], set[int]()
    while waiting and len(seen) < MOST_OBJECTS:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, URLRouter):
            yield one
            continue
        for value in _held(one):
            inside = value.values() if isinstance(value, dict) else [value]
            waiting += [each for each in inside if callable(each)]


def _held(one: Any) -> Iterator[Any]:
    yield from getattr(one, "__dict__", {}).values()
    for cell in getattr(one, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # not filled yet
            yield cell.cell_contents


def _sorted(ways: Iterator[tuple[Any, ...]], run_id: str, *, slash: bool) -> list[Address]:
    """Return the addresses, best for a try first: known ones, with a slash at the end or not."""

    def rank(found: Address) -> tuple[bool, bool, bool]:
        return (not found.path, found.guessed, found.route.endswith("/") is not slash)

    return sorted((_address(way, run_id) for way in ways), key=rank)


def _address(way: tuple[Any, ...], run_id: str) -> Address:
    route, path = "/", "/"
    known, guessed = True, False
    for pattern in way:
        text = str(pattern)
        route += text
        if text.startswith("^"):
            known &= re.fullmatch(r"\^[\w/-]*", text) is not None
            path += text[1:]
            continue
        values = {}
        for name, converter in getattr(pattern, "converters", {}).items():
            if isinstance(converter, RunIdConverter):
                values[name] = quote(run_id, safe="")
            elif type(converter) in _GUESSES:
                values[name], guessed = _GUESSES[type(converter)], True
            else:
                known = False
        path += _PART.sub(_lookup(values), text)
    return Address(route, path if known else "", guessed)


def _lookup(values: dict[str, str]) -> Callable[[re.Match[str]], str]:
    return lambda part: values.get(part[1], part[0])
