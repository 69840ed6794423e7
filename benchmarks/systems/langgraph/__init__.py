"""
LangGraph's in-memory server, started as ``langgraph dev``.

It runs the graph that emits the events in its own process, so there is no worker process. It
forgets everything at its end; while it lives it keeps each event of a run that was started with
``stream_resumable``.

A client that has joined before the first event, or after the last, gets each event once. One that
joins in between with ``Last-Event-ID: -1`` gets events twice: those emitted while it is sent the
stored ones.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from benchmarks.load import Work
from benchmarks.systems.base import Request, System, Worker
from tests.ports import HOST
from tests.services import ROOT, Server, wait_until

_GRAPH = "benchmark"
_ENDED = {"success", "error", "timeout", "interrupted"}
_WAIT_SECONDS = 300


class LangGraphServer(Server):
    """
    ``langgraph dev``: one process, offline, as fast as its documentation says how to make it.

    It logs warnings only, looks out for no blocking calls, measures nothing per event, and takes up
    to 100 runs at once.
    """

    name = "langgraph"

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def _command(self) -> list[str | Path]:
        graphs = {_GRAPH: "benchmarks.systems.langgraph.graph:graph"}
        configuration = {"dependencies": ["."], "graphs": graphs}
        (self.directory / "langgraph.json").write_text(json.dumps(configuration))
        options = ["--no-browser", "--no-reload", "--allow-blocking", "--n-jobs-per-worker", "100"]
        listen = ["--host", HOST, "--port", str(self.port)]
        return [sys.executable, "-m", "langgraph_cli", "dev", *options, *listen]

    def _popen_options(self) -> dict[str, Any]:
        env = {
            "PYTHONPATH": str(ROOT),
            "LANGGRAPH_CLI_NO_ANALYTICS": "1",
            "LANGGRAPH_NO_VERSION_CHECK": "1",
            "LANGSMITH_TRACING": "false",
            "LOG_LEVEL": "WARNING",
            "METRIC_MAX_EMITTING_TIER": "1",
        }
        return {"cwd": self.directory, "env": {**os.environ, **env}}

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/ok", timeout=5).is_success
        except httpx.TransportError:
            return False


class LangGraph(System):
    """LangGraph's in-memory server; each of its workers carries one run."""

    name = "langgraph"

    def __init__(self) -> None:
        super().__init__()
        self._paths: dict[str, str] = {}

    def start(self) -> None:
        self._server: LangGraphServer = self.serve(LangGraphServer())
        self._http = self.stack.enter_context(httpx.Client(base_url=self._server.url, timeout=30))

    def worker(self, work: Work) -> Worker:
        """Return a run of the graph that has been picked up, about a second after the request."""
        (run,) = work.runs
        go = self._server.directory / f"go-{run}"
        thread = self._post("/threads", {})["thread_id"]
        started = self._post(
            f"/threads/{thread}/runs",
            {
                "assistant_id": _GRAPH,
                "input": {"work": work.dump(), "go": str(go)},
                "stream_mode": ["custom"],
                "stream_resumable": True,
            },
        )
        path = self._paths[run] = f"/threads/{thread}/runs/{started['run_id']}"
        worker = _Run(self._http, path, go)
        wait_until(lambda: worker.status() == "running", 20, "LangGraph to pick the run up")
        return worker

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        response = self._http.post(path, json=body).raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def request(self, run: str, after: int | None = None) -> Request:
        """
        Return how to read a run from its start.

        Its event ids are times in milliseconds, many events share one, and no client can tell them
        from a number: reading on after an event is not offered here.
        """
        if after is not None:
            raise NotImplementedError("LangGraph's ids don't tell events of a millisecond apart.")
        path = f"{self._paths[run]}/stream?stream_mode=custom"
        return Request(self._server.port, path, {"Last-Event-ID": "-1"})


class _Run(Worker):
    """A run of the graph, in the server's process."""

    def __init__(self, http: httpx.Client, path: str, go: Path) -> None:
        self._http = http
        self._path = path
        self._go = go

    def status(self) -> str:
        return str(self._http.get(self._path).raise_for_status().json()["status"])

    def go(self) -> None:
        self._go.touch()

    def wait(self) -> None:
        """Wait for the end of the run, and ask seldom: the same process emits and serves."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while (status := self.status()) not in _ENDED and time.monotonic() < deadline:
            time.sleep(0.5)
        if status != "success":
            raise RuntimeError(f"The run failed: its status is {status}.")

    def kill(self) -> None:
        self._http.post(f"{self._path}/cancel", params={"wait": "true"})
