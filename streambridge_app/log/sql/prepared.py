"""
Prepared statements on PostgreSQL, run by libpq with nothing around them.

What Django and psycopg do around a small statement takes a third of the time of its commit. Here
it goes from psycopg's wrapper of libpq straight to the server. That blocks its thread, deaf to an
interrupt, until the server has answered: it is for threads of our own only. Errors are those that
Django raises from psycopg's.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

Column = Callable[[bytes], Any]
"""Makes a value of a column from its text."""


class Preparing:
    """Mixin of the database wrapper of a connection that may have statements prepared."""

    prepared: set[bytes]
    """Names of the statements of :class:`Statement` that the server knows on this connection."""

    def get_new_connection(self, conn_params: Any) -> Any:
        self.prepared = set()
        return super().get_new_connection(conn_params)  # type: ignore[misc]


def to_text(value: bytes) -> str:
    return value.decode()


def to_bool(value: bytes) -> bool:
    return value == b"t"


class Statement:
    """A statement and what it returns."""

    def __init__(self, name: str, text: str, columns: Sequence[Column]) -> None:
        """
        Args:
            name: unique among all statements.
            text: SQL with ``%s`` for each parameter.
            columns: one for each column of the result, which has no nulls.
        """
        self.text = text
        self._name = name.encode()
        pieces = re.split("%s", text)
        numbered = [f"{piece}${number}" for number, piece in enumerate(pieces[:-1], 1)]
        self._numbered = "".join([*numbered, pieces[-1]]).encode()
        self._columns = columns

    def rows(self, connection: BaseDatabaseWrapper, parameters: Sequence[Any]) -> list[list[Any]]:
        """
        Execute it and return the rows of the result.

        Args:
            connection: open. Unless it is a :class:`Preparing` one outside a transaction, the
                statement goes by Django's cursor.
            parameters: str, int, datetime or None.

        Raises:
            django.db.Error: as Django's cursor does, with psycopg's error as its cause.
        """
        # psycopg begins a transaction with the first statement that goes through it, no other.
        if not (isinstance(connection, Preparing) and connection.autocommit):
            with connection.cursor() as cursor:
                cursor.execute(self.text, parameters)
                return [list(row) for row in cursor.fetchall()]
        libpq = connection.connection.pgconn
        with connection.wrap_database_errors:
            if self._name not in connection.prepared:
                _checked(libpq.prepare(self._name, self._numbered))
                connection.prepared.add(self._name)
            result = _checked(
                libpq.exec_prepared(self._name, [_encoded(value) for value in parameters])
            )
        return [
            [make(result.get_value(row, column)) for column, make in enumerate(self._columns)]
            for row in range(result.ntuples)
        ]


def _encoded(value: Any) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, datetime.datetime):
        return value.isoformat().encode()
    return b"%d" % value


def _checked(result: Any) -> Any:
    from psycopg import OperationalError, errors, pq

    if result.status in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
        return result
    if (
        result.error_field(pq.DiagnosticField.SQLSTATE) is None
    ):  # the connection's, not the server's
        raise OperationalError(pq.error_message(result))
    raise errors.error_from_result(result)
