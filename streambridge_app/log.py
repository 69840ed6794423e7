"""
The log of every run: runs are created and claimed here, and events appended.

With ``advance``, ``liveness``, ``retention`` and ``orphans`` it is the only one that writes its
tables.

All functions are synchronous, work on the caller's connection to the database ``using``, and
leave transactions to the caller unless they say otherwise. An event gets its number under the
lock of its run's row, in the transaction that inserts it; so numbers have no hole, and a
reader that sees event N sees every event before it.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import operator
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Subquery, Value
from django.db.models.expressions import RawSQL
from django.db.models.functions import Coalesce, Length
from django.utils import timezone

from .advance import advance
from .batch import Batch
from .bridge import fenced
from .conf import streambridge_settings
from .dialects import NOW, among, listed
from .event_data import MAX_ERROR_DATA
from .exceptions import ProducerFenced, RunEnded, RunExists, RunNotFound
from .liveness import lease_clock
from .models import EpochFloor, Event, EventKey, Run
from .patience import condition, is_patient, limit_waits
from .runs import RUNNING, SUCCESS, RunState, error_in
from .writes import Write, Written

_CREATE_ATTEMPTS: Final = 3

MADE_BY_PUBLISH: Final = "{ }"
"""The metadata of a run that nobody has created: JSON of no values, as nobody else writes it."""

Appended = Written | RunEnded | ProducerFenced

_RUN = Run._meta.db_table
_keys = operator.attrgetter("keys")


class Claim(NamedTuple):
    """What a producer handle learns of its run."""

    key: int
    epoch: int
    generation: int
    cancel_requested: bool


def create(
    run_id: str,
    using: str,
    owner_id: Any = None,
    metadata_json: str = "{}",
    lease_ms: int | None = None,
    cancel_after_ms: int | None = None,
    max_events: int | None = None,
    max_bytes: int | None = None,
    keep: datetime.timedelta | None = None,
) -> None:
    """
    Insert a run, in a transaction of its own or as part of the caller's.

    Args:
        run_id: its id.
        using: alias of the database.
        owner_id: primary key of its owner.
        metadata_json: a JSON object.
        lease_ms: milliseconds after which the run is lost if nobody publishes; None: no lease.
        cancel_after_ms: milliseconds without a client after which it is asked to cancel.
        max_events, max_bytes: what to keep of it; None: what the settings say.
        keep: how long to keep it after its end; None: as long as the settings say.

    Raises:
        RunExists: the id is taken.
    """
    with transaction.atomic(using=using):
        limit_waits(connections[using])
        keys = _create([(run_id, owner_id, metadata_json)], using)
        if not keys:
            raise RunExists(f"A run with the id {run_id!r} exists already.")
        created = Run.objects.using(using).filter(id=keys[0])
        if lease_ms is not None:
            created.update(lease_ms=lease_ms, lease_expires=lease_clock(using) + lease_ms)
        chosen = {
            "cancel_after_ms": cancel_after_ms,
            "max_events": max_events,
            "max_bytes": max_bytes,
            "keep": keep,
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
    for _ in range(_CREATE_ATTEMPTS):
        with connection.cursor() as cursor:
            cursor.execute(statement, (int(take_over), lease_ms, lease_ms, *timeout, run_id))
            found = cursor.fetchall()
        if found:
            key, epoch, generation, cancel_requested_at = found[0]
            return Claim(key, epoch, generation, cancel_requested_at is not None)
        with contextlib.suppress(RunExists):  # it has ended, or was made just now
            create(run_id, using, lease_ms=lease_ms)
    raise _ended(run_id, None)


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
    for _ in range(_CREATE_ATTEMPTS):
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
            create_missing([write.run_id for write in fresh], using)
            made = list(advance(connection, fresh, at))
        done.update((written.run_id, written) for written in made)
    fenced = _fenced([write for write in writes if write.run_id not in done], using)
    return [
        done.get(write.run_id) or fenced.get(write.run_id) or _ended(write.run_id, write.epoch)
        for write in writes
    ]


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
            _create([(run_id, None, MADE_BY_PUBLISH) for run_id in missing], using)
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
        run_id: fenced(run_id)
        for run_id, write in wanted.items()
        if run_id in now and now[run_id][0] == write.epoch and now[run_id][1] != write.generation
    }


def _ended(run_id: str, epoch: int | None) -> RunEnded:
    fate = "has ended" if epoch is None else "has ended or was deleted"
    return RunEnded(f"The run {run_id!r} {fate}; its log takes no further event.")


def state(run_id: str, using: str) -> RunState:
    """
    Return the state of a run.

    Raises:
        RunNotFound: no run has this id.
    """
    clock = RawSQL(NOW[connections[using].vendor], ())  # noqa: S611 - one of two texts
    found = Run.objects.using(using).annotate(clock=clock).filter(run_id=run_id)
    run = found.first()
    if run is None:
        raise not_found(run_id)
    return RunState(
        run_id=run_id,
        epoch=run.epoch,
        status=run.status,
        head=run.head,
        earliest=run.floor + 1 if run.head > run.floor else None,
        created_at=run.created_at,
        ended_at=run.ended_at,
        owner_id=run.owner_id,
        metadata=run.metadata,
        cancel_requested=run.cancel_requested_at is not None,
        generation=run.generation,
        error=_error_of(run, using),
        silent_seconds=_silence_of(run, run.clock),
    )


def _silence_of(run: Run, now: int) -> float | None:
    """
    Return for how long nobody has renewed the lease of a run; ``now`` in milliseconds.

    None while nobody has to: before its first producer, and between one that has released it and
    the next.
    """
    if run.lease_ms is None or run.lease_expires is None or not (run.head or run.generation):
        return None
    left = run.lease_expires - now
    if left > run.lease_ms:
        return None
    return min(run.lease_ms - left, run.lease_ms) / 1000


def _error_of(run: Run, using: str) -> dict[str, str] | None:
    """Return why a run failed, if its last event says so."""
    if run.status in (RUNNING, SUCCESS):
        return None
    last = Event.objects.using(using).filter(run_id=run.id, seq=run.head, event="error")
    short = last.alias(length=Length("data")).filter(length__lte=MAX_ERROR_DATA)
    found = short.values_list("event", "data").first()
    return None if found is None else error_in(*found)


def request_cancel(run_id: str, using: str) -> None:
    """
    Note that the run's producer is asked to stop; the first request's time is kept.

    Raises:
        RunNotFound: no run has this id.
        RunEnded: it has ended.
    """
    asked = (
        Run.objects.using(using)
        .filter(is_patient(using), run_id=run_id, status=RUNNING)
        .update(cancel_requested_at=Coalesce("cancel_requested_at", Value(timezone.now())))
    )
    if not asked:
        if exists(run_id, using):
            raise RunEnded(f"The run {run_id!r} has ended; there is nothing left to cancel.")
        raise not_found(run_id)


def exists(run_id: str, using: str) -> bool:
    """Return whether there is a run with this id."""
    return Run.objects.using(using).filter(run_id=run_id).exists()


def not_found(run_id: str) -> RunNotFound:
    """Return the error of an id that names no run."""
    return RunNotFound(f"There is no run with the id {run_id!r}.")
