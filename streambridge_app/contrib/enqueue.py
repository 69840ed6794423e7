"""How a run comes before its task: created first, sent with the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from django.db import connections, transaction

from ..conf import streambridge_settings
from ..registry import get_sync_bridge


def enqueue(
    send: Callable[[str], object],
    *,
    owner: Any,
    metadata: Mapping[str, Any] | None,
    lease: float | None,
    cancel_after: float | None,
) -> str:
    """
    Create a run, send its task, and return the run's id.

    Inside ``transaction.atomic()`` the task is sent after the commit, so that no worker comes
    before the run. A task that can't be sent ends its run ``error``.

    Args:
        send: called with the run's id.
        owner, metadata, lease, cancel_after: as for :meth:`StreamBridge.create_run`.

    Raises:
        What ``create_run`` and ``send`` raise.
    """
    run_id = get_sync_bridge().create_run(
        owner=owner, metadata=metadata, lease=lease, cancel_after=cancel_after
    )
    using = streambridge_settings.DATABASE
    sending = partial(_send, send, run_id)
    if connections[using].in_atomic_block:
        transaction.on_commit(sending, using=using)
    else:
        sending()
    return run_id


def _send(send: Callable[[str], object], run_id: str) -> None:
    try:
        send(run_id)
    except Exception as error:
        get_sync_bridge().publish_end(run_id, error=error)
        raise
