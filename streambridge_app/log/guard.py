"""
Calls to the log on a connection: the database's errors become ours, and a broken connection is
replaced at the next call.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar

from django.db import DEFAULT_DB_ALIAS, Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from ..exceptions import InvalidEvent, InvalidRunId, LogOutdated, LogUnavailable
from ..runtime import in_transaction
from .errors import Failure, failure_of, sentence_of

GREEN_PAUSE: Final = 0.05
"""Seconds in which they run before a connection of our own asks again for a lock."""

P = ParamSpec("P")
T = TypeVar("T")


def guarded(using: str, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Call a function that uses this thread's connection: see :func:`guarded_on`."""
    return guarded_on(connections[using], function, *args, **kwargs)


def guarded_on(
    connection: BaseDatabaseWrapper, function: Callable[..., T], /, *args: Any, **kwargs: Any
) -> T:
    """
    Call a function that uses a connection, after replacing it if it is broken.

    Raises:
        LogUnavailable: the database failed. Inside the caller's transaction, that is lost.
            Outside, nothing was committed, unless ``written`` is None: the connection broke.
        LogOutdated: a table or column is not there.
        InvalidRunId, InvalidEvent: the database's encoding doesn't have a character of it.
    """
    alone = not in_transaction(connection)
    if connection.errors_occurred and alone:
        connection.close_if_unusable_or_obsolete()
    reached = connection.connection is not None or not alone
    give_up_at = None
    while True:
        try:
            if not reached:
                connection.ensure_connection()
                reached = True
            return function(*args, **kwargs)
        except Error as error:
            failure = failure_of(error)
            if failure is Failure.OTHER:
                raise
            if failure is Failure.SCHEMA:
                raise outdated(connection.alias, error) from error
            if failure is Failure.UNENCODABLE:
                raise unencodable(connection.alias, error, *args[:1]) from error
            if give_up_at is None:
                give_up_at = time.monotonic() + getattr(connection, "patience", 0.0)
            may_wait = alone and failure is Failure.LOCKED
            if not may_wait or time.monotonic() >= give_up_at:
                raise _unavailable(connection, error, failure, alone, reached) from error
        time.sleep(GREEN_PAUSE)  # SQLite refused: nothing was written


def _unavailable(
    connection: BaseDatabaseWrapper, error: Error, failure: Failure, alone: bool, reached: bool
) -> LogUnavailable:
    if alone and failure in (Failure.LOST, Failure.STALE):
        with contextlib.suppress(Error):
            connection.close()
    return LogUnavailable(
        sentence_of(failure, error, connection.alias, alone=alone),
        written=None if alone and reached and failure is Failure.LOST else False,
        transient=alone and failure not in (Failure.REFUSED, Failure.LOCKED),
        locked=failure is Failure.LOCKED,
    )


def guarded_repeatable(
    using: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """
    Call a function, once more if it may be its connection that is to blame.

    It only reads, or may have written already when it is called again.

    So a server that was restarted while nobody looked costs no caller an error.

    Raises:
        LogUnavailable: the database failed.
    """
    try:
        return guarded(using, function, *args, **kwargs)
    except LogUnavailable as error:
        if not error.transient:
            raise
    return guarded(using, function, *args, **kwargs)


def outdated(alias: str, error: Error) -> LogOutdated:
    """Return the error of a log whose tables are missing, or older than this code."""
    option = "" if alias == DEFAULT_DB_ALIAS else f" --database {alias}"
    return LogOutdated(
        f"The tables of the log in the database {alias!r} are missing or of another version: "
        f"{_first_line(error)}. Run manage.py migrate{option}."
    )


def unencodable(alias: str, error: Error, run_id: object = None) -> InvalidRunId | InvalidEvent:
    """Return the error of text that a database can't hold: of an id, if that has such text."""
    kind = InvalidRunId if isinstance(run_id, str) and not run_id.isascii() else InvalidEvent
    return kind(
        f"The encoding of the database {alias!r}, which holds the log, can't hold this text: "
        f"{_first_line(error)}. Keep the log in a database with the encoding UTF8."
    )


def _first_line(error: Error) -> str:
    return str(error).partition("\n")[0]
