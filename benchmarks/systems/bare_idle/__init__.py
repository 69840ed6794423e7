"""What a stream with nothing to say costs at least: a bare ASGI application's heartbeats."""

from __future__ import annotations

from typing import Literal

from benchmarks.load import Work
from benchmarks.systems import sse
from benchmarks.systems.base import Request, System, Worker
from tests.services import AsgiServer


class BareIdle(System):
    """Answers each request by heartbeats, and never by an event."""

    def __init__(self, server: Literal["uvicorn", "daphne"] = "uvicorn") -> None:
        super().__init__()
        self.name = f"bare asgi on {server}"
        self._kind: Literal["uvicorn", "daphne"] = server

    def start(self) -> None:
        self._server = self.serve(
            AsgiServer(
                self._kind,
                "benchmarks.systems.bare_idle.app:application",
                args=sse.UVICORN_ARGS if self._kind == "uvicorn" else (),
            )
        )

    def worker(self, work: Work) -> Worker:
        raise NotImplementedError("There is nothing to emit to.")

    def request(self, run: str, after: int | None = None) -> Request:
        return Request(self._server.port, f"/{run}")
