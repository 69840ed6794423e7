"""
django-eventstream, with its database storage, and its Redis pubsub from workers to server.

It sends each event by itself: six queries, a commit and a message. A response that begins with
``Last-Event-ID: CHANNEL:0`` reads the storage in pages of 100 until it has caught up, without a
reconnect and without a limit, then goes on live. Events are kept for a day.

A client that has joined before the first event, or after the last, gets each event once. One that
joins in between gets events twice and out of order: when a message arrives during a read of the
storage, it reads again from where that read began. The settings offer nothing against it.
"""

from __future__ import annotations

import http.client
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import redis

from benchmarks.load import Work
from benchmarks.systems.base import ProcessWorker, Request, System, Worker
from tests.ports import HOST
from tests.services import AsgiServer, PostgresServer, RedisServer, spawn, wait_until

_REDIS_CHANNEL = "events_channel"


class EventStream(System):
    """django-eventstream on PostgreSQL (fsync on) or on SQLite, served by Uvicorn."""

    def __init__(self, database: Literal["postgresql", "sqlite"] = "postgresql") -> None:
        super().__init__()
        self.name = f"django-eventstream on {database}"
        self._database = database
        self.env: Mapping[str, str] = {}

    def start(self) -> None:
        redis_url = self.serve(RedisServer()).url
        self.env = {
            "DJANGO_SETTINGS_MODULE": "benchmarks.systems.eventstream.settings",
            "DATABASE_URL": self._database_url(),
            "REDIS_URL": redis_url,
        }
        migrate = [sys.executable, "-m", "django", "migrate", "--verbosity", "0"]
        if spawn(migrate, env=self.env).wait() != 0:
            raise RuntimeError("The migration failed.")
        self._server: AsgiServer = self.serve(
            AsgiServer(
                "uvicorn",
                "benchmarks.systems.eventstream.asgi:application",
                env=self.env,
                args=["--no-access-log", "--log-level", "warning"],
            )
        )
        self._subscribe(redis_url)

    def _database_url(self) -> str:
        if self._database == "sqlite":
            directory = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
            return f"sqlite:///{directory}/log.sqlite3"
        postgres: PostgresServer = self.serve(PostgresServer(durable=True))
        return postgres.create_database("eventstream")

    def _subscribe(self, redis_url: str) -> None:
        """Open a stream: with its first one the server subscribes to Redis, and then for good."""
        connection = http.client.HTTPConnection(HOST, self._server.port, timeout=20)
        request = self.request(self.new_run())
        connection.request("GET", request.path, headers=dict(request.headers))
        connection.getresponse()
        with redis.Redis.from_url(redis_url) as client:
            wait_until(
                lambda: dict(client.pubsub_numsub(_REDIS_CHANNEL))[_REDIS_CHANNEL.encode()],
                20,
                "django-eventstream to subscribe to Redis",
            )
        connection.close()

    def worker(self, work: Work) -> Worker:
        return ProcessWorker("benchmarks.systems.eventstream.worker", work.dump(), env=self.env)

    def request(self, run: str, after: int | None = None) -> Request:
        """Return how to read a run: an event's id is its channel and its number from 1 on."""
        last = 0 if after is None else after + 1
        return Request(self._server.port, f"/events/{run}/", {"Last-Event-ID": f"{run}:{last}"})
