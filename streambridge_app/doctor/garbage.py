"""Python's garbage collections, each of which stops all streams of a server."""

from __future__ import annotations

import gc
import time

from ..conf import streambridge_settings
from .findings import Found
from .times import shown


def check_garbage() -> Found:
    """Take the time of a full collection, with all that this process has loaded."""
    gc.collect()  # of what was left behind on the way here
    started = time.perf_counter()
    gc.collect()
    taken = shown(time.perf_counter() - started)
    if streambridge_settings.TUNE_GC:
        return Found(f"streams are spared full collections, of {taken} each, by TUNE_GC")
    return Found(f"a full collection stops all streams for {taken}; TUNE_GC would spare them that")
