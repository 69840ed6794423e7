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
from typing import Final, NamedTuple

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from ..contract import Batch
from ..exceptions import InvalidEvent, InvalidRunId, LogUnavailable
from ..models import Event, Run
from .append import Appended, append, unlocked
from .commit_times import commit_time
from .creation import create_missing
from .guard import guarded_on
from .patience import at_a_glance, is_own, limit_waits
from .writes import Write, Written

FIRST_PAUSE: Final = 0.1
"""Seconds before the first further attempt, at most; they double from one to the next."""

LONGEST_PAUSE: Final = 1.0

Outcome = Written | Exception


class Locked(NamedTuple):
    """A write that was kept off by another transaction's lock, and may be tried again."""

    error: LogUnavailable
    at: datetime.datetime
    """The time of its append, which it keeps."""
    known: bool
    """Whether it is known that no earlier attempt has written it."""

    def given_up(self) -> LogUnavailable:
        return self.error if self.known else _unknown(self.error)


class Appender:
    """Appends to runs, and tries for so many seconds while the database can't be reached."""

    def __init__(self, using: str, retry_seconds: float) -> None:
        self._using = using
        self._retry_seconds = retry_seconds
        self._last_moment = float("inf")

    def append(self, writes: Sequence[Write]) -> list[Outcome | Locked]:
        """
        Append on this thread's connection, which is our own: see :meth:`append_on`.

        Where others hold runs locked, the rest is written first: :meth:`append_again` is for those
        that are :class:`Locked`.
        """
        return self._append(connections[self._using], writes, commit_time())

    def append_on(self, connection: BaseDatabaseWrapper, writes: Sequence[Write]) -> list[Outcome]:
        """
        Append to several runs, and return for each write what became of it.

        An error in the place of a result means that nothing was written for it, but for a
        LogUnavailable whose ``written`` is None. Inside the caller's transaction, nothing is tried
        again: the first error has undone it.

        Args:
            connection: the caller's.
            writes: at most one per run.
        """
        outcomes = self._append(connection, writes, commit_time())
        return [
            outcome.given_up() if isinstance(outcome, Locked) else outcome for outcome in outcomes
        ]

    def append_again(self, writes: Sequence[tuple[Write, Locked]]) -> list[Outcome | Locked]:
        """Append, each for itself, what was locked and is no more; wait for none of it."""
        connection = connections[self._using]
        with at_a_glance(connection):
            free = self._look_at([write for write, _ in writes], connection)
            return [
                self._append(connection, [write], locked.at, locked.known, glancing=True)[0]
                if free.get(write.run_id, True)
                else locked
                for write, locked in writes
            ]

    def gives_up_at(self) -> float:
        """Return until when, on the monotonic clock, to try what begins to be tried now."""
        return time.monotonic() + self._retry_seconds

    def is_over(self, give_up_at: float, wait: float = 0) -> bool:
        """Return whether there is no time left to try, after ``wait`` seconds."""
        return time.monotonic() + wait > min(give_up_at, self._last_moment)

    def _append(
        self,
        connection: BaseDatabaseWrapper,
        writes: Sequence[Write],
        at: datetime.datetime,
        known: bool = True,
        give_up_at: float | None = None,
        glancing: bool = False,
    ) -> list[Outcome | Locked]:
        """
        Append, whatever earlier attempts of the same time have done.

        Args:
            connection: the caller's, or our own.
            writes: at most one per run.
            at: time of the append.
            known: whether no earlier attempt may have written any of it.
            give_up_at: until when to try; None: for the seconds that there are, from now on.
            glancing: whether it is known which runs are locked.
        """
        done: dict[str, Written] = {}
        pause = FIRST_PAUSE
        while True:
            try:
                if known:
                    return list(
                        guarded_on(connection, append, writes, self._using, at, done, connection)
                    )
                return list(guarded_on(connection, append_once_more, writes, self._using, at))
            except LogUnavailable as error:
                failure = error
            except InvalidEvent as error:  # to the encoding of the database
                return [done.get(write.run_id) or _at_fault(write, error) for write in writes]
            except Exception as error:
                outcome = error if known else _unknown(error)
                return [done.get(write.run_id, outcome) for write in writes]
            known = known and failure.written is not None
            if failure.locked and is_own(connection):
                locked = Locked(failure, at, known)
                left = [write for write in writes if write.run_id not in done]
                outcomes: dict[str, Outcome | Locked] = {**done}
                if len(left) > 1 and not glancing:
                    outcomes.update(self._append_unlocked(connection, left, locked, give_up_at))
                return [outcomes.get(write.run_id, locked) for write in writes]
            if give_up_at is None:
                give_up_at = self.gives_up_at()
            wait = random.uniform(pause / 2, pause)  # noqa: S311 - so that not all come at once
            if not failure.transient or self.is_over(give_up_at, wait):
                break
            # A server that lives has finished by then with what had reached it before the break.
            time.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE)
        if not known:
            failure = _unknown(failure)
        return [done.get(write.run_id, failure) for write in writes]

    def _append_unlocked(
        self,
        connection: BaseDatabaseWrapper,
        writes: Sequence[Write],
        locked: Locked,
        give_up_at: float | None,
    ) -> dict[str, Outcome | Locked]:
        """Append to those of the runs that nobody holds locked, and return what became of them."""
        outcomes: dict[str, Outcome | Locked] = {}

        def append(part: Sequence[Write]) -> None:
            found = self._append(
                connection, part, locked.at, locked.known, give_up_at, glancing=True
            )
            outcomes.update(zip([write.run_id for write in part], found, strict=True))

        with at_a_glance(connection):
            free = self._look_at(writes, connection)
            if there := [write for write in writes if free.get(write.run_id)]:
                append(there)
            if missing := [write for write in writes if write.run_id not in free]:
                append(missing)
                for write in missing:
                    # Somebody is about to create one of these: only to try tells which.
                    if isinstance(outcomes[write.run_id], Locked):
                        append([write])
        return outcomes

    def _look_at(self, writes: Sequence[Write], connection: BaseDatabaseWrapper) -> dict[str, bool]:
        """Return which runs are there, and whether nobody holds them locked."""
        run_ids = [write.run_id for write in writes]
        try:
            return guarded_on(connection, unlocked, run_ids, self._using)
        except LogUnavailable as error:
            # Somebody holds the whole table; or it is another failure, of which the attempt tells.
            return dict.fromkeys(run_ids, not error.locked)

    def close(self) -> None:
        """Give up, whatever is being appended, in as many seconds from now."""
        self._last_moment = time.monotonic() + self._retry_seconds


def append_once_more(writes: Sequence[Write], using: str, at: datetime.datetime) -> list[Appended]:
    """Find what an earlier attempt of the time ``at`` has committed, and append the rest."""
    with transaction.atomic(using=using):
        limit_waits(connections[using])
        # A run that the earlier attempt is about to make could neither be seen here nor locked:
        # to make it as well waits for that attempt's end.
        create_missing([write.run_id for write in writes if write.epoch is None], using)
        return append(writes, using, at, _find(writes, using, at))


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
    fault = InvalidRunId(str(error))
    fault.__cause__ = error
    return fault


def _unknown(failure: Exception) -> LogUnavailable:
    error = LogUnavailable(
        f"{failure} The connection broke in the middle of a commit: whether its events are in the "
        "log is not known.",
        written=None,
        transient=True,
    )
    error.__cause__ = failure
    return error
