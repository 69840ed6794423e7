"""
Collections of Python's garbage, kept from stopping a server's streams.

A full collection goes through all objects that can hold others, while nothing else runs. Of these
a Django process has a hundred thousand before its first client, which hold one another until it
ends: to go through them takes 50 to 100 ms, time and again. And Python looks for young garbage
whenever 700 more objects have come than have gone (2,000 since Python 3.13), as many as a burst of
a hundred events makes for a moment; each hundredth such look may be a full one.
"""

from __future__ import annotations

import gc
from typing import Final

from .conf import streambridge_settings

YOUNG_OBJECTS: Final = 10_000
"""Objects more than at the last look that start one: some megabytes, if all of them are garbage."""

_asked = False


def tune() -> None:
    """
    Let collections be short and few; once per process.

    Called when the first client of a process comes: all of Django is loaded then, and is exempted
    from collections. Young garbage goes first; what is older stays for good, since to look for it
    would keep that client waiting for 50 ms. A process that collects even less often, or not at
    all, goes on so. Does nothing if ``STREAMBRIDGE["TUNE_GC"]`` says no.
    """
    global _asked
    if _asked or not streambridge_settings.TUNE_GC:
        return
    _asked = True
    gc.collect(1)
    gc.freeze()
    young, *older = gc.get_threshold()
    if 0 < young < YOUNG_OBJECTS:
        gc.set_threshold(YOUNG_OBJECTS, *older)
