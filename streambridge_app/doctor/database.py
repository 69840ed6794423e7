"""The log's database: whether it answers, and whether its tables are there."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from statistics import median
from typing import Any, Final

from django.apps import apps
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor

from ..conf import streambridge_settings
from ..log import own_connection
from ..models import Run
from .findings import FAIL, Found, Problem
from .times import shown

ROUND_TRIPS: Final = 5


@contextlib.contextmanager
def log_connection() -> Iterator[BaseDatabaseWrapper]:
    """
    Give this thread a connection like those of the log, in the place of its own.

    On PostgreSQL it lets the server prepare nothing: that may not work behind a pooler, which is
    a matter of one check only.
    """
    using = streambridge_settings.DATABASE
    connection = own_connection(using)
    if connection.vendor == "postgresql":
        connection.settings_dict["OPTIONS"]["prepare_threshold"] = None
    connections[using] = connection
    try:
        yield connection
    finally:
        connection.close()


def query(connection: BaseDatabaseWrapper, sql: str, *parameters: Any) -> tuple[Any, ...]:
    """Return the one row that a query finds."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters or None)
        row: tuple[Any, ...] = cursor.fetchone()
    return row


def check_reachable() -> Found:
    """Connect, and measure the round trip of the smallest query."""
    with log_connection() as connection:
        connection.ensure_connection()
        times = []
        for _ in range(ROUND_TRIPS):
            started = time.perf_counter()
            query(connection, "SELECT 1")
            times.append(time.perf_counter() - started)
        return Found(f"{_version(connection)} answers in {shown(median(times))}")


def check_migrated() -> Found:
    """Compare the migrations of this app with those that the database has seen."""
    app = Run._meta.app_label
    with log_connection() as connection:
        executor = MigrationExecutor(connection)
        loader = executor.loader
        targets = [node for node in loader.graph.leaf_nodes() if node[0] == app]
        missing = [
            migration.name
            for migration, _ in executor.migration_plan(targets)
            if migration.app_label == app
        ]
        applied = sum(label == app for label, _ in loader.applied_migrations)
        absent = _absent_tables(connection)
    alias = connection.alias
    if not missing and absent:
        problem = Problem(
            FAIL,
            f"applied, but there is no table {', '.join(absent)}",
            f"Let allow_migrate() of DATABASE_ROUTERS return True for {app!r} in {alias!r}; then "
            f"run manage.py migrate {app} zero --database {alias} --fake, and migrate again.",
        )
        return Found(f"{applied} applied", (problem,))
    if not missing:
        return Found(f"{applied} applied, none missing")
    problem = Problem(
        FAIL,
        f"not applied: {', '.join(missing)}",
        "Run manage.py migrate" + (f" --database {alias}." if alias != "default" else "."),
    )
    return Found(f"{applied} applied, {len(missing)} missing", (problem,))


def _absent_tables(connection: BaseDatabaseWrapper) -> list[str]:
    """Return the tables that are missing: a router may have kept them out of this database."""
    models = apps.get_app_config(Run._meta.app_label).get_models()
    there = connection.introspection.table_names()
    return sorted({model._meta.db_table for model in models}.difference(there))


def _version(connection: Any) -> str:
    if connection.vendor == "postgresql":
        number = connection.pg_version
        return f"PostgreSQL {number // 10_000}.{number % 10_000}"
    return f"{connection.display_name} {'.'.join(map(str, connection.get_database_version()))}"
