"""What is known of the channel layer: whom it reaches, its groups' names, and whether it works."""

from __future__ import annotations

import functools
import hashlib
import logging
import threading
import time
from typing import Final

from channels.layers import BaseChannelLayer, InMemoryChannelLayer

WARNING_INTERVAL: Final = 10.0
"""Seconds between two warnings about a layer that fails and works again, by turns."""

logger = logging.getLogger("streambridge")


@functools.lru_cache(4096)
def group_name(run_id: str) -> str:
    """Return the name of a run's group: a digest, since group names allow few characters."""
    return f"streambridge.{hashlib.sha256(run_id.encode()).hexdigest()[:40]}"


def reason_of(error: Exception) -> str:
    """Return what a log may say of an error: that of an address may show a part of its password."""
    name = type(error).__name__
    return name if isinstance(error, ValueError) else f"{name}: {error}"


def is_process_local(layer: BaseChannelLayer | None) -> bool:
    """Return whether a layer reaches this process only (or there is none)."""
    return layer is None or isinstance(layer, InMemoryChannelLayer)


class Outage:
    """
    Tells once that a layer fails, and once that it works again, whoever of a process meets it.

    Whoever has said :meth:`began` says :meth:`is_over` as soon as the layer works for it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told = False
        self._told_at = float("-inf")

    def began(self, error: Exception) -> None:
        """Warn, unless that was done."""
        with self._lock:
            now = time.monotonic()
            if self._told or now - self._told_at < WARNING_INTERVAL:
                return
            self._told, self._told_at = True, now
        logger.warning(
            "The channel layer failed (%s). Events are kept in the log; clients get them by "
            "polling until it is back.",
            reason_of(error),
        )

    def is_over(self) -> None:
        """Say so, if the outage was told of."""
        with self._lock:
            told, self._told = self._told, False
        if told:
            logger.warning("The channel layer is back: clients get events by its messages again.")
