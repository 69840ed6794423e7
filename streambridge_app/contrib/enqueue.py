"""How a run comes before its task: created first, sent with the caller's transaction."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, Unpack

from django.db import connections

from ..conf import streambridge_settings
from ..contract import RunOptions
from ..exceptions import InsideTransaction
from ..registry import get_bridge, get_sync_bridge
from ..runtime import after_commits, background, is_manual, may_block_others

START_SECONDS: Final = 86_400.0
"""Seconds after it is due in which a task has to start by default: longer than any queue's wait."""


def enqueue(send: Callable[[str], object], wait: float, options: RunOptions) -> str:
    """
    Create a run, send its task, and return the run's id.

    Inside ``transaction.atomic()``, of whichever databases, the task is sent after the commit, so
    that no worker comes before the run and what belongs to it. A task that can't be sent ends its
    run ``error``; one that never starts, as one that is revoked, leaves it to its lease.

    Args:
        send: called with the run's id.
        wait: seconds until it is due.
        options: as for :meth:`StreamBridge.create_run`; the lease counts from when it is due.

    Raises:
        InsideTransaction: in a manual transaction, of whose commit nobody hears.
        What ``create_run`` and ``send`` raise.
    """
    lease = options.get("lease", START_SECONDS)
    if lease is not None:
        lease += wait
    create: Callable[..., str] = get_sync_bridge().create_run
    connection = connections[streambridge_settings.DATABASE]
    if is_manual(connection):
        if may_block_others(connection):
            raise InsideTransaction(
                "A task can't be sent in a manual transaction: nobody hears of its commit, and a "
                "worker could come before the run. Commit first, or use transaction.atomic() with "
                "autocommit on."
            )
        create = _create_committed
    run_id = create(None, **{**options, "lease": lease})
    after_commits(partial(_send, send, run_id))
    return run_id


def _create_committed(run_id: None, **options: Unpack[RunOptions]) -> str:
    """Create a run on a connection of its own, which commits."""
    return background.run(get_bridge().create_run(run_id, **options))


def _send(send: Callable[[str], object], run_id: str) -> None:
    try:
        send(run_id)
    except Exception as error:
        if is_manual(connections[streambridge_settings.DATABASE]):
            background.run(get_bridge().publish_end(run_id, error=error))
        else:
            get_sync_bridge().publish_end(run_id, error=error)
        raise


@contextlib.contextmanager
def end_if_refused(run_id: str) -> Iterator[None]:
    """
    End a run ``error`` whose task can't open a handle, since it runs in its caller's transaction.

    Only a task that runs where it is sent does: its run must not be left to a lease. The end
    belongs to that transaction, as the run may.
    """
    try:
        yield
    except InsideTransaction as error:
        get_sync_bridge().publish_end(run_id, error=error)
        raise


def seconds_until(when: float | datetime.datetime | None) -> float:
    """Return in how many seconds a task is due, by its countdown or its time; 0 for None."""
    if isinstance(when, datetime.datetime):
        now = datetime.datetime.now(when.tzinfo or datetime.UTC)
        return max(0, (when.replace(tzinfo=now.tzinfo) - now).total_seconds())
    return max(0, when or 0)
