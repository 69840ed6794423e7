"""
How fast does a burst of a worker reach its clients?

    python -m benchmarks.burst [--rounds 3]

A worker process emits 50,000 events as fast as it can to 1 and to 20 clients over HTTP. Counted
is what all clients together have read, from the first event's emission until the last client has
the last event. The yardsticks: the same rows appended by bare SQL in transactions of the size that
ours have at most, a bare Redis publish/subscribe, and the peers. The peers that are slower by an
order of magnitude emit fewer events, enough for a second or more.
"""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks import bare_sql
from benchmarks.harness import stream_or_note
from benchmarks.results import Results, rounds
from benchmarks.systems.bare_redis import BareRedis
from benchmarks.systems.base import System
from benchmarks.systems.eventstream import EventStream
from benchmarks.systems.langgraph import LangGraph
from benchmarks.systems.plain_channels import PlainChannels
from benchmarks.systems.redis_streams import RedisStreams
from benchmarks.systems.streambridge import StreamBridge

EVENTS = 50_000
FEWER = 10_000
COMMIT_EVENTS = 512
"""Of streambridge_app.publish.queue, which can't be imported without settings."""
UNIT = "events/s"


def main() -> None:
    repeat = rounds(__doc__, 3)
    results = Results("burst")
    embedded = StreamBridge("embedded")
    distributed = StreamBridge("distributed")
    on_daphne = StreamBridge("distributed", "daphne")
    redis = BareRedis()
    streams = RedisStreams()
    langgraph = LangGraph()
    systems: dict[System, int] = {
        embedded: EVENTS,
        distributed: EVENTS,
        on_daphne: EVENTS,
        redis: EVENTS,
        streams: FEWER,
        langgraph: FEWER,
        PlainChannels(): FEWER,
        EventStream(): FEWER // 10,
    }
    with ExitStack() as stack:
        for system in systems:
            stack.enter_context(system)
        tables = {
            "sqlite": stack.enter_context(bare_sql.sqlite()),
            "postgresql": stack.enter_context(bare_sql.postgresql()),
        }
        for _ in range(repeat):
            for clients in (1, 20):
                case = f"{clients} clients"
                for system, events in systems.items():
                    outcome = stream_or_note(results, case, system, events=events, clients=clients)
                    if outcome is not None:
                        results.add(case, system.name, outcome.delivered_per_second, UNIT)
            for name, table in tables.items():
                per_second = table.append_per_second(EVENTS, COMMIT_EVENTS)
                results.add(f"bare sql, {COMMIT_EVENTS} rows a commit", name, per_second, UNIT)
        for system in (embedded, distributed):
            results.add("a worker's commits", system.name, system.events_per_commit(), "events")

    for clients, least_langgraph, least_streams in ((1, 12, 10), (20, 40, 12)):
        case = f"{clients} clients"
        ours = (case, distributed.name)
        results.ratio(
            f"{case}, distributed / LangGraph",
            UNIT,
            ours,
            (case, langgraph.name),
            (">=", least_langgraph),
        )
        results.ratio(
            f"{case}, distributed / Redis Streams way",
            UNIT,
            ours,
            (case, streams.name),
            (">=", least_streams),
        )
        results.ratio(f"{case}, distributed / bare Redis", UNIT, ours, (case, redis.name))
    for database, system in (("sqlite", embedded), ("postgresql", distributed)):
        results.ratio(
            f"1 client / bare SQL appends, {database}",
            UNIT,
            ("1 clients", system.name),
            (f"bare sql, {COMMIT_EVENTS} rows a commit", database),
            (">=", 0.5),
        )
    results.save()


if __name__ == "__main__":
    main()
