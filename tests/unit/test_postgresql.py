"""What is said about settings of PostgreSQL."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import DatabaseError

from streambridge_app.doctor.postgresql import judge, judge_connections, lent_connections

GOOD = {
    "default_transaction_isolation": "read committed",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "lock_timeout": "0",
    "statement_timeout": "60000",
    "synchronous_commit": "on",
    "transaction_read_only": "off",
}


def test_good_settings() -> None:
    assert judge(GOOD) == ()


def test_settings_that_an_older_server_has_not() -> None:
    old = {name: GOOD[name] for name in GOOD if name != "idle_session_timeout"}
    assert judge(old) == ()


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("default_transaction_isolation", "serializable", "fail"),
        ("transaction_read_only", "on", "fail"),
        ("server_encoding", "LATIN1", "fail"),
        ("synchronous_commit", "off", "warning"),
        ("idle_session_timeout", "600000", "warning"),
        ("statement_timeout", "200", "warning"),
        ("lock_timeout", "1000", "warning"),
        ("transaction_timeout", "4999", "warning"),
        ("idle_in_transaction_session_timeout", "1", "warning"),
    ],
)
def test_each_bad_setting(name: str, value: str, status: str) -> None:
    (problem,) = judge({**GOOD, name: value})
    assert problem.status == status
    assert problem.hint


def test_connections_for_one_more_process() -> None:
    assert judge_connections(7, 7) == ()
    (problem,) = judge_connections(6, 7)
    assert problem.text == "6 connections are free, and one more process takes up to 7"


class Pooler:
    """PgBouncer with two connections, as far as the check can tell: each is a process's number."""

    def __init__(self, *, by_transaction: bool, keeps_statements: bool) -> None:
        self.by_transaction = by_transaction
        self.keeps_statements = keeps_statements
        self.busy: set[int] = set()
        self.clients = 0

    def connect(self) -> "Session":
        self.clients += 1
        return Session(self, own=self.clients)

    def lend(self, own: int) -> int:
        return min({1, 2} - self.busy) if self.by_transaction else own


class Session:
    """A client's connection, and the only cursor that it needs."""

    def __init__(self, pooler: Pooler, own: int) -> None:
        self.pooler = pooler
        self.own = own
        self.held = 0
        self.prepared_at = 0

    @contextlib.contextmanager
    def cursor(self) -> Iterator["Session"]:
        yield self

    def execute(self, sql: str, parameters: tuple[int, ...] | None = None) -> None:
        process = self.held or self.pooler.lend(self.own)
        if sql == "BEGIN":
            self.held = process
            self.pooler.busy.add(process)
        elif sql == "ROLLBACK":
            self.pooler.busy.remove(self.held)
            self.held = 0
        elif parameters:
            self.row = parameters
            if self.prepared_at not in (0, process) and not self.pooler.keeps_statements:
                raise DatabaseError("prepared statement does not exist")
            self.prepared_at = process
        else:
            self.row = (process,)

    def fetchone(self) -> tuple[int, ...]:
        return self.row


@pytest.mark.parametrize("by_transaction", [True, False])
@pytest.mark.parametrize("keeps_statements", [True, False])
def test_what_a_pooler_does(by_transaction: bool, keeps_statements: bool) -> None:
    pooler = Pooler(by_transaction=by_transaction, keeps_statements=keeps_statements)
    sessions: Any = pooler.connect(), pooler.connect()
    assert lent_connections(*sessions) == (by_transaction, keeps_statements or not by_transaction)
