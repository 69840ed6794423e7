"""
Database connections of our own.

They live as long as their thread, whatever ``CONN_MAX_AGE`` says, and bypass a psycopg pool.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import load_backend

from ..runtime import green_threads, is_manual
from .patience import LOCK_TIMEOUT
from .sql.prepared import Preparing

CONNECTION_DEADLINES: Final = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""
Options of libpq (seconds; the last in milliseconds) after which a server that fell silent is gone.

By default a new connection waits for 130 seconds, and a host that died is noticed after 15 minutes.
"""

SQLITE_TIMEOUT: Final = 5.0
"""Seconds for which Python's sqlite3 waits for a lock, unless ``OPTIONS`` say otherwise."""

GREEN_TIMEOUT: Final = 0.02
"""Seconds for which SQLite waits by itself under green threads, all of which it stops."""


def own_connection(using: str) -> BaseDatabaseWrapper:
    """
    Return a new connection to a database that stays open until it is closed.

    It commits by itself, whatever ``AUTOCOMMIT`` says, and keeps no log of its queries in DEBUG:
    no request's end would ever empty that. On PostgreSQL it lets the server prepare and bind the
    few statements that come again and again, unless ``OPTIONS`` says otherwise: to plan an append
    takes as long as to run a small one. It waits for no lock for longer than
    :mod:`streambridge_app.log.patience` says; under green threads never in C for long, neither in
    libpq nor in SQLite.
    """
    settings = connections.settings[using]
    options = {key: value for key, value in settings["OPTIONS"].items() if key != "pool"}
    if connections[using].vendor == "postgresql" and _has_psycopg3():
        options = {
            "server_side_binding": True,
            "prepare_threshold": 2,
            **CONNECTION_DEADLINES,
            **options,
        }
    green = green_threads.are_used()
    patience = 0.0
    if green and connections[using].vendor == "sqlite":
        patience = options.get("timeout", SQLITE_TIMEOUT)
        options["timeout"] = GREEN_TIMEOUT
    settings = {**settings, "AUTOCOMMIT": True, "CONN_MAX_AGE": None, "OPTIONS": options}
    backend = load_backend(settings["ENGINE"]).DatabaseWrapper
    prepares = options.get("server_side_binding") and options.get("prepare_threshold") is not None
    bases = (Preparing, backend) if prepares and not green else (backend,)
    limits = {"queries_logged": False, "patience": patience, "lock_timeout": LOCK_TIMEOUT}
    own = type("OwnDatabaseWrapper", bases, limits)
    wrapper: BaseDatabaseWrapper = own(settings, using)
    return wrapper


@contextlib.contextmanager
def committing(using: str) -> Iterator[None]:
    """Give this thread a connection that commits by itself, unless its own does or is in use."""
    usual = connections[using]
    if usual.connection is not None or not is_manual(usual):
        yield
        return
    own = connections[using] = own_connection(using)
    try:
        yield
    finally:
        own.close()
        connections[using] = usual


def _has_psycopg3() -> bool:
    from django.db.backends.postgresql.psycopg_any import is_psycopg3  # there is one by now

    return bool(is_psycopg3)
