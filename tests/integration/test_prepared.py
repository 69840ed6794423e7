"""Statements that go past Django and psycopg do what they would do by them."""

import datetime
import itertools
from collections.abc import Iterator

import pytest
from django.db import (
    DatabaseError,
    IntegrityError,
    OperationalError,
    ProgrammingError,
    connections,
    transaction,
)
from django.db.backends.base.base import BaseDatabaseWrapper

from streambridge_app.log.connections import own_connection
from streambridge_app.log.errors import Failure, failure_of
from streambridge_app.log.sql.prepared import Statement, to_bool, to_text

pytestmark = pytest.mark.django_db(transaction=True, databases=["postgres"])

_names = (f"test_libpq_{number}" for number in itertools.count())

INSERT = "INSERT INTO libpq VALUES (%s, %s) RETURNING id"


def statement(text: str, *columns: type | object) -> Statement:
    return Statement(next(_names), text, columns)  # type: ignore[arg-type]


@pytest.fixture
def table() -> Iterator[None]:
    with connections["postgres"].cursor() as cursor:
        cursor.execute("CREATE TABLE libpq (id bigint PRIMARY KEY, word text)")
        yield
        cursor.execute("DROP TABLE libpq")


def prepared(connection: BaseDatabaseWrapper) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM pg_prepared_statements")
        return [name for (name,) in cursor.fetchall() if name.startswith("test_libpq")]


def count() -> int:
    with connections["postgres"].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM libpq")
        return int(cursor.fetchone()[0])


@pytest.mark.parametrize("how", ["own connection", "caller's connection"])
def test_values_go_and_come(own: BaseDatabaseWrapper, how: str) -> None:
    connection = own if how == "own connection" else connections["postgres"]
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.UTC)
    same = statement(
        """
        SELECT %s::text, %s::bigint, %s::text IS NULL, %s::timestamptz = %s::timestamptz, 'x'
        FROM generate_series(1, %s)
        """,
        *(to_text, int, to_bool, to_bool, to_text),
    )
    words = 'O\'Reilly\n\\ "$1" ünï 😀'
    parameters = (words, 2**62, None, moment, moment.isoformat(), 3)
    for _ in range(2):
        assert same.rows(connection, parameters) == [[words, 2**62, True, True, "x"]] * 3
    assert len(prepared(own)) == (connection is own)


@pytest.mark.usefixtures("table")
def test_what_is_outside_a_transaction_is_committed(own: BaseDatabaseWrapper) -> None:
    insert = statement(INSERT, int)
    assert insert.rows(own, (1, "a")) == [[1]]
    assert count() == 1


@pytest.mark.usefixtures("table")
def test_what_is_inside_a_transaction_goes_with_it(own: BaseDatabaseWrapper) -> None:
    insert = statement(INSERT, int)
    before, connections["postgres"] = connections["postgres"], own
    try:
        with transaction.atomic(using="postgres"):
            insert.rows(own, (1, "a"))
            transaction.set_rollback(True, using="postgres")
    finally:
        connections["postgres"] = before
    assert count() == 0


@pytest.mark.usefixtures("table")
def test_a_refusal_is_the_error_that_django_raises(own: BaseDatabaseWrapper) -> None:
    insert = statement(INSERT, int)
    insert.rows(own, (1, "a"))
    with pytest.raises(IntegrityError, match="libpq_pkey") as raised:
        insert.rows(own, (1, "b"))
    assert failure_of(raised.value) is Failure.OTHER
    assert insert.rows(own, (2, "c")) == [[2]]


def test_a_state_that_nobody_knows_is_an_error_too(own: BaseDatabaseWrapper) -> None:
    with own.cursor() as cursor:
        cursor.execute("""
            CREATE FUNCTION pg_temp.refuse() RETURNS bigint LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'not today' USING ERRCODE = 'ZZ999'; END $$
        """)
    with pytest.raises(DatabaseError, match="not today") as raised:
        statement("SELECT pg_temp.refuse()", int).rows(own, ())
    assert failure_of(raised.value) is Failure.OTHER


def test_a_statement_that_could_not_be_prepared_is_tried_again(own: BaseDatabaseWrapper) -> None:
    read = statement("SELECT id FROM not_yet WHERE id = %s", int)
    for _ in range(2):
        with pytest.raises(ProgrammingError, match="not_yet"):
            read.rows(own, (1,))
    with own.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE not_yet AS SELECT 1::bigint AS id")
    assert read.rows(own, (1,)) == [[1]]


def test_a_broken_connection_is_a_lost_one_and_a_new_one_prepares_anew(
    own: BaseDatabaseWrapper,
) -> None:
    one = statement("SELECT %s::bigint", int)
    assert one.rows(own, (1,)) == [[1]]
    with own.cursor() as cursor, connections["postgres"].cursor() as other:
        cursor.execute("SELECT pg_backend_pid()")
        other.execute("SELECT pg_terminate_backend(%s, 5000)", cursor.fetchone())
    with pytest.raises(OperationalError) as raised:
        one.rows(own, (1,))
    assert failure_of(raised.value) is Failure.LOST
    own.close_if_unusable_or_obsolete()
    own.ensure_connection()
    assert one.rows(own, (1,)) == [[1]]
    assert len(prepared(own)) == 1


def test_none_are_prepared_if_the_settings_say_so(
    own: BaseDatabaseWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = connections.settings["postgres"]["OPTIONS"]
    monkeypatch.setitem(options, "prepare_threshold", None)
    connection = own_connection("postgres")
    connection.ensure_connection()
    one = statement("SELECT %s::bigint", int)
    for _ in range(3):
        assert one.rows(connection, (1,)) == [[1]]
    assert prepared(connection) == []
    connection.close()
