"""What duties say of a fault that lasts: the first time, and again once a minute, no more."""

from __future__ import annotations

import logging
import time
from typing import Final

from .exceptions import LogOutdated, LogUnavailable

COMPLAINT_INTERVAL: Final = 60.0
"""Seconds between two complaints of one kind."""

logger = logging.getLogger("streambridge")


class Complaints:
    """The complaints of one duty. Use it on one thread."""

    def __init__(self, sentence: str) -> None:
        self._sentence = sentence
        self._next: dict[type[Exception], float] = {}

    def about(self, error: Exception) -> None:
        """Log an error, unless one of its kind was logged lately; an outage is none of ours."""
        if isinstance(error, LogUnavailable):
            return
        now = time.monotonic()
        if now < self._next.get(type(error), 0.0):
            return
        self._next[type(error)] = now + COMPLAINT_INTERVAL
        if isinstance(error, LogOutdated):
            logger.error("%s %s", self._sentence, error)
        else:
            logger.error(self._sentence, exc_info=error)
