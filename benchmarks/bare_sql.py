"""
The limit of the database: the same rows, appended and read by bare SQL on one connection.

The statements are the fastest that this machine's drivers offer for rows that are ready-made: an
``executemany`` on SQLite, one statement for all rows on PostgreSQL, which takes them as lines of
text. That is not how one would write it: arrays are, which psycopg writes by a Python call per
element, at 512 rows four times as slow; so there is a table of that kind too. The run's row is
locked and advanced in the same transaction, as any log with gapless numbers must.
"""

from __future__ import annotations

import abc
import json
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, LiteralString

import psycopg

from benchmarks.load import payload
from tests.services import PostgresServer

_RUNS = (
    "CREATE TABLE IF NOT EXISTS runs (id {key}, run_id varchar(200) UNIQUE, head bigint NOT NULL)"
)
_EVENTS = """
    CREATE TABLE IF NOT EXISTS events (
        run_id bigint NOT NULL, seq bigint NOT NULL, event varchar(255) NOT NULL,
        data text NOT NULL, created_at {time} NOT NULL, PRIMARY KEY (run_id, seq)
    )
"""


class Table(abc.ABC):
    """A log of bare rows on a connection of its own."""

    @abc.abstractmethod
    def new_run(self) -> int:
        """Insert a run and return its key."""

    @abc.abstractmethod
    def append(self, run: int, rows: list[tuple[str, str]]) -> None:
        """Append rows of name and data in one transaction."""

    @abc.abstractmethod
    def page(self, run: int, seq: int, limit: int) -> list[Any]:
        """Return rows of name, data and number after ``seq``."""

    def append_per_second(self, events: int, batch: int) -> float:
        """Append to a new run in transactions of ``batch`` rows; return events per second."""
        rows = [
            ("message", json.dumps(payload(number, events), separators=(",", ":")))
            for number in range(events)
        ]
        run = self.new_run()
        started = time.perf_counter()
        for start in range(0, events, batch):
            self.append(run, rows[start : start + batch])
        return events / (time.perf_counter() - started)

    def filled_run(self, events: int) -> int:
        """Return the key of a new run with some events."""
        run = self.new_run()
        data = json.dumps(payload(0, events), separators=(",", ":"))
        self.append(run, [("message", data)] * events)
        return run

    def read_per_second(self, run: int, events: int, limit: int) -> float:
        """Read a run's history page by page; return events per second."""
        started = time.perf_counter()
        seq = 0
        while seq < events:
            seq = self.page(run, seq, limit)[-1][2]
        return events / (time.perf_counter() - started)


class _Sqlite(Table):
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(_RUNS.format(key="integer PRIMARY KEY"))
        connection.execute(_EVENTS.format(time="datetime"))

    def new_run(self) -> int:
        cursor = self._connection.execute(
            "INSERT INTO runs (run_id, head) VALUES (?, 0)", (str(uuid.uuid4()),)
        )
        return int(cursor.lastrowid or 0)

    def append(self, run: int, rows: list[tuple[str, str]]) -> None:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        ((head,),) = execute(
            "UPDATE runs SET head = head + ? WHERE id = ? RETURNING head", (len(rows), run)
        ).fetchall()
        now = "2026-01-01 00:00:00.000000"
        self._connection.executemany(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?)",
            [
                (run, seq, name, data, now)
                for seq, (name, data) in enumerate(rows, head - len(rows) + 1)
            ],
        )
        execute("COMMIT")

    def page(self, run: int, seq: int, limit: int) -> list[Any]:
        return self._connection.execute(
            "SELECT event, data, seq FROM events WHERE run_id = ? AND seq > ? ORDER BY seq LIMIT ?",
            (run, seq, limit),
        ).fetchall()


_APPEND: LiteralString = """
    WITH run AS (
        UPDATE runs SET head = head + %s WHERE id = %s RETURNING id, head - %s AS old
    )
    INSERT INTO events
    SELECT run.id, run.old + e.position, e.event, e.data, now()
    FROM run, unnest({}, {}) WITH ORDINALITY AS e (event, data, position)
"""
_APPEND_LINES = _APPEND.format(*["string_to_array(%s, E'\\n')"] * 2)
_APPEND_ARRAYS = _APPEND.format(*["%s::text[]"] * 2)


class _Postgresql(Table):
    def __init__(self, connection: psycopg.Connection[Any], arrays: bool) -> None:
        self._connection = connection
        self._arrays = arrays
        connection.execute(
            _RUNS.format(key="bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY").encode()
        )
        connection.execute(_EVENTS.format(time="timestamptz").encode())

    def new_run(self) -> int:
        ((key,),) = self._connection.execute(
            "INSERT INTO runs (run_id, head) VALUES (%s, 0) RETURNING id", (str(uuid.uuid4()),)
        ).fetchall()
        return int(key)

    def append(self, run: int, rows: list[tuple[str, str]]) -> None:
        columns: list[Any] = [[name for name, _ in rows], [data for _, data in rows]]
        if not self._arrays:
            columns = ["\n".join(column) for column in columns]
        self._connection.execute(
            _APPEND_ARRAYS if self._arrays else _APPEND_LINES,
            (len(rows), run, len(rows), *columns),
        )

    def page(self, run: int, seq: int, limit: int) -> list[Any]:
        return self._connection.execute(
            "SELECT event, data, seq FROM events "
            "WHERE run_id = %s AND seq > %s ORDER BY seq LIMIT %s",
            (run, seq, limit),
        ).fetchall()


@contextmanager
def sqlite() -> Iterator[Table]:
    """Give a log in a new SQLite file: WAL, ``synchronous=NORMAL``, as the demo's."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "log.sqlite3"
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            yield _Sqlite(connection)


@contextmanager
def postgresql(shared: PostgresServer | None = None, *, arrays: bool = False) -> Iterator[Table]:
    """
    Give a log in a database of its own, fsync on.

    Args:
        shared: a server that runs; None: a new one.
        arrays: whether rows travel as arrays, not as lines of text.
    """
    with ExitStack() as stack:
        server = shared or stack.enter_context(PostgresServer(durable=True))
        url = server.create_database("bare_arrays" if arrays else "bare")
        yield stack.enter_context(connected(url, arrays=arrays))


@contextmanager
def connected(url: str, *, arrays: bool = False) -> Iterator[Table]:
    """Give a log in a database of PostgreSQL that is there."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield _Postgresql(connection, arrays)
