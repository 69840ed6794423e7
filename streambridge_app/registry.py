"""The bridge of this process, made from the settings at its first use."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.db import DEFAULT_DB_ALIAS, connections
from django.utils.module_loading import import_string

from .conf import NAME, streambridge_settings
from .contract import StreamBridge, SyncStreamBridge, close_within
from .runtime import before_test_databases, green_threads

EXIT_DEADLINE: Final = 5.0
"""Seconds for which the end of the process, or of a test, waits for what was accepted."""

FORKS_UNTOLD: Final = "uwsgi" in sys.modules
"""Whether Python may not learn of a fork. To ask for the process takes longer than all the rest."""

_lock = threading.RLock()  # a signal's handler may ask for the bridge in the middle of that
_bridge: StreamBridge | None = None
_process = 0
_lock_class: object = None
"""What ``threading.Lock`` was when the bridge was made: gevent replaces it."""
_choose: Callable[[str], str] = str
_inherited: list[StreamBridge] = []
"""
The bridges of parent processes, whose threads and connections are not ours.

They are kept, for to collect them as garbage would close what is the parent's: SQLite, for one,
would wait for a lock that a thread of the parent had at the fork.
"""


def get_bridge() -> StreamBridge:
    """
    Return the bridge that ``STREAMBRIDGE["BACKEND"]`` names, one per process.

    After it was closed, and in a forked process, it is a new one.

    Raises:
        ImproperlyConfigured: the setting doesn't name a bridge class.
        GreenThreadsUnsupported: the threads of the process are eventlet's, or were patched late.
    """
    bridge = _bridge
    if (
        bridge is None
        or bridge.closed
        or threading.Lock is not _lock_class
        or (FORKS_UNTOLD and _process != os.getpid())
    ):
        return _renewed()
    return bridge


def _renewed() -> StreamBridge:
    global _bridge, _process, _lock_class
    with _lock:
        if _process != os.getpid():
            _leave_to_parent()
        if _bridge is None or _bridge.closed:
            green_threads.check(lambda: connections[DEFAULT_DB_ALIAS])
            before_test_databases(partial(reset, block=True))
            made = _make(streambridge_settings.BACKEND)
            if _bridge is None or _bridge.closed:  # or a signal's handler came first
                _bridge, _lock_class = made, threading.Lock
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
    sync_bridge: SyncStreamBridge = (bridge.sync_class or SyncStreamBridge)(bridge)
    return sync_bridge


def reset(*, block: bool = False) -> None:
    """
    Close the bridge; the next use makes a new one, from the settings as they are then.

    Args:
        block: wait for the end on a running event loop as well, whose own part is left to it.
    """
    global _bridge
    with _lock:
        bridge, _bridge = _bridge, None
    if bridge is not None:
        close_within(bridge, EXIT_DEADLINE, block=block)


@contextlib.contextmanager
def choosing(choose: Callable[[str], str]) -> Iterator[None]:
    """Let a function choose, in the block, the backend for what the settings name: for tests."""
    global _choose
    before, _choose = _choose, choose
    try:
        yield
    finally:
        _choose = before


def _make(path: str) -> StreamBridge:
    path = _choose(path)
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


def _leave_to_parent() -> None:
    global _bridge, _process
    if _bridge is not None:
        _inherited.append(_bridge)
    _bridge, _process = None, os.getpid()


def _forget_after_fork() -> None:
    global _lock
    _lock = threading.RLock()
    _leave_to_parent()


setting_changed.connect(_on_setting_changed)
os.register_at_fork(after_in_child=_forget_after_fork)
atexit.register(reset)
