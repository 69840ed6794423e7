"""
What an error of the database means for a call to the log, decided by SQLSTATE in one place.

Django's classes are of no help here: a server that turned read-only after a failover is an
``InternalError`` to it, a prepared statement that went with its connection a
``ProgrammingError``.
"""

from __future__ import annotations

import enum
import sqlite3

from django.db import Error, InterfaceError, OperationalError


class Failure(enum.Enum):
    """What is known after an error, and what may be done about it."""

    LOST = enum.auto()
    """The connection broke: what it was doing is committed, or not."""
    STALE = enum.auto()
    """Nothing was written, and on a new connection it may be."""
    CONFLICT = enum.auto()
    """Nothing was written, for another transaction was in the way: it may be tried again."""
    DEADLOCK = enum.auto()
    """The same: two transactions waited for each other, and this one was given up."""
    LOCKED = enum.auto()
    """Nothing was written: another transaction held a lock for longer than was waited for it."""
    REFUSED = enum.auto()
    """Nothing was written: something is full, or the server was told to stop the statement."""
    SCHEMA = enum.auto()
    """Nothing was written: a table or column of the log is not there."""
    UNENCODABLE = enum.auto()
    """Nothing was written: the encoding of the database has no such character."""
    OTHER = enum.auto()
    """Not a matter of the database being reached: an error of a program."""


_LOST_CLASSES = ("08", "57P")
"""Connection exceptions; the server, or this session of it, is being shut down."""

_BY_SQLSTATE = {
    "25P03": Failure.LOST,  # idle_in_transaction_session_timeout: the server hung up
    "25P04": Failure.LOST,  # transaction_timeout: so it did
    "40003": Failure.LOST,  # statement_completion_unknown
    "0A000": Failure.STALE,  # cached plan must not change result type
    "25006": Failure.STALE,  # read_only_sql_transaction: this server is a standby now
    "26000": Failure.STALE,  # a prepared statement that is not there: PgBouncer
    "42P05": Failure.STALE,  # one that is there already: PgBouncer
    "53300": Failure.STALE,  # too_many_connections
    "57P03": Failure.STALE,  # cannot_connect_now
    "40001": Failure.CONFLICT,  # serialization_failure
    "40P01": Failure.DEADLOCK,  # deadlock_detected
    "55P03": Failure.LOCKED,  # lock_not_available: lock_timeout
    "42P01": Failure.SCHEMA,  # undefined_table
    "42703": Failure.SCHEMA,  # undefined_column
    "22021": Failure.UNENCODABLE,  # character_not_in_repertoire
    "22P05": Failure.UNENCODABLE,  # untranslatable_character
}

_SQLITE_ERROR = 1
"""SQLite's code for SQL that is wrong, or does not fit the tables there are."""

_SQLITE_SCHEMA = ("no such table", "no such column", "has no column named")

_UNREACHABLE = "The log in the database {alias!r} can't be reached: {error}."
_LOCKED = (
    "Another transaction holds a lock in the log for longer than was waited for it (database "
    "{alias!r}): {error}."
)
_SENTENCES = {
    Failure.LOST: _UNREACHABLE,
    Failure.STALE: _UNREACHABLE,
    Failure.CONFLICT: (
        "Another transaction has changed what this one was about to write in the log (database "
        "{alias!r}): {error}."
    ),
    Failure.DEADLOCK: (
        "Two transactions waited for each other's runs in the log, and the database has given this "
        "one up (database {alias!r}): {error}. Let all transactions publish to their runs in one "
        "order, by run id for example."
    ),
    Failure.LOCKED: _LOCKED,
    Failure.REFUSED: "The log in the database {alias!r} refused this: {error}.",
}
"""What happened, by kind."""

_ALONE = "Trying again may help."
_OF_CALLER = (
    "Your transaction is lost with it: leave its atomic() block, which rolls it back, and run the "
    "whole of it again."
)
_LOCKED_SQLITE = (
    "Somebody else is writing to the database {alias!r} of the log, and SQLite has one writer at a "
    'time: {error}. Keep transactions short; how long to wait is the "timeout" of its OPTIONS.'
)


def sentence_of(failure: Failure, error: Error, alias: str, *, alone: bool) -> str:
    """
    Return what to tell a caller: what happened, and what to do about it.

    Args:
        failure: what the error means, but not OTHER.
        error: as Django has raised it.
        alias: of the database.
        alone: whether there is no transaction of the caller's.
    """
    is_sqlite = failure is Failure.LOCKED and _is_of_sqlite(error)
    what = _LOCKED_SQLITE if is_sqlite else _SENTENCES[failure]
    text = " ".join(str(error).split()).rstrip(".")
    return f"{what.format(alias=alias, error=text)} {_ALONE if alone else _OF_CALLER}"


def failure_of(error: Error) -> Failure:
    """Return what an error that Django raised from the driver's means."""
    sqlstate: str | None = getattr(error.__cause__, "sqlstate", None)
    if sqlstate is not None:
        if sqlstate in _BY_SQLSTATE:
            return _BY_SQLSTATE[sqlstate]
        if sqlstate.startswith(_LOST_CLASSES):
            return Failure.LOST
        return Failure.REFUSED if isinstance(error, OperationalError) else Failure.OTHER
    if not isinstance(error, OperationalError | InterfaceError):
        return Failure.OTHER
    if not _is_of_sqlite(error):
        return Failure.LOST  # a server names its errors, so this is the connection's
    if getattr(error.__cause__, "sqlite_errorcode", None) == _SQLITE_ERROR:
        wrong_schema = any(text in str(error.__cause__) for text in _SQLITE_SCHEMA)
        return Failure.SCHEMA if wrong_schema else Failure.OTHER
    return Failure.LOCKED if _is_busy(error.__cause__) else Failure.REFUSED


def _is_busy(cause: object) -> bool:
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF  # the rest says more of the same
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _is_of_sqlite(error: Error) -> bool:
    return type(error.__cause__).__module__ == "sqlite3"
