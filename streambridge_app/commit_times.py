"""
The times of appends: no two of a process share one, so it says which append an event is of.

They are what is known of an append when its connection breaks before the answer: see
:mod:`streambridge_app.recovery`.
"""

from __future__ import annotations

import datetime
import os
import threading
import time
from typing import Final

from django.conf import settings

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_lock = threading.RLock()  # a signal's handler may publish in the middle of a publish
_last = 0


def commit_time() -> datetime.datetime:
    """
    Return the time for an append: to the microsecond, later than any other of this process.

    While the clock has gone back, times stay ahead of it.
    """
    global _last
    with _lock:
        _last = max(time.time_ns() // 1000, _last + 1)
        moment = _EPOCH + datetime.timedelta(microseconds=_last)
    return moment if settings.USE_TZ else moment.astimezone().replace(tzinfo=None)


def _forget_after_fork() -> None:
    global _lock
    _lock = threading.RLock()  # may have been held by a thread that the child doesn't have


os.register_at_fork(after_in_child=_forget_after_fork)
