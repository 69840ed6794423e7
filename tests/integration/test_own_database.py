"""The log in a database of its own, with the usual router and without any, as real projects."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.services import PostgresServer, spawn

Project = Callable[..., None]


@pytest.fixture(params=["sqlite", "postgres"])
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/log.sqlite3"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.create_database(f"log_{secrets.token_hex(4)}")


@pytest.fixture(params=["routed", "without a router"])
def project(request: pytest.FixtureRequest, log_url: str, tmp_path: Path) -> Project:
    """Return a function that does something in a process of a project."""
    env = {
        "DEFAULT_URL": f"sqlite:///{tmp_path}/default.sqlite3",
        "LOG_URL": log_url,
        "ROUTED": "yes" if request.param == "routed" else "no",
        "DJANGO_SETTINGS_MODULE": "tests.integration.own_database_settings",
    }

    def run(*names: str) -> None:
        argv = [sys.executable, "-m", "tests.integration.apps.own_database", *names]
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        process = spawn(argv, env=env, **output)
        out, _ = process.output(timeout=120)
        assert process.returncode == 0, out

    return run


def test_users_who_are_deleted_own_no_run(project: Project) -> None:
    project("migrate", "owners")


def test_the_admin_joins_nothing(project: Project) -> None:
    project("migrate", "admin")


def test_a_task_waits_for_every_commit(project: Project) -> None:
    project("migrate", "tasks")


def test_a_log_without_tables_is_no_outage(project: Project) -> None:
    project("outdated")


def test_a_table_that_vanishes_is_complained_of_once(project: Project) -> None:
    project("migrate", "vanishing")


def test_the_manager_looks_where_the_log_is(project: Project) -> None:
    project("migrate", "deleting")


def test_commands_commit_where_transactions_are_manual(project: Project) -> None:
    project("migrate", "commands")
