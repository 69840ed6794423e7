"""The database of the log, and what is told of it in DATABASES."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from ..conf import NAME
from .messages import error_of, listed, value, warning_of

LEAST_SQLITE: Final = (3, 35, 0)
"""The first with ``RETURNING``."""

ENCODING_HINT: Final = (
    "Keep the log in a database made with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0; "
    f"{NAME}['DATABASE'] may name another one than the default."
)

_WAL: Final = re.compile(r"journal_mode\s*=\s*['\"]?wal\b", re.IGNORECASE)


def check_database_alias(**kwargs: Any) -> list[CheckMessage]:
    """E101."""
    alias = value("DATABASE")
    if alias is None or alias in connections.settings:
        return []
    return [
        error_of(
            "E101",
            f"{NAME}['DATABASE'] is {alias!r}, which is not in DATABASES.",
            f"Name one of {listed(connections.settings)}.",
        )
    ]


def check_database_vendor(**kwargs: Any) -> list[CheckMessage]:
    """E105."""
    alias = value("DATABASE")
    if alias is None or alias not in connections.settings:
        return []
    try:
        if connections[alias].vendor in {"sqlite", "postgresql"}:
            return []
    except ImproperlyConfigured as error:
        problem = str(error)
    else:
        problem = f"its engine is {connections.settings[alias]['ENGINE']!r}"
    return [
        error_of(
            "E105",
            f"The log can't be kept in the database {alias!r}: {problem}.",
            "Use SQLite or PostgreSQL, with its driver installed; "
            f"{NAME}['DATABASE'] may name another database than the default one.",
        )
    ]


def check_database_in_memory(**kwargs: Any) -> list[CheckMessage]:
    """E107."""
    database = _sqlite()
    if database is None or database["NAME"] != ":memory:":
        return []
    return [
        error_of(
            "E107",
            "The log can't be kept in an SQLite database in memory: each thread would have one "
            "of its own.",
            "Let NAME be a file; or, in unit tests, BACKEND "
            "'streambridge_app.backends.memory.MemoryBridge'.",
        )
    ]


def check_postgresql_driver(**kwargs: Any) -> list[CheckMessage]:
    """E120."""
    if _vendor() != "postgresql":
        return []
    from django.db.backends.postgresql.psycopg_any import is_psycopg3  # there is one by now

    if is_psycopg3:
        return []
    return [
        error_of(
            "E120",
            "The driver of PostgreSQL is psycopg2, whose errors don't say whether an event was "
            "stored.",
            "Install psycopg 3 (`pip install psycopg[binary]`); Django takes it when both are "
            "there.",
        )
    ]


def check_sqlite_version(**kwargs: Any) -> list[CheckMessage]:
    """E121."""
    if _vendor() != "sqlite" or sqlite3.sqlite_version_info >= LEAST_SQLITE:
        return []
    least = ".".join(map(str, LEAST_SQLITE))
    return [
        error_of(
            "E121",
            f"SQLite is {sqlite3.sqlite_version}: the log needs {least} or newer.",
            "Use a Python that comes with a newer SQLite, or PostgreSQL.",
        )
    ]


def check_encoding(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """W020."""
    alias = value("DATABASE")
    if _vendor() != "postgresql" or alias not in (databases or ()):
        return []
    with connections[alias].cursor() as cursor:
        cursor.execute("SHOW server_encoding")
        (encoding,) = cursor.fetchone()
    if encoding == "UTF8":
        return []
    return [
        warning_of(
            "W020",
            f"The database {alias!r}, which holds the log, has the encoding {encoding}: events "
            "with other characters are refused.",
            ENCODING_HINT,
        )
    ]


def check_sqlite_options(**kwargs: Any) -> list[CheckMessage]:
    """W002."""
    database = _sqlite()
    if database is None or database["NAME"] == ":memory:":
        return []
    options = database["OPTIONS"]
    missing = []
    if not _WAL.search(options.get("init_command") or ""):
        missing.append("WAL, readers and the writer wait for each other")
    if str(options.get("transaction_mode")).upper() not in {"IMMEDIATE", "EXCLUSIVE"}:
        missing.append("IMMEDIATE transactions, two writers can fail with 'database is locked'")
    return [
        warning_of(
            "W002",
            f"The log is in SQLite: without {problem}.",
            "Set OPTIONS = {'init_command': 'PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;', "
            "'transaction_mode': 'IMMEDIATE', 'timeout': 20}.",
        )
        for problem in missing
    ]


def check_conn_max_age(**kwargs: Any) -> list[CheckMessage]:
    """W003."""
    kept = [alias for alias, one in connections.settings.items() if one["CONN_MAX_AGE"] != 0]
    if not kept:
        return []
    return [
        warning_of(
            "W003",
            f"CONN_MAX_AGE is not 0 for {listed(kept)}: under ASGI, requests run on ever new "
            "threads, and the connection that each opens is kept but never used again.",
            "Set CONN_MAX_AGE to 0; for PostgreSQL, OPTIONS['pool'] keeps connections open.",
        )
    ]


def _vendor() -> str | None:
    """Return what kind of database the log's is, if other checks have nothing to say of that."""
    alias = value("DATABASE")
    if alias not in connections.settings:
        return None
    try:
        return connections[alias].vendor
    except ImproperlyConfigured:
        return None


def _sqlite() -> dict[str, Any] | None:
    """Return the settings of the log's database if that is SQLite."""
    alias = value("DATABASE")
    database: dict[str, Any] | None = connections.settings.get(alias)
    return database if database and "sqlite" in database["ENGINE"] else None
