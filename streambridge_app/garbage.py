"""
Full collections of Python's garbage, kept from stopping a server's streams.

A full collection goes through all objects that can hold others, while nothing else runs. Of these
a Django process has a hundred thousand before its first client, which hold one another until it
ends: to go through them takes 50 to 100 ms, time and again.
"""

from __future__ import annotations

import gc

from .conf import streambridge_settings

_asked = False


def freeze() -> None:
    """
    Exempt what the process has loaded from collections; once per process.

    Called when the first client of a process comes: all of Django is loaded then. Young garbage
    goes first; what is older stays for good, since to look for it would keep that client waiting
    for 50 ms. Does nothing if ``STREAMBRIDGE["FREEZE_GC"]`` says no.
    """
    global _asked
    if _asked or not streambridge_settings.FREEZE_GC:
        return
    _asked = True
    gc.collect(1)
    gc.freeze()
