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
    REFUSED = enum.auto()
    """Nothing was written: a lock was not to be had in time, or something is full."""
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
    "40P01": Failure.CONFLICT,  # deadlock_detected
    "42P01": Failure.SCHEMA,  # undefined_table
    "42703": Failure.SCHEMA,  # undefined_column
    "22021": Failure.UNENCODABLE,  # character_not_in_repertoire
    "22P05": Failure.UNENCODABLE,  # untranslatable_character
}

_SQLITE_ERROR = 1
"""SQLite's code for SQL that is wrong, or does not fit the tables there are."""

_SQLITE_SCHEMA = ("no such table", "no such column", "has no column named")


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
    return Failure.REFUSED


def is_locked(error: Error) -> bool:
    """Return whether SQLite did nothing, since somebody else had its lock."""
    code = getattr(error.__cause__, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _is_of_sqlite(error: Error) -> bool:
    return type(error.__cause__).__module__ == "sqlite3"
