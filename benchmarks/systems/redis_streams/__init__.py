"""The Redis Streams way: one transaction per event, one blocking XREAD per client."""

from __future__ import annotations

import redis

from benchmarks.load import Work
from benchmarks.systems import sse
from benchmarks.systems.base import ProcessWorker, Request, System, Worker
from tests.services import AsgiServer, RedisServer


class RedisStreams(System):
    """A bare ASGI application that reads the run's stream anew for each of its clients."""

    name = "redis streams"

    def start(self) -> None:
        self._redis_url = self.serve(RedisServer()).url
        self._server = self.serve(
            AsgiServer(
                "uvicorn",
                "benchmarks.systems.redis_streams.app:application",
                env={"REDIS_URL": self._redis_url},
                args=sse.UVICORN_ARGS,
            )
        )

    def worker(self, work: Work) -> Worker:
        return ProcessWorker(
            "benchmarks.systems.redis_streams.worker",
            work.dump(),
            env={"REDIS_URL": self._redis_url},
        )

    def request(self, run: str, after: int | None = None) -> Request:
        headers = {} if after is None else {"Last-Event-ID": self._id_of(run, after)}
        return Request(self._server.port, f"/{run}", headers)

    def _id_of(self, run: str, number: int) -> str:
        with redis.Redis.from_url(self._redis_url, decode_responses=True) as client:
            entry_id: str = client.xrange(run, count=number + 1)[number][0]
        return entry_id
