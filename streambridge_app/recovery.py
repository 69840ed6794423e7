"""
Append once, although the database fails in the middle of it.

A connection that breaks during a commit leaves unknown whether that took place. Each append has
a time of its own, so its events can be told from all others: before it is tried again, the log
is looked at for them, with the runs locked. It must never append twice, and never say that
something was not written that was.
"""

from __future__ import annotations

import datetime
import random
import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from . import log
from .commit_times import commit_time
from .exceptions import InvalidEvent, InvalidRunId, LogUnavailable
from .log_threads import guarded_on
from .models import Event, Run
from .tail import Batch
from .writes import Write, Written

FIRST_PAUSE: Final = 0.1
"""Seconds before the first further attempt, at most; they double from one to the next."""

LONGEST_PAUSE: Final = 1.0

Outcome = Written | Exception


class Appender:
    """Appends to runs, and tries for so many seconds while the database can't be reached."""

    def __init__(self, using: str, retry_seconds: float) -> None:
        self._using = using
        self._retry_seconds = retry_seconds
        self._last_moment = float("inf")

    def append(self, writes: Sequence[Write]) -> list[Outcome]:
        """Append on this thread's connection: see :meth:`append_on`."""
        return self.append_on(connections[self._using], writes)

    def append_on(self, connection: BaseDatabaseWrapper, writes: Sequence[Write]) -> list[Outcome]:
        """
        Append to several runs, and return for each write what became of it.

        An error in the place of a result means that nothing was written for it, but for a
        LogUnavailable whose ``written`` is None. Inside the caller's transaction, nothing is tried
        again: the first error has undone it.

        Args:
            writes: at most one per run.
        """
        at = commit_time()
        done: dict[str, Written] = {}
        attempt = partial(log.append, writes, self._using, at, done, connection)
        give_up_at = None
        known = True
        pause = FIRST_PAUSE
        while True:
            try:
                return list(guarded_on(connection, attempt))
            except LogUnavailable as error:
                failure = error
            except InvalidEvent as error:  # to the encoding of the database
                return [done.get(write.run_id) or _at_fault(write, error) for write in writes]
            except Exception as error:
                outcome = error if known else _unknown(error)
                return [done.get(write.run_id, outcome) for write in writes]
            if failure.written is None:
                known = False
                attempt = partial(append_once_more, writes, self._using, at)
            if give_up_at is None:
                give_up_at = time.monotonic() + self._retry_seconds
            wait = random.uniform(pause / 2, pause)  # noqa: S311 - so that not all come at once
            if not failure.transient or time.monotonic() + wait > min(
                give_up_at, self._last_moment
            ):
                break
            # A server that lives has finished by then with what had reached it before the break.
            time.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE)
        if not known:
            failure = _unknown(failure)
        return [done.get(write.run_id, failure) for write in writes]

    def close(self) -> None:
        """Give up, whatever is being appended, in as many seconds from now."""
        self._last_moment = time.monotonic() + self._retry_seconds


def append_once_more(
    writes: Sequence[Write], using: str, at: datetime.datetime
) -> list[log.Appended]:
    """Find what an earlier attempt of the time ``at`` has committed, and append the rest."""
    with transaction.atomic(using=using):
        # A run that the earlier attempt is about to make could neither be seen here nor locked:
        # to make it as well waits for that attempt's end.
        log.create_missing([write.run_id for write in writes if write.epoch is None], using)
        return log.append(writes, using, at, _find(writes, using, at))


def _find(writes: Sequence[Write], using: str, at: datetime.datetime) -> dict[str, Written]:
    """Lock the runs, in the order in which everybody does, and return what they have of it."""
    wanted = {write.run_id: write for write in writes}
    found = {}
    runs = Run.objects.using(using).filter(run_id__in=wanted)
    for run in runs.select_for_update().order_by("id"):
        run_id = str(run.run_id)
        write = wanted[run_id]
        batch = _committed(write, run, using, at)
        if batch is not None:
            cancel = run.cancel_requested_at is not None
            found[run_id] = Written(
                run_id, run.id, run.epoch, batch, run.status, cancel, write.end is not None
            )
    return found


def _committed(write: Write, run: Run, using: str, at: datetime.datetime) -> Batch | None:
    """Return the events that are in the log of a write, if that was committed at ``at``."""
    if write.epoch not in (None, run.epoch):
        return None
    events = Event.objects.using(using).filter(run_id=run.id, created_at=at).order_by("seq")
    rows = list(events.values_list("seq", "event", "data"))
    # Not all of them need be there: some may have been trimmed since, or known by their keys.
    appended = iter(zip(write.names, write.data, strict=True))
    ours = all(row[1:] in appended for row in rows)
    if write.end is None:
        committed = bool(rows) and ours
    else:
        committed = (run.status, run.ended_at) == (write.end, at)
    if not committed:
        return None
    if not rows or not ours or rows[-1][0] - rows[0][0] + 1 != len(rows):
        return Batch(run.epoch, run.head + 1, (), ())
    return Batch(run.epoch, rows[0][0], [row[1] for row in rows], [row[2] for row in rows])


def _at_fault(write: Write, error: InvalidEvent) -> InvalidEvent | InvalidRunId:
    """Return the error of a write whose text the database can't hold."""
    if write.run_id.isascii() or not "".join([*write.names, *write.data]).isascii():
        return error
    return InvalidRunId(str(error))


def _unknown(failure: Exception) -> LogUnavailable:
    error = LogUnavailable(
        f"{failure} The connection broke in the middle of a commit: whether its events are in the "
        "log is not known.",
        written=None,
        transient=True,
    )
    error.__cause__ = failure
    return error
