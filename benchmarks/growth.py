"""
What grows with the clients, the history and the runs?

    python -m benchmarks.growth [--rounds 3]

Four things that should not grow:

- the cost of a publish (sync API, a commit each) to a run with 1, 100 and 1,000 clients: how
  long the call takes, and the processor time of the publishing process. Five a second, so that
  the server has served all clients before the next one: they share this machine's cores.
- the time to join a run that goes on, with 1,000 and 1,000,000 events of history, that nobody
  follows at the time and of which the server has nothing: from the connection to the first event,
  from the start of the history, its middle, and at the tail (before one of the last events); where
  it is short, also to the last event.
- what the server does per second while nothing happens, with 1 and 2,000 runs followed by one
  client each, and how late an event to one of them is. Measured once, for it takes long.
- transactions per second of the database (PostgreSQL) with 1 and 500 clients on a run of 20
  events/s; the worker's own, the same in both cases, are among them.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack

import psycopg

from benchmarks.harness import Clients
from benchmarks.joiner import Join, join
from benchmarks.load import Work
from benchmarks.open_streams import OpenStreams, allow_open_files
from benchmarks.results import Results, rounds
from benchmarks.systems.streambridge import Publisher, StreamBridge

PACE = 5
"""Events per second, few enough for 1,000 clients to have one before the next is published."""

AUDIENCES = (1, 100, 1_000)
PUBLISHES = 40

HISTORIES = (1_000, 1_000_000)
JOINS = 10

RUNS = (1, 2_000)
IDLE_SECONDS = 10
LATE_EVENTS = 42
LATE_PACE = 7
"""Not in step with the looks at the log of the embedded stack, 20 a second."""

READERS = (1, 500)
RATE = 20
COUNT_SECONDS = 10
REST_SECONDS = 120
"""For which a server may be busy with clients that came or went."""
FLUSH_SECONDS = 11
"""After which PostgreSQL's statistics have what a session did that is idle now."""

PUBLISH_MS = "ms/publish"
PUBLISH_CPU = "µs cpu/publish"
FIRST = "ms to the first event"
LAST = "ms to the last event"
CPU = "ms cpu/s"
DELAY = "ms p50"
TRANSACTIONS = "transactions/s"


def main() -> None:
    repeat = rounds(__doc__, 3)
    allow_open_files()
    results = Results("growth")
    distributed = StreamBridge("distributed")
    embedded = StreamBridge("embedded")
    with ExitStack() as stack:
        histories: dict[StreamBridge, dict[int, str]] = {}
        publishers: dict[StreamBridge, Publisher] = {}
        for system in (distributed, embedded):
            stack.enter_context(system)
            publishers[system] = stack.enter_context(system.publisher())
            histories[system] = {events: system.new_run() for events in HISTORIES}
            for events, run in histories[system].items():
                publishers[system].fill([run], events)
        for turn in range(repeat):
            for system, publisher in publishers.items():
                for audience in AUDIENCES:
                    publish(results, system, publisher, audience)
                join_all(results, system, histories[system], turn)
            for readers in READERS:
                count_queries(results, distributed, readers)
        for system, publisher in publishers.items():
            for runs in RUNS:
                follow(results, system, publisher, runs)

    for system in (distributed, embedded):
        fewest, most = AUDIENCES[0], AUDIENCES[-1]
        for unit in (PUBLISH_MS, PUBLISH_CPU):
            results.ratio(
                f"{unit}, {most:,} / {fewest} clients, {system.name}",
                unit,
                (audience_case(most), system.name),
                (audience_case(fewest), system.name),
                ("<=", 1.2) if unit == PUBLISH_MS else None,
            )
        short, long = HISTORIES
        for place in ("start", "middle", "tail"):
            results.ratio(
                f"{FIRST} from the {place}, {long:,} / {short:,} events, {system.name}",
                FIRST,
                (join_case(place, long), system.name),
                (join_case(place, short), system.name),
                ("<=", 1.2) if place == "tail" else None,
            )
        for unit in (CPU, DELAY):
            results.ratio(
                f"{unit}, {RUNS[-1]:,} / {RUNS[0]} followed runs, {system.name}",
                unit,
                (runs_case(RUNS[-1]), system.name),
                (runs_case(RUNS[0]), system.name),
            )
    results.ratio(
        f"{TRANSACTIONS}, {READERS[-1]} / {READERS[0]} clients",
        TRANSACTIONS,
        (readers_case(READERS[-1]), distributed.name),
        (readers_case(READERS[0]), distributed.name),
        ("<=", 1.2),
    )
    results.save()


def publish(results: Results, system: StreamBridge, publisher: Publisher, clients: int) -> None:
    """Publish slowly to a run with so many clients, each of which must get every event."""
    run = system.new_run()
    publisher.create([run])
    reading = Clients([system.request(run)] * clients, events=PUBLISHES)
    found = publisher.paced(run, PUBLISHES, PACE)
    reading.outcome()
    rest(system)
    case = audience_case(clients)
    results.add(case, system.name, statistics.median(found.publish_ms), PUBLISH_MS)
    results.add(case, system.name, found.cpu_us, PUBLISH_CPU)


def join_all(results: Results, system: StreamBridge, runs: dict[int, str], turn: int) -> None:
    """Join each history at each place, a few events on each time: servers keep pages of the log."""
    places: dict[tuple[str, int], list[Join]] = {}
    steps = range(turn * JOINS, (turn + 1) * JOINS)
    for events, run in runs.items():
        for place, first, step in (
            ("start", 0, 1),
            ("middle", events // 2, 1),
            ("tail", events - 1, -1),
        ):
            places[place, events] = [
                Join(
                    system.request(run, after=first + step * n),
                    first + step * n,
                    events - 1 if events == HISTORIES[0] else first + step * n,
                )
                for n in steps
            ]
    taken = join({join_case(*key): some for key, some in places.items()})
    for (_, events), case in zip(places, taken, strict=True):
        results.add(case, system.name, statistics.median(taken[case].first), FIRST)
        if events == HISTORIES[0]:
            results.add(case, system.name, statistics.median(taken[case].last), LAST)


def follow(results: Results, system: StreamBridge, publisher: Publisher, runs: int) -> None:
    """Follow so many runs: let nothing happen for a while, then publish to one of them."""
    ids = [system.new_run() for _ in range(runs)]
    publisher.create(ids)
    case = runs_case(runs)
    with OpenStreams() as streams:
        streams.open([system.request(run) for run in ids[1:]])
        reading = Clients([system.request(ids[0])], events=LATE_EVENTS)
        rest(system)
        before = system.cpu_seconds()
        began = time.monotonic()
        time.sleep(IDLE_SECONDS)
        seconds = time.monotonic() - began
        for name, used in system.cpu_seconds().items():
            label = system.name if name == system.servers[-1].name else f"{system.name}: {name}"
            results.add(case, label, 1000 * (used - before[name]) / seconds, CPU)
        publisher.paced(ids[0], LATE_EVENTS, LATE_PACE)
        results.add(case, system.name, reading.outcome().p50, DELAY)
    rest(system)


def rest(system: StreamBridge) -> None:
    """Wait until the server has dealt with the clients that came or went."""
    name = system.servers[-1].name
    used = system.cpu_seconds()[name]
    for _ in range(REST_SECONDS):
        time.sleep(1)
        before, used = used, system.cpu_seconds()[name]
        if used - before < 0.2:
            return
    raise RuntimeError(f"{name} is still busy {REST_SECONDS} s after its clients came or went.")


def count_queries(results: Results, system: StreamBridge, clients: int) -> None:
    """Count what the database does while a worker emits at a steady rate."""
    run = system.new_run()
    events = RATE * (COUNT_SECONDS + FLUSH_SECONDS + 1)
    worker = system.worker(Work((run,), events, RATE))
    reading = Clients([system.request(run)] * clients, events=events)
    worker.go()
    assert system.postgres
    # A connection to another database: what it does is not counted here.
    with psycopg.connect(system.postgres.url, autocommit=True) as connection:
        time.sleep(FLUSH_SECONDS)  # what the clients did to join is counted by then
        before = transactions(connection)
        began = time.monotonic()
        time.sleep(COUNT_SECONDS)
        per_second = (transactions(connection) - before) / (time.monotonic() - began)
    results.add(readers_case(clients), system.name, per_second, TRANSACTIONS)
    reading.outcome()
    worker.wait()
    rest(system)


def transactions(connection: psycopg.Connection[tuple[int]]) -> int:
    """Return how many the database has ended; its sessions report about once a second."""
    ((count,),) = connection.execute(
        "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'streambridge'"
    ).fetchall()
    return count


def audience_case(clients: int) -> str:
    return f"a publish to {clients:,} clients"


def join_case(place: str, events: int) -> str:
    return f"joining from the {place}, {events:,} events"


def runs_case(runs: int) -> str:
    return f"{runs:,} followed runs"


def readers_case(clients: int) -> str:
    return f"{RATE} events/s to {clients} clients"


if __name__ == "__main__":
    main()
