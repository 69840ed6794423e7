"""What errors mean, as Django raises them from psycopg's and sqlite3's."""

import contextlib
import sqlite3

import psycopg
import pytest
from django.db import (
    DataError,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
)

from streambridge_app.log.errors import Failure, failure_of, sentence_of


def raised(kind, cause):
    error = kind("as Django wraps it")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("sqlstate", "kind", "failure"),
    [
        ("57P01", OperationalError, Failure.LOST),
        ("57P02", OperationalError, Failure.LOST),
        ("57P03", OperationalError, Failure.STALE),
        ("57P05", OperationalError, Failure.LOST),
        ("08006", OperationalError, Failure.LOST),
        ("08P01", OperationalError, Failure.LOST),
        ("25P03", InternalError, Failure.LOST),
        ("40003", OperationalError, Failure.LOST),
        ("26000", ProgrammingError, Failure.STALE),
        ("42P05", ProgrammingError, Failure.STALE),
        ("0A000", NotSupportedError, Failure.STALE),
        ("25006", InternalError, Failure.STALE),
        ("53300", OperationalError, Failure.STALE),
        ("40001", OperationalError, Failure.CONFLICT),
        ("40P01", OperationalError, Failure.DEADLOCK),
        ("55P03", OperationalError, Failure.LOCKED),
        ("53100", OperationalError, Failure.REFUSED),
        ("57014", OperationalError, Failure.REFUSED),
        ("42P01", ProgrammingError, Failure.SCHEMA),
        ("42703", ProgrammingError, Failure.SCHEMA),
        ("22021", DataError, Failure.UNENCODABLE),
        ("22P05", DataError, Failure.UNENCODABLE),
        ("42601", ProgrammingError, Failure.OTHER),
        ("23505", IntegrityError, Failure.OTHER),
        ("25P02", InternalError, Failure.OTHER),
    ],
)
def test_postgresql_names_its_failures(sqlstate, kind, failure):
    cause = psycopg.errors.lookup(sqlstate)("as the server says it")
    assert cause.sqlstate == sqlstate
    assert failure_of(raised(kind, cause)) is failure


@pytest.mark.parametrize("kind", [OperationalError, InterfaceError])
def test_an_error_without_a_name_is_a_connection_that_broke(kind):
    assert failure_of(raised(kind, psycopg.OperationalError("server closed"))) is Failure.LOST
    assert failure_of(kind("Django's own: connection already closed")) is Failure.LOST


def test_sqlite_has_no_connection_to_lose():
    locked = sqlite3.OperationalError("database is locked")
    assert failure_of(raised(OperationalError, locked)) is Failure.REFUSED


@pytest.mark.parametrize(
    ("statement", "failure"),
    [
        ("SELECT * FROM missing", Failure.SCHEMA),
        ("SELECT missing FROM there", Failure.SCHEMA),
        ("INSERT INTO there (missing) VALUES (1)", Failure.SCHEMA),
        ("SELEKT 1", Failure.OTHER),
    ],
)
def test_sql_that_does_not_fit_sqlite_is_no_outage(statement, failure):
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE there (id)")
        with pytest.raises(sqlite3.OperationalError) as found:
            connection.execute(statement)
    assert failure_of(raised(OperationalError, found.value)) is failure


def test_errors_of_a_program_are_left_alone():
    assert failure_of(ProgrammingError("no results to fetch")) is Failure.OTHER


@pytest.mark.parametrize(
    ("cause", "says"),
    [
        (psycopg.errors.DeadlockDetected("deadlock detected"), "waited for each other"),
        (psycopg.errors.SerializationFailure("could not serialize"), "has changed what this one"),
        (psycopg.errors.LockNotAvailable("canceling statement"), "holds a lock"),
        (psycopg.errors.DiskFull("no space left"), "refused this"),
        (psycopg.OperationalError("server closed the connection"), "can't be reached"),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_the_sentence_says_what_happened_and_what_to_do(cause, says, alone):
    error = raised(OperationalError, cause)
    sentence = sentence_of(failure_of(error), error, "default", alone=alone)
    assert says in sentence
    assert "database 'default'" in sentence
    assert ("Trying again may help" in sentence) is alone
    assert ("run the whole of it again" in sentence) is not alone


@pytest.mark.parametrize("alone", [True, False])
def test_the_sentence_of_sqlite_names_its_one_writer(tmp_path, alone):
    first, second = (
        sqlite3.connect(tmp_path / "db.sqlite3", timeout=0, isolation_level=None) for _ in range(2)
    )
    first.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError) as locked:
        second.execute("BEGIN IMMEDIATE")
    first.close()
    second.close()
    error = raised(OperationalError, locked.value)
    assert failure_of(error) is Failure.LOCKED
    sentence = sentence_of(Failure.LOCKED, error, "default", alone=alone)
    assert "one writer at a time" in sentence
    assert '"timeout"' in sentence
