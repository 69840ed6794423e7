"""
The thread that waits for an async call inside ``async_to_sync``, and what it holds meanwhile.

The async API commits on connections of its own. If the thread that waits for it is inside
``transaction.atomic()``, it may hold what the commit needs: the row of the run, on SQLite the whole
database. So it is asked, which costs a turn of that thread; where nobody waits, nothing is asked.

This leans on asgiref (seen from 3.7 to 3.13): ``AsyncToSync.executors``, whose ``current`` runs
functions on the thread that waits. To look there for what is not there takes ten microseconds, so
its private ContextVar is looked at first, where there is one.
"""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import Executor
from typing import Any, Final

from asgiref.sync import AsyncToSync
from django.db import connections

from ..exceptions import InsideTransaction
from ..runtime import background, may_block_others, with_hint

ANSWER_SECONDS: Final = 1.0
"""Seconds for which a thread may be too busy to answer: it may be waiting for this very call."""


def _find_variable() -> contextvars.ContextVar[Any] | None:
    storage = getattr(getattr(AsyncToSync, "executors", None), "_storage", None)
    variable = getattr(storage, "_data", None)
    return variable if isinstance(variable, contextvars.ContextVar) else None


_variable = _find_variable()


def waiting_caller() -> Executor | None:
    """Return what runs functions on the thread that waits for this call, if one does."""
    if _variable is not None and not _variable.get(None):
        return None
    executor: Executor | None = getattr(getattr(AsyncToSync, "executors", None), "current", None)
    # The sync API's calls bring the context of their thread along; it has asked itself before.
    return None if executor is None or background.is_current_thread() else executor


async def refuse_transaction_of(caller: Executor, using: str) -> None:
    """
    Raise InsideTransaction if the thread that waits for this call is inside ``atomic()``.

    A cancellation here leaves a question behind whose answer nobody takes.
    """
    try:
        asked = caller.submit(_refusal, using)
    except RuntimeError:  # nobody waits any more
        return
    answer = asyncio.wrap_future(asked)
    await asyncio.wait((answer,), timeout=ANSWER_SECONDS)
    if not answer.done():
        answer.cancel()
        return
    if refusal := answer.result():
        raise refusal


def _refusal(using: str) -> InsideTransaction | None:
    connection = connections[using]
    if not may_block_others(connection):
        return None
    error = InsideTransaction(
        "The async API commits by itself, on a connection of its own: the thread that waits "
        f"for this call by async_to_sync() is inside a transaction (database {using!r}), which "
        "it could wait for in turn. Call get_sync_bridge() there, which joins the transaction, "
        "or make this call after the transaction."
    )
    return with_hint(error, connection)
