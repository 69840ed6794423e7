"""
How fast can one process publish?

    python -m benchmarks.publish [--rounds 5]

A process that does nothing else publishes on SQLite and on PostgreSQL (fsync on): one awaited call
after another, by the async and by the sync API; from 64 tasks at once, on one run and on a run
each; and 50,000 events through a producer handle, flushed at the end. There is no server and
no client, but the announcements go to Redis where there is one. The yardstick is bare SQL on a
database of the same kind (on PostgreSQL: of the same server): commits one by one, and with as many
rows in each as ours had with 64 tasks, on PostgreSQL also as one would write it, with arrays. And
bare SQL by 64 tasks of asyncio with nothing in between, which is the limit of any awaited publish.
The data of all events is made before the clock starts; to check it and to write it as JSON is part
of publishing. After each measurement the log is read: it must have each event once and in order.
"""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks import bare_sql
from benchmarks.results import Results, rounds
from benchmarks.systems.streambridge import How, Published, Publisher, StreamBridge

UNIT = "events/s"
TASKS = 64
MANY = 50_000
CONCURRENT = 200 * TASKS
SINGLE = 2_000
FULL = 512
"""What our writer puts into one commit at most."""

BARE_SINGLE = "bare sql, 1 row a commit"
BARE_ARRAYS = f"bare sql with arrays, {TASKS} rows a commit"
BARE_TASKS = f"bare sql by {TASKS} tasks"
BARE_FULL = f"bare sql, {FULL} rows a commit"
SINGLE_CASES: dict[str, How] = {
    "one by one, async API": "async",
    "one by one, sync API": "sync",
}
HANDLE_CASES: dict[str, How] = {
    "sync handle": "sync handle",
    "async handle": "async handle",
}
ONE_RUN = f"{TASKS} tasks on 1 run"
CONCURRENT_CASES = {ONE_RUN: 1, f"{TASKS} tasks on {TASKS} runs": TASKS}


def main() -> None:
    repeat = rounds(__doc__, 5)
    results = Results("publish")
    embedded = StreamBridge("embedded", None)
    distributed = StreamBridge("distributed", None)
    with ExitStack() as stack:
        databases = {}
        for name, system in (("sqlite", embedded), ("postgresql", distributed)):
            stack.enter_context(system)
            publisher = stack.enter_context(system.publisher())
            publisher.publish("sync", [system.new_run()], SINGLE // 20)  # connects, and so on
            databases[name] = system, publisher
        tables = {
            "sqlite": stack.enter_context(bare_sql.sqlite()),
            "postgresql": stack.enter_context(bare_sql.postgresql(distributed.postgres)),
        }
        arrays = stack.enter_context(bare_sql.postgresql(distributed.postgres, arrays=True))
        for _ in range(repeat):
            for name, (system, publisher) in databases.items():
                measure(results, name, system, publisher, tables[name])
            rate = arrays.append_per_second(CONCURRENT, TASKS)
            results.add(BARE_ARRAYS, "postgresql", rate, UNIT)

    for name in databases:
        results.ratio(
            f"one by one, sync API / bare SQL, {name}",
            UNIT,
            ("one by one, sync API", name),
            (BARE_SINGLE, name),
            (">=", 0.5),
        )
        results.ratio(
            f"one by one, async API / bare SQL, {name}",
            UNIT,
            ("one by one, async API", name),
            (BARE_SINGLE, name),
        )
        for case in CONCURRENT_CASES:
            results.ratio(
                f"{case} / bare SQL, as many rows a commit, {name}",
                UNIT,
                (case, name),
                (bare_like(case), name),
                (">=", 0.6) if case == ONE_RUN else None,  # the bare table advances one run
            )
        if name == "postgresql":
            results.ratio(
                f"{ONE_RUN} / bare SQL with arrays, as many rows a commit, {name}",
                UNIT,
                (ONE_RUN, name),
                (BARE_ARRAYS, name),
            )
        results.ratio(
            f"{ONE_RUN} / bare SQL by {TASKS} tasks, {name}",
            UNIT,
            (ONE_RUN, name),
            (BARE_TASKS, name),
        )
        results.ratio(
            f"bare SQL by {TASKS} tasks / bare SQL, as many rows a commit, {name}",
            UNIT,
            (BARE_TASKS, name),
            (bare_like(ONE_RUN), name),
        )
        for case in HANDLE_CASES:
            results.ratio(
                f"{case} / bare SQL, {FULL} rows a commit, {name}",
                UNIT,
                (case, name),
                (BARE_FULL, name),
            )
    results.save()


def measure(
    results: Results, name: str, system: StreamBridge, publisher: Publisher, table: bare_sql.Table
) -> None:
    """Measure each case once on one database, ours and the bare table in turns."""

    def ours(case: str, how: How, events: int, runs: int = 1, tasks: int = 1) -> Published:
        found = publisher.publish(how, [system.new_run() for _ in range(runs)], events, tasks)
        results.add(case, name, found.events_per_second, UNIT)
        results.add(case, name, found.cpu_us, "µs cpu/event")
        return found

    def bare(case: str, events: int, batch: int) -> None:
        results.add(case, name, table.append_per_second(events, batch), UNIT)

    for case, how in SINGLE_CASES.items():
        ours(case, how, SINGLE)
    bare(BARE_SINGLE, SINGLE, 1)
    for case, runs in CONCURRENT_CASES.items():
        batch = ours(case, "async", CONCURRENT, runs, TASKS).events_per_commit
        results.add(case, name, batch, "events/commit")
        bare(bare_like(case), CONCURRENT, round(batch))
    results.add(BARE_TASKS, name, table.append_by_tasks_per_second(CONCURRENT, TASKS), UNIT)
    for case, how in HANDLE_CASES.items():
        ours(case, how, MANY)
    bare(BARE_FULL, MANY, FULL)


def bare_like(case: str) -> str:
    return f"bare sql, commits like {case}"


if __name__ == "__main__":
    main()
