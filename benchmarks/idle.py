"""
What does an open stream with nothing to say cost a server?

    python -m benchmarks.idle [--rounds 2]

A process holds 1,000 open SSE streams, and then 5,000 on the distributed stack, spread over 100
runs that go on but have nothing to say. Counted is what the server has more than after its first
200 streams and its first sweep, when its fixed number of threads has started: KB of memory per
stream, threads, and database connections. Then all systems idle with their streams for some
seconds: the processor time of each server per stream and minute, for the heartbeats, one every 10
seconds, and for its looks at the log. The yardsticks: as many streams of a bare ASGI application
with the same heartbeats, and of plain Channels, which has none.
"""

from __future__ import annotations

import time
from contextlib import ExitStack

import psutil
import psycopg

from benchmarks.open_streams import OpenStreams, allow_open_files
from benchmarks.results import Results, rounds
from benchmarks.systems.bare_idle import BareIdle
from benchmarks.systems.base import System
from benchmarks.systems.plain_channels import PlainChannels
from benchmarks.systems.streambridge import StreamBridge
from streambridge_app.conf import Settings
from tests.services import wait_until

RUNS = 100
WARM_UP = 200
FEW = 1_000
MANY = 5_000
HEARTBEAT_SECONDS = 10
IDLE_SECONDS = 2 * HEARTBEAT_SECONDS
FIRST_SWEEP_SECONDS = Settings.SWEEP_INTERVAL.default + 2

KB = "KB/stream"
THREADS = "threads"
CONNECTIONS = "connections"
OPENING = "ms cpu to open"
IDLING = "ms cpu/stream/minute"


def main() -> None:
    repeat = rounds(__doc__, 2)
    allow_open_files()
    results = Results("idle")
    distributed = StreamBridge("distributed")
    on_uvicorn = [distributed, StreamBridge("embedded")]
    on_daphne = [StreamBridge("distributed", "daphne"), StreamBridge("embedded", "daphne")]
    bare = BareIdle("uvicorn")
    bare_daphne = BareIdle("daphne")
    channels = PlainChannels()
    few = [*on_uvicorn, *on_daphne, bare, bare_daphne, channels]
    many = [distributed, on_daphne[0], bare, bare_daphne, channels]
    for _ in range(repeat):
        measure(results, {FEW: few, MANY: many})

    for streams, systems in ((FEW, [*on_uvicorn, *on_daphne]), (MANY, [distributed, on_daphne[0]])):
        case = case_of(streams)
        for system in systems:
            for unit, most in ((KB, 35), (THREADS, 0), (CONNECTIONS, 0)):
                results.limit(f"{case}, {system.name}", unit, (case, system.name), ("<=", most))
        for system in systems:
            other = bare_daphne if system in on_daphne else bare
            for unit in (KB, OPENING, IDLING):
                results.ratio(
                    f"{case}, {unit}: {system.name} / bare ASGI",
                    unit,
                    (case, system.name),
                    (case, other.name),
                )
    results.save()


def measure(results: Results, steps: dict[int, list[System]]) -> None:
    """Open each number of streams on its systems, and let all of them idle at once."""
    systems = {system: Held(system) for step in steps.values() for system in step}
    with ExitStack() as stack:
        for system, held in systems.items():
            stack.enter_context(system)
            stack.enter_context(held)
            held.warm_up()
        # Nothing tells of the first sweep. One that came later would count as a stream's thread.
        time.sleep(FIRST_SWEEP_SECONDS)
        for held in systems.values():
            held.remember()
        for streams, some in steps.items():
            for system in some:
                systems[system].open(results, streams)
            idle(results, streams, some)
        for system, held in systems.items():
            due = int(time.monotonic() - held.opened_at - 1) // HEARTBEAT_SECONDS
            heartbeats = held.streams.close()
            if heartbeats < due and system.name != PlainChannels.name:
                raise RuntimeError(
                    f"{system.name}: a stream got {heartbeats} heartbeats instead of {due}."
                )
            # Nothing is measured any more: the end of all these streams needs no waiting for.
            system.servers[-1].kill()


def idle(results: Results, streams: int, systems: list[System]) -> None:
    """Let so many streams of each system idle, and keep the processor time that they take."""
    before = {system: system.cpu_seconds() for system in systems}
    began = time.monotonic()
    time.sleep(IDLE_SECONDS)
    minutes = (time.monotonic() - began) / 60
    for system, was in before.items():
        for name, seconds in system.cpu_seconds().items():
            label = system.name if name == system.servers[-1].name else f"{system.name}: {name}"
            each = 1000 * (seconds - was[name]) / (streams + WARM_UP) / minutes
            results.add(case_of(streams), label, each, IDLING)


class Held:
    """The streams of one system."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._runs = [system.new_run() for _ in range(RUNS)]
        self._opened = 0
        self.opened_at = 0.0
        """When the youngest stream was opened, by ``time.monotonic()``."""
        self._start: dict[str, float] = {}

    def __enter__(self) -> Held:
        self.streams = OpenStreams()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.streams.close()

    def warm_up(self) -> None:
        """Publish an event to each run, and open the first streams."""
        if isinstance(self._system, StreamBridge):
            with self._system.publisher() as publisher:
                publisher.fill(self._runs, events=1)
        self._open(WARM_UP)

    def remember(self) -> None:
        """Take the present state as the one that more streams are compared with."""
        self._start = state(self._system)
        self._opened = 0

    def open(self, results: Results, streams: int) -> None:
        """Open streams until there are so many beside the first, and keep what they cost."""
        case, name = case_of(streams), self._system.name
        server = self._system.servers[-1].name
        more = streams - self._opened
        cpu = self._system.cpu_seconds()[server]
        self._open(more)
        cpu = self._system.cpu_seconds()[server] - cpu
        results.add(case, name, 1000 * cpu / more, OPENING)
        now = state(self._system)
        for unit, was in self._start.items():
            grown = now[unit] - was
            results.add(case, name, grown / streams if unit == KB else grown, unit)

    def _open(self, more: int) -> None:
        requests = [self._system.request(self._runs[i % RUNS]) for i in range(more)]
        self.streams.open(requests)
        self._opened += more
        self.opened_at = time.monotonic()


def state(system: System) -> dict[str, float]:
    """Return the memory (KB), threads and connections of a server that has come to rest."""
    process = psutil.Process(system.servers[-1].pid)
    seen: list[int] = []

    def rests() -> bool:
        seen.append(process.num_threads())
        return len(seen) > 50 and len(set(seen[-50:])) == 1

    wait_until(rests, 20, "the server to come to rest")
    found = {KB: process.memory_info().rss / 1024, THREADS: float(process.num_threads())}
    if isinstance(system, StreamBridge):
        found[CONNECTIONS] = connections(system)
    return found


def connections(system: StreamBridge) -> int:
    """Return how many connections there are to the database, or handles of its file."""
    if system.postgres is None:
        files = psutil.Process(system.servers[-1].pid).open_files()
        return sum(file.path.endswith("sqlite3") for file in files)
    with psycopg.connect(system.postgres.url) as connection:
        ((count,),) = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = 'streambridge'"
        ).fetchall()
    return int(count)


def case_of(streams: int) -> str:
    return f"{streams:,} streams"


if __name__ == "__main__":
    main()
