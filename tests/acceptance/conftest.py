"""Deployments of the demo project: a real server on the test run's database, and who uses it."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connections
from pytest_django import Settings

from tests.services import HOST, AsgiServer, spawn

STACKS = [
    pytest.param("default", marks=pytest.mark.django_db(transaction=True), id="embedded"),
    pytest.param(
        "postgres",
        marks=pytest.mark.django_db(transaction=True, databases=["postgres"]),
        id="distributed",
    ),
]
"""SQLite with the in-memory layer; PostgreSQL with Redis."""

VISIBLE = {"demo": True}
"""Metadata of a run that the demo project lets anybody follow."""


@dataclasses.dataclass(frozen=True)
class Deployment:
    """A server, and the environment that its workers need."""

    server: AsgiServer
    database: str
    env: dict[str, str]

    def worker(self, run_id: str, events: int, pause: float = 0) -> subprocess.Popen[bytes]:
        """Start a worker process that publishes `events` events, `pause` seconds apart."""
        return self._worker(run_id, str(events), pause)

    @contextlib.contextmanager
    def endless_worker(self, run_id: str, pause: float) -> Iterator[None]:
        """Let a worker process publish for as long as the block lasts, and end its run."""
        with self._worker(run_id, "-", pause, stdin=subprocess.PIPE) as worker:
            yield
            worker.communicate()
        assert worker.returncode == 0

    def _worker(
        self, run_id: str, events: str, pause: float, **popen: Any
    ) -> subprocess.Popen[bytes]:
        arguments = [run_id, events, str(pause)]
        command = [sys.executable, "-m", "tests.acceptance.worker", *arguments]
        return spawn(command, env=self.env, **popen)


@pytest.fixture(params=STACKS)
def database(request: pytest.FixtureRequest, settings: Settings) -> str:
    """The alias of the database, with the bridge of this process set up on it."""
    alias: str = request.param
    layer = "default"
    if alias == "postgres":
        request.getfixturevalue("redis_server").flush()
        layer = "pubsub"
    settings.STREAMBRIDGE = {"DATABASE": alias, "CHANNEL_LAYER": layer}
    return alias


@pytest.fixture
def environment(database: str, request: pytest.FixtureRequest) -> dict[str, str]:
    """What switches the demo project to the same database and layer."""
    settings = connections[database].settings_dict
    common = {"DJANGO_SETTINGS_MODULE": "project.settings", "DEBUG": "0", "SECRET_KEY": "tests"}
    if database == "default":
        return {**common, "DATABASE_URL": f"sqlite:///{settings['NAME']}"}
    return {
        **common,
        "DATABASE_URL": f"postgresql://postgres@{HOST}:{settings['PORT']}/{settings['NAME']}",
        "REDIS_URL": request.getfixturevalue("redis_server").url,
    }


@pytest.fixture(params=["daphne", "uvicorn"])
def deployment(
    request: pytest.FixtureRequest, environment: dict[str, str], database: str
) -> Iterator[Deployment]:
    # A busy machine's client may take its time to answer Daphne's pings.
    args = ["--ping-timeout", "120"] if request.param == "daphne" else []
    with AsgiServer(request.param, env=environment, args=args) as server:
        yield Deployment(server, database, environment)
