"""
Give events their numbers and insert them: for several runs at once, on either database.

Each statement here runs once per commit; what it costs bounds how fast anybody can publish.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from .models import Event, Run
from .runs import RUNNING
from .tail import Batch

_RUN = Run._meta.db_table
_EVENT = Event._meta.db_table

NOW: Final = {
    "postgresql": "(date_part('epoch', clock_timestamp()) * 1000)::bigint",
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
}
"""Milliseconds since 1970 as SQL, by vendor: the clock of all leases."""

LEASE_IS_FRESH: Final = {
    vendor: f"(lease_expires - {now} BETWEEN lease_ms * 2 / 3 AND lease_ms)"
    for vendor, now in NOW.items()
}
"""
Whether a renewal may wait: an unchanged column leaves PostgreSQL's index alone. Null: no lease.

More than a lease is left after the clock has jumped back.
"""


class Write(NamedTuple):
    """What to append to one run, and whether to end it."""

    run_id: str
    names: Sequence[str]
    data: Sequence[str]
    """Each one line of JSON text."""
    end: str | None = None
    """The status to end the run with after these events."""
    epoch: int | None = None
    """Write to this incarnation of the run only; None: to whichever there is, or a new one."""
    generation: int | None = None
    """Write only if no later producer has taken the run over; None: in any case."""
    keys: Sequence[str | None] = ()
    """Keys of the first events, if any has one; for :func:`streambridge_app.log.append`."""


class Written(NamedTuple):
    """What :func:`advance` did for one run."""

    run_id: str
    key: int
    epoch: int
    batch: Batch
    """The events appended; empty when only the end was written."""
    status: str
    cancel_requested: bool
    ended: bool = False
    """Whether it was this that ended the run."""


def advance(
    connection: BaseDatabaseWrapper, writes: Sequence[Write], at: datetime.datetime
) -> Iterable[Written]:
    """
    Append to those of the runs that are there and running; at most one write for each.

    Inside the caller's transaction or in one of its own. Rows are locked in the order of their
    primary keys. The events, and an end, are of the time ``at``.
    """
    if connection.vendor == "postgresql":
        return _advance_postgresql(connection, writes, at)
    return _advance_sqlite(connection, writes, at)


# The plus keeps SQLite from the index on the status: it must look each run up by its id. No column
# that has an index is set: that would cost a turn of the index, even if nothing changes.
_ADVANCE = f"""
    UPDATE {_RUN} AS r SET head = r.head + {{n}}, size = r.size + {{size}} {{source}}
    WHERE r.run_id = {{run_id}} AND +r.status = '{RUNNING}'
        AND r.epoch = coalesce({{epoch}}, r.epoch)
        AND r.generation = coalesce({{generation}}, r.generation)
    RETURNING
        run_id, id, epoch, head, size, cancel_requested_at,
        CASE WHEN lease_ms THEN NOT {LEASE_IS_FRESH["sqlite"]} END
"""
_WANTED = """
    FROM (
        SELECT
            json_extract(value, '$[0]') AS n,
            json_extract(value, '$[1]') AS size,
            json_extract(value, '$[2]') AS run_id,
            json_extract(value, '$[3]') AS epoch,
            json_extract(value, '$[4]') AS generation
        FROM json_each(?)
    ) AS w
"""
_COLUMNS = ("n", "size", "run_id", "epoch", "generation")
_ADVANCE_MANY = _ADVANCE.format(source=_WANTED, **{name: f"w.{name}" for name in _COLUMNS})
_ADVANCE_ONE = _ADVANCE.format(source="", **dict.fromkeys(_COLUMNS, "?"))
"""The same for a single run: half of what it takes with the JSON."""
_END = f"UPDATE {_RUN} SET status = ?, ended_at = ?, lease_expires = NULL WHERE id = ?"
_RENEW_LEASE = f"UPDATE {_RUN} SET lease_expires = {NOW['sqlite']} + lease_ms WHERE id = ?"
_ROW = "(?, ?, ?, ?, ?, ?)"
_INSERT = f"""
    INSERT INTO {_EVENT} (run_id, seq, byte_offset, event, data, created_at) VALUES {_ROW}
"""
_INSERTIONS: Final = [
    (rows * _ROW.count("?"), _INSERT + f", {_ROW}" * (rows - 1)) for rows in (64, 16, 4, 1)
]
"""
How many values an insertion takes, and the statement; a row of 64 costs a third of one alone.

An SQLite takes 999 values at least.
"""


def _sizes(data: Sequence[str]) -> list[int]:
    """Return the bytes that each takes as UTF-8."""
    return [len(text) if text.isascii() else len(text.encode()) for text in data]


@contextlib.contextmanager
def _sqlite_cursor(connection: BaseDatabaseWrapper) -> Iterator[sqlite3.Cursor]:
    """
    Give a cursor inside the caller's transaction, or in one of its own.

    It is the driver's: what Django does around three statements and a commit takes longer than
    SQLite takes for them.
    """
    connection.ensure_connection()
    connection.validate_no_broken_transaction()
    cursor: sqlite3.Cursor = connection.connection.cursor()
    if connection.in_atomic_block or not connection.autocommit:
        with transaction.atomic(using=connection.alias), connection.wrap_database_errors:
            yield cursor
        return
    with connection.wrap_database_errors:
        try:
            cursor.execute("BEGIN IMMEDIATE")  # an interrupt here may come after it has begun
            yield cursor
            cursor.execute("COMMIT")
        except BaseException:
            connection.connection.rollback()
            raise


def _advance_sqlite(
    connection: BaseDatabaseWrapper, writes: Sequence[Write], at: datetime.datetime
) -> list[Written]:
    """Do it in a few statements: SQLite locks the whole database, which needs no order."""
    created_at = connection.ops.adapt_datetimefield_value(at)
    wanted = {write.run_id: (write, _sizes(write.data)) for write in writes}
    parameters = [
        (len(write.names), sum(sizes), run_id, write.epoch, write.generation)
        for run_id, (write, sizes) in wanted.items()
    ]
    done = []
    rows: list[tuple[Any, ...]] = []
    with _sqlite_cursor(connection) as cursor:
        if len(parameters) == 1:
            cursor.execute(_ADVANCE_ONE, parameters[0])
        else:
            cursor.execute(_ADVANCE_MANY, (json.dumps(parameters),))
        for run_id, key, epoch, head, size, cancel, renewal_due in cursor.fetchall():
            write, sizes = wanted[run_id]
            if write.end is not None:
                cursor.execute(_END, (write.end, created_at, key))
            elif renewal_due:
                cursor.execute(_RENEW_LEASE, (key,))
            first = head - len(write.names) + 1
            rows.extend(
                zip(
                    itertools.repeat(key),
                    itertools.count(first),
                    itertools.accumulate(sizes, initial=size - sum(sizes)),
                    write.names,
                    write.data,
                    itertools.repeat(created_at),
                    strict=False,
                )
            )
            batch = Batch(epoch, first, write.names, write.data)
            ended = write.end is not None
            status = write.end or RUNNING
            done.append(Written(run_id, key, epoch, batch, status, cancel is not None, ended))
        _insert(cursor, rows)
    return done


def _insert(cursor: sqlite3.Cursor, rows: Iterable[tuple[Any, ...]]) -> None:
    values = list(itertools.chain.from_iterable(rows))
    start = 0
    for width, statement in _INSERTIONS:
        while len(values) - start >= width:
            cursor.execute(statement, values[start : start + width])
            start += width


_LEASE_POSTGRESQL = f"""
    CASE
        WHEN lease_ms IS NULL OR {{end}} IS NOT NULL THEN NULL
        WHEN {LEASE_IS_FRESH["postgresql"]} THEN lease_expires
        ELSE {NOW["postgresql"]} + lease_ms
    END
"""

# One text for each column, with a line per event, and an empty line between runs: names and data
# have neither. Arrays would take a Python call per event to write.
_ADVANCE_POSTGRESQL = f"""
    WITH wanted AS (
        SELECT * FROM unnest(
            string_to_array(%s, E'\\n'),
            string_to_array(%s, E'\\n')::bigint[], string_to_array(%s, E'\\n')::bigint[],
            string_to_array(%s, E'\\n', ''), string_to_array(%s, E'\\n', '')::bigint[],
            string_to_array(%s, E'\\n', '')::bigint[],
            string_to_array(%s, E'\\n\\n'), string_to_array(%s, E'\\n\\n')
        ) AS w (run_id, n, size, status, epoch, generation, names, data)
    ), locked AS (
        SELECT r.id, w.n, w.size, w.status FROM {_RUN} r JOIN wanted w USING (run_id)
        WHERE r.status = '{RUNNING}' AND r.epoch = coalesce(w.epoch, r.epoch)
            AND r.generation = coalesce(w.generation, r.generation)
        ORDER BY r.id FOR UPDATE OF r
    ), advanced AS (
        UPDATE {_RUN} r SET
            head = r.head + l.n,
            size = r.size + l.size,
            status = coalesce(l.status, r.status),
            ended_at = CASE WHEN l.status IS NULL THEN r.ended_at ELSE %s END,
            lease_expires = {_LEASE_POSTGRESQL.format(end="l.status")}
        FROM locked l WHERE r.id = l.id
        RETURNING
            r.run_id, r.id, r.epoch, r.head, r.head - l.n AS old_head, r.size - l.size AS old_size,
            r.status, r.cancel_requested_at
    ), inserted AS (
        INSERT INTO {_EVENT} (run_id, seq, byte_offset, event, data, created_at)
        SELECT
            a.id,
            a.old_head + e.position,
            a.old_size - octet_length(e.data)
                + sum(octet_length(e.data)) OVER (PARTITION BY a.id ORDER BY e.position),
            e.event,
            e.data,
            %s
        FROM advanced a JOIN wanted w USING (run_id), unnest(
            string_to_array(w.names, E'\\n'), string_to_array(w.data, E'\\n')
        ) WITH ORDINALITY AS e (event, data, position)
    )
    SELECT run_id, id, epoch, head, status, cancel_requested_at IS NOT NULL FROM advanced
"""

_ADVANCE_ONE_POSTGRESQL = f"""
    WITH advanced AS (
        UPDATE {_RUN} SET
            head = head + %s,
            size = size + %s,
            status = coalesce(%s, status),
            ended_at = coalesce(%s, ended_at),
            lease_expires = {_LEASE_POSTGRESQL.format(end="%s::text")}
        WHERE run_id = %s AND status = '{RUNNING}' AND epoch = coalesce(%s, epoch)
            AND generation = coalesce(%s, generation)
        RETURNING run_id, id, epoch, head, size, status, cancel_requested_at
    ), inserted AS (
        INSERT INTO {_EVENT} (run_id, seq, byte_offset, event, data, created_at)
        SELECT
            a.id,
            a.head - %s + e.position,
            a.size - %s - octet_length(e.data)
                + sum(octet_length(e.data)) OVER (ORDER BY e.position),
            e.event,
            e.data,
            %s
        FROM advanced a, unnest(string_to_array(%s, E'\\n'), string_to_array(%s, E'\\n'))
            WITH ORDINALITY AS e (event, data, position)
    )
    SELECT run_id, id, epoch, head, status, cancel_requested_at IS NOT NULL FROM advanced
"""
"""The same for a single run, by the plan that is best for one: a third faster."""


def _advance_postgresql(
    connection: BaseDatabaseWrapper, writes: Sequence[Write], at: datetime.datetime
) -> Iterator[Written]:
    """Do all of it in one statement: one round trip, and one commit outside a transaction."""
    parameters: tuple[Any, ...]
    if len(writes) == 1:
        statement = _ADVANCE_ONE_POSTGRESQL
        run_id, names, data, end, epoch, generation, _ = writes[0]
        count, size = len(names), sum(_sizes(data))
        ended_at = None if end is None else at
        parameters = (count, size, end, ended_at, end, run_id, epoch, generation, count, size, at)
        parameters += ("\n".join(names), "\n".join(data))
    else:
        statement = _ADVANCE_POSTGRESQL
        parameters = (
            "\n".join([write.run_id for write in writes]),
            "\n".join([str(len(write.names)) for write in writes]),
            "\n".join([str(sum(_sizes(write.data))) for write in writes]),
            "\n".join([write.end or "" for write in writes]),
            "\n".join([str(write.epoch or "") for write in writes]),
            "\n".join(
                ["" if write.generation is None else str(write.generation) for write in writes]
            ),
            "\n\n".join(["\n".join(write.names) for write in writes]),
            "\n\n".join(["\n".join(write.data) for write in writes]),
            at,
            at,
        )
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        found = cursor.fetchall()
    wanted = {write.run_id: write for write in writes}
    for run_id, key, epoch, head, status, cancel in found:
        write = wanted[run_id]
        batch = Batch(epoch, head - len(write.names) + 1, write.names, write.data)
        yield Written(run_id, key, epoch, batch, status, cancel, status != RUNNING)
