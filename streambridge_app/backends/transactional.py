"""
The sync API of a backend that keeps its log in the database.

It writes on the caller's connection: inside ``transaction.atomic()``, and in a manual transaction,
an event belongs to that transaction and appears when it commits, or never. It must not commit by
itself there.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar, Unpack

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from .. import log
from ..contract import (
    SUCCESS,
    RunId,
    RunOptions,
    RunState,
    SyncProducer,
    SyncStreamBridge,
    check_delay,
    check_event_name,
    check_keep,
    check_key,
    check_run_id,
    encode_data,
    new_end,
    new_run,
    refuse_event_loop,
)
from ..exceptions import InsideTransaction, LogUnavailable, RunEnded, RunNotFound
from ..log import Appender, Write, Written, guarded_on, guarded_repeatable, retention
from ..publish import PipelineBridge, PipelinedProducer, PipelinedSyncProducer
from ..runtime import in_transaction, is_manual, join, refuse, with_hint
from ..signals import send_signals
from ..wake import Announcer

LOCK_PATIENCE: Final = 1.0
"""Seconds that a run may be locked by others, of whom a publisher takes milliseconds."""

LOCK_LOOK: Final = 0.02

P = ParamSpec("P")
T = TypeVar("T")


class DatabaseBridge(PipelineBridge):
    """A bridge that keeps its log in a database, as its sync API sees it."""

    max_event_bytes: int
    appender: Appender
    announcer: Announcer

    @abc.abstractmethod
    def producer(
        self, run_id: RunId, *, take_over: bool = False, raise_on_cancel: bool = False
    ) -> PipelinedProducer: ...

    @abc.abstractmethod
    async def is_unlocked(self, run_id: str) -> bool:
        """Return whether no transaction has the row of a run locked, on PostgreSQL."""

    @abc.abstractmethod
    def check_open(self) -> None:
        """Raise BridgeClosed after :meth:`close`, and in a process forked from ours."""


class TransactionalBridge(SyncStreamBridge):
    """
    Publishes on the caller's connection and within its transaction.

    In a manual one (``set_autocommit(False)``, or ``"AUTOCOMMIT": False`` in ``DATABASES``) what is
    published appears at the caller's ``commit()``. Django tells nobody of that: clients get it by
    polling, and no signal is sent.
    """

    _bridge: DatabaseBridge

    def __init__(self, bridge: DatabaseBridge) -> None:
        super().__init__(bridge)
        self._using = bridge.using

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            return super()._run(coroutine)
        except (LogUnavailable, RunNotFound) as error:
            raise with_hint(error, connections[self._using]) from error.__cause__

    def create_run(self, run_id: RunId | None = None, **options: Unpack[RunOptions]) -> str:
        refuse_event_loop("create_run")
        run_id, new = new_run(run_id, options, self._bridge.max_event_bytes)
        self._on_log(log.create, run_id, new, self._using)
        return run_id

    def get_run(self, run_id: RunId) -> RunState:
        refuse_event_loop("get_run")
        self._bridge.check_open()
        return guarded_repeatable(self._using, log.state, check_run_id(run_id), self._using)

    def publish(
        self,
        run_id: RunId,
        event: str,
        data: Any = None,
        *,
        key: str | None = None,
        at_once: bool = False,
    ) -> None:
        refuse_event_loop("publish")
        if at_once and in_transaction(connections[self._using]):
            self._refuse_to_wait(check_run_id(run_id))
            super().publish(run_id, event, data, key=key)
            return
        self._append(
            Write(
                check_run_id(run_id),
                [check_event_name(event)],
                [encode_data(data, self._bridge.max_event_bytes)],
                keys=() if key is None else (check_key(key),),
            )
        )

    def publish_end(
        self, run_id: RunId, *, status: str = SUCCESS, error: BaseException | str | None = None
    ) -> None:
        refuse_event_loop("publish_end")
        try:
            self._append(Write(*new_end(run_id, status, error)))
        except RunEnded:
            return

    def request_cancel(self, run_id: RunId) -> None:
        refuse_event_loop("request_cancel")
        run_id = check_run_id(run_id)
        self._bridge.check_open()
        self._joins(connections[self._using])
        guarded_repeatable(self._using, log.request_cancel, run_id, self._using)

    def trim(self, run_id: RunId, *, keep: int) -> int:
        refuse_event_loop("trim")
        return self._on_log(retention.trim, check_run_id(run_id), check_keep(keep), self._using)

    def cleanup(self, run_id: RunId, *, delay: float = 0) -> None:
        """
        Delete a run: see :meth:`SyncStreamBridge.cleanup`.

        Inside a transaction, the deadline belongs to the transaction, and the sweeper deletes the
        run, without a delay as well.
        """
        refuse_event_loop("cleanup")
        if not (delay or in_transaction(connections[self._using])):
            super().cleanup(run_id)
            return
        deadline = timezone.now() + check_delay(delay)
        self._on_log(retention.schedule_cleanup, check_run_id(run_id), deadline, self._using)

    def producer(
        self, run_id: RunId, *, take_over: bool = False, raise_on_cancel: bool = False
    ) -> SyncProducer:
        """
        Return a pipelining handle: see :meth:`SyncStreamBridge.producer`.

        Raises:
            InsideTransaction: the handle commits by itself, on a connection of its own.
        """
        producer = self._bridge.producer(
            run_id, take_over=take_over, raise_on_cancel=raise_on_cancel
        )
        return PipelinedSyncProducer(producer, self._refuse_transaction)

    def _refuse_transaction(self, what: str) -> None:
        """Raise InsideTransaction if what it does could wait for the caller's transaction."""
        refuse(connections[self._using], what)

    def _refuse_to_wait(self, run_id: str) -> None:
        """Raise InsideTransaction if another connection would wait for the caller's to write."""
        connection = connections[self._using]
        if connection.vendor == "sqlite" or is_manual(connection):
            refuse(connection, "publish(…, at_once=True)")
        elif self._is_changed_by(connection, run_id):
            raise InsideTransaction(
                "publish(…, at_once=True) would wait for its own caller: the open transaction has "
                f"made the run {run_id!r} or published to it. Publish to it before the transaction "
                "begins, or in it."
            )
        else:
            give_up_at = time.monotonic() + LOCK_PATIENCE
            while not self._run(self._bridge.is_unlocked(run_id)):
                if time.monotonic() > give_up_at:
                    raise InsideTransaction(
                        "publish(…, at_once=True) would wait for an open transaction that holds "
                        f"the run {run_id!r} locked, the caller's own perhaps. Publish before what "
                        "locks it, or in the transaction."
                    )
                time.sleep(LOCK_LOOK)

    def _is_changed_by(self, connection: BaseDatabaseWrapper, run_id: str) -> bool:
        for _, callback, *_ in connection.run_on_commit:
            if isinstance(callback, partial) and _tells_of(run_id, callback):
                return True
        made = guarded_on(connection, log.exists, run_id, self._using)
        return made and not self._run(self._bridge.run_exists(run_id))

    def _append(self, write: Write) -> None:
        self._bridge.check_open()
        connection = connections[self._using]  # once: each look for it takes a hundredth
        joins = self._joins(connection)
        (outcome,) = self._bridge.appender.append_on(connection, [write])
        if isinstance(outcome, Exception):
            raise outcome
        if not joins:
            self._committed([outcome])
        elif not is_manual(connection):  # else no hook would ever be called
            transaction.on_commit(partial(self._committed, [outcome]), using=self._using)

    def _joins(self, connection: BaseDatabaseWrapper) -> bool:
        """Return whether what is written next is the caller's to commit; it is in order if so."""
        return in_transaction(connection) and guarded_on(connection, join, connection)

    def _committed(self, written: Sequence[Written]) -> None:
        self._bridge.announcer.announce(written)
        send_signals(written)

    def _on_log(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        self._bridge.check_open()
        connection = connections[self._using]
        self._joins(connection)
        return guarded_on(connection, function, *args, **kwargs)


def _tells_of(run_id: str, callback: partial[Any]) -> bool:
    """Return whether a callback at the commit is ours, and about this run."""
    told = getattr(callback.func, "__func__", None) is TransactionalBridge._committed
    return told and callback.args[0][0].run_id == run_id
