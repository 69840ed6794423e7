"""What was published, for the assertions of tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections.abc import Iterable
from typing import Any, Final
from unittest.mock import ANY

from ..event_data import encode_data
from ..events import HEARTBEAT_SENTINEL, StreamEvent
from ..exceptions import InvalidEvent
from ..registry import get_bridge, get_sync_bridge

PAGE: Final = 1000
"""Events that are asked for at a time."""

LOOK_SECONDS: Final = 0.1
"""Seconds between two looks at the clock."""

SHOWN: Final = 20
"""Events that a failed assertion names, at most."""


class Recorder:
    """
    Looks at the events of runs.

    A run is given by its id, or by whatever has a ``run_id``: a ``Run``, a handle. Data equals what
    comes back from the log: a date is its text, a tuple a list; ``unittest.mock.ANY`` equals all.
    The methods that begin with ``a`` are for async tests.
    """

    def events(self, run: Any) -> list[StreamEvent]:
        """Return all events of a run, in order; RunNotFound if there is no such run."""
        found: list[StreamEvent] = []
        while page := get_sync_bridge().events(
            _id(run), last_event_id=found[-1].id if found else None, limit=PAGE
        ):
            found += page
        return found

    async def aevents(self, run: Any) -> list[StreamEvent]:
        """Return all events of a run, in order; RunNotFound if there is no such run."""
        found: list[StreamEvent] = []
        while page := await get_bridge().events(
            _id(run), last_event_id=found[-1].id if found else None, limit=PAGE
        ):
            found += page
        return found

    def assert_published(self, run: Any, event: str, data: Any = ANY) -> StreamEvent:
        """Return the first event of a run with this name and data; AssertionError if none is."""
        return _first(run, self.events(run), event, data)

    async def aassert_published(self, run: Any, event: str, data: Any = ANY) -> StreamEvent:
        """Return the first event of a run with this name and data; AssertionError if none is."""
        return _first(run, await self.aevents(run), event, data)

    def assert_not_published(self, run: Any, event: str, data: Any = ANY) -> None:
        """Raise AssertionError if a run has an event with this name and data."""
        _none(run, self.events(run), event, data)

    async def aassert_not_published(self, run: Any, event: str, data: Any = ANY) -> None:
        """Raise AssertionError if a run has an event with this name and data."""
        _none(run, await self.aevents(run), event, data)

    def wait_for(
        self, run: Any, event: str, data: Any = ANY, *, timeout: float = 5.0
    ) -> StreamEvent:
        """
        Wait for an event of a run, which need not exist yet, and return it.

        Args:
            run: the run.
            event: the event's name.
            data: its data.
            timeout: seconds after which to give up.

        Raises:
            AssertionError: it has not come by then, or the run has ended without it.
        """
        give_up_at = time.monotonic() + timeout
        seen: list[StreamEvent] = []
        coming = get_sync_bridge().subscribe(_id(run), heartbeat_interval=LOOK_SECONDS)
        with contextlib.closing(coming):
            for one in coming:
                if _is(one, event, data):
                    return one
                if one is not HEARTBEAT_SENTINEL:
                    seen.append(one)
                if time.monotonic() > give_up_at:
                    raise _late(run, seen, event, data, timeout)
        raise _missing(run, seen, event, data)

    async def await_for(
        self, run: Any, event: str, data: Any = ANY, *, timeout: float = 5.0
    ) -> StreamEvent:
        """Wait for an event: see :meth:`wait_for`."""
        seen: list[StreamEvent] = []
        coming = get_bridge().subscribe(_id(run), heartbeat_interval=timeout)
        try:
            async with asyncio.timeout(timeout), contextlib.aclosing(coming):
                async for one in coming:
                    if _is(one, event, data):
                        return one
                    if one is not HEARTBEAT_SENTINEL:
                        seen.append(one)
        except TimeoutError:
            raise _late(run, seen, event, data, timeout) from None
        raise _missing(run, seen, event, data)


def _id(run: Any) -> Any:
    return getattr(run, "run_id", run)


def _is(one: StreamEvent, event: str, data: Any) -> bool:
    if one.event != event or not one.id:
        return False
    return bool(one.data == data) or one.data == _as_json(data)


def _as_json(data: Any) -> Any:
    try:
        return json.loads(encode_data(data, math.inf))
    except InvalidEvent:  # as what has ANY somewhere
        return data


def _first(run: Any, events: list[StreamEvent], event: str, data: Any) -> StreamEvent:
    for one in events:
        if _is(one, event, data):
            return one
    raise _missing(run, events, event, data)


def _none(run: Any, events: list[StreamEvent], event: str, data: Any) -> None:
    for one in events:
        if _is(one, event, data):
            raise AssertionError(f"The run {_id(run)!r} has {_named(event, data)}: {one.id}.")


def _missing(run: Any, events: Iterable[StreamEvent], event: str, data: Any) -> AssertionError:
    return AssertionError(f"The run {_id(run)!r} has no {_named(event, data)}. {_shown(events)}")


def _late(
    run: Any, events: Iterable[StreamEvent], event: str, data: Any, timeout: float
) -> AssertionError:
    return AssertionError(
        f"The run {_id(run)!r} got no {_named(event, data)} in {timeout:g} s. {_shown(events)}"
    )


def _named(event: str, data: Any) -> str:
    return f"event {event!r}" if data is ANY else f"event {event!r} with the data {data!r}"


def _shown(events: Iterable[StreamEvent]) -> str:
    lines = [f"  {one.event} {one.data!r:.200}" for one in events if one.id]
    if not lines:
        return "It has none at all."
    more = [f"  and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join(["It has:", *lines[:SHOWN], *more])
