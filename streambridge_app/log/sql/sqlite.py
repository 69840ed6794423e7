"""
The statements of an append on SQLite.

Each runs once per commit; what it costs bounds how fast anybody can publish.
"""

from __future__ import annotations

import datetime
import json
import sqlite3
import sys
from collections.abc import Sequence
from typing import Any, Final

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from ...contract import RUNNING, Batch
from ...models import Event, Run
from ..writes import Write, Written, offsets_of, sizes_of
from .vendor import LEASE_WILL_DO, NOW

_RUN = Run._meta.db_table
_EVENT = Event._meta.db_table

# The plus keeps SQLite from the index on the status: it must look each run up by its id. No column
# that has an index is set: that would cost a turn of the index, even if nothing changes.
_ADVANCE = f"""
    UPDATE {_RUN} AS r SET head = r.head + {{n}}, size = r.size + {{size}} {{source}}
    WHERE r.run_id = {{run_id}} AND +r.status = '{RUNNING}'
        AND r.epoch = coalesce({{epoch}}, r.epoch)
        AND r.generation = coalesce({{generation}}, r.generation)
"""
_ADVANCED = f"""
    run_id, id, epoch, head, size, cancel_requested_at,
    CASE WHEN lease_ms THEN NOT {LEASE_WILL_DO["sqlite"]} END
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
_ADVANCE_MANY = (
    _ADVANCE.format(source=_WANTED, **{name: f"w.{name}" for name in _COLUMNS})
    + f"RETURNING {_ADVANCED}"
)
_ADVANCE_ONE = _ADVANCE.format(source="", **dict.fromkeys(_COLUMNS, "?"))
_SELECT_ONE = f"SELECT {_ADVANCED} FROM {_RUN} WHERE run_id = ?"
"""What the one before has advanced: the two take less than one with RETURNING."""
_END = f"UPDATE {_RUN} SET status = ?, ended_at = ?, lease_expires = NULL WHERE id = ?"
_RENEW_LEASE = f"UPDATE {_RUN} SET lease_expires = {NOW['sqlite']} + lease_ms WHERE id = ?"
_INSERT = f"INSERT INTO {_EVENT} (created_at, run_id, seq, byte_offset, event, data) VALUES "
_INSERTED: Final = 6
"""Columns of a row."""
_INSERT_ONE: Final = f"{_INSERT} ({', '.join('?' * _INSERTED)})"

# These versions of Python warn of each numbered value (python/cpython#117995).
_may_share = not (3, 12) <= sys.version_info < (3, 12, 4)


def _insertion(rows: int, shared: int) -> tuple[int, str]:
    """Return how many values an insertion takes beside the shared ones, and its statement."""
    own = _INSERTED - shared
    # Only the shared ones are numbered: Python asks SQLite for each value's name, and SQLite goes
    # through all that have one. A plain mark is the next one after all before it.
    marks = [*(f"?{number}" for number in range(1, shared + 1)), *["?"] * own]
    return rows * own, _INSERT + ", ".join([f"({', '.join(marks)})"] * rows)


_INSERTIONS: Final = {
    shared: [_insertion(rows, shared) for rows in (512, 64, 16, 4, 1)] for shared in (0, 1, 2)
}
"""
By the number of columns that have the same value in all rows: each value costs Python a call.

A row of 64 costs a third of one alone.
"""


def advance(
    connection: BaseDatabaseWrapper, writes: Sequence[Write], at: datetime.datetime
) -> list[Written]:
    """
    Do it in a few statements: SQLite locks the whole database, which needs no order.

    By the driver's cursor: what Django does around them and a commit takes longer than they do.
    """
    if connection.connection is None:
        connection.ensure_connection()
    connection.validate_no_broken_transaction()
    cursor: sqlite3.Cursor = connection.connection.cursor()
    created_at = _adapted(at, connection)
    if connection.in_atomic_block or not connection.autocommit:
        with transaction.atomic(using=connection.alias), connection.wrap_database_errors:
            return _advance(cursor, writes, created_at)
    with connection.wrap_database_errors:
        try:
            cursor.execute("BEGIN IMMEDIATE")  # an interrupt here may come after it has begun
            done = _advance(cursor, writes, created_at)
            cursor.execute("COMMIT")
        except BaseException:
            connection.connection.rollback()
            raise
    return done


def _advance(
    cursor: sqlite3.Cursor, writes: Sequence[Write], created_at: str | None
) -> list[Written]:
    if len(writes) == 1:
        return _advance_one(cursor, writes[0], created_at)
    wanted = {write.run_id: (write, sizes_of(write.data)) for write in writes}
    parameters = [_parameters(write, sum(sizes)) for write, sizes in wanted.values()]
    cursor.execute(_ADVANCE_MANY, (json.dumps(parameters),))
    done = []
    shared: tuple[Any, ...] = (created_at,) if _may_share else ()
    values: list[Any] = []
    for run in cursor.fetchall():
        write, sizes = wanted[run[0]]
        written = _advanced(cursor, run, write, created_at)
        values += _values(run, write, sizes, (created_at, written.key)[len(shared) :])
        done.append(written)
    _insert(cursor, shared, values)
    return done


def _advance_one(cursor: sqlite3.Cursor, write: Write, created_at: str | None) -> list[Written]:
    sizes = sizes_of(write.data)
    cursor.execute(_ADVANCE_ONE, _parameters(write, sum(sizes)))
    if not cursor.rowcount:
        return []
    (run,) = cursor.execute(_SELECT_ONE, (write.run_id,)).fetchall()
    written = _advanced(cursor, run, write, created_at)
    if len(sizes) == 1:  # most commits of a slow run
        _, key, _, head, size, *_ = run
        (name,), (data,) = write.names, write.data
        cursor.execute(_INSERT_ONE, (created_at, key, head, size - sizes[0], name, data))
    else:
        shared = (created_at, written.key) if _may_share else ()
        own = (created_at, written.key)[len(shared) :]
        _insert(cursor, shared, _values(run, write, sizes, own))
    return [written]


def _parameters(write: Write, size: int) -> tuple[Any, ...]:
    return len(write.names), size, write.run_id, write.epoch, write.generation


def _advanced(
    cursor: sqlite3.Cursor, run: tuple[Any, ...], write: Write, created_at: str | None
) -> Written:
    """End a run that was advanced or renew its lease, if need be, and return what is written."""
    run_id, key, epoch, head, _, cancel_requested_at, renewal_due = run
    ended = write.end is not None
    if ended:
        cursor.execute(_END, (write.end, created_at, key))
    elif renewal_due:
        cursor.execute(_RENEW_LEASE, (key,))
    batch = Batch(epoch, head - len(write.names) + 1, write.names, write.data)
    cancel_requested = cancel_requested_at is not None
    return Written(run_id, key, epoch, batch, write.end or RUNNING, cancel_requested, ended)


def _adapted(at: datetime.datetime, connection: BaseDatabaseWrapper) -> str | None:
    """Return a time as Django stores it."""
    if at.tzinfo is datetime.UTC is connection.timezone:
        return at.isoformat(" ")[: -len("+00:00")]  # as below, with less around it
    return connection.ops.adapt_datetimefield_value(at)


def _values(
    run: tuple[Any, ...], write: Write, sizes: Sequence[int], own: Sequence[Any]
) -> list[Any]:
    """Return the values of the events of a run, one row after the other, each after ``own``."""
    _, _, _, head, size, *_ = run
    count = len(sizes)
    columns: list[Sequence[Any]] = [
        *([value] * count for value in own),
        range(head - count + 1, head + 1),
        offsets_of(sizes, size - sum(sizes)),
        write.names,
        write.data,
    ]
    values: list[Any] = [None] * (count * len(columns))
    for position, column in enumerate(columns):
        values[position :: len(columns)] = column
    return values


def _insert(cursor: sqlite3.Cursor, shared: tuple[Any, ...], values: Sequence[Any]) -> None:
    if not values:
        return
    limit = cursor.connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)  # 999 at least
    start = 0
    for width, statement in _INSERTIONS[len(shared)]:
        while len(shared) + width <= limit and len(values) - start >= width:
            cursor.execute(statement, (*shared, *values[start : start + width]))
            start += width
