"""
Threads that work on the log for event loops, each with a database connection of its own.

They exist because Django's ``sync_to_async`` shares one thread among everything outside a
request, and inside one ties a thread and a connection to each open stream. Connections here
live as long as their thread, whatever ``CONN_MAX_AGE`` says, and bypass a psycopg pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Final, ParamSpec, TypeVar

from django.db import DEFAULT_DB_ALIAS, Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import load_backend

from . import green_threads
from .bridge import closed
from .exceptions import BridgeClosed, InvalidEvent, InvalidRunId, LogOutdated, LogUnavailable
from .failures import Failure, failure_of, sentence_of
from .libpq import Preparing
from .patience import LOCK_TIMEOUT
from .transactions import in_transaction, is_manual

CONNECTION_DEADLINES: Final = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""
Options of libpq (seconds; the last in milliseconds) after which a server that fell silent is gone.

By default a new connection waits for 130 seconds, and a host that died is noticed after 15 minutes.
"""

SQLITE_TIMEOUT: Final = 5.0
"""Seconds for which Python's sqlite3 waits for a lock, unless ``OPTIONS`` say otherwise."""

GREEN_TIMEOUT: Final = 0.02
"""Seconds for which SQLite waits by itself under green threads, all of which it stops."""

GREEN_PAUSE: Final = 0.05
"""Seconds in which they run before a connection of our own asks again for a lock."""

P = ParamSpec("P")
T = TypeVar("T")


class LogThreads:
    """A fixed number of threads that call functions of :mod:`streambridge_app.log`."""

    def __init__(self, using: str, *, threads: int, name: str) -> None:
        self.using = using
        self._process = os.getpid()
        self._connections: list[BaseDatabaseWrapper] = []
        self._executor = green_threads.executor(
            threads, name=f"streambridge-{name}", initializer=self._connect
        )

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """
        Call a function on one of the threads.

        Its result raises LogUnavailable if the database failed; the connection is then
        replaced at the next call.

        Raises:
            BridgeClosed: after :meth:`close`, at the interpreter's end, or in a child process.
        """
        return self.start(guarded, self.using, function, *args, **kwargs)

    async def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Do the same on an event loop, and return the result."""
        return await asyncio.wrap_future(self.submit(function, *args, **kwargs))

    def submit_repeatable(
        self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Do the same with a function that may be called twice: see :func:`guarded_repeatable`."""
        return self.start(guarded_repeatable, self.using, function, *args, **kwargs)

    def start(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Do the same with a function that looks after the connection itself."""
        self.check_process()
        try:
            return self._executor.submit(function, *args, **kwargs)
        except RuntimeError as error:
            if "shutdown" not in str(error):  # there is no thread to be had
                raise
            if "interpreter" in str(error):
                raise BridgeClosed("The interpreter is ending: it takes no new thread.") from error
            raise closed() from error

    def check_process(self) -> None:
        """Raise BridgeClosed in a child process: it has none of the parent's threads."""
        check_process(self._process)

    def close(self) -> None:
        """Wait for what is under way, end the threads and close their connections."""
        if os.getpid() != self._process:
            return  # to close the parent's connections would end its sessions
        self._executor.shutdown(wait=True)
        with contextlib.suppress(IndexError):  # another thread may be closing it as well
            while True:
                _close(self._connections.pop())

    def _connect(self) -> None:
        own = own_connection(self.using)
        own.inc_thread_sharing()  # close() is called from another thread
        connections[self.using] = own
        self._connections.append(own)


def check_process(process: int) -> None:
    """Raise BridgeClosed in another process than that of which this is the id."""
    if os.getpid() != process:  # not counted at forks: uWSGI does not tell of its own
        raise BridgeClosed(
            "This bridge was made before a fork. Call get_bridge() or get_sync_bridge() "
            "in each process."
        )


def _close(connection: BaseDatabaseWrapper) -> None:
    driver = connection.connection
    connection.close()
    if connection.connection is not None:  # Django leaves a database in memory open, for others
        driver.close()


def own_connection(using: str) -> BaseDatabaseWrapper:
    """
    Return a new connection to a database that stays open until it is closed.

    It commits by itself, whatever ``AUTOCOMMIT`` says, and keeps no log of its queries in DEBUG:
    no request's end would ever empty that. On PostgreSQL it lets the server prepare and bind the
    few statements that come again and again, unless ``OPTIONS`` says otherwise: to plan an append
    takes as long as to run a small one. It waits for no lock for longer than
    :mod:`streambridge_app.patience` says; under green threads never in C for long, neither in
    libpq nor in SQLite.
    """
    settings = connections.settings[using]
    options = {key: value for key, value in settings["OPTIONS"].items() if key != "pool"}
    if connections[using].vendor == "postgresql" and _has_psycopg3():
        options = {
            "server_side_binding": True,
            "prepare_threshold": 2,
            **CONNECTION_DEADLINES,
            **options,
        }
    green = green_threads.are_used()
    patience = 0.0
    if green and connections[using].vendor == "sqlite":
        patience = options.get("timeout", SQLITE_TIMEOUT)
        options["timeout"] = GREEN_TIMEOUT
    settings = {**settings, "AUTOCOMMIT": True, "CONN_MAX_AGE": None, "OPTIONS": options}
    backend = load_backend(settings["ENGINE"]).DatabaseWrapper
    prepares = options.get("server_side_binding") and options.get("prepare_threshold") is not None
    bases = (Preparing, backend) if prepares and not green else (backend,)
    limits = {"queries_logged": False, "patience": patience, "lock_timeout": LOCK_TIMEOUT}
    own = type("OwnDatabaseWrapper", bases, limits)
    wrapper: BaseDatabaseWrapper = own(settings, using)
    return wrapper


@contextlib.contextmanager
def committing(using: str) -> Iterator[None]:
    """Give this thread a connection that commits by itself, unless its own does or is in use."""
    usual = connections[using]
    if usual.connection is not None or not is_manual(usual):
        yield
        return
    own = connections[using] = own_connection(using)
    try:
        yield
    finally:
        own.close()
        connections[using] = usual


def _has_psycopg3() -> bool:
    from django.db.backends.postgresql.psycopg_any import is_psycopg3  # there is one by now

    return bool(is_psycopg3)


def guarded(using: str, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Call a function that uses this thread's connection: see :func:`guarded_on`."""
    return guarded_on(connections[using], function, *args, **kwargs)


def guarded_on(
    connection: BaseDatabaseWrapper, function: Callable[..., T], /, *args: Any, **kwargs: Any
) -> T:
    """
    Call a function that uses a connection, after replacing it if it is broken.

    Raises:
        LogUnavailable: the database failed. Inside the caller's transaction, that is lost.
            Outside, nothing was committed, unless ``written`` is None: the connection broke.
        LogOutdated: a table or column is not there.
        InvalidRunId, InvalidEvent: the database's encoding doesn't have a character of it.
    """
    alone = not in_transaction(connection)
    if connection.errors_occurred and alone:
        connection.close_if_unusable_or_obsolete()
    reached = connection.connection is not None or not alone
    give_up_at = None
    while True:
        try:
            if not reached:
                connection.ensure_connection()
                reached = True
            return function(*args, **kwargs)
        except Error as error:
            failure = failure_of(error)
            if failure is Failure.OTHER:
                raise
            if failure is Failure.SCHEMA:
                raise outdated(connection.alias, error) from error
            if failure is Failure.UNENCODABLE:
                raise unencodable(connection.alias, error, *args[:1]) from error
            if give_up_at is None:
                give_up_at = time.monotonic() + getattr(connection, "patience", 0.0)
            may_wait = alone and failure is Failure.LOCKED
            if not may_wait or time.monotonic() >= give_up_at:
                raise _unavailable(connection, error, failure, alone, reached) from error
        time.sleep(GREEN_PAUSE)  # SQLite refused: nothing was written


def _unavailable(
    connection: BaseDatabaseWrapper, error: Error, failure: Failure, alone: bool, reached: bool
) -> LogUnavailable:
    if alone and failure in (Failure.LOST, Failure.STALE):
        with contextlib.suppress(Error):
            connection.close()
    return LogUnavailable(
        sentence_of(failure, error, connection.alias, alone=alone),
        written=None if alone and reached and failure is Failure.LOST else False,
        transient=alone and failure not in (Failure.REFUSED, Failure.LOCKED),
        locked=failure is Failure.LOCKED,
    )


def guarded_repeatable(
    using: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """
    Call a function, once more if it may be its connection that is to blame.

    It only reads, or may have written already when it is called again.

    So a server that was restarted while nobody looked costs no caller an error.

    Raises:
        LogUnavailable: the database failed.
    """
    try:
        return guarded(using, function, *args, **kwargs)
    except LogUnavailable as error:
        if not error.transient:
            raise
    return guarded(using, function, *args, **kwargs)


def outdated(alias: str, error: Error) -> LogOutdated:
    """Return the error of a log whose tables are missing, or older than this code."""
    option = "" if alias == DEFAULT_DB_ALIAS else f" --database {alias}"
    return LogOutdated(
        f"The tables of the log in the database {alias!r} are missing or of another version: "
        f"{_first_line(error)}. Run manage.py migrate{option}."
    )


def unencodable(alias: str, error: Error, run_id: object = None) -> InvalidRunId | InvalidEvent:
    """Return the error of text that a database can't hold: of an id, if that has such text."""
    kind = InvalidRunId if isinstance(run_id, str) and not run_id.isascii() else InvalidEvent
    return kind(
        f"The encoding of the database {alias!r}, which holds the log, can't hold this text: "
        f"{_first_line(error)}. Keep the log in a database with the encoding UTF8."
    )


def _first_line(error: Error) -> str:
    return str(error).partition("\n")[0]
