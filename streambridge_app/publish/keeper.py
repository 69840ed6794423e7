"""
Renew the leases of this process's producers.

A keeper renews in the background, so that an idle producer needs no query of its own. It must
go on whatever happens to the database.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from typing import Final

from django.db import connections

from ..exceptions import bridge_closed
from ..log import LOOK_INTERVAL, check_process, guarded, leases, own_connection
from ..runtime import Complaints
from .pipeline import Pipeline

LOOKS_PER_LEASE: Final = 6
"""Looks in the time of a short lease, at least."""


class Keeper:
    """
    Looks at the runs of all open handles of a process, and renews the leases that are due.

    Its thread works while a handle is open, and keeps no process from ending. A handle that was
    forgotten with its block open is not kept: its run ends as lost.
    """

    def __init__(self, using: str, lease: float | None) -> None:
        self._using = using
        self._interval = (
            LOOK_INTERVAL if lease is None else min(LOOK_INTERVAL, lease / LOOKS_PER_LEASE)
        )
        self._process = os.getpid()
        self._thread: threading.Thread | None = None
        self._held: weakref.WeakSet[Pipeline] = weakref.WeakSet()
        self._lock = threading.RLock()  # a signal's handler may open a handle
        self._keeping = False
        self._closing = threading.Event()

    def hold(self, pipeline: Pipeline) -> None:
        """
        Keep the lease of a claimed run until it is released.

        Raises:
            BridgeClosed: after :meth:`close`, or in a child process.
        """
        check_process(self._process)  # before the lock, which a fork may have caught held
        with self._lock:
            if self._closing.is_set():
                raise bridge_closed()
            if not self._keeping:
                # No executor's: the interpreter would wait at its end for a handle left open.
                self._thread = threading.Thread(
                    target=self._keep, name="streambridge-keep", daemon=True
                )
                self._thread.start()
                self._keeping = True
            self._held.add(pipeline)

    def release(self, pipeline: Pipeline) -> None:
        """Keep it no more. Does nothing in a child process, which keeps none."""
        if self._process != os.getpid():
            return
        with self._lock:
            self._held.discard(pipeline)

    def close(self) -> None:
        """End the thread; the leases go on to their end."""
        self._closing.set()
        with self._lock:  # another thread may be about to start it
            thread = self._thread
        if thread is not None:
            thread.join()

    def _keep(self) -> None:
        connections[self._using] = own_connection(self._using)
        try:
            self._look_again()
        finally:
            connections[self._using].close()

    def _look_again(self) -> None:
        complaints = Complaints("Looking after the leases failed.")
        while not self._closing.wait(self._interval):
            with self._lock:
                held = list(self._held)
                if not held:
                    self._keeping = False
                    return
            try:
                guarded(self._using, self._look, held)
            except Exception as error:
                complaints.about(error)
            finally:
                del held  # whoever forgets a handle meanwhile

    def _look(self, held: Sequence[Pipeline]) -> None:
        found = leases.held([pipeline.key for pipeline in held], self._using)
        due = []
        for pipeline in held:
            run = found.get(pipeline.key)
            if run is None or not run.running:
                self.release(pipeline)  # its next write learns so from the log
                continue
            pipeline.learn(run)
            if run.renewal_due and run.generation == pipeline.generation:
                due.append(pipeline.key)
        if due:
            leases.renew(due, self._using)
