"""Settings of PostgreSQL, and of a pooler before it, that the log's own connections depend on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from django.db import Error
from django.db.backends.base.base import BaseDatabaseWrapper

from ..checks import ENCODING_HINT
from ..conf import streambridge_settings
from ..log import own_connection
from .database import query
from .findings import FAIL, WARNING, Found, Problem

FIXED_CONNECTIONS: Final = 4
"""Of each server besides READ_THREADS: to write, to poll, to sweep, and to watch."""

LEAST_TIMEOUT_MS: Final = 5000
"""Milliseconds below which a timeout can end what the log does when it is busy."""

TIMEOUTS: Final = {
    "statement_timeout": "a query that waits for a run's row fails",
    "lock_timeout": "a publisher that waits for a run's row fails",
    "transaction_timeout": "a transaction that waits for a run's row fails",
    "idle_in_transaction_session_timeout": "a transaction that publishes can be cut off",
}
"""What happens if one of these milliseconds is over; 0 is no limit."""

_SETTINGS: Final = (
    *TIMEOUTS,
    *("synchronous_commit", "default_transaction_isolation", "transaction_read_only"),
    *(
        "server_encoding",
        "idle_session_timeout",
        "max_connections",
        "superuser_reserved_connections",
    ),
    "reserved_connections",
)
_ROLE: Final = "in the settings of the database's role, of the database, or in postgresql.conf"
_EXECUTIONS: Final = 5
"""More than the ``prepare_threshold`` of the log's connections."""


def check_settings(connection: BaseDatabaseWrapper) -> Found:
    """Read the settings in force for a connection like those of the log."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [list(_SETTINGS)]
        )
        found: dict[str, str] = dict(cursor.fetchall())
    # What others do may be hidden from this role, but not how many they are.
    (used,) = query(connection, "SELECT sum(numbackends)::int FROM pg_stat_database")
    reserved = ("superuser_reserved_connections", "reserved_connections")
    most = int(found["max_connections"]) - sum(int(found.get(name, 0)) for name in reserved)
    free = max(0, most - used + 1)  # one is the doctor's
    per_process = streambridge_settings.READ_THREADS + FIXED_CONNECTIONS
    pooled, pool_problems = _pooler(connection)
    return Found(
        f"synchronous_commit {found['synchronous_commit']}, "
        f"{found['default_transaction_isolation']}, {free} of {most} connections free{pooled}",
        (*judge(found), *judge_connections(free, per_process), *pool_problems),
    )


def judge(found: Mapping[str, str]) -> tuple[Problem, ...]:
    """Return what is to be said about the settings, by name, in the units of ``pg_settings``."""
    return tuple(_problems(found))


def judge_connections(free: int, per_process: int) -> tuple[Problem, ...]:
    """Return what is to be said about the number of connections that are left."""
    if free >= per_process:
        return ()
    return (
        Problem(
            WARNING,
            f"{free} connections are free, and one more process takes up to {per_process}",
            "Raise max_connections, lower STREAMBRIDGE['READ_THREADS'], or run fewer processes.",
        ),
    )


def _problems(found: Mapping[str, str]) -> Iterator[Problem]:
    isolation = found["default_transaction_isolation"]
    if isolation != "read committed":
        yield Problem(
            FAIL,
            f"the isolation is {isolation}: two publishers of a run fail instead of taking turns",
            f"Set default_transaction_isolation to 'read committed' {_ROLE}, and no "
            "isolation_level in OPTIONS.",
        )
    if found["transaction_read_only"] == "on":
        yield Problem(
            FAIL,
            "nothing can be written: this is a standby, or read-only by its settings",
            "Let the database's HOST be the primary, with default_transaction_read_only off.",
        )
    if found.get("server_encoding", "UTF8") != "UTF8":
        yield Problem(
            FAIL,
            f"the encoding is {found['server_encoding']}: events with other characters are refused",
            ENCODING_HINT,
        )
    if found["synchronous_commit"] == "off":
        yield Problem(
            WARNING,
            "synchronous_commit is off: a crash of PostgreSQL loses events that publishers were "
            "told are stored",
            f"Set synchronous_commit to on {_ROLE}.",
        )
    if int(found.get("idle_session_timeout", 0)):
        yield Problem(
            WARNING,
            f"idle_session_timeout is {found['idle_session_timeout']} ms: the log's connections "
            "stay open, and the first call after a silence fails",
            f"Set idle_session_timeout to 0 {_ROLE}.",
        )
    for name, consequence in TIMEOUTS.items():
        if 0 < int(found.get(name, 0)) < LEAST_TIMEOUT_MS:
            yield Problem(
                WARNING,
                f"{name} is {found[name]} ms: {consequence}",
                f"Set {name} to 0, or to {LEAST_TIMEOUT_MS} ms or more, {_ROLE}.",
            )


def _pooler(connection: Any) -> tuple[str, tuple[Problem, ...]]:
    """
    Look for a pooler between here and the server, and for what breaks under it.

    A pooler invents the number of the process that it tells its clients.
    """
    (backend,) = query(connection, "SELECT pg_backend_pid()")
    if connection.connection.info.backend_pid == backend:
        return "", ()
    first, second = own_connection(connection.alias), own_connection(connection.alias)
    try:
        by_transaction, prepares = lent_connections(first, second)
    finally:
        first.close()
        second.close()
    text = ", a pooler in transaction mode" if by_transaction else ", a pooler before it"
    if prepares:
        return text, ()
    problem = Problem(
        FAIL,
        "statements that the server has prepared are lost or mixed up behind the pooler",
        "Set OPTIONS['prepare_threshold'] = None for the database, or max_prepared_statements in "
        "PgBouncer 1.21 or newer.",
    )
    return text, (problem,)


def lent_connections(first: BaseDatabaseWrapper, second: BaseDatabaseWrapper) -> tuple[bool, bool]:
    """
    Return whether a pooler lends by the transaction, and whether prepared statements work.

    It does so if two sessions that are open meet the same process of the server. The second one
    keeps that process busy, so that the first one goes on at another.
    """
    prepares = _prepares(first)
    (backend,) = query(first, "SELECT pg_backend_pid()")
    with second.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT pg_backend_pid()")
        by_transaction = cursor.fetchone()[0] == backend
        prepares = prepares and _prepares(first)
        cursor.execute("ROLLBACK")
    return by_transaction, prepares


def _prepares(connection: BaseDatabaseWrapper) -> bool:
    """Execute a statement as often as it takes to be prepared; return whether that works."""
    try:
        return all(
            query(connection, "SELECT %s::int", number) == (number,)
            for number in range(_EXECUTIONS)
        )
    except Error:
        return False
