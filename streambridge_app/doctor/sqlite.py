"""Settings of SQLite that let many processes share the log."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper

from .database import query
from .findings import FAIL, WARNING, Found, Problem

LEAST_BUSY_MS: Final = 5000
"""Milliseconds for which a writer should wait for its turn, at least."""

OPTIONS: Final = (
    "OPTIONS = {'init_command': 'PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;', "
    "'transaction_mode': 'IMMEDIATE', 'timeout': 20}"
)


def check_settings(connection: BaseDatabaseWrapper) -> Found:
    """Ask SQLite how it works, and for the lock of a writer."""
    (journal_mode,) = query(connection, "PRAGMA journal_mode")
    (busy_ms,) = query(connection, "PRAGMA busy_timeout")
    file = Path(query(connection, "PRAGMA database_list")[2])
    if os.access(file, os.W_OK) and os.access(file.parent, os.W_OK):
        with connection.cursor() as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            cursor.execute("ROLLBACK")
        writable = True
    else:
        writable = False
    transaction_mode = str(getattr(connection, "transaction_mode", None) or "DEFERRED").upper()
    return judge(journal_mode, transaction_mode, busy_ms, writable, file)


def judge(
    journal_mode: str, transaction_mode: str, busy_ms: int, writable: bool, file: Any
) -> Found:
    """Return what is to be said about what was found."""
    return Found(
        f"{journal_mode.upper()}, {transaction_mode} transactions, waits {busy_ms / 1000:g} s "
        f"for a lock, {'writable' if writable else 'read-only'}",
        tuple(_problems(journal_mode, transaction_mode, busy_ms, writable, file)),
    )


def _problems(
    journal_mode: str, transaction_mode: str, busy_ms: int, writable: bool, file: Any
) -> Iterator[Problem]:
    if not writable:
        yield Problem(
            FAIL,
            f"this user may not write to {file} or to its directory",
            "Give the user of the servers and workers the right to write to both.",
        )
    if journal_mode.lower() != "wal":
        yield Problem(
            FAIL,
            f"the journal mode is {journal_mode}: readers and the writer wait for each other",
            f"Set {OPTIONS} of the database.",
        )
    if transaction_mode not in ("IMMEDIATE", "EXCLUSIVE"):
        yield Problem(
            FAIL,
            f"transactions are {transaction_mode}: two writers can fail with 'database is locked'",
            f"Set {OPTIONS} of the database.",
        )
    if busy_ms < LEAST_BUSY_MS:
        yield Problem(
            WARNING,
            f"a writer waits {busy_ms / 1000:g} s for its turn, then fails",
            "Set OPTIONS['timeout'] of the database to 20 seconds.",
        )
