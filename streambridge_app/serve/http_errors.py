"""Why a client is refused, as an HTTP status, a code and a sentence: one table for all routes."""

from __future__ import annotations

import logging
from typing import Final

from ..access import NOT_FOUND, Refusal
from ..exceptions import (
    BridgeClosed,
    InvalidCursor,
    InvalidRunId,
    LogOutdated,
    LogUnavailable,
    RunEnded,
    RunNotFound,
    StreamBridgeError,
)

RETRY_AFTER: Final = 5
"""Seconds after which a client may try again what was refused by 429 or 503."""

SHUTTING_DOWN: Final = "shutting_down"
"""The code of what a server refuses because it stops."""

logger = logging.getLogger("streambridge")

_TABLE: Final[dict[type[StreamBridgeError], tuple[int, str, str | None]]] = {
    InvalidCursor: (400, "invalid_cursor", None),
    InvalidRunId: (400, "invalid_run_id", None),
    RunNotFound: (404, "not_found", NOT_FOUND),
    RunEnded: (409, "run_ended", None),
    LogOutdated: (500, "log_outdated", "The server's log is not set up for this version."),
    LogUnavailable: (503, "log_unavailable", "The log can't be reached right now. Try again."),
    BridgeClosed: (503, SHUTTING_DOWN, "This server is shutting down. Connect again."),
}
"""A sentence stands in for messages that would tell strangers about the inside."""


_UNSPEAKABLE: Final = "The server's log can't hold this."


def refusal_of(error: Refusal | StreamBridgeError) -> Refusal:
    """
    Return the refusal that an error means to a client: itself, if it is one.

    Raises:
        StreamBridgeError: the error itself, if it is none of a client's making.
    """
    if isinstance(error, Refusal):
        return error
    for kind, (status, code, message) in _TABLE.items():
        if isinstance(error, kind):
            if status == 500:
                logger.error("%s", error)  # the client gets no word of the inside
            if isinstance(error.__cause__, Exception):  # a driver's words, of the inside too
                message = message or _UNSPEAKABLE
            return Refusal(status, code, message or str(error))
    raise error
