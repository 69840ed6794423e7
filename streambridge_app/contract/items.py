"""What a client that follows a run is given: batches of events, gaps, heartbeats and one end."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from .batch import Batch
from .events import GapEvent


@dataclasses.dataclass(frozen=True, slots=True)
class Gap:
    """Part of what was asked for is not in the log; reading goes on with ``earliest``."""

    requested: str | None
    """The cursor, or None for the start."""
    earliest: str | None
    """Id of the earliest retained event; None when none is retained."""
    latest: str | None
    """Id of the newest event; None when there is none."""
    position: str | None = None
    """The cursor from which reading goes on; None when it does not."""

    def data(self) -> dict[str, str | None]:
        return {"requested": self.requested, "earliest": self.earliest, "latest": self.latest}

    def event(self) -> GapEvent:
        return GapEvent(data=self.data())


@dataclasses.dataclass(frozen=True, slots=True)
class End:
    """The run has ended, and everything before has been yielded."""

    status: str
    position: str
    """Cursor of the end: ``<epoch>-<head + 1>``."""
    error: dict[str, str] | None = None
    """Why the run failed: see :attr:`RunState.error`."""


class Heartbeat:
    """Nothing happened for a heartbeat interval."""


HEARTBEAT: Final = Heartbeat()

Item = Sequence[Batch] | Gap | End | Heartbeat
