"""
The statements of an append on PostgreSQL: one for all of it.

Each runs once per commit; what it costs bounds how fast anybody can publish.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper

from ...contract import RUNNING, Batch
from ...models import Event, Run
from ..patience import IS_PATIENT, timeout_of
from ..writes import Write, Written, offsets_of, sizes_of
from .prepared import Statement, to_bool, to_text
from .vendor import LEASE_WILL_DO, NOW

_RUN = Run._meta.db_table
_EVENT = Event._meta.db_table

_COLUMNS: Final = (to_text, int, int, int, to_text, to_bool)
_RESULT = """
    SELECT run_id, id, epoch, head, status, cancel_requested_at IS NOT NULL FROM advanced
"""

_LEASE = f"""
    CASE
        WHEN lease_ms IS NULL OR {{end}} IS NOT NULL THEN NULL
        WHEN {LEASE_WILL_DO["postgresql"]} THEN lease_expires
        ELSE {NOW["postgresql"]} + lease_ms
    END
"""

# One text for each column, with a line per run or event, and an empty line between the events of
# two runs: names and data have neither. Arrays would take a Python call per event to write.
#
# Left to choose, PostgreSQL reads all runs that are running to find the few that are wanted, for
# until it has statistics it believes in one. So it is led from each id to its row, and IS TRUE
# keeps it from the index of statuses. The SELECT around a parameter keeps it from counting what is
# in it, which would be reason enough to make a new plan for each commit: it believes in ten runs
# then, for which it would rather read a table of 2,000. A condition that all meet, and of which it
# expects one in 200 to do so, brings them down to one.
_ADVANCED_MANY = f"""
    WITH locked AS (
        SELECT r.id, w.n, w.size, w.status, w.names, w.data, w.offsets FROM (
            SELECT *, (SELECT id FROM {_RUN} WHERE run_id = w.run_id) AS id
            FROM unnest(
                string_to_array((SELECT %s), E'\\n'),
                string_to_array((SELECT %s), E'\\n')::bigint[],
                string_to_array((SELECT %s), E'\\n')::bigint[],
                string_to_array((SELECT %s), E'\\n', ''),
                string_to_array((SELECT %s), E'\\n', '')::bigint[],
                string_to_array((SELECT %s), E'\\n', '')::bigint[],
                string_to_array((SELECT %s), E'\\n\\n'),
                string_to_array((SELECT %s), E'\\n\\n'),
                string_to_array((SELECT %s), E'\\n\\n')
            ) AS w (run_id, n, size, status, epoch, generation, names, data, offsets)
            WHERE n = abs(n) AND {IS_PATIENT} ORDER BY id
        ) AS w CROSS JOIN LATERAL (
            SELECT id FROM {_RUN}
            WHERE id = w.id AND run_id IS NOT NULL AND (status = '{RUNNING}') IS TRUE
                AND epoch = coalesce(w.epoch, epoch)
                AND generation = coalesce(w.generation, generation)
            FOR UPDATE
        ) AS r
    ), advanced AS (
        UPDATE {_RUN} r SET
            head = r.head + l.n,
            size = r.size + l.size,
            status = coalesce(l.status, r.status),
            ended_at = CASE WHEN l.status IS NULL THEN r.ended_at ELSE %s END,
            lease_expires = {_LEASE.format(end="l.status")}
        FROM locked l WHERE r.id = l.id
        RETURNING
            r.run_id, r.id, r.epoch, r.head, r.head - l.n AS old_head, r.size - l.size AS old_size,
            r.status, r.cancel_requested_at, l.names, l.data, l.offsets
    ), inserted AS (
        INSERT INTO {_EVENT} (run_id, seq, byte_offset, event, data, created_at)
"""
_ADVANCE_MANY: Final = Statement(
    "streambridge_advance_many",
    f"""
    {_ADVANCED_MANY}
        SELECT
            a.id,
            a.old_head + e.position,
            a.old_size + e.offset_in_write::bigint,
            e.event,
            e.data,
            %s
        FROM advanced a, ROWS FROM (
            string_to_table(a.names, E'\\n'),
            string_to_table(a.data, E'\\n'),
            string_to_table(a.offsets, E'\\n')
        ) WITH ORDINALITY AS e (event, data, offset_in_write, position)
    ) {_RESULT}
    """,
    _COLUMNS,
)
_ADVANCE_MANY_BY_ONE: Final = Statement(
    "streambridge_advance_many_by_one",
    f"""
    {_ADVANCED_MANY} SELECT id, head, old_size, names, data, %s FROM advanced
    ) {_RESULT}
    """,
    _COLUMNS,
)
"""The same for a single event of each run, as many slow runs have them: a quarter faster."""

_ADVANCED = f"""
    WITH advanced AS (
        UPDATE {_RUN} SET
            head = head + %s,
            size = size + %s,
            status = coalesce(%s, status),
            ended_at = coalesce(%s, ended_at),
            lease_expires = {_LEASE.format(end="%s::text")}
        WHERE {IS_PATIENT}
            AND run_id = %s AND (status = '{RUNNING}') IS TRUE AND epoch = coalesce(%s, epoch)
            AND generation = coalesce(%s, generation)
        RETURNING run_id, id, epoch, head, size, status, cancel_requested_at
    ), inserted AS (
        INSERT INTO {_EVENT} (run_id, seq, byte_offset, event, data, created_at)
"""
_ADVANCE_ONE: Final = Statement(
    "streambridge_advance_one",
    f"""
    {_ADVANCED}
        SELECT
            (SELECT id FROM advanced),
            (SELECT head FROM advanced) - %s + e.position,
            (SELECT size FROM advanced) - %s + e.offset_in_write::bigint,
            e.event,
            e.data,
            %s
        FROM ROWS FROM (
            string_to_table(%s, E'\\n'),
            string_to_table(%s, E'\\n'),
            string_to_table(%s, E'\\n')
        ) WITH ORDINALITY AS e (event, data, offset_in_write, position)
        WHERE EXISTS (SELECT FROM advanced)
    ) {_RESULT}
    """,
    _COLUMNS,
)
"""The same for a single run, by the plan that is best for one: a third faster."""

_ADVANCE_BY_ONE: Final = Statement(
    "streambridge_advance_by_one",
    f"""
    {_ADVANCED} SELECT id, head, size - %s, %s, %s, %s FROM advanced
    ) {_RESULT}
    """,
    _COLUMNS,
)
"""The same for a single event, of which most commits of a slow run are."""


def advance(
    connection: BaseDatabaseWrapper, writes: Sequence[Write], at: datetime.datetime
) -> Iterator[Written]:
    """Do all of it in one statement: one round trip, and one commit outside a transaction."""
    connection.ensure_connection()
    statement, parameters = statement_for(writes, at, timeout_of(connection))
    found = statement.rows(connection, parameters)
    wanted = {write.run_id: write for write in writes}
    for run_id, key, epoch, head, status, cancel in found:
        write = wanted[run_id]
        batch = Batch(epoch, head - len(write.names) + 1, write.names, write.data)
        yield Written(run_id, key, epoch, batch, status, cancel, status != RUNNING)


def statement_for(
    writes: Sequence[Write], at: datetime.datetime, lock_timeout: str
) -> tuple[Statement, tuple[Any, ...]]:
    """Return the statement that does all of it, and its parameters."""
    if len(writes) > 1:
        return _many(writes, at, lock_timeout)
    return _one(writes[0], at, lock_timeout)


def _one(
    write: Write, at: datetime.datetime, lock_timeout: str
) -> tuple[Statement, tuple[Any, ...]]:
    run_id, names, data, end, epoch, generation, _ = write
    sizes = sizes_of(data)
    count, size = len(names), sum(sizes)
    ended_at = None if end is None else at
    run = (count, size, end, ended_at, end, lock_timeout, run_id, epoch, generation)
    if count == 1:
        return _ADVANCE_BY_ONE, (*run, size, names[0], data[0], at)
    lines = "\n".join(names), "\n".join(data), _offset_lines(sizes)
    return _ADVANCE_ONE, (*run, count, size, at, *lines)


def _many(
    writes: Sequence[Write], at: datetime.datetime, lock_timeout: str
) -> tuple[Statement, tuple[Any, ...]]:
    by_one = all(len(write.names) == 1 for write in writes)
    sizes = [sizes_of(write.data) for write in writes]
    return _ADVANCE_MANY_BY_ONE if by_one else _ADVANCE_MANY, (
        "\n".join([write.run_id for write in writes]),
        "\n".join([str(len(write.names)) for write in writes]),
        "\n".join([str(sum(each)) for each in sizes]),
        "\n".join([write.end or "" for write in writes]),
        "\n".join([str(write.epoch or "") for write in writes]),
        "\n".join(["" if write.generation is None else str(write.generation) for write in writes]),
        "\n\n".join(["\n".join(write.names) for write in writes]),
        "\n\n".join(["\n".join(write.data) for write in writes]),
        "" if by_one else "\n\n".join(map(_offset_lines, sizes)),
        lock_timeout,
        at,
        at,
    )


def _offset_lines(sizes: Sequence[int]) -> str:
    return "\n".join(map(str, offsets_of(sizes)))
