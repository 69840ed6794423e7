"""
How long a statement on a connection of our own waits for a lock.

A row lock is somebody's open transaction, which may stay open for as long as its program likes;
and a process has one writer, and a few threads that read, for all of its runs. So what they do
gives a lock up after :data:`LOCK_TIMEOUT`, and whoever wants it comes again. The statements say so
themselves, for their own transaction: to set it on the connection would set it for others behind
PgBouncer, and a statement before each would cost the writer a round trip. A ``lock_timeout`` that
the project has set, in ``OPTIONS`` or for the role, is left as it is; so is the caller's own
connection, whose waits are the caller's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import BooleanField
from django.db.models.expressions import RawSQL

LOCK_TIMEOUT: Final = 200
"""
Milliseconds for which a lock is waited for.

A hundred commits: who only publishes as well is through by then. It is what one locked run may
cost all others of its process, once.
"""

GLANCE: Final = 5
"""The same of who knows that the lock was held a moment ago, and has others waiting."""

SET_TIMEOUT: Final = """
    coalesce(nullif(current_setting('lock_timeout'), '0'), set_config('lock_timeout', %s, true))
"""
"""An expression that sets it to a parameter, up to the end of the transaction; never null."""

IS_PATIENT: Final = f"(SELECT {SET_TIMEOUT}) IS NOT NULL"
"""
A condition that is always true, and sets it before PostgreSQL looks at any row.

It has no column in it, so it is a filter of the whole statement, evaluated once.
"""


def timeout_of(connection: BaseDatabaseWrapper) -> str:
    """Return the parameter of :data:`SET_TIMEOUT`: 0, for no change, on a caller's connection."""
    return str(getattr(connection, "lock_timeout", 0))


def condition(connection: BaseDatabaseWrapper) -> tuple[str, tuple[str, ...]]:
    """Return a condition that is true and limits the waits of its statement, with parameters."""
    if is_own(connection):
        return IS_PATIENT, (timeout_of(connection),)
    return "1 = 1", ()


def limit_waits(connection: BaseDatabaseWrapper) -> None:
    """Do it for the transaction that has just begun on a connection, if that is our own."""
    if is_own(connection):
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {SET_TIMEOUT}", (timeout_of(connection),))


def is_patient(using: str) -> RawSQL:
    """Return :func:`condition` for a filter of the ORM: a statement alone needs no transaction."""
    text, parameters = condition(connections[using])
    return RawSQL(text, parameters, output_field=BooleanField())  # noqa: S611 - one of two texts


@contextlib.contextmanager
def at_a_glance(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Wait no longer than :data:`GLANCE` in this block, on a connection of our own."""
    before = connection.lock_timeout  # type: ignore[attr-defined]
    connection.lock_timeout = GLANCE  # type: ignore[attr-defined]
    try:
        yield
    finally:
        connection.lock_timeout = before  # type: ignore[attr-defined]


def is_own(connection: BaseDatabaseWrapper) -> bool:
    """Return whether a connection is our own to PostgreSQL: SQLite knows no locks of rows."""
    return connection.vendor == "postgresql" and hasattr(connection, "lock_timeout")
