"""
See to the runs that were left: by a producer that died, or by the last of their clients.

Whoever expires leases must first give the living the time to renew them: after an outage, all of
them look dead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Final

from . import leases
from .writes import Written

LOOK_INTERVAL: Final = 0.9
"""Seconds between two looks: a wish to cancel is known within one second."""

LONGEST_BREAK: Final = 5_000
"""Milliseconds between two looks after which the log counts as unreachable in between."""

EXPIRED_AT_ONCE: Final = 100
"""Runs ended in one transaction."""

logger = logging.getLogger("streambridge")


class Watch:
    """
    Ends the runs whose lease has expired, and asks those to cancel that lost their clients.

    Use it on one thread.
    """

    def __init__(self, using: str, announce: Callable[[Sequence[Written]], None]) -> None:
        self._using = using
        self._announce = announce
        self._since = 0
        """When the log was reached for the first time without a break since."""
        self._last = float("-inf")

    def look(self, followed: Collection[str]) -> int:
        """
        See to all runs of the log, and return how many were ended.

        Args:
            followed: ids of runs that have clients here, or had since the last look.

        Raises:
            Exception: the database failed.
        """
        try:
            now = leases.lease_clock(self._using)
            # The clock may have jumped, or this machine have slept with all its producers.
            if not 0 <= now - self._last <= LONGEST_BREAK:
                self._since = now
            self._last = now
            leases.note_clients(followed, now, self._using)
            leases.cancel_unwatched(now, now - self._since, self._using)
            ended = 0
            while written := leases.expire_leases(
                self._using, EXPIRED_AT_ONCE, now, now - self._since
            ):
                self._announce(written)
                ended += len(written)
                for one in written:
                    logger.warning(
                        "The run %r is lost: its producer has not renewed its lease.", one.run_id
                    )
        except Exception:
            self._last = float("-inf")
            raise
        return ended
