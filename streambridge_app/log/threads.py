"""
Threads that work on the log for event loops, each with a database connection of its own.

They exist because Django's ``sync_to_async`` shares one thread among everything outside a
request, and inside one ties a thread and a connection to each open stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from ..exceptions import BridgeClosed, bridge_closed, interpreter_ending
from ..runtime import green_threads
from .connections import own_connection
from .guard import guarded, guarded_repeatable

P = ParamSpec("P")
T = TypeVar("T")


class LogThreads:
    """A fixed number of threads that call functions of the log."""

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
                raise interpreter_ending() from error
            raise bridge_closed() from error

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
