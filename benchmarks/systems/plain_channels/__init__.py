"""Plain Channels: one group message per event, and nothing is kept."""

from __future__ import annotations

from benchmarks.load import Work
from benchmarks.systems import sse
from benchmarks.systems.base import ProcessWorker, Request, System, Worker
from tests.services import AsgiServer, RedisServer


class PlainChannels(System):
    """A bare ASGI application whose clients join the run's group, through Redis pubsub."""

    name = "plain channels"

    def start(self) -> None:
        self._env = {"REDIS_URL": self.serve(RedisServer()).url}
        self._server = self.serve(
            AsgiServer(
                "uvicorn",
                "benchmarks.systems.plain_channels.app:application",
                env=self._env,
                args=sse.UVICORN_ARGS,
            )
        )

    def worker(self, work: Work) -> Worker:
        return ProcessWorker("benchmarks.systems.plain_channels.worker", work.dump(), env=self._env)

    def request(self, run: str, after: int | None = None) -> Request:
        if after is not None:
            raise NotImplementedError("A group keeps no event to read again.")
        return Request(self._server.port, f"/{run}")
