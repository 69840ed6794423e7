"""
The times of appends: no two of a process share one, so it says which append an event is of.

They are what is known of an append when its connection breaks before the answer: see
:mod:`streambridge_app.log.exactly_once`.
"""

from __future__ import annotations

import datetime
import os
import threading
from typing import Final

from django.conf import settings

_MICROSECOND: Final = datetime.timedelta(microseconds=1)
_lock = threading.RLock()  # a signal's handler may publish in the middle of a publish
_last = datetime.datetime.min.replace(tzinfo=datetime.UTC)


def commit_time() -> datetime.datetime:
    """
    Return the time for an append: to the microsecond, later than any other of this process.

    While the clock has gone back, times stay ahead of it.
    """
    global _last
    with _lock:
        moment = datetime.datetime.now(datetime.UTC)
        if moment <= _last:
            moment = _last + _MICROSECOND
        _last = moment
    return moment if settings.USE_TZ else moment.astimezone().replace(tzinfo=None)


def _forget_after_fork() -> None:
    global _lock
    _lock = threading.RLock()  # may have been held by a thread that the child doesn't have


os.register_at_fork(after_in_child=_forget_after_fork)
