"""The limit of Redis publish/subscribe over HTTP: frames published, and passed on unread."""

from __future__ import annotations

import redis

from benchmarks.load import Work
from benchmarks.systems import sse
from benchmarks.systems.base import ProcessWorker, Request, System, Worker
from tests.services import AsgiServer, RedisServer


class BareRedis(System):
    """A bare ASGI application with a subscription per client; workers publish in batches."""

    name = "bare redis"

    def __init__(self, batch: int = 512) -> None:
        super().__init__()
        self._batch = batch

    def start(self) -> None:
        url = self.serve(RedisServer()).url
        # Redis otherwise drops a subscriber that is some megabytes behind.
        with redis.Redis.from_url(url) as client:
            client.config_set("client-output-buffer-limit", "pubsub 0 0 0")
        self._env = {"REDIS_URL": url}
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
            str(1 if work.rate else self._batch),
            env=self._env,
        )

    def request(self, run: str, after: int | None = None) -> Request:
        if after is not None:
            raise NotImplementedError("Redis keeps no published message to read again.")
        return Request(self._server.port, f"/{run}")
