"""
Read the log for those who follow: where runs stand, and the events after a place.

What is read is checked, by numbers that cost next to nothing: an event is never shown under
another's number, whatever somebody did to the rows by hand (see :mod:`streambridge_app.log.holes`).

All functions are synchronous and work on the caller's connection to the database ``using``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple
from weakref import WeakSet

from django.db import DataError, connections

from ..contract import Batch, RunHead
from ..models import Event, Run
from .errors import Failure, failure_of
from .holes import read_past

RUNS_PER_QUERY: Final = 500
"""Runs in one query: below the limit on parameters of every SQLite."""

PAGE_BYTES: Final = 262_144
"""A page of the log ends with the rows that pass this size."""

FEW: Final = 64
FEW_BYTES: Final = 8_192
"""The few next events of a run are that many, or end with the row that passes this size."""


class Place(NamedTuple):
    """A place in the log of a run, from which to read on."""

    key: int
    """Primary key of the run."""
    epoch: int
    seq: int
    """Number of the event to start after."""


_RUN = Run._meta.db_table
_EVENT = Event._meta.db_table

# One row, made by one call of the database: rows would each be a turn at the interpreter's lock.
# The order within is promised by PostgreSQL, and by SQLite for a subquery under an aggregate that
# depends on it (https://www.sqlite.org/optoverview.html#omitorderby, its fifth condition).
_PAGE = f"""
    FROM {_EVENT} WHERE run_id = %s AND seq > %s AND seq <= %s AND byte_offset < {PAGE_BYTES} + (
        SELECT byte_offset FROM {_EVENT} WHERE run_id = %s AND seq > %s ORDER BY seq LIMIT 1
    )
"""
_READ = f"""
    SELECT count(*), max(seq), group_concat(event || char(10) || data, char(10))
    FROM (SELECT seq, event, data {_PAGE} ORDER BY seq)
"""
_READ_POSTGRESQL = f"""
    SELECT count(*), max(seq), string_agg(event || E'\\n' || data, E'\\n' ORDER BY seq) {_PAGE}
"""

_MAKE_ROOM: Final = f"SELECT octet_length(repeat(' ', {8 * PAGE_BYTES}))"
"""
Lets a process of PostgreSQL keep the memory of a page, several times its size, for the next one.

On glibc, what malloc gives back to the system at once depends on the largest piece that it was
given back itself (mallopt(3), on M_MMAP_THRESHOLD). Half of a page's time was to get it again.
Elsewhere, and behind a pooler that lends another process each time, it does nothing.
"""
_with_room: WeakSet[Any] = WeakSet()
"""The connections that have seen it."""


def read_after(key: int, epoch: int, seq: int, limit: int, using: str) -> Batch | None:
    """
    Return the events after ``seq``, up to number ``seq + limit`` and around 256 KiB.

    None if there are none. The first event of the batch is not ``seq + 1`` if that was trimmed, or
    is missing; the batch ends before whatever is missing next.

    Args:
        key: primary key of the run.
        epoch: its epoch.
        seq: number of the event to start after.
        limit: events, at most.
        using: alias of the database.
    """
    connection = connections[using]
    with connection.cursor() as cursor:
        query = _READ
        if connection.vendor == "postgresql":
            query = _READ_POSTGRESQL
            if connection.connection not in _with_room:
                cursor.execute(_MAKE_ROOM)
                _with_room.add(connection.connection)
        cursor.execute(query, (key, seq, seq + limit, key, seq))
        count, last, packed = cursor.fetchone()
    if last == seq + count and "\r" not in packed:  # so many numbers are there: all of them
        batch = Batch.unpack(epoch, seq + 1, packed)
        if len(batch.names) == len(batch.data) == count:
            return batch
    return read_past(key, epoch, seq, limit, using)


# Either database must go from the places to the events: PostgreSQL, left to choose, read all events
# there are for 200 places. So it is given a limit for each place, and SQLite an order of the joins.
_FEW_POSTGRESQL = f"""
    SELECT e.run_id, e.seq, e.event, e.data
    FROM unnest(%s::bigint[], %s::bigint[]) AS w (key, seq) CROSS JOIN LATERAL (
        SELECT *, first_value(byte_offset) OVER (ORDER BY seq) AS start FROM (
            SELECT run_id, seq, event, data, byte_offset FROM {_EVENT}
            WHERE run_id = w.key AND seq > w.seq ORDER BY seq LIMIT {FEW}
        ) AS following
    ) AS e
    WHERE e.byte_offset < {FEW_BYTES} + e.start AND length(e.data) <= {FEW_BYTES}
    ORDER BY e.run_id, e.seq
"""
_FEW_SQLITE = f"""
    SELECT e.run_id, e.seq, e.event, e.data FROM (
        SELECT json_extract(value, '$[0]') AS key, json_extract(value, '$[1]') AS seq
        FROM json_each(%s)
    ) AS w CROSS JOIN {_EVENT} e
    ON e.run_id = w.key AND e.seq > w.seq AND e.seq <= w.seq + {FEW}
        AND length(e.data) <= {FEW_BYTES} AND e.byte_offset < {FEW_BYTES} + (
            SELECT byte_offset FROM {_EVENT} WHERE run_id = w.key AND seq > w.seq
            ORDER BY seq LIMIT 1
        )
    ORDER BY e.run_id, e.seq
"""


def read_few(places: Sequence[Place], using: str) -> dict[Place, Batch]:
    """
    Return the next events after several places, a few for each: nothing where there is none.

    One query takes many runs. An event of more than :data:`FEW_BYTES` is not among the few; events
    with a hole between them are left to :func:`read_after`.

    Args:
        places: at most one for each run.
        using: alias of the database.
    """
    found: dict[int, list[tuple[int, str, str]]] = {}
    for start in range(0, len(places), RUNS_PER_QUERY):
        for key, *row in _few(places[start : start + RUNS_PER_QUERY], using):
            found.setdefault(key, []).append(row)
    batches = {}
    for place in places:
        if rows := found.get(place.key):
            seqs, names, data = zip(*rows, strict=True)
            if seqs[-1] - seqs[0] + 1 == len(seqs) and _are_lines(names, data):
                batches[place] = Batch(place.epoch, seqs[0], names, data)
    return batches


def _are_lines(names: Sequence[str], data: Sequence[str]) -> bool:
    text = "".join([*names, *data])
    return "\n" not in text and "\r" not in text


def _few(places: Sequence[Place], using: str) -> Any:
    connection = connections[using]
    keys = [place.key for place in places]
    seqs = [place.seq for place in places]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(_FEW_POSTGRESQL, (keys, seqs))
        else:
            cursor.execute(_FEW_SQLITE, (json.dumps(list(zip(keys, seqs, strict=True))),))
        return cursor.fetchall()


_HEADS = f"SELECT run_id, id, epoch, head, floor, status FROM {_RUN} WHERE run_id IN ({{}})"


def heads(run_ids: Iterable[str], using: str) -> dict[str, RunHead]:
    """Return the heads of those of the runs that exist, by run id."""
    wanted = list(run_ids)
    try:
        return _heads(wanted, using)
    except DataError as error:
        if failure_of(error) is not Failure.UNENCODABLE:
            raise
        if len(wanted) == 1:
            return {}  # the database has no such character, and so no such run
        middle = len(wanted) // 2  # the others must not suffer by it
        return heads(wanted[:middle], using) | heads(wanted[middle:], using)


def _heads(wanted: Sequence[str], using: str) -> dict[str, RunHead]:
    found = {}
    with connections[using].cursor() as cursor:
        for start in range(0, len(wanted), RUNS_PER_QUERY):
            some = wanted[start : start + RUNS_PER_QUERY]
            cursor.execute(_HEADS.format(", ".join(["%s"] * len(some))), some)
            for run_id, *head in cursor.fetchall():
                found[run_id] = RunHead(*head)
    return found


_NEWEST = f"SELECT coalesce(max(rowid), 0) FROM {_EVENT}"
_WRITTEN_SQLITE = f"""
    SELECT r.run_id, max(e.rowid) FROM {_EVENT} e CROSS JOIN {_RUN} r ON r.id = e.run_id
    WHERE e.rowid > %s GROUP BY e.run_id
"""


def written_since(place: int | None, using: str) -> tuple[int, set[str] | None]:
    """
    Return, on SQLite, the runs that got events since an earlier call, and the place for the next.

    They take a hundredth of the time that the heads of a thousand runs take. But a run that ended
    or was deleted without an event is not among them.

    Args:
        place: what the earlier call returned; None for the first.
        using: alias of the database.

    Returns:
        The place, and the ids of the runs; None if it can't be told, at first and when the newest
        event was deleted or the rows were numbered anew.
    """
    with connections[using].cursor() as cursor:
        cursor.execute(_NEWEST)
        (newest,) = cursor.fetchone()
        if place is None or newest < place:
            return newest, None
        cursor.execute(_WRITTEN_SQLITE, (place,))
        found = cursor.fetchall()
    return max([place, *(row for _, row in found)]), {run_id for run_id, _ in found}


def data_version(using: str) -> int | None:
    """
    Return a number that changes when another connection commits, or None if there is none.

    Source: SQLite's ``PRAGMA data_version``. It makes a look at an unchanged log almost free.
    """
    connection = connections[using]
    if connection.vendor != "sqlite":
        return None
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA data_version")
        return int(cursor.fetchone()[0])
