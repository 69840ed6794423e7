"""What duties say of a fault that lasts: the first time, and again once a minute, no more."""

from __future__ import annotations

import logging
import time
from typing import Final

from ..exceptions import LogOutdated, LogUnavailable

COMPLAINT_INTERVAL: Final = 60.0
"""Seconds between two complaints of one kind."""

REMEMBERED: Final = 1_000
"""Subjects after which those are forgotten that are due again."""

logger = logging.getLogger("streambridge")


class Complaints:
    """The complaints of one duty. Use it on one thread."""

    def __init__(self, sentence: str) -> None:
        self._sentence = sentence
        self._next: dict[object, float] = {}

    def about(self, error: Exception) -> None:
        """Log an error, unless one of its kind was logged lately; outages and locks pass."""
        if isinstance(error, LogUnavailable) and (error.transient or error.locked):
            return
        if not self.is_due(type(error)):
            return
        if isinstance(error, LogOutdated | LogUnavailable):
            logger.error("%s %s", self._sentence, error)
        else:
            logger.error(self._sentence, exc_info=error)

    def is_due(self, subject: object) -> bool:
        """Return whether to say something of a subject, which is then not due for a minute."""
        now = time.monotonic()
        if now < self._next.get(subject, 0.0):
            return False
        if len(self._next) >= REMEMBERED:
            self._next = {one: until for one, until in self._next.items() if until > now}
        self._next[subject] = now + COMPLAINT_INTERVAL
        return True
