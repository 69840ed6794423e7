"""What is known about a run: its statuses, its head, and the state that callers see."""

from __future__ import annotations

import dataclasses
import datetime
import json
from typing import Any, NamedTuple

RUNNING = "running"
SUCCESS = "success"
ERROR = "error"
CANCELLED = "cancelled"
LOST = "lost"
END_STATUSES = (SUCCESS, ERROR, CANCELLED, LOST)


class RunHead(NamedTuple):
    """The few numbers of a run that following it takes."""

    key: int
    """Identity of this incarnation in its backend (the row's primary key)."""
    epoch: int
    """Milliseconds since 1970 at which this incarnation was created."""
    head: int
    """``seq`` of the newest event; 0 when there is none."""
    floor: int
    """``seq`` of the newest trimmed event; 0 when nothing was trimmed."""
    status: str
    """``running``, or one of :data:`END_STATUSES`."""

    def merged(self, head: int, floor: int, status: str) -> RunHead:
        """Return the newer of each part: no source may take the state of a run back."""
        return RunHead(
            self.key,
            self.epoch,
            max(self.head, head),
            max(self.floor, floor),
            self.status if self.status != RUNNING else status,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class RunState:
    """The state of a run at one moment, as ``get_run`` returns it."""

    run_id: str
    epoch: int
    status: str
    head: int
    """``seq`` of the newest event; 0 when there is none."""
    earliest: int | None
    """``seq`` of the oldest event that can be replayed; None when there is none."""
    created_at: datetime.datetime
    ended_at: datetime.datetime | None
    owner_id: Any
    """Primary key of the owner in the user model, or None."""
    metadata: dict[str, Any]
    cancel_requested: bool
    generation: int = 0
    """How often a producer has taken the run over."""
    error: dict[str, str] | None = None
    """Why it failed, as ``{"error": type, "message": text}``; None if it did not, gave no reason,
    or that event was trimmed."""
    silent_seconds: float | None = None
    """Seconds since its producer was last heard of, by an event or by the renewal of its lease;
    None if it has no lease or has ended, before its first producer, and while it waits for the next
    one. A handle that lives renews every 5 seconds."""

    @property
    def ended(self) -> bool:
        return self.status != RUNNING

    @property
    def latest_id(self) -> str | None:
        """Id of the newest event, or None when there is none."""
        return f"{self.epoch}-{self.head}" if self.head else None

    @property
    def floor(self) -> int:
        """``seq`` of the newest trimmed event; 0 when nothing was trimmed."""
        return self.head if self.earliest is None else self.earliest - 1


def error_in(event: str, data: str) -> dict[str, str] | None:
    """
    Return why a run failed, if its last event is what ``publish_end`` appends of an error.

    Args:
        event: the name of the run's last event.
        data: its data, as JSON text.
    """
    if event != "error":
        return None
    try:
        error = json.loads(data)
    except (ValueError, RecursionError):  # somebody has changed the row by hand
        return None
    if isinstance(error, dict) and error.keys() == {"error", "message"}:
        return {name: str(text) for name, text in error.items()}
    return None
