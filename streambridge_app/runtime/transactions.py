"""
Whether a caller is in a transaction, and what that means for us: one answer for everybody.

There are two kinds: ``transaction.atomic()``, at whose commit Django calls hooks, and manual ones
(``set_autocommit(False)``, or ``"AUTOCOMMIT": False`` in ``DATABASES``), which the caller commits
without anybody hearing of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from ..exceptions import InsideTransaction

E = TypeVar("E", bound=Exception)

_overlooked: Callable[[], bool] = bool
"""Whether the blocks of test cases are nobody's. Asked only inside of one."""


def in_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Return whether what is done on a connection is the caller's to commit."""
    return _in_block(connection) or is_manual(connection)


@contextlib.contextmanager
def overlooking_test_cases(when: Callable[[], bool]) -> Iterator[None]:
    """
    Take the blocks in which ``django.test.TestCase`` runs a test for no transaction of anybody's.

    For a bridge that writes on the test's connection: what a test does outside of blocks of its
    own is then what its project does outside of any.

    Args:
        when: returns whether the bridge is such a one, by the settings as they are then.
    """
    global _overlooked
    before, _overlooked = _overlooked, when
    try:
        yield
    finally:
        _overlooked = before


def _in_block(connection: BaseDatabaseWrapper) -> bool:
    return connection.in_atomic_block and not (_is_test_case(connection) and _overlooked())


def _is_test_case(connection: BaseDatabaseWrapper) -> bool:
    blocks = connection.atomic_blocks
    # Django's own mark, by which it lets durable blocks be in a test's.
    return bool(blocks) and getattr(blocks[-1], "_from_testcase", False)


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
    if _in_block(connection) or connection.settings_dict["AUTOCOMMIT"]:
        return in_transaction(connection)
    return is_manual(connection) and _has_begun(connection)


def refuse(connection: BaseDatabaseWrapper, what: str) -> None:
    """Raise InsideTransaction if what commits by itself could wait for the caller's transaction."""
    if may_block_others(connection):
        where = "a manual transaction" if is_manual(connection) else "transaction.atomic()"
        raise with_hint(
            InsideTransaction(
                f"{what} commits by itself, on a connection of its own: inside {where} it could "
                "wait for its own caller. Use it outside, or publish with "
                "get_sync_bridge().publish(), which joins the transaction."
            ),
            connection,
        )


def with_hint(error: E, connection: BaseDatabaseWrapper) -> E:
    """Add to an error, where a test runs in a transaction, what lets it see what that has."""
    if _is_test_case(connection):
        error.add_note(
            "This is a test in a transaction, as TestCase has: put StreamBridgeTestMixin of "
            "streambridge_app.testing first, or use a TransactionTestCase, as a BACKEND of your "
            "own needs."
        )
    return error


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
        if _in_block(connection) and not is_manual(connection)
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
