"""
Whether a caller is in a transaction, and what that means for us: one answer for everybody.

There are two kinds: ``transaction.atomic()``, at whose commit Django calls hooks, and manual ones
(``set_autocommit(False)``, or ``"AUTOCOMMIT": False`` in ``DATABASES``), which the caller commits
without anybody hearing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper


def in_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Return whether what is done on a connection is the caller's to commit."""
    return connection.in_atomic_block or is_manual(connection)


def is_manual(connection: BaseDatabaseWrapper) -> bool:
    """Return whether the caller commits by itself, so that no hook is called at a commit."""
    if connection.in_atomic_block:
        # A block inside a manual transaction; what else it is a block of, commits at its end.
        return not connection.commit_on_exit
    if connection.connection is None:
        return not connection.settings_dict["AUTOCOMMIT"]
    return not connection.autocommit


def may_block_others(connection: BaseDatabaseWrapper) -> bool:
    """
    Return whether who commits on another connection may have to wait for this one's caller.

    Where all transactions are manual by the settings, that is only once one has begun.
    """
    if connection.in_atomic_block or connection.settings_dict["AUTOCOMMIT"]:
        return in_transaction(connection)
    return is_manual(connection) and _has_begun(connection)


def join(connection: BaseDatabaseWrapper) -> bool:
    """
    Let what is written next belong to the caller's transaction; return whether there is one.

    Raises:
        TransactionManagementError: the caller's block is broken, and has to be left first.
    """
    if not in_transaction(connection):
        return False
    connection.ensure_connection()
    connection.validate_no_broken_transaction()
    if connection.vendor == "sqlite" and not _has_begun(connection):
        # Its savepoints would be transactions of their own, committed at their release.
        mode = getattr(connection, "transaction_mode", None) or ""
        with connection.wrap_database_errors:
            connection.connection.execute(f"BEGIN {mode}")
    return True


def after_commits(function: Callable[[], Any]) -> None:
    """
    Call a function after the commit of every block that the caller has open, on any database.

    It is never called if one of them is rolled back, and at once if there is none. Of manual
    transactions nobody hears, so they count for nothing here.
    """
    blocks = {
        connection.alias
        for connection in connections.all(initialized_only=True)
        if connection.in_atomic_block and not is_manual(connection)
    }
    if not blocks:
        function()

    def committed(alias: str) -> None:
        blocks.remove(alias)
        if not blocks:
            function()

    for alias in sorted(blocks):
        transaction.on_commit(partial(committed, alias), using=alias)


def _has_begun(connection: BaseDatabaseWrapper) -> bool:
    if connection.connection is None:
        return False
    if connection.vendor == "sqlite":
        return bool(connection.connection.in_transaction)
    return bool(connection.connection.info.transaction_status)  # 0: idle
