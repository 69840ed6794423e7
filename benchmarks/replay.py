"""
How fast is the history of a run read?

    python -m benchmarks.replay [--rounds 3]

A finished run of 100,000 events is read over HTTP by 1 and by 20 readers at once (a shorter one of
the peers that would take minutes). The clock starts when the first of them begins to connect. The
yardsticks: a bare ASGI application that writes the same frames, encoded before, one at a time and
32 at a time, with a real suspension after each write; the same rows read by bare SQL in pages of
the same size; and the peers that can replay.
"""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks import bare_sql
from benchmarks.harness import replay
from benchmarks.load import Work
from benchmarks.results import Results, rounds
from benchmarks.systems.bare_asgi import BareAsgi
from benchmarks.systems.base import System
from benchmarks.systems.eventstream import EventStream
from benchmarks.systems.langgraph import LangGraph
from benchmarks.systems.redis_streams import RedisStreams
from benchmarks.systems.streambridge import StreamBridge
from streambridge_app.conf import Settings

EVENTS = 100_000
FEWER = 5_000
UNIT = "events/s"
PAGE = Settings.PAGE_EVENTS.default


def main() -> None:
    repeat = rounds(__doc__, 3)
    results = Results("replay")
    embedded = StreamBridge("embedded")
    distributed = StreamBridge("distributed")
    one_frame = BareAsgi("uvicorn")
    langgraph = LangGraph()
    eventstream = EventStream("sqlite")
    events: dict[System, tuple[int, int]] = {  # for 1 reader, for 20 readers
        embedded: (EVENTS, EVENTS),
        distributed: (EVENTS, EVENTS),
        StreamBridge("embedded", "daphne"): (EVENTS, EVENTS),
        one_frame: (EVENTS, FEWER),
        BareAsgi("uvicorn", frames_per_message=32): (EVENTS, EVENTS),
        BareAsgi("daphne"): (EVENTS, FEWER),
        RedisStreams(): (EVENTS, FEWER),
        langgraph: (FEWER, FEWER),
        eventstream: (FEWER, FEWER),
    }
    with ExitStack() as stack:
        runs = {}
        for system, counts in events.items():
            stack.enter_context(system)
            for count in set(counts):
                run = runs[system, count] = system.new_run()
                worker = system.worker(Work((run,), count))
                worker.go()
                worker.wait()
        tables = {
            "sqlite": stack.enter_context(bare_sql.sqlite()),
            "postgresql": stack.enter_context(bare_sql.postgresql()),
        }
        keys = {name: table.filled_run(EVENTS) for name, table in tables.items()}
        for _ in range(repeat):
            for position, readers in enumerate((1, 20)):
                for system, counts in events.items():
                    count = counts[position]
                    run = runs[system, count]
                    outcome = replay(system, run, events=count, clients=readers)
                    per_second = outcome.events / (outcome.finished - outcome.opened)
                    results.add(f"{readers} readers", system.name, per_second, UNIT)
            for name, table in tables.items():
                per_second = table.read_per_second(keys[name], EVENTS, PAGE)
                results.add(f"bare sql, pages of {PAGE}", name, per_second, UNIT)

    ours = ("1 readers", embedded.name)
    results.ratio(
        "1 reader, SQLite / bare ASGI, one frame per write",
        UNIT,
        ours,
        ("1 readers", one_frame.name),
        (">=", 1.5),
    )
    for peer in (langgraph, eventstream):
        results.ratio(
            f"1 reader, SQLite / {peer.name}", UNIT, ours, ("1 readers", peer.name), (">=", 15)
        )
    for name, system, bound in (("postgresql", distributed, 0.5), ("sqlite", embedded, None)):
        results.ratio(
            f"1 reader, {name} / bare SQL reading the same pages",
            UNIT,
            ("1 readers", system.name),
            (f"bare sql, pages of {PAGE}", name),
            (">=", bound) if bound else None,
        )
    results.save()


if __name__ == "__main__":
    main()
