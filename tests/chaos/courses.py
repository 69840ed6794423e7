"""The runs: who works on them, who takes over what a worker left, and what all were told."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from django.db import connections
from kombu.exceptions import OperationalError

from streambridge_app import get_bridge
from streambridge_app.contrib.celery import stream
from streambridge_app.exceptions import LogUnavailable, RunEnded, RunExists
from tests.chaos import clients
from tests.chaos.celery_app import work
from tests.chaos.invariants import Refused, Told
from tests.chaos.schedule import LEASE_SECONDS, TASK_LEASE_SECONDS, Job, Target
from tests.chaos.site import VISIBLE, Site, Worker

T = TypeVar("T")

MOST_ATTEMPTS: Final = 4
"""Workers that try their hand at one run."""

MOST_AT_ONCE: Final = 10
"""Runs that one worker does at once."""


@dataclasses.dataclass
class Attempt:
    """A worker's work on a run, as seen from here."""

    worker: Worker
    incarnation: int
    over: bool = False

    @property
    def died(self) -> bool:
        return self.incarnation != self.worker.incarnation or not self.worker.running


@dataclasses.dataclass
class Course:
    """How a run goes."""

    job: Job
    told: Told = dataclasses.field(default_factory=Told)
    attempts: list[Attempt] = dataclasses.field(default_factory=list)
    clients: list[clients.Client] = dataclasses.field(default_factory=list)
    waiting: bool = True
    """Whether it needs a worker."""
    left_at: float | None = None
    """When its last worker died, in seconds since 1970."""

    @property
    def over(self) -> bool:
        if self.job.how == "celery":
            return all(client.followed.ended for client in self.clients)
        return not self.waiting and all(attempt.over for attempt in self.attempts)

    @property
    def may_be_retried(self) -> bool:
        return self.job.retried and len(self.attempts) < MOST_ATTEMPTS


class Courses:
    """All of them."""

    def __init__(self, site: Site, jobs: Sequence[Job], start: float) -> None:
        self.of: dict[str, Course] = {}
        self.following: list[asyncio.Task[Any]] = []
        self.trimming: list[asyncio.Task[Any]] = []
        self._told: defaultdict[str, Told] = defaultdict(Told)
        self._site = site
        self._jobs = jobs
        self._start = start

    async def begin(self, job: Job) -> None:
        """Create a run in its time and let its clients follow it; ask it to cancel in its time."""
        await asyncio.sleep(max(0, self._start + job.at - time.monotonic()))
        bridge = get_bridge()
        if job.how == "celery":
            run_id = await _send(job)
        else:
            run_id = job.run_id
            with contextlib.suppress(RunExists):  # an attempt that raised has made it
                await persistently(
                    lambda: bridge.create_run(run_id, metadata=VISIBLE, lease=LEASE_SECONDS)
                )
        course = self.of[run_id] = Course(job, self._told[run_id], waiting=job.how != "celery")
        for number, plan in enumerate(job.clients):
            client = clients.client(self._site.proxy, run_id, plan, number)
            course.clients.append(client)
            self.following.append(asyncio.create_task(client.follow()))
        if job.trims is not None:
            self.trimming.append(asyncio.create_task(_trim(run_id, course, *job.trims)))
        if job.cancel_after is not None:
            await asyncio.sleep(job.cancel_after)
            if not course.over:
                course.told.cancel_requested = True
                with contextlib.suppress(RunEnded):
                    await persistently(lambda: bridge.request_cancel(run_id))

    async def direct(self) -> None:
        """Give work to workers, and what one has left to another, until all is over."""
        while len(self.of) < len(self._jobs) or not all(
            course.over for course in self.of.values() if course.job.how != "celery"
        ):
            for worker in self._site.workers:
                self._listen(worker)
            for course in list(self.of.values()):
                self._lose_patience(course)
                if course.waiting:
                    await self._dispatch(course)
            await asyncio.sleep(0.02)

    def hear_of_tasks(self) -> None:
        """Take what the tasks of Celery were told, in whichever worker they were."""
        for worker in self._site.celery:
            for kind, run_id, number, *rest in worker.notes.told():
                told = self._told[run_id]
                if kind == "began":
                    told.outcomes[number] = "died"  # unless it says how it was over
                elif kind == "over":
                    told.outcomes[number] = rest[0]
                else:
                    told.confirmed.append((number, *rest))

    def disturb(self, target: Target) -> None:
        """Note that producers may have been kept from the log, or tasks from their workers."""
        for course in self.of.values():
            is_task = course.job.how == "celery"
            if target == "postgres" or (is_task and target in {"celery", "prefork", "broker"}):
                course.told.disturbed |= not course.over

    def _listen(self, worker: Worker) -> None:
        dead = [
            (course, number)
            for course in self.of.values()
            for number, attempt in enumerate(course.attempts, 1)
            if attempt.worker is worker and not attempt.over and attempt.died
        ]
        for kind, run_id, number, *rest in worker.notes.told():
            course = self.of[run_id]
            if kind == "confirmed":
                course.told.confirmed.append((number, *rest))
            elif kind == "raised":
                course.told.refused.append(Refused(rest[0], number, rest[1]))
            else:
                self._over(course, number, rest[0])
        for course, number in dead:
            if not course.attempts[number - 1].over:
                course.left_at = time.time()
                self._over(course, number, "died")

    def _over(self, course: Course, number: int, outcome: str) -> None:
        attempt = course.attempts[number - 1]
        attempt.over = True
        attempt.worker.in_work -= 1
        course.told.outcomes[number] = outcome
        if outcome in {"died", "unavailable"}:
            course.told.disturbed = True
            if number == len(course.attempts) and course.may_be_retried:
                course.waiting = True

    def _lose_patience(self, course: Course) -> None:
        if course.waiting or course.over or not course.attempts:
            return
        attempt = course.attempts[-1]
        since = attempt.worker.paused_since
        if since is not None and not attempt.over:
            course.told.disturbed = True
            silent = time.monotonic() - since > course.job.patience
            course.waiting = silent and course.may_be_retried

    async def _dispatch(self, course: Course) -> None:
        free = [
            worker
            for index, worker in enumerate(self._site.workers)
            if not self._site.lock("worker", index).locked() and worker.in_work < MOST_AT_ONCE
        ]
        if not free:
            return
        worker = min(free, key=lambda worker: worker.in_work)
        course.attempts.append(Attempt(worker, worker.incarnation))
        course.waiting = False
        worker.in_work += 1
        await worker.take({**dataclasses.asdict(course.job), "attempt": len(course.attempts)})


async def _send(job: Job) -> str:
    """Send a job to Celery, and return its run's id; what could not be sent has ended its run."""
    while True:
        try:
            return await asyncio.to_thread(_stream, job)
        except (LogUnavailable, OperationalError):
            await asyncio.sleep(0.2)


def _stream(job: Job) -> str:
    arguments = [dataclasses.asdict(job)]
    try:
        return stream(work, arguments, metadata=VISIBLE, lease=TASK_LEASE_SECONDS)
    finally:
        connections.close_all()


async def _trim(run_id: str, course: Course, seconds: float, keep: int) -> None:
    """Trim a run again and again while it lasts."""
    while not course.over:
        await persistently(lambda: get_bridge().trim(run_id, keep=keep))
        await asyncio.sleep(seconds)


async def persistently(call: Callable[[], Awaitable[T]]) -> T:
    """Call until the log is there."""
    while True:
        try:
            return await call()
        except LogUnavailable:  # also for a connection that an earlier restart has broken
            await asyncio.sleep(0.2)
