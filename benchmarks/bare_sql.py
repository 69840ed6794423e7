"""
The limit of the database: the same rows, appended and read by bare SQL on one connection.

The rows are ready-made. SQLite takes them by an ``executemany``, as one would write it; PostgreSQL
by one statement for all rows, as lines of text. That is not how one would write it: arrays are,
which psycopg writes by a Python call per element, at 512 rows four times as slow; so there is a
table of that kind too. The run's row is locked and advanced in the same transaction, as any log
with gapless numbers must.
"""

from __future__ import annotations

import abc
import asyncio
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, LiteralString

import orjson
import psycopg

from benchmarks.load import payload
from tests.services import PostgresServer

Row = tuple[str, str]
"""Name and data of an event."""

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
    def append(self, run: int, rows: list[Row]) -> None:
        """Append rows in one transaction."""

    @abc.abstractmethod
    def page(self, run: int, seq: int, limit: int) -> list[Any]:
        """Return rows of name, data and number after ``seq``."""

    def append_per_second(self, events: int, batch: int) -> float:
        """Append to a new run in transactions of ``batch`` rows; return events per second."""
        rows = [_row(payload(number, events)) for number in range(events)]
        run = self.new_run()
        started = time.perf_counter()
        for start in range(0, events, batch):
            self.append(run, rows[start : start + batch])
        seconds = time.perf_counter() - started
        self._check(run, events)
        return events / seconds

    def append_by_tasks_per_second(self, events: int, tasks: int) -> float:
        """
        Append to a new run from tasks of asyncio, which all share each commit; return events/s.

        The least that an awaited publish does: each task makes its row's JSON and awaits a future
        that is settled after the commit, on a thread of its own, of one row of every task.

        Args:
            events: a multiple of ``tasks``.
            tasks: rows in each commit.
        """
        if events % tasks:
            raise ValueError(f"{events} events are no multiple of {tasks} tasks.")
        run = self.new_run()
        per_second = asyncio.run(self._append_by_tasks(run, events, tasks))
        self._check(run, events)
        return per_second

    async def _append_by_tasks(self, run: int, events: int, tasks: int) -> float:
        loop = asyncio.get_running_loop()
        data = [payload(number, events) for number in range(events)]
        rows: list[Row] = []
        waiting: list[asyncio.Future[None]] = []

        def settle(futures: list[asyncio.Future[None]], error: Exception | None) -> None:
            for future in futures:
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)

        def commit(rows: list[Row], futures: list[asyncio.Future[None]]) -> None:
            error = None
            try:
                self.append(run, rows)
            except Exception as caught:
                error = caught
            loop.call_soon_threadsafe(settle, futures, error)

        async def append(task: int) -> None:
            nonlocal rows, waiting
            for one in data[task::tasks]:
                rows.append(_row(one))
                future = loop.create_future()
                waiting.append(future)
                if len(rows) == tasks:
                    writer.submit(commit, rows, waiting)
                    rows, waiting = [], []
                await future

        with ThreadPoolExecutor(1) as writer:
            started = time.perf_counter()
            await asyncio.gather(*map(append, range(tasks)))
            return events / (time.perf_counter() - started)

    def _check(self, run: int, events: int) -> None:
        if [row[2] for row in self.page(run, 0, events + 1)] != list(range(1, events + 1)):
            raise RuntimeError(f"The table has not {events} rows of the run, in order.")

    def filled_run(self, events: int) -> int:
        """Return the key of a new run with some events."""
        run = self.new_run()
        self.append(run, [_row(payload(0, events))] * events)
        return run

    def read_per_second(self, run: int, events: int, limit: int) -> float:
        """Read a run's history page by page; return events per second."""
        started = time.perf_counter()
        seq = 0
        while seq < events:
            seq = self.page(run, seq, limit)[-1][2]
        return events / (time.perf_counter() - started)


def _row(data: dict[str, Any]) -> Row:
    return "message", orjson.dumps(data).decode()


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

    def append(self, run: int, rows: list[Row]) -> None:
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

    def append(self, run: int, rows: list[Row]) -> None:
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
        with closing(
            sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        ) as connection:
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
