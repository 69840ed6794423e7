"""How a run is created and ended, as every backend does it: checked before anything is done."""

from __future__ import annotations

import datetime
import math
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

from .arguments import check_delay, check_limit, milliseconds
from .events import RunId, check_end_status, check_run_id
from .payload import encode_data, error_data
from .runs import ERROR, LOST, SUCCESS


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
    run_id: RunId | None,
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
    owner_id = getattr(owner, "pk", owner)
    if owner_id is None and not (owner is None or getattr(owner, "is_anonymous", False)):
        raise ValueError(f"The owner has no primary key, save it first: {owner!r:.80}.")
    if not isinstance(metadata, Mapping | None):
        raise TypeError(f"metadata must be a mapping, not {metadata!r:.80}.")
    return NewRun(
        str(uuid.uuid4()) if run_id is None else check_run_id(run_id),
        owner_id,
        encode_data({} if metadata is None else metadata, max_event_bytes, "metadata"),
        milliseconds("lease", lease),
        milliseconds("cancel_after", cancel_after),
        check_limit("max_events", max_events),
        check_limit("max_bytes", max_bytes),
        None if keep is None else check_delay(keep, "keep"),
    )


def new_end(run_id: RunId, status: str, error: BaseException | str | None) -> NewEnd:
    """Check the arguments of ``publish_end`` and return what to append, whatever its size."""
    run_id = check_run_id(run_id)
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
