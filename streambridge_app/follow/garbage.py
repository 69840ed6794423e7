"""
Collections of Python's garbage, kept from stopping a server's streams.

A full collection goes through all objects that can hold others, while nothing else runs. Of these
a Django process has a hundred thousand before its first client, which hold one another until it
ends: to go through them takes 50 to 130 ms, time and again. And Python looks for young garbage
whenever 700 more objects have come than have gone, as many as a burst of a hundred events makes for
a moment; each hundredth such look may be a full one. Python 3.13 takes 2,000.
"""

from __future__ import annotations

import gc
from typing import Final

from ..conf import streambridge_settings

YOUNG_OBJECTS: Final = 2_000
"""
Objects more than at the last look that start one, as many as Python 3.13 takes.

It counts objects, not bytes, and a request that has ended keeps its body until then: some 70 may
wait. With 10,000 p99 was no better, and the bodies of 350 could be kept.
"""

_asked = False


def tune() -> None:
    """
    Let collections be short and few; once per process.

    Called when the first client of a process comes: all of Django is loaded then, and is exempted
    from collections. Young garbage goes first; what is older stays for good, since to look for it
    would keep that client waiting for 50 ms. A process that collects even less often, or not at
    all, goes on so. Does nothing unless ``STREAMBRIDGE["TUNE_GC"]`` is True.
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
