"""
Append events to the log of runs.

All functions are synchronous, work on the caller's connection to the database ``using``, and
leave transactions to the caller unless they say otherwise. An event gets its number under the
lock of its run's row, in the transaction that inserts it; so numbers have no hole, and a
reader that sees event N sees every event before it.
"""

from __future__ import annotations

import datetime
import itertools
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from ..contract import RUNNING, Batch
from ..exceptions import ProducerFenced, RunEnded, producer_fenced, run_ended
from ..models import EventKey, Run
from . import creation
from .insert import advance
from .patience import condition, limit_waits
from .sql.vendor import among, listed
from .writes import Write, Written

Appended = Written | RunEnded | ProducerFenced

_RUN = Run._meta.db_table
_keys = operator.attrgetter("keys")


def append(
    writes: Sequence[Write],
    using: str,
    at: datetime.datetime,
    done: dict[str, Written],
    connection: BaseDatabaseWrapper | None = None,
) -> list[Appended]:
    """
    Append to several runs at once and say for each what was written.

    Outside a transaction, all of it is committed on return. The runs' rows are locked in the
    order of their primary keys, so two processes can't deadlock over them. A run that
    doesn't exist is created, unless an epoch was asked for. For a run that has ended, was
    deleted, or has a later producer, nothing is written: a :class:`RunEnded` or
    :class:`ProducerFenced` takes the place of its result. Events whose key the run has are left
    out, also after its end.

    Args:
        writes: at most one per run.
        using: alias of the database.
        at: time of the events, and of an end.
        done: results by run id. It takes those of each commit as they come, so that they are
            known if the next one fails; writes with a result are skipped.
        connection: this thread's to the database, of a caller that has found it already.
    """
    if any(map(_keys, writes)):
        return _append_keyed(writes, using, at, done)
    connection = connection or connections[using]
    left = [write for write in writes if write.run_id not in done] if done else writes
    if left:
        for written in advance(connection, left, at):
            done[written.run_id] = written
    if len(done) == len(writes):
        return [done[write.run_id] for write in writes]
    for _ in range(creation.CREATE_ATTEMPTS):
        left = [write for write in writes if write.epoch is None and write.run_id not in done]
        if not left:
            break
        # Rare: the first event of a run, or one after its end.
        with transaction.atomic(using=using):
            limit_waits(connections[using])
            ended = set(
                Run.objects.using(using)
                .filter(run_id__in=[write.run_id for write in left])
                .exclude(status=RUNNING)
                .values_list("run_id", flat=True)
            )
            fresh = [write for write in left if write.run_id not in ended]
            if not fresh:
                break
            creation.create_missing([write.run_id for write in fresh], using)
            made = list(advance(connection, fresh, at))
        done.update((written.run_id, written) for written in made)
    fenced = _fenced([write for write in writes if write.run_id not in done], using)
    return [done.get(write.run_id) or fenced.get(write.run_id) or _ended(write) for write in writes]


class _Locked(NamedTuple):
    """A run whose row is locked."""

    key: int
    epoch: int
    generation: int
    head: int
    status: str
    cancel_requested_at: Any

    def is_for(self, write: Write) -> bool:
        return write.epoch in (None, self.epoch) and write.generation in (None, self.generation)

    def unchanged(self, run_id: str) -> Written:
        """Return the result of a write that had nothing new."""
        nothing = Batch(self.epoch, self.head + 1, (), ())
        cancel_requested = self.cancel_requested_at is not None
        return Written(run_id, self.key, self.epoch, nothing, self.status, cancel_requested)


def _append_keyed(
    writes: Sequence[Write], using: str, at: datetime.datetime, done: dict[str, Written]
) -> list[Appended]:
    """
    Append what is new, all in one transaction.

    The lock comes first: a statement sees what was committed when it began, and to wait for a
    lock doesn't change that. So only a statement that follows sees the keys of whoever had it.
    """
    with transaction.atomic(using=using):
        runs = _lock(writes, using)
        missing = {write.run_id for write in writes if write.epoch is None} - runs.keys()
        if missing:
            creation.create_missing(missing, using)
            runs = _lock(writes, using)
        keys = {key for write in writes for key in write.keys if key is not None}
        found = EventKey.objects.using(using).filter(
            run_id__in=[run.key for run in runs.values()], key__in=keys
        )
        known = set(found.values_list("run_id", "key"))
        outcomes: dict[str, Appended] = dict(done)
        fresh = []
        for wanted in writes:
            if wanted.run_id in done:
                continue
            run = runs.get(wanted.run_id)
            if run is None or not run.is_for(wanted):
                fresh.append(wanted)  # to be refused
                continue
            write = _without_known(wanted, run.key, known)
            if write.names or write.end is not None:
                fresh.append(write)
            else:
                outcomes[write.run_id] = run.unchanged(write.run_id)
        appended = append([write._replace(keys=()) for write in fresh], using, at, {})
        outcomes.update(zip([write.run_id for write in fresh], appended, strict=True))
        EventKey.objects.using(using).bulk_create(
            EventKey(run_id=outcome.key, key=key, seq=outcome.batch.first + index)
            for write, outcome in zip(fresh, appended, strict=True)
            if isinstance(outcome, Written)
            for index, key in enumerate(write.keys)
            if key is not None
        )
    return [outcomes[write.run_id] for write in writes]


def _lock(writes: Sequence[Write], using: str) -> dict[str, _Locked]:
    """Lock the rows of the runs that exist, in the order of their primary keys, and return them."""
    columns = "run_id, id, epoch, generation, head, status, cancel_requested_at"
    vendor = connections[using].vendor
    patient, timeout = condition(connections[using])
    wanted = f"{patient} AND run_id {among(vendor)}"
    if vendor == "postgresql":
        statement = f"SELECT {columns} FROM {_RUN} WHERE {wanted} ORDER BY id FOR UPDATE"
    else:  # a write, since a transaction that began as a reader may find that it is too late
        statement = f"UPDATE {_RUN} SET head = head WHERE {wanted} RETURNING {columns}"
    with connections[using].cursor() as cursor:
        cursor.execute(statement, (*timeout, listed([write.run_id for write in writes], vendor)))
        return {run_id: _Locked(*locked) for run_id, *locked in cursor.fetchall()}


def unlocked(run_ids: Sequence[str], using: str) -> dict[str, bool]:
    """
    Return for each run that is there whether nobody holds its row at the moment.

    On a connection of our own to PostgreSQL. It waits for no row, and holds none on return.
    """
    patient, timeout = condition(connections[using])
    with connections[using].cursor() as cursor:
        cursor.execute(
            f"""
            WITH unlocked AS MATERIALIZED (
                SELECT id FROM {_RUN} WHERE {patient} AND run_id = ANY(%s)
                ORDER BY id FOR UPDATE SKIP LOCKED
            )
            SELECT run_id, id IN (SELECT id FROM unlocked) FROM {_RUN} WHERE run_id = ANY(%s)
            """,
            (*timeout, list(run_ids), list(run_ids)),
        )
        return dict(cursor.fetchall())


def _without_known(write: Write, run: int, known: set[tuple[int, str]]) -> Write:
    """Return a write without the events whose keys are known, after which its own are known too."""
    events = []
    for event in itertools.zip_longest(write.names, write.data, write.keys):
        key = event[2]
        if key is not None:
            if (run, key) in known:
                continue
            known.add((run, key))
        events.append(event)
    names, data, keys = zip(*events, strict=True) if events else ((), (), ())
    return write._replace(names=names, data=data, keys=keys)


def _fenced(refused: Sequence[Write], using: str) -> dict[str, ProducerFenced]:
    """Return an error for each of the writes whose run a later producer has taken over."""
    wanted = {write.run_id: write for write in refused if write.generation is not None}
    if not wanted:
        return {}
    found = Run.objects.using(using).filter(run_id__in=wanted)
    now = {run.run_id: (run.epoch, run.generation) for run in found}
    return {
        run_id: producer_fenced(run_id)
        for run_id, write in wanted.items()
        if run_id in now and now[run_id][0] == write.epoch and now[run_id][1] != write.generation
    }


def _ended(write: Write) -> RunEnded:
    return run_ended(write.run_id, or_deleted=write.epoch is not None)
