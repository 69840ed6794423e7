"""What was published, for the assertions of tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import sys
import time
from collections.abc import Iterable
from typing import Any, Final
from unittest.mock import ANY

from ..contract import HEARTBEAT_SENTINEL, SUCCESS, RunState, StreamEvent, encode_data
from ..exceptions import InvalidEvent, RunNotFound
from ..registry import get_bridge, get_sync_bridge

ALL: Final = sys.maxsize

LOOK_SECONDS: Final = 0.1
"""Seconds between two looks at the clock."""

SHOWN: Final = 20
"""Events that a failed assertion names, at most."""


class Recorder:
    """
    Looks at the events of runs.

    A run is given by its id, or by what has one: a ``Run``, a handle, Celery's result of a task.
    Data equals what comes back from the log: a date is its text, a tuple a list;
    ``unittest.mock.ANY`` equals all. The methods that begin with ``a`` are for async tests.
    """

    def events(self, run: Any) -> list[StreamEvent]:
        """Return all events that a run has, in order; none if there is no such run."""
        try:
            found = get_sync_bridge().events(_id(run), limit=ALL)
        except RunNotFound:
            return []
        return [one for one in found if one.id]

    async def aevents(self, run: Any) -> list[StreamEvent]:
        """Return all events that a run has, in order; none if there is no such run."""
        try:
            found = await get_bridge().events(_id(run), limit=ALL)
        except RunNotFound:
            return []
        return [one for one in found if one.id]

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

    def assert_ended(self, run: Any, status: str = SUCCESS) -> RunState:
        """Return the state of a run; AssertionError if it has not ended with this status."""
        try:
            return _ended(run, status, get_sync_bridge().get_run(_id(run)))
        except RunNotFound as error:
            raise AssertionError(str(error)) from error

    async def aassert_ended(self, run: Any, status: str = SUCCESS) -> RunState:
        """Return the state of a run; AssertionError if it has not ended with this status."""
        try:
            return _ended(run, status, await get_bridge().get_run(_id(run)))
        except RunNotFound as error:
            raise AssertionError(str(error)) from error

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


recorder: Final = Recorder()
"""It has no state: one does for all."""


def _id(run: Any) -> Any:
    return getattr(run, "run_id", getattr(run, "task_id", run))


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


def _ended(run: Any, status: str, state: RunState) -> RunState:
    if state.status != status:
        why = f" by {state.error}" if state.error else ""
        raise AssertionError(f"The run {_id(run)!r} is {state.status!r}{why}, not {status!r}.")
    return state


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
    before = [f"  {len(lines) - SHOWN} more, and"] if len(lines) > SHOWN else []
    return "\n".join(["It has:", *before, *lines[-SHOWN:]])
