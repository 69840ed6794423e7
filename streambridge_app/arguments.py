"""The arguments that every backend checks in the same way, before it does anything."""

from __future__ import annotations

import datetime
import math
import uuid
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from . import cursor
from .events import check_end_status, check_run_id, encode_data, error_data
from .runs import ERROR, LOST, SUCCESS

MAX_DELAY: Final = 3_155_760_000
"""Seconds, around a century: what a date can be added to."""


class NewRun(NamedTuple):
    """What ``create_run`` was asked for."""

    run_id: str
    owner_id: Any
    metadata_json: str
    lease_ms: int | None
    cancel_after_ms: int | None
    max_events: int | None
    max_bytes: int | None
    keep: datetime.timedelta | None


class NewEnd(NamedTuple):
    """What ``publish_end`` was asked for: the last events, if any, and the status."""

    run_id: str
    names: list[str]
    data: list[str]
    status: str


def new_run(
    run_id: str | None,
    owner: Any,
    metadata: Mapping[str, Any] | None,
    max_event_bytes: int,
    *,
    lease: float | None = None,
    cancel_after: float | None = None,
    max_events: int | None = None,
    max_bytes: int | None = None,
    keep: float | None = None,
) -> NewRun:
    """Check the arguments of ``create_run``; a missing id becomes a new UUID."""
    return NewRun(
        str(uuid.uuid4()) if run_id is None else check_run_id(run_id),
        getattr(owner, "pk", owner),
        encode_data(dict(metadata or {}), max_event_bytes),
        milliseconds("lease", lease),
        milliseconds("cancel_after", cancel_after),
        _check_limit("max_events", max_events),
        _check_limit("max_bytes", max_bytes),
        None if keep is None else check_delay(keep, "keep"),
    )


def new_end(run_id: str, status: str, error: BaseException | str | None) -> NewEnd:
    """Check the arguments of ``publish_end`` and return what to append, whatever its size."""
    check_run_id(run_id)
    check_end_status(status)
    if error is None:
        return NewEnd(run_id, [], [], status)
    if status == SUCCESS:
        status = ERROR
    return NewEnd(run_id, ["error"], [encode_data(error_data(error), math.inf)], status)


def new_loss(run_id: str) -> NewEnd:
    """Return what to append to a run whose lease has expired."""
    message = (
        "The lease of this run has expired: its producer died, or could not reach the log for "
        "longer than the lease lasts."
    )
    data = encode_data({"error": "ProducerLost", "message": message}, math.inf)
    return NewEnd(run_id, ["error"], [data], LOST)


def milliseconds(name: str, seconds: float | None) -> int | None:
    """Return an optional duration as whole milliseconds, 1 or more, or raise ValueError."""
    if seconds is None:
        return None
    if not 0 < seconds <= MAX_DELAY:
        raise ValueError(
            f"{name} must be more than 0 and up to {MAX_DELAY:,} seconds, or None, not {seconds!r}."
        )
    return max(1, round(seconds * 1000))


def _check_limit(name: str, limit: int | None) -> int | None:
    if limit is not None and not 1 <= limit < 2**63:
        raise ValueError(f"{name} must be 1 or more, or None, not {limit!r}.")
    return limit


def check_keep(keep: int) -> int:
    """Return how many events to keep, or raise ValueError."""
    if keep < 0:
        raise ValueError(f"keep must be 0 or more events, not {keep!r}.")
    return keep


def check_delay(delay: float, name: str = "delay") -> datetime.timedelta:
    """Return a delay in seconds as a timedelta, or raise ValueError."""
    if not 0 <= delay <= MAX_DELAY:
        raise ValueError(f"{name} must be 0 to {MAX_DELAY:,} seconds, not {delay!r}.")
    return datetime.timedelta(seconds=delay)


def check_subscription(
    run_id: object, last_event_id: str | None, heartbeat_interval: float
) -> None:
    """Check the arguments of ``follow`` and ``subscribe`` at the call, not at the first item."""
    check_run_id(run_id)
    cursor.parse(last_event_id)
    if not heartbeat_interval > 0:
        raise ValueError(f"heartbeat_interval must be more than 0 s, not {heartbeat_interval!r}.")
