"""The limit of the socket: a bare ASGI application that writes frames made before."""

from __future__ import annotations

import http.client
from typing import Literal

from benchmarks.load import Work
from benchmarks.systems import sse
from benchmarks.systems.base import Request, System, Worker
from tests.ports import HOST
from tests.services import AsgiServer


class BareAsgi(System):
    """Answers each request with all events of a run; it can only be read as a replay."""

    def __init__(
        self, server: Literal["uvicorn", "daphne"] = "uvicorn", frames_per_message: int = 1
    ) -> None:
        super().__init__()
        self.name = f"bare asgi on {server}, {frames_per_message} per message"
        self._kind: Literal["uvicorn", "daphne"] = server
        self._frames = frames_per_message
        self._events: dict[str, int] = {}

    def start(self) -> None:
        self._server = self.serve(
            AsgiServer(
                self._kind,
                "benchmarks.systems.bare_asgi.app:application",
                args=sse.UVICORN_ARGS if self._kind == "uvicorn" else (),
            )
        )

    def worker(self, work: Work) -> Worker:
        """Let the server encode the frames, so that no response waits for it."""
        for run in work.runs:
            self._events[run] = work.events
        connection = http.client.HTTPConnection(HOST, self._server.port)
        connection.request("HEAD", self._path(work.events))
        connection.getresponse()
        connection.close()
        return _NoWorker()

    def request(self, run: str, after: int | None = None) -> Request:
        if after is not None:
            raise NotImplementedError("Every response has all events.")
        return Request(self._server.port, self._path(self._events[run]))

    def _path(self, events: int) -> str:
        return f"/?events={events}&frames={self._frames}"


class _NoWorker(Worker):
    """The server has the events already."""

    def go(self) -> None:
        pass

    def wait(self) -> None:
        pass
