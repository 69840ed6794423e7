"""
The beginning of runs: they are created here, and claimed by producers.

All functions are synchronous and work on the caller's connection to the database ``using``.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from django.db import connections, transaction
from django.db.models import Subquery
from django.utils import timezone

from ..conf import streambridge_settings
from ..contract import RUNNING, NewRun
from ..exceptions import RunExists, run_ended, run_exists
from ..models import EpochFloor, Run
from .leases import lease_clock
from .patience import condition, limit_waits
from .sql.vendor import NOW

CREATE_ATTEMPTS: Final = 3

MADE_BY_PUBLISH: Final = "{ }"
"""The metadata of a run that nobody has created: JSON of no values, as nobody else writes it."""

_RUN = Run._meta.db_table


class Claim(NamedTuple):
    """What a producer handle learns of its run."""

    key: int
    epoch: int
    generation: int
    cancel_requested: bool


def create(run_id: str, new: NewRun, using: str) -> None:
    """
    Insert a run, in a transaction of its own or as part of the caller's.

    Args:
        run_id: its id.
        new: what is said of it.
        using: alias of the database.

    Raises:
        RunExists: the id is taken.
    """
    with transaction.atomic(using=using):
        limit_waits(connections[using])
        keys = _create([(run_id, new.owner_id, new.metadata_json)], using)
        if not keys:
            raise run_exists(run_id)
        created = Run.objects.using(using).filter(id=keys[0])
        if new.lease_ms is not None:
            expires = lease_clock(using) + new.lease_ms
            created.update(lease_ms=new.lease_ms, lease_expires=expires)
        chosen = {
            "cancel_after_ms": new.cancel_after_ms,
            "max_events": new.max_events,
            "max_bytes": new.max_bytes,
            "keep": new.keep,
        }
        if given := {name: value for name, value in chosen.items() if value is not None}:
            created.update(**given)


def create_missing(run_ids: Iterable[str], using: str) -> None:
    """Insert those of the runs that don't exist; waits for whoever inserts one of them as well."""
    if rows := [(run_id, None, MADE_BY_PUBLISH) for run_id in run_ids]:
        _create(rows, using)


_CREATE = f"""
    INSERT INTO {_RUN}
        (run_id, owner_id, metadata_json, epoch, created_at, max_events, max_bytes, head, floor,
        size, status)
    VALUES {{}} ON CONFLICT (run_id) DO NOTHING RETURNING id
"""
_CREATE_ROW = f"(%s, %s, %s, %s, %s, %s, %s, 0, 0, 0, '{RUNNING}')"


def _create(runs: Sequence[tuple[str, Any, str]], using: str) -> list[int]:
    """Insert runs, given id, owner and metadata of each, but those that exist; return the keys."""
    connection = connections[using]
    epoch = time.time_ns() // 1_000_000
    now = connection.ops.adapt_datetimefield_value(timezone.now())
    to_db = Run._meta.get_field("owner").get_db_prep_save
    limits = streambridge_settings.MAX_RUN_EVENTS, streambridge_settings.MAX_RUN_BYTES
    rows = [
        (run_id, to_db(owner_id, connection), metadata_json, epoch, now, *limits)
        for run_id, owner_id, metadata_json in sorted(runs)  # no two processes wait in a circle
    ]
    with connection.cursor() as cursor:
        cursor.execute(
            _CREATE.format(", ".join([_CREATE_ROW] * len(rows))),
            list(itertools.chain.from_iterable(rows)),
        )
        keys = [key for (key,) in cursor.fetchall()]
    # Read after the insertion, which waits for a deletion of the same id to commit.
    floor = Subquery(EpochFloor.objects.using(using).values("epoch")[:1])
    Run.objects.using(using).filter(id__in=keys, epoch__lte=floor).update(epoch=floor + 1)
    return keys


def claim(run_id: str, lease_ms: int | None, take_over: bool, using: str) -> Claim:
    """
    Make a run one producer's, creating it if need be, and start its lease.

    Args:
        run_id: the run.
        lease_ms: milliseconds that the lease lasts; None: as long as it was created with, if any.
        take_over: fence the producers that have it so far.
        using: alias of the database.

    Raises:
        RunEnded: the run has ended.
    """
    connection = connections[using]
    patient, timeout = condition(connection)
    # The column, not whether it is null: SQLite (3.40) says of any that it is not, in RETURNING.
    statement = f"""
        UPDATE {_RUN} SET
            generation = generation + %s,
            lease_ms = coalesce(%s, lease_ms),
            lease_expires = {NOW[connection.vendor]} + coalesce(%s, lease_ms)
        WHERE {patient} AND run_id = %s AND status = '{RUNNING}'
        RETURNING id, epoch, generation, cancel_requested_at
    """
    for _ in range(CREATE_ATTEMPTS):
        with connection.cursor() as cursor:
            cursor.execute(statement, (int(take_over), lease_ms, lease_ms, *timeout, run_id))
            found = cursor.fetchall()
        if found:
            key, epoch, generation, cancel_requested_at = found[0]
            return Claim(key, epoch, generation, cancel_requested_at is not None)
        with contextlib.suppress(RunExists):  # it has ended, or was made just now
            create(run_id, NewRun(lease_ms=lease_ms), using)
    raise run_ended(run_id)
