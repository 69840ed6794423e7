"""
The chaos run: `python -m tests.chaos.chaos --seconds 600 --seed 1`, or `make chaos`.

It starts PostgreSQL, Redis, servers and workers, lets them work while the schedule breaks them,
mends everything, waits for all to end, and checks what must hold. It exits with 1 if something
doesn't.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import django

from streambridge_app import get_bridge
from tests.chaos import invariants, leftovers, schedule
from tests.chaos.courses import Course, Courses
from tests.chaos.injection import Injected, inject
from tests.chaos.invariants import Logged, LoggedRun
from tests.chaos.report import Report
from tests.chaos.schedule import Fault, Schedule
from tests.chaos.site import Site, environment, migrate
from tests.services import TIMEOUT_SCALE, PostgresServer, RedisServer, async_wait_until

SETTLE_SECONDS: Final = 90
"""How long after the last fault and the last event a client may take to hear of the end."""


class Chaos:
    """One run of it."""

    def __init__(self, plan: Schedule, site: Site) -> None:
        self._plan = plan
        self._site = site
        self._injected: list[Injected] = []

    async def run(self) -> Report:
        """Do all of it and return what came of it."""
        began = time.monotonic()
        async with self._site:
            self._start = time.monotonic()
            courses = Courses(self._site, self._plan.jobs, self._start)
            supervising = asyncio.create_task(self._site.supervise(courses.disturb))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(courses.direct())
                for job in self._plan.jobs:
                    tasks.create_task(courses.begin(job))
                for fault in self._plan.faults:
                    tasks.create_task(self._inject(fault, courses))
            _say(f"{self._now():6.1f} s  all faults are mended, all work is done")
            await _settle(courses)
            supervising.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await supervising
            courses.hear_of_tasks()
            await self._leases_end()
            _say(f"{self._now():6.1f} s  all clients have ended")
            totals = _Totals(courses)
            violations = []
            for run in self._logged():
                course = courses.of.get(run.run_id)
                totals.add(run)
                violations += _check(run, course)
            violations += await leftovers.check(self._site)
            violations += leftovers.check_logs(self._site)
        await get_bridge().close()
        return Report(
            self._plan.seed,
            self._plan.seconds,
            time.monotonic() - began,
            self._faults(courses),
            totals.result(self._site),
            violations,
        )

    def _now(self) -> float:
        return time.monotonic() - self._start

    async def _inject(self, fault: Fault, courses: Courses) -> None:
        await asyncio.sleep(fault.at - self._now())
        injected = await inject(self._site, fault, courses.disturb)
        self._injected.append(injected)
        _say(
            f"{injected.began - self._start:6.1f} s  {fault.kind}, number {fault.index}: "
            f"mended after {injected.mended - injected.began:.1f} s"
        )

    async def _leases_end(self) -> None:
        """Wait for runs that have no client, since nobody knows whether they could be created."""
        running = "SELECT 1 FROM streambridge_app_run WHERE status = 'running'"
        with self._site.connect() as connection, contextlib.suppress(TimeoutError):
            await async_wait_until(
                lambda: connection.execute(running).fetchone() is None,
                2 * schedule.TASK_LEASE_SECONDS,
                "the last leases to end",
            )

    def _logged(self) -> Iterator[LoggedRun]:
        with self._site.connect() as connection:
            rows = connection.execute(
                "SELECT id, run_id, epoch, head, floor, status, lease_expires, ended_at"
                " FROM streambridge_app_run WHERE run_id IS NOT NULL ORDER BY id"
            ).fetchall()
            for key, *run in rows:
                events = connection.execute(
                    "SELECT seq, event, data FROM"
                    " (TABLE streambridge_app_event UNION ALL TABLE trimmed) AS events"
                    " WHERE run_id = %s ORDER BY seq",
                    [key],
                ).fetchall()
                yield LoggedRun(*run, [Logged(*event) for event in events])

    def _faults(self, courses: Courses) -> dict[str, dict[str, float]]:
        outages = [
            outage
            for course in courses.of.values()
            for client in course.clients
            for outage in client.outages
        ]
        found: dict[str, dict[str, float]] = {}
        for kind in schedule.FAULTS:
            some = [injected for injected in self._injected if injected.kind == kind]
            slowest = [
                back - max(lost, one.mended)
                for one in some
                for lost, back in outages
                if one.began <= lost <= one.mended + 0.5
            ]
            if some:
                found[kind] = {"times": len(some), "slowest": max([*slowest, 0])}
        return found


class _Totals:
    """Counts for the report."""

    def __init__(self, courses: Courses) -> None:
        self._courses = courses
        self._statuses: Counter[str] = Counter()
        self._events = 0
        self._trimmed = 0
        self._delivered = 0
        self._slowest_loss = 0.0

    def add(self, run: LoggedRun) -> None:
        self._statuses[run.status] += 1
        self._events += run.head
        self._trimmed += run.floor
        course = self._courses.of.get(run.run_id)
        if course is None:
            return
        self._delivered += sum(len(client.followed.transcript.seqs) for client in course.clients)
        if run.status == "lost" and course.left_at is not None and run.ended_at is not None:
            self._slowest_loss = max(self._slowest_loss, run.ended_at.timestamp() - course.left_at)

    def result(self, site: Site) -> dict[str, object]:
        courses = self._courses.of.values()
        clients = [client for course in courses for client in course.clients]
        outcomes = Counter(
            outcome for course in courses for outcome in course.told.outcomes.values()
        )
        refusals: Counter[str] = Counter()
        for client in clients:
            refusals += client.refusals
        refused = [refused for course in courses for refused in course.told.refused]
        lost_streams = [back - lost for client in clients for lost, back in client.outages]
        return {
            "runs": sum(self._statuses.values()),
            "how they ended": dict(self._statuses),
            "events in the log": self._events,
            "of those trimmed meanwhile": self._trimmed,
            "events delivered": self._delivered,
            "gaps that clients were told of": sum(
                len(client.followed.transcript.gaps) for client in clients
            ),
            "clients": len(clients),
            "connections of clients": sum(client.connections for client in clients),
            "connections cut in the middle": site.proxy.cuts,
            "refused connections": dict(refusals),
            "Celery workers that ended by themselves": site.restarted,
            "runs of Celery tasks": sum(course.job.how == "celery" for course in courses),
            "attempts of workers": outcomes.total(),
            "how those ended": dict(outcomes),
            "publishes that raised or were rolled back": len(refused),
            "longest time without a stream": max([*lost_streams, 0.0]),
            "longest time from a worker's death to the end as lost": self._slowest_loss,
        }


def _check(run: LoggedRun, course: Course | None) -> Iterator[str]:
    yield from invariants.check_log(run)
    if course is None:  # its task was not sent
        return
    yield from invariants.check_told(run, course.told, course.job)
    yield from invariants.check_end(run, course.told)
    for client in course.clients:
        yield from invariants.check_client(run, client.followed)


async def _settle(courses: Courses) -> None:
    """Wait for the clients; those that hear of no end are found out by the checks."""
    _, hanging = await asyncio.wait(courses.following, timeout=SETTLE_SECONDS * TIMEOUT_SCALE)
    for task in (*hanging, *courses.trimming):
        task.cancel()
    tasks = [*courses.following, *courses.trimming]
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Break a deployment and see what it loses.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where to write the report to")
    options = parser.parse_args(arguments)
    with PostgresServer() as postgres, RedisServer() as redis, RedisServer() as broker:
        env = environment(postgres, redis, broker, "chaos")
        os.environ.update(env)
        migrate(env)
        django.setup()
        plan = schedule.draw(options.seed, options.seconds)
        report = asyncio.run(Chaos(plan, Site(postgres, redis, broker, options.seed)).run())
    print(report.table())
    if options.json:
        options.json.write_text(report.json())
    for violation in report.violations:
        print(f"VIOLATED {violation}")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
