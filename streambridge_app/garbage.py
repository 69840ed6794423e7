"""
Full collections of Python's garbage, kept from stopping a server's streams.

A full collection goes through all objects that can hold others, while nothing else runs. A Django
process has a hundred thousand before its first client, each open stream adds 250, and each event in
a tail one: to go through them takes 50 to 100 ms, and under load it is done every few seconds.
Nearly all of them are found to be alive, time and again.
"""

from __future__ import annotations

import gc
import time
from typing import Any, Final

from .conf import streambridge_settings

WHOLE_INTERVAL: Final = 60.0
"""Seconds after which a full collection goes through everything again."""

_whole_at: float | None = None
"""When the next one does (``time.monotonic``); None before :func:`freeze`."""


def freeze() -> None:
    """
    Exempt what is alive from collections: now, and whatever a full collection finds alive.

    Called when the first client of a process comes: all of Django is loaded then. Young garbage
    goes first; what is older stays for now, since to look for it would keep that client waiting for
    50 ms. What is exempt and becomes garbage as a part of a cycle, as Django's requests do, waits
    for the first full collection after :data:`WHOLE_INTERVAL`. Does nothing after the first call,
    or if ``STREAMBRIDGE["FREEZE_GC"]`` says no.
    """
    global _whole_at
    if _whole_at is not None or not streambridge_settings.FREEZE_GC:
        return
    _whole_at = time.monotonic() + WHOLE_INTERVAL
    gc.collect(1)
    gc.freeze()
    gc.callbacks.append(_on_collection)


def _on_collection(phase: str, info: dict[str, Any]) -> None:
    global _whole_at
    if info["generation"] != 2:
        return
    if phase == "stop":
        gc.freeze()
    elif _whole_at is not None and time.monotonic() >= _whole_at:
        _whole_at = time.monotonic() + WHOLE_INTERVAL
        gc.unfreeze()
