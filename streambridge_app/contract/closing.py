"""
Close a bridge from wherever that is asked.

It may be asked on an event loop that the bridge has a part on, by a signal's handler in the middle
of a publish, by a receiver of our own signals, or when the interpreter is ending and takes no new
thread. Whoever can't wait for the end does not: the closing then goes on by itself.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from functools import partial
from typing import Final

from ..runtime import background
from .bridge import StreamBridge

HOLDERS: Final = {
    f"streambridge_app.{name}"
    for name in (
        *("backends.memory", "signals"),
        *("log.commit_times", "log.connections", "log.guard", "log.threads", "log.watch"),
        *("publish.handle", "publish.keeper", "publish.pipeline", "publish.writer"),
        *("wake.announcer", "wake.layer", "wake.redis"),
    )
}
"""Modules whose functions hold locks, or threads, that closing a bridge has to wait for."""


def shut(bridge: StreamBridge) -> None:
    """Close a bridge on this thread, and the background loop unless others use it."""
    bridge.shut()
    background.end()


def close(bridge: StreamBridge) -> None:
    """Close a bridge and wait for it, unless it waits for whoever has called."""
    if _holds_what_we_need():
        threading.Thread(target=shut, args=(bridge,), name="streambridge-close").start()
    else:
        shut(bridge)


def close_within(bridge: StreamBridge, seconds: float, *, block: bool) -> None:
    """
    Close a bridge in the background, and wait for it for up to so many seconds.

    Args:
        bridge: the bridge.
        seconds: how long to wait at most.
        block: wait even if this keeps an event loop from running.
    """
    closing = threading.Thread(target=partial(shut, bridge), name="streambridge-close", daemon=True)
    try:
        closing.start()
    except RuntimeError:  # the interpreter is ending, and has joined the other threads
        shut(bridge)
        return
    if not _holds_what_we_need() and (block or not _is_loop_running()):
        closing.join(seconds)


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _holds_what_we_need() -> bool:
    """Return whether the callers of this are in the middle of one of :data:`HOLDERS`."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_globals.get("__name__") in HOLDERS:
            return True
    return False
