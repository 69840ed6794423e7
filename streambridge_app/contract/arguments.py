"""The arguments that every backend checks in the same way, before it does anything."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Any, Final

from . import cursor
from .events import check_run_id

MAX_DELAY: Final = 3_155_760_000
"""Seconds, around a century: what a date can be added to."""


def check_number(name: str, value: object) -> None:
    """Raise TypeError unless a value can be compared with numbers."""
    try:
        value < 0  # type: ignore[operator]  # noqa: B015
    except TypeError:
        raise TypeError(f"{name} must be a number, not {value!r:.80}.") from None


def milliseconds(name: str, seconds: float | None) -> int | None:
    """Return an optional duration as whole milliseconds, 1 or more, or raise ValueError."""
    if seconds is None:
        return None
    check_number(name, seconds)
    if not 0 < seconds <= MAX_DELAY:
        raise ValueError(
            f"{name} must be more than 0 and up to {MAX_DELAY:,} seconds, or None, not {seconds!r}."
        )
    return max(1, round(seconds * 1000))


def check_iterable(items: Any) -> Iterable[Any]:
    """Return what can be iterated over, or raise TypeError; a text is one thing, not many."""
    if isinstance(items, Iterable) and not isinstance(items, str | bytes):
        return items
    raise TypeError(f"publish_all() takes an iterable, not {items!r:.80}.")


def check_limit(name: str, limit: int | None) -> int | None:
    """Return an optional number of events or bytes, or raise ValueError."""
    if limit is None:
        return None
    check_number(name, limit)
    if not 1 <= limit < 2**63:
        raise ValueError(f"{name} must be 1 or more, or None, not {limit!r}.")
    return limit


def check_keep(keep: int) -> int:
    """Return how many events to keep, or raise ValueError."""
    check_number("keep", keep)
    if keep < 0:
        raise ValueError(f"keep must be 0 or more events, not {keep!r}.")
    return keep


def check_delay(delay: float, name: str = "delay") -> datetime.timedelta:
    """Return a delay in seconds as a timedelta, or raise ValueError."""
    check_number(name, delay)
    if not 0 <= delay <= MAX_DELAY:
        raise ValueError(f"{name} must be 0 to {MAX_DELAY:,} seconds, not {delay!r}.")
    return datetime.timedelta(seconds=delay)


def check_subscription(
    run_id: object, last_event_id: str | cursor.Cursor | None, heartbeat_interval: float
) -> str:
    """
    Check the arguments of ``follow`` and ``subscribe`` at the call, not at the first item.

    Returns:
        The run's id.
    """
    checked = check_run_id(run_id)
    cursor.parse(last_event_id)
    check_number("heartbeat_interval", heartbeat_interval)
    if not heartbeat_interval > 0:
        raise ValueError(f"heartbeat_interval must be more than 0 s, not {heartbeat_interval!r}.")
    return checked
