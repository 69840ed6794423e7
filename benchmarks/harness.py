"""Run workers and clients against the systems compared, interleaved, and keep what came out."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.load import Work
from benchmarks.results import Results
from benchmarks.systems.base import Request, System, Worker
from benchmarks.systems.streambridge import StreamBridge
from tests.services import spawn


class Outcome(NamedTuple):
    """What the clients of one measurement saw; times in seconds, delays in milliseconds."""

    events: int
    """Delivered, over all clients."""
    bytes: int
    opened: float
    """When the first client began to connect."""
    started: float
    """When the first event was emitted."""
    finished: float
    """When the last client had the last event."""
    longest: float
    """Seconds from a run's first event to its last one's arrival, at most; workers start apart."""
    p50: float
    p99: float
    p999: float
    max: float
    cpu: dict[str, float]
    """Seconds of processor time: of the clients, and of :func:`stream` the workers and servers."""
    seconds: float = 0.0
    """In which that was used: from the word to begin to the last event's arrival."""

    @property
    def delivered_per_second(self) -> float:
        return self.events / (self.finished - self.started)

    def rate_kept(self, seconds: float) -> float:
        """Return which part of its rate the slowest run of so many seconds kept; 1: all of it."""
        return min(1.0, seconds / self.longest)


class Clients:
    """A process that reads many streams; every response has begun when this returns."""

    def __init__(
        self, requests: Sequence[Request], *, events: int, first: int = 0, timeout: float = 120
    ) -> None:
        spec = {
            "requests": [request.spec() for request in requests],
            "events": events,
            "first": first,
            "timeout": timeout,
        }
        self._process = spawn(
            [sys.executable, "-m", "benchmarks.clients"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(spec) + "\n")
        self._process.stdin.flush()
        self._line = self._process.stdout.readline()

    def wait(self) -> None:
        """Wait until every client has the last event, or one has failed."""
        assert self._process.stdout
        if self._line == "connected\n":
            self._line = self._process.stdout.readline()

    def outcome(self) -> Outcome:
        """Wait for the last event; raises RuntimeError if a client missed or doubled one."""
        assert self._process.stdout
        self.wait()
        line = self._line
        if line == "finished\n":
            line = self._process.stdout.readline()
        self._process.wait(20)
        result: dict[str, Any] = json.loads(line or '{"error": "the client process died"}')
        if "error" in result:
            raise RuntimeError(result["error"])
        return Outcome(**result)


def stream(
    system: System,
    *,
    events: int,
    clients: int = 1,
    runs: int = 1,
    workers: int = 1,
    rate: float = 0,
    timeout: float = 120,
) -> Outcome:
    """
    Let workers emit while clients read, and return what the clients saw.

    Args:
        system: a started system.
        events: per run.
        clients: per run.
        runs: in all; each belongs to one of the workers.
        workers: processes.
        rate: events per second and run; 0: as fast as they can.
        timeout: seconds for all of it.
    """
    ids = [system.new_run() for _ in range(runs)]
    started: list[Worker] = []
    try:
        started.extend(
            system.worker(Work(tuple(ids[index::workers]), events, rate))
            for index in range(workers)
        )
        requests = [system.request(run) for run in ids for _ in range(clients)]
        reading = Clients(requests, events=events, timeout=timeout)
        before = _cpu_seconds(system, started)
        began = time.time()
        for worker in started:
            worker.go()
        reading.wait()
        after = _cpu_seconds(system, started)
        outcome = reading.outcome()
        for worker in started:
            worker.wait()
    except BaseException:
        for worker in started:
            worker.kill()
        raise
    used = {name: after[name] - before[name] for name in before}
    return outcome._replace(seconds=outcome.finished - began, cpu={**outcome.cpu, **used})


def _cpu_seconds(system: System, workers: Sequence[Worker]) -> dict[str, float]:
    return {"workers": sum(worker.cpu_seconds() for worker in workers), **system.cpu_seconds()}


def stream_or_note(results: Results, case: str, system: System, **load: Any) -> Outcome | None:
    """
    Do as :func:`stream`. A peer that gives a wrong count has failed: a note, and no figure.

    Raises:
        RuntimeError: it was ours.
    """
    try:
        return stream(system, **load)
    except RuntimeError as error:
        if isinstance(system, StreamBridge):
            raise
        results.note(f"{case}: {system.name} failed. {error}")
        return None


def replay(
    system: System, run: str, *, events: int, clients: int = 1, timeout: float = 120
) -> Outcome:
    """Let clients read a run that has ended, from its start."""
    return Clients([system.request(run)] * clients, events=events, timeout=timeout).outcome()
