"""How a run is created and ended, as every backend does it: checked before anything is done."""

from __future__ import annotations

import datetime
import math
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple, TypedDict

from .arguments import check_delay, check_limit, milliseconds
from .events import RunId, check_end_status, check_run_id
from .payload import encode_data, error_data
from .runs import ERROR, LOST, SUCCESS


class RunOptions(TypedDict, total=False):
    """
    What ``create_run`` can be told of a run, each by its name.

    Whoever wraps it takes them as ``**options: Unpack[RunOptions]``, by ``typing.Unpack``. None is
    the same as to leave one out. They are checked before anything is written: an unknown name, and
    what is no mapping or no number where it has to be one, raise TypeError.

    owner: a user (or the primary key of one) who may read and cancel the run; None: nobody. A user
        who was never saved raises ValueError.
    metadata: a mapping, a JSON object of the caller's, shown with the run's state; None: ``{}``.
        What JSON can't express, or is over ``MAX_EVENT_BYTES``, raises InvalidEvent.
    lease: seconds after which the run ends as lost if nobody publishes to it or opens a handle, as
        when its worker never starts; None: it waits for ever. 0 or less raises ValueError.
    cancel_after: seconds for which its last client must be gone before the run is asked to cancel,
        a few more than it says; None: it runs without clients. Before its first client, it does
        anyway. 0 or less raises ValueError.
    max_events: newest events to keep; None: what the setting ``MAX_RUN_EVENTS`` says. Older ones
        are deleted in the background; a cursor into them gets a gap. Below 1 raises ValueError.
    max_bytes: the same in bytes of data (``MAX_RUN_BYTES``). The newest event is kept whatever its
        size.
    keep: seconds from its end to its deletion; None: ``KEEP_SECONDS``, or ``KEEP_UNOWNED_SECONDS``
        for a run without an owner. Below 0 raises ValueError.
    """

    owner: Any
    metadata: Mapping[str, Any] | None
    lease: float | None
    cancel_after: float | None
    max_events: int | None
    max_bytes: int | None
    keep: float | None


class NewRun(NamedTuple):
    """What is said of a run to create, as the log has it; None: nothing."""

    owner_id: Any = None
    metadata_json: str = "{}"
    lease_ms: int | None = None
    cancel_after_ms: int | None = None
    max_events: int | None = None
    max_bytes: int | None = None
    keep: datetime.timedelta | None = None


class NewEnd(NamedTuple):
    """What ``publish_end`` was asked for: the last events, if any, and the status."""

    run_id: str
    names: list[str]
    data: list[str]
    status: str


def new_run(run_id: RunId | None, options: RunOptions, max_event_bytes: int) -> tuple[str, NewRun]:
    """Check the arguments of ``create_run``; return the id, a new UUID if None, and the rest."""
    known = RunOptions.__annotations__
    for name in options:
        if name not in known:
            raise TypeError(f"create_run() has no option {name!r}; it has {', '.join(known)}.")
    owner, metadata, keep = options.get("owner"), options.get("metadata"), options.get("keep")
    owner_id = getattr(owner, "pk", owner)
    if owner_id is None and not (owner is None or getattr(owner, "is_anonymous", False)):
        raise ValueError(f"The owner has no primary key, save it first: {owner!r:.80}.")
    if not isinstance(metadata, Mapping | None):
        raise TypeError(f"metadata must be a mapping, not {metadata!r:.80}.")
    checked_id = str(uuid.uuid4()) if run_id is None else check_run_id(run_id)
    return checked_id, NewRun(
        owner_id,
        encode_data({} if metadata is None else metadata, max_event_bytes, "metadata"),
        milliseconds("lease", options.get("lease")),
        milliseconds("cancel_after", options.get("cancel_after")),
        check_limit("max_events", options.get("max_events")),
        check_limit("max_bytes", options.get("max_bytes")),
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
