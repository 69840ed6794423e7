"""The bridge of this process, made from the settings at its first use."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.db import DEFAULT_DB_ALIAS, connections
from django.utils.module_loading import import_string

from . import background, green_threads
from .bridge import StreamBridge
from .conf import NAME, streambridge_settings
from .sync import SyncStreamBridge

EXIT_DEADLINE: Final = 5.0
"""Seconds for which the end of the process waits for what was accepted."""

_lock = threading.RLock()  # a signal's handler may ask for the bridge in the middle of that
_bridge: StreamBridge | None = None
_lock_class: object = None
"""What ``threading.Lock`` was when the bridge was made: gevent replaces it."""
_closing: set[asyncio.Task[None]] = set()


def get_bridge() -> StreamBridge:
    """
    Return the bridge that ``STREAMBRIDGE["BACKEND"]`` names, one per process.

    Raises:
        ImproperlyConfigured: the setting doesn't name a bridge class.
        GreenThreadsUnsupported: the threads of the process are eventlet's, or were patched late.
    """
    global _bridge, _lock_class
    with _lock:
        if _bridge is None:
            green_threads.check(lambda: connections[DEFAULT_DB_ALIAS])
            _bridge = _make(streambridge_settings.BACKEND)
            _lock_class = threading.Lock
        elif threading.Lock is not _lock_class:
            raise green_threads.patched_late()
        return _bridge


def get_sync_bridge() -> SyncStreamBridge:
    """
    Return the bridge without ``await``, for Celery, commands, threads and plain views.

    Raises:
        ImproperlyConfigured: the setting doesn't name a bridge class.
        GreenThreadsUnsupported: the threads of the process are eventlet's, or were patched late.
    """
    bridge = get_bridge()
    return (bridge.sync_class or SyncStreamBridge)(bridge)


def reset() -> None:
    """Close the bridge; the next use makes a new one, from the settings as they are then."""
    global _bridge
    with _lock:
        bridge, _bridge = _bridge, None
    if bridge is None:
        return
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        with contextlib.suppress(TimeoutError):
            background.submit(bridge.close()).result(EXIT_DEADLINE)
    else:
        # Waiting here would keep the loop from closing its own part.
        task = loop.create_task(bridge.close())
        _closing.add(task)
        task.add_done_callback(_closing.discard)


def _make(path: str) -> StreamBridge:
    try:
        backend = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(f"{NAME}['BACKEND'] can't be imported: {error}.") from error
    if not (isinstance(backend, type) and issubclass(backend, StreamBridge)):
        raise ImproperlyConfigured(f"{NAME}['BACKEND'] must name a StreamBridge class: {path!r}.")
    return backend()


def _on_setting_changed(*, setting: str, **kwargs: Any) -> None:
    if setting in {NAME, "DATABASES", "CHANNEL_LAYERS"}:
        reset()


def _forget_after_fork() -> None:
    """Leave the bridge to the parent: its threads and connections are not in this process."""
    global _bridge, _lock
    _lock = threading.RLock()
    _bridge = None


setting_changed.connect(_on_setting_changed)
os.register_at_fork(after_in_child=_forget_after_fork)
atexit.register(reset)
