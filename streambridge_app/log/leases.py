"""
Who still lives, as the log knows it: producers by their leases, runs by word of their clients.

All functions are synchronous and work on the caller's connection to the database ``using``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

from django.db import OperationalError, connections, transaction
from django.utils import timezone

from ..contract import RUNNING, new_loss
from ..models import Run
from .commit_times import commit_time
from .insert import advance
from .sql.vendor import LEASE_IS_FRESH, NOW, among, listed
from .writes import Write, Written

EXPIRY_GRACE: Final = 2_000
"""Milliseconds, beside a third of a lease, for which the living may renew it after an outage."""

EXPIRY_PATIENCE: Final = 20_000
"""Milliseconds that a third of a lease counts for at most: who lives looks every second."""

WATCH_SLACK: Final = 2_000
"""Milliseconds by which word of a run's clients may be late."""

LOCK_PATIENCE: Final = 1_000
"""Milliseconds for which a look at clients waits for publishers, who may hold runs for long."""

_RUN = Run._meta.db_table


class Held(NamedTuple):
    """What became of a run that a producer handle has claimed."""

    running: bool
    generation: int
    cancel_requested: bool
    renewal_due: bool


def held(keys: Sequence[int], using: str) -> dict[int, Held]:
    """Return what became of claimed runs, by primary key; nothing for those that were deleted."""
    connection = connections[using]
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT
                id, status = '{RUNNING}', generation, cancel_requested_at IS NOT NULL,
                NOT {LEASE_IS_FRESH[connection.vendor]}
            FROM {_RUN} WHERE id {among(connection.vendor)} AND run_id IS NOT NULL
            """,
            (listed(keys, connection.vendor),),
        )
        return {
            key: Held(bool(running), generation, bool(cancel), bool(due))
            for key, running, generation, cancel, due in cursor.fetchall()
        }


def renew(keys: Sequence[int], using: str) -> None:
    """Renew the leases of runs, but for those that are locked: who appends renews as well."""
    _set_unlocked(keys, f"lease_expires = {NOW[connections[using].vendor]} + lease_ms", (), using)


def lease_clock(using: str) -> int:
    """Return the milliseconds since 1970 on the clock that leases run by."""
    with connections[using].cursor() as cursor:
        cursor.execute(f"SELECT {NOW[connections[using].vendor]}")
        return int(cursor.fetchone()[0])


def expire_leases(using: str, limit: int, now: int, reached_for: int) -> list[Written]:
    """
    End as lost, with an ``error`` event, runs whose lease has expired; return what was written.

    Each is ended once, however many processes do this. It commits by itself.

    Args:
        using: alias of the database.
        limit: runs, at most.
        now: milliseconds, from :func:`lease_clock`.
        reached_for: milliseconds for which this process has reached the log without a break. Within
            a third of a lease, :data:`EXPIRY_PATIENCE` at most, and :data:`EXPIRY_GRACE`, a living
            producer may not have renewed.
    """
    connection = connections[using]
    expired = f"""
        SELECT run_id, epoch FROM {_by_index("streambridge_run_lease", connection.vendor)}
        WHERE status = '{RUNNING}' AND lease_expires <= %s AND run_id IS NOT NULL
            AND {EXPIRY_GRACE} <= %s
                - CASE WHEN lease_ms / 3 < {EXPIRY_PATIENCE} THEN lease_ms / 3
                    ELSE {EXPIRY_PATIENCE} END
        ORDER BY lease_expires LIMIT %s
    """
    parameters = (now, reached_for, limit)
    locking = "FOR UPDATE SKIP LOCKED" if connection.vendor == "postgresql" else ""
    with connection.cursor() as cursor:
        cursor.execute(expired, parameters)  # takes no lock, and mostly finds none
        if not cursor.fetchall():
            return []
        with transaction.atomic(using=using):
            cursor.execute(f"{expired} {locking}", parameters)
            losses = [Write(*new_loss(run_id), epoch) for run_id, epoch in cursor.fetchall()]
            return list(advance(connection, losses, commit_time())) if losses else []


def expired_leases(using: str) -> bool:
    """Return whether there is a run whose lease has expired, and that nobody has ended yet."""
    now = lease_clock(using)
    runs = Run.objects.using(using).filter(status=RUNNING, run_id__isnull=False)
    return runs.filter(lease_expires__lte=now).exists()


# Word of a run's clients is written again after this many milliseconds.
_WATCH_INTERVAL = "CASE WHEN cancel_after_ms > 3000 THEN cancel_after_ms / 3 ELSE 1000 END"


def note_clients(run_ids: Collection[str], now: int, using: str) -> None:
    """Write that runs have clients, for those that want to know and whose last word is old."""
    vendor = connections[using].vendor
    with connections[using].cursor() as cursor:
        cursor.execute(
            f"""
            SELECT id, run_id FROM {_by_index("streambridge_run_watched", vendor)}
            WHERE status = '{RUNNING}' AND cancel_after_ms IS NOT NULL
                AND cancel_requested_at IS NULL AND (
                    watched_at IS NULL OR NOT %s - watched_at BETWEEN 0 AND {_WATCH_INTERVAL}
                )
            """,
            (now,),
        )
        due = [key for key, run_id in cursor.fetchall() if run_id in run_ids]
    if due:
        noted = _set_unlocked(due, "watched_at = %s", (now,), using)
        _set_patiently(set(due) - noted, "watched_at = %s WHERE true", (now,), using)


def cancel_unwatched(now: int, reached_for: int, using: str) -> None:
    """
    Ask those runs to cancel that had clients, and have had none for long enough.

    Args:
        now: milliseconds, from :func:`lease_clock`.
        reached_for: milliseconds for which this process has reached the log without a break:
            after an outage, nobody had the time to write of clients.
        using: alias of the database.
    """
    late = f"{_WATCH_INTERVAL} + {WATCH_SLACK}"
    unwatched = f"""
        WHERE status = '{RUNNING}' AND cancel_after_ms IS NOT NULL AND cancel_requested_at IS NULL
            AND watched_at + cancel_after_ms + {late} <= %s AND {late} <= %s
    """
    parameters = (now, reached_for)
    runs = _by_index("streambridge_run_watched", connections[using].vendor)
    with connections[using].cursor() as cursor:
        cursor.execute(f"SELECT id FROM {runs} {unwatched}", parameters)
        found = [key for (key,) in cursor.fetchall()]
    asked_at = connections[using].ops.adapt_datetimefield_value(timezone.now())
    _set_patiently(found, f"cancel_requested_at = %s {unwatched}", (asked_at, *parameters), using)


def _set_unlocked(
    keys: Sequence[int], assignment: str, parameters: tuple[Any, ...], using: str
) -> set[int]:
    """Change those of the running runs that nobody else has locked; return their keys."""
    connection = connections[using]
    with transaction.atomic(using=using), connection.cursor() as cursor:
        runs = Run.objects.using(using).filter(id__in=keys, status=RUNNING).order_by("id")
        unlocked = list(
            runs.select_for_update(
                skip_locked=connection.features.has_select_for_update_skip_locked
            ).values_list("id", flat=True)
        )
        cursor.execute(
            f"UPDATE {_RUN} SET {assignment} WHERE id {among(connection.vendor)}",
            (*parameters, listed(unlocked, connection.vendor)),
        )
    return set(unlocked)


def _set_patiently(
    keys: Collection[int], assignment: str, parameters: tuple[Any, ...], using: str
) -> None:
    """Change runs one by one, waiting for locks; those that stay locked are left as they are."""
    connection = connections[using]
    for key in keys:
        with (
            contextlib.suppress(OperationalError),
            transaction.atomic(using=using),
            connection.cursor() as cursor,
        ):
            if connection.vendor == "postgresql":
                patience = max(1, LOCK_PATIENCE // len(keys))
                cursor.execute(f"SET LOCAL lock_timeout = {patience}")
            cursor.execute(f"UPDATE {_RUN} SET {assignment} AND id = %s", (*parameters, key))


def _by_index(index: str, vendor: str) -> str:
    """Return the runs as SQL; SQLite would go through all that are running."""
    return f"{_RUN} INDEXED BY {index}" if vendor == "sqlite" else _RUN
