"""Ours, as the demo project deploys it, with workers that publish through producer handles."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import psycopg

from benchmarks.load import Work
from benchmarks.systems.base import ProcessWorker, Request, System, Worker
from tests.services import ROOT, AsgiServer, PostgresServer, RedisServer, spawn

How = Literal["async", "sync", "async handle", "sync handle"]


class StreamBridge(System):
    """The demo project's server, on SQLite alone or on PostgreSQL (fsync on) and Redis pubsub."""

    application = "project.asgi:application"

    def __init__(
        self,
        stack: Literal["embedded", "distributed"],
        server: Literal["uvicorn", "daphne"] | None = "uvicorn",
        *,
        tree: Path = ROOT,
    ) -> None:
        """
        Args:
            stack: what it stands on.
            server: None: nobody answers clients, for measurements of publishers alone.
            tree: where the code is.
        """
        super().__init__()
        self.name = f"streambridge {stack}" + (" on daphne" if server == "daphne" else "")
        self._stack_name = stack
        self._tree = tree
        self._server_kind: Literal["uvicorn", "daphne"] | None = server
        self.env: dict[str, str] = {}
        self.more_env: dict[str, str] = {}
        self.postgres: PostgresServer | None = None
        """The database's server, once the distributed stack has started."""
        self._epochs: dict[str, int] = {}

    def start(self) -> None:
        self.env = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "DEBUG": "0",
            "SECRET_KEY": "for benchmarks on this machine only",
            "ALLOWED_HOSTS": "127.0.0.1",
            **self.more_env,
        }
        if self._stack_name == "embedded":
            directory = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
            self.env["DATABASE_URL"] = f"sqlite:///{directory}/log.sqlite3"
        else:
            self.postgres = self.serve(PostgresServer(durable=True))
            self.env["DATABASE_URL"] = self.postgres.create_database("streambridge")
            self.env["REDIS_URL"] = self.serve(RedisServer()).url
        if (
            spawn(
                [sys.executable, "manage.py", "migrate", "-v0", "--skip-checks"],
                env=self.env,
                cwd=self._tree,
            ).wait()
            != 0
        ):
            raise RuntimeError("The migration failed.")
        if self._server_kind is not None:
            self.serve(
                AsgiServer(
                    self._server_kind,
                    self.application,
                    env=self.env,
                    args=self._server_args(),
                    tree=self._tree,
                )
            )

    def _server_args(self) -> list[str]:
        return (
            ["--no-access-log", "--log-level", "warning"] if self._server_kind == "uvicorn" else []
        )

    def worker(self, work: Work) -> Worker:
        return ProcessWorker(
            "benchmarks.systems.streambridge.worker", work.dump(), env=self.env, tree=self._tree
        )

    def publisher(self) -> Publisher:
        """Return a process that publishes as it is told; a context manager."""
        return Publisher(self.env, self._epochs, self._tree)

    def events_per_commit(self) -> float:
        """Return how many events a commit had so far on average; each has a time of its own."""
        query = "SELECT count(*), count(DISTINCT created_at) FROM streambridge_app_event"
        url = self.env["DATABASE_URL"]
        if self.postgres is None:
            with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file:
                ((events, commits),) = file.execute(query).fetchall()
        else:
            with psycopg.connect(url) as connection:
                ((events, commits),) = connection.execute(query).fetchall()
        return float(events / commits)

    def request(self, run: str, after: int | None = None) -> Request:
        headers = {} if after is None else {"Last-Event-ID": f"{self._epochs[run]}-{after}"}
        return Request(self.servers[-1].port, f"/runs/{run}/stream", headers)


class Published(NamedTuple):
    """What a publisher measured of itself."""

    events_per_second: float
    events_per_commit: float
    cpu_us: float
    """Microseconds of the process's processor time per event."""
    publish_ms: list[float]
    """How long each call took, if the events were paced."""


class Publisher:
    """A process that publishes as it is told, and measures itself."""

    def __init__(self, env: Mapping[str, str], epochs: dict[str, int], tree: Path) -> None:
        self._epochs = epochs
        self._process = spawn(
            [sys.executable, "-m", "benchmarks.systems.streambridge.publisher"],
            env=env,
            cwd=tree,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(20)

    def create(self, runs: Sequence[str]) -> None:
        """Create runs without events; they go on running."""
        self._order({"do": "create", "runs": list(runs)})

    def fill(self, runs: Sequence[str], events: int) -> None:
        """Create runs with so many events, as the clients expect them; they go on running."""
        answer = self._order({"do": "fill", "runs": list(runs), "events": events})
        self._epochs.update(answer["epochs"])

    def publish(self, how: How, runs: Sequence[str], events: int, tasks: int = 1) -> Published:
        """Publish so many events in all, as fast as it can; async tasks share the runs."""
        return Published(
            **self._order(
                {"do": "publish", "how": how, "runs": list(runs), "events": events, "tasks": tasks}
            )
        )

    def paced(self, run: str, events: int, rate: float) -> Published:
        """Publish by the sync API, one by one, so many events per second."""
        return Published(**self._order({"do": "paced", "run": run, "events": events, "rate": rate}))

    def _order(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"The publisher failed: exit code {self._process.wait(20)}.")
        answer: dict[str, Any] = json.loads(line)
        return answer
