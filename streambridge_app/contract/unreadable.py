"""
Events whose data is no JSON: somebody has changed their rows by hand.

Who has data parsed gets a gap in their place, and the process's own log names them once. To look at
every text that a stream only passes on would cost more than to read it, so streams don't.
"""

from __future__ import annotations

import json
import logging
from typing import Any, Final

from .events import GapEvent

REMEMBERED: Final = 1_000

logger = logging.getLogger("streambridge")

_told: dict[tuple[str, int, int], object] = {}
"""Those that have been named: run, epoch, and the first of the numbers."""


class Unreadable(Exception):
    """The data of the events ``first`` to ``last`` is no JSON."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__(first, last)
        self.first = first
        self.last = last


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON.")


decode: Final = json.JSONDecoder(parse_constant=_refuse).decode
"""Returns what JSON text means; raises ValueError for what is none."""


def is_readable(text: str) -> bool:
    """Return whether a text is JSON, or too deep to tell."""
    try:
        decode(text)
    except RecursionError:
        return True
    except ValueError:
        return False
    return True


def gap(epoch: int, first: int, last: int, head: int) -> GapEvent:
    """Return what takes the place of the events ``first`` to ``last`` of a run."""
    return GapEvent(
        data={
            "requested": f"{epoch}-{first - 1}",
            "earliest": f"{epoch}-{last + 1}" if last < head else None,
            "latest": f"{epoch}-{head}",
        }
    )


def name(run_id: str, epoch: int, first: int, last: int) -> None:
    """Write a warning of unreadable events, if they have not been named yet."""
    token = object()
    if _told.setdefault((run_id, epoch, first), token) is not token:
        return
    if len(_told) > REMEMBERED:
        _told.pop(next(iter(_told)), None)
    ids = f"event {epoch}-{first}" if first == last else f"events {epoch}-{first} to {epoch}-{last}"
    logger.warning(
        "The data of the %s of the run %r is no JSON. Subscribers in Python get a gap, but SSE and "
        "WebSocket clients get it as it is. Rows of the log are written by publish() only: correct "
        "the data, or delete the row.",
        ids,
        run_id,
    )
