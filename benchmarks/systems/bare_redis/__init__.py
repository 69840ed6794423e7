"""
The limit of Redis publish/subscribe over HTTP: frames published, and passed on unread.

And the limit of what keeps its events: the same, each event committed by bare SQL before.
"""

from __future__ import annotations

import redis

from benchmarks.load import Work
from benchmarks.systems import sse
from benchmarks.systems.base import ProcessWorker, Request, System, Worker
from tests.services import AsgiServer, PostgresServer, RedisServer

BATCH = 512
"""Events in a round trip of a worker that is not paced."""


class BareRedis(System):
    """A bare ASGI application with a subscription per client; workers publish in batches."""

    def __init__(self, *, durable: bool = False) -> None:
        """
        Args:
            durable: whether workers commit each event to PostgreSQL first.
        """
        super().__init__()
        self.name = "bare sql and redis" if durable else "bare redis"
        self._durable = durable

    def start(self) -> None:
        url = self.serve(RedisServer()).url
        # Redis otherwise drops a subscriber that is some megabytes behind.
        with redis.Redis.from_url(url) as client:
            client.config_set("client-output-buffer-limit", "pubsub 0 0 0")
        self._env = {"REDIS_URL": url}
        if self._durable:
            postgres = self.serve(PostgresServer(durable=True))
            self._env["DATABASE_URL"] = postgres.create_database("bare")
        self._server = self.serve(
            AsgiServer(
                "uvicorn",
                "benchmarks.systems.bare_redis.app:application",
                env=self._env,
                args=sse.UVICORN_ARGS,
            )
        )

    def worker(self, work: Work) -> Worker:
        return ProcessWorker(
            "benchmarks.systems.bare_redis.worker",
            work.dump(),
            str(1 if work.rate or self._durable else BATCH),
            env=self._env,
        )

    def request(self, run: str, after: int | None = None) -> Request:
        if after is not None:
            raise NotImplementedError("Redis keeps no published message to read again.")
        return Request(self._server.port, f"/{run}")
