"""
Signals about runs, for projects that keep books, send mail or start what comes next.

Each is sent after the commit, by the process that wrote it: on the caller's thread by the sync
API's own ``publish`` and ``publish_end``, else on a thread that is there for signals only. A
receiver that raises is logged and stops nobody. A process that dies between the commit and the
signal sends none: what must never be missed is read from the log.

The sender is :class:`streambridge_app.models.Run`; the arguments are ``run_id``, ``epoch`` and, of
an end, ``status``.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import wait
from typing import Any, Final

from django.db import close_old_connections, connections
from django.dispatch import Signal

from .contract import LOST
from .log import Written
from .models import Run
from .runtime import green_threads

run_started = Signal()
"""The first event of a run was written."""

run_ended = Signal()
"""A run has ended, in whatever way."""

run_lost = Signal()
"""A run has ended because its producer's lease had expired; sent after :data:`run_ended`."""

TELLING_DEADLINE: Final = 5.0
"""Seconds for which closing waits for receivers: one of them may wait for the closing."""

News = list[tuple[Signal, dict[str, Any]]]


def send_signals(written: Sequence[Written]) -> None:
    """Tell the receivers what was committed, on this thread."""
    _send(_news(written))


class SignalThread:
    """Tells the receivers on a thread of its own: they may wait for whoever has committed."""

    def __init__(self) -> None:
        self._executor = green_threads.executor(1, name="streambridge-signals")
        self._used = False

    def send(self, written: Sequence[Written]) -> None:
        """Tell the receivers what was committed, soon."""
        news = _news(written)
        if not news:
            return
        self._used = True
        try:
            self._executor.submit(_send_as_a_request, news)
        except RuntimeError:  # the interpreter is ending, and takes no new thread
            _send(news)

    def close(self) -> None:
        """Wait until all has been told, and close the connections that receivers have opened."""
        if not self._used:
            self._executor.shutdown()
            return
        try:
            told = self._executor.submit(connections.close_all)
        except RuntimeError:  # closed before, or the interpreter is ending and has joined it
            return
        wait((told,), TELLING_DEADLINE)
        self._executor.shutdown(wait=told.done())


def _news(written: Sequence[Written]) -> News:
    news: News = []
    for one in written:
        if one.batch.first == 1 and len(one.batch):
            news.append((run_started, {"run_id": one.run_id, "epoch": one.epoch}))
        if one.ended:
            known = {"run_id": one.run_id, "epoch": one.epoch, "status": one.status}
            news.append((run_ended, known))
            if one.status == LOST:
                news.append((run_lost, known))
    return [(signal, known) for signal, known in news if signal.has_listeners(Run)]


def _send(news: News) -> None:
    for signal, known in news:
        signal.send_robust(Run, **known)


def _send_as_a_request(news: News) -> None:
    """Send, and leave the thread's database connections as a request would."""
    try:
        _send(news)
    finally:
        close_old_connections()
