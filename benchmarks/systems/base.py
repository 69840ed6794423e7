"""What the benchmarks ask of each system they compare."""

from __future__ import annotations

import abc
import dataclasses
import os
import subprocess
import sys
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import psutil

from benchmarks.load import Work
from tests.ports import HOST
from tests.services import ROOT, Server, spawn


@dataclasses.dataclass(frozen=True)
class Request:
    """What a client asks for to read a run."""

    port: int
    path: str
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def spec(self) -> dict[str, Any]:
        return {
            "host": HOST,
            "port": self.port,
            "path": self.path,
            "headers": dict(self.headers),
        }


class Worker(abc.ABC):
    """A worker that is up, and emits nothing yet."""

    @abc.abstractmethod
    def go(self) -> None:
        """Let it emit."""

    @abc.abstractmethod
    def wait(self) -> None:
        """Wait for its end; raises RuntimeError if it failed."""

    def cpu_seconds(self) -> float:
        """Return the processor time of its process so far; 0: it has none of its own."""
        return 0.0

    def kill(self) -> None:  # noqa: B027 - there is one that emits nothing
        """Let it emit nothing more."""


class System(abc.ABC):
    """
    Carries events from a worker process through a server process to clients over HTTP.

    As a context manager it starts the services and the server that it needs, with data of their
    own on free ports, and ends them.
    """

    name: str

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.servers: list[Server] = []
        """Whatever was started by :meth:`serve`."""

    def serve(self, server: Server) -> Any:
        """Start a server that ends with this system, and return it."""
        self.stack.enter_context(server)
        self.servers.append(server)
        return server

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stack.close()
            raise
        # Or the kernel writes the files of a new database half a minute later, into the figures.
        os.sync()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stack.close()
        self.servers.clear()

    @abc.abstractmethod
    def start(self) -> None:
        """Start what this system needs."""

    def new_run(self) -> str:
        """Return the id of a run that does not exist yet, but that clients may read."""
        return str(uuid.uuid4())

    @abc.abstractmethod
    def worker(self, work: Work) -> Worker:
        """Return a worker that is ready to emit."""

    @abc.abstractmethod
    def request(self, run: str, after: int | None = None) -> Request:
        """Return how to read a run that a worker is ready for, from its start or after a number."""

    def cpu_seconds(self) -> dict[str, float]:
        """Return the processor time that each server has used so far, by its name."""
        return {server.name: _cpu_seconds(server.pid) for server in self.servers}


class ProcessWorker(Worker):
    """A Python module that says ready, waits for go, emits, and ends with 0."""

    def __init__(
        self, module: str, *args: str, env: Mapping[str, str] | None = None, tree: Path = ROOT
    ) -> None:
        self._process = spawn(
            [sys.executable, "-m", module, *args],
            env=env,
            cwd=tree,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError(f"The worker {module} did not start.")

    def go(self) -> None:
        assert self._process.stdin
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def wait(self) -> None:
        if self._process.wait(120) != 0:
            raise RuntimeError(f"The worker failed: exit code {self._process.returncode}.")

    def cpu_seconds(self) -> float:
        return _cpu_seconds(self._process.pid)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(20)


def _cpu_seconds(pid: int) -> float:
    family = [psutil.Process(pid)]
    family += family[0].children(recursive=True)
    total = 0.0
    for process in family:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total
