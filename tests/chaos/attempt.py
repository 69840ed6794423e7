"""
A worker's work on a run: publishes its numbers, and notes in a file what the bridge has told it.

What a kill leaves of the file is true. Its lines are JSON:

    ["began", run, attempt]                    by a Celery task, whose attempts nobody else counts
    ["confirmed", run, attempt, first, last]   these numbers are committed
    ["raised", run, attempt, number, written]  this one raised, or was rolled back
    ["over", run, attempt, outcome]            the attempt is over
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from django.db import Error, close_old_connections, transaction

from streambridge_app import SyncProducer, get_bridge, get_sync_bridge
from streambridge_app.exceptions import CancelRequested, LogUnavailable, ProducerFenced, RunEnded
from tests.chaos.schedule import Job

PAUSE: Final = 0.2
"""Seconds before what raised is tried again."""

OUTCOMES: Final[dict[type[Exception], str]] = {
    ProducerFenced: "fenced",
    RunEnded: "ended",
    CancelRequested: "cancelled",
    LogUnavailable: "unavailable",
}


class RolledBack(Exception):
    """A transaction that its caller gives up."""


class Attempt:
    """One worker's work on a run."""

    def __init__(self, job: Job, number: int, file: int) -> None:
        self.job = job
        self.number = number
        self._file = file
        self._confirmed = 0

    def start_after(self, number: int) -> None:
        self._confirmed = number

    def confirm(self, number: int) -> None:
        """Note that all numbers up to this one are committed, those before it noted already."""
        if number > self._confirmed:
            self.note("confirmed", self._confirmed + 1, number)
            self._confirmed = number

    def note(self, kind: str, *rest: Any) -> None:
        line = json.dumps([kind, self.job.run_id, self.number, *rest])
        os.write(self._file, line.encode() + b"\n")

    def data(self, number: int) -> dict[str, Any]:
        return {"n": number, "by": self.number, "text": "é\u2028\n" * (number % 7)}

    def key(self, number: int) -> str | None:
        return f"step-{number}" if self.job.keyed else None

    async def perform(self) -> str:
        """Do the work and return its outcome."""
        try:
            match self.job.how:
                case "handle":
                    await self._by_handle()
                case "sync handle":
                    await asyncio.to_thread(self._by_sync_handle)
                case "publish":
                    await self._one_by_one(get_bridge().publish)
                case "sync publish":
                    await self._one_by_one(partial(asyncio.to_thread, get_sync_bridge().publish))
                case "transactions":
                    await asyncio.to_thread(self._in_transactions)
                    await self._end()
        except tuple(OUTCOMES) as error:
            return OUTCOMES[type(error)]
        except Exception:
            return traceback.format_exc()
        return "success"

    def _naps_after(self, number: int) -> float:
        return self.job.nap if number == self.job.events // 2 else 0

    async def _by_handle(self) -> None:
        job, bridge = self.job, get_bridge()
        # Not only at the retry: a worker that was late for its first attempt may come after it.
        options = {"take_over": job.retried, "raise_on_cancel": True}
        async with bridge.producer(job.run_id, **options) as run:
            first = 1
            if job.retried and not job.keyed:  # nobody else can write any more
                first = (await bridge.get_run(self.job.run_id)).head + 1
            self.start_after(first - 1)
            for number in range(first, job.events + 1):
                await run.publish("number", self.data(number), key=self.key(number))
                if number % job.flush_every == 0:
                    await run.flush()
                    self.confirm(number)
                if pause := job.pause + self._naps_after(number):
                    await asyncio.sleep(pause)
            await run.flush()
            self.confirm(job.events)

    def _by_sync_handle(self) -> None:
        options = {"take_over": self.job.retried, "raise_on_cancel": True}
        with get_sync_bridge().producer(self.job.run_id, **options) as run:
            self.publish_through(run, self.job.events)

    def publish_through(self, run: SyncProducer, last: int) -> None:
        """Publish all numbers up to the last through a handle that is open."""
        job, first = self.job, 1
        if job.retried and not job.keyed:
            first = get_sync_bridge().get_run(self.job.run_id).head + 1
        self.start_after(first - 1)
        for number in range(first, last + 1):
            run.publish("number", self.data(number), key=self.key(number))
            if number % job.flush_every == 0:
                run.flush()
                self.confirm(number)
            if pause := job.pause + self._naps_after(number):
                time.sleep(pause)
        run.flush()
        self.confirm(last)

    async def _one_by_one(self, publish: Callable[..., Awaitable[None]]) -> None:
        number = 1
        while number <= self.job.events:
            done = await self._published(number, publish)
            number += done
            await asyncio.sleep(self.job.pause if done else PAUSE)
        await self._end()

    async def _published(self, number: int, publish: Callable[..., Awaitable[None]]) -> bool:
        """Publish a number; return whether to go on with the next."""
        try:
            await publish(self.job.run_id, "number", self.data(number), key=self.key(number))
        except LogUnavailable as error:
            self.note("raised", number, error.written)
            return not self.job.keyed
        self.note("confirmed", number, number)
        return True

    async def _end(self) -> None:
        while True:
            try:
                return await get_bridge().publish_end(self.job.run_id)
            except LogUnavailable:
                await asyncio.sleep(PAUSE)

    def _in_transactions(self) -> None:
        """Publish three by three in transactions of our own, of which some are rolled back."""
        job, bridge = self.job, get_sync_bridge()
        for first in range(1, job.events + 1, 3):
            numbers = range(first, min(first + 3, job.events + 1))
            written: bool | None = False
            try:
                close_old_connections()  # as Django does before each request
                with transaction.atomic():
                    for number in numbers:
                        bridge.publish(self.job.run_id, "number", self.data(number))
                    if first % 4 == 0:
                        raise RolledBack
                self.note("confirmed", numbers[0], numbers[-1])
                continue
            except RolledBack:
                pass
            except LogUnavailable as error:
                written = error.written
            except Error:  # at the commit: whether it took place is for us to find out
                written = None
            finally:
                time.sleep(job.pause)
            for number in numbers:
                self.note("raised", number, written)
