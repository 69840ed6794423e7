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
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, ParamSpec, TypeVar

from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import load_backend

from .bridge import closed
from .exceptions import BridgeClosed, LogUnavailable
from .failures import Failure, failure_of, sentence_of
from .libpq import Preparing
from .patience import LOCK_TIMEOUT

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

P = ParamSpec("P")
T = TypeVar("T")


class LogThreads:
    """A fixed number of threads that call functions of :mod:`streambridge_app.log`."""

    def __init__(self, using: str, *, threads: int, name: str) -> None:
        self.using = using
        self._process = os.getpid()
        self._connections: list[BaseDatabaseWrapper] = []
        self._executor = ThreadPoolExecutor(
            threads, thread_name_prefix=f"streambridge-{name}", initializer=self._connect
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
            raise closed() from error

    def check_process(self) -> None:
        """Raise BridgeClosed in a child process: it has none of the parent's threads."""
        if os.getpid() != self._process:  # not counted at forks: uWSGI does not tell of its own
            raise BridgeClosed(
                "This bridge was made before a fork. Call get_bridge() or get_sync_bridge() "
                "in each process."
            )

    def close(self) -> None:
        """Wait for what is under way, end the threads and close their connections."""
        self._executor.shutdown(wait=True)
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def _connect(self) -> None:
        own = own_connection(self.using)
        own.inc_thread_sharing()  # close() is called from another thread
        connections[self.using] = own
        self._connections.append(own)


def own_connection(using: str) -> BaseDatabaseWrapper:
    """
    Return a new connection to a database that stays open until it is closed.

    It keeps no log of its queries in DEBUG: no request's end would ever empty that. On
    PostgreSQL it lets the server prepare and bind the few statements that come again and again,
    unless ``OPTIONS`` says otherwise: to plan an append takes as long as to run a small one. It
    waits for no lock for longer than :mod:`streambridge_app.patience` says.
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
    settings = {**settings, "CONN_MAX_AGE": None, "OPTIONS": options}
    backend = load_backend(settings["ENGINE"]).DatabaseWrapper
    prepares = options.get("server_side_binding") and options.get("prepare_threshold") is not None
    bases = (Preparing, backend) if prepares else (backend,)
    own = type("OwnDatabaseWrapper", bases, {"queries_logged": False, "lock_timeout": LOCK_TIMEOUT})
    wrapper: BaseDatabaseWrapper = own(settings, using)
    return wrapper


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
    """
    alone = not in_transaction(connection)
    if connection.errors_occurred and alone:
        connection.close_if_unusable_or_obsolete()
    reached = connection.connection is not None or not alone
    try:
        if not reached:
            connection.ensure_connection()
            reached = True
        return function(*args, **kwargs)
    except Error as error:
        failure = failure_of(error)
        if failure is Failure.OTHER:
            raise
        if alone and failure in (Failure.LOST, Failure.STALE):
            with contextlib.suppress(Error):
                connection.close()
        raise LogUnavailable(
            sentence_of(failure, error, connection.alias, alone=alone),
            written=None if alone and reached and failure is Failure.LOST else False,
            transient=alone and failure not in (Failure.REFUSED, Failure.LOCKED),
            locked=failure is Failure.LOCKED,
        ) from error


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


def in_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Return whether what is done on a connection is the caller's to commit."""
    if connection.connection is None:
        autocommit = connection.settings_dict["AUTOCOMMIT"]
    else:
        autocommit = connection.autocommit
    return connection.in_atomic_block or not autocommit
