"""Streamed tasks that fail, are tried again, or wait to be killed: for `celery --app`."""

import os
import time
from pathlib import Path

from celery.exceptions import Ignore

from project.celery import app
from streambridge_app import SyncProducer
from streambridge_app.contrib.celery import streamed_task

__all__ = ["app"]

POLL_SECONDS = 0.01


@streamed_task
def fail(run: SyncProducer) -> None:
    run.publish("number", 1)
    raise ValueError("it went wrong")


@streamed_task(bind=True, max_retries=2)
def retry(self, run: SyncProducer, count: int) -> None:
    """Publish some numbers in each of three attempts, then be done."""
    attempt = self.request.retries
    for number in range(count):
        run.publish("number", [attempt, number])
    if attempt < 2:
        raise self.retry(countdown=0)


@streamed_task(autoretry_for=(ConnectionError,), retry_kwargs={"countdown": 8}, max_retries=1)
def retry_by_itself(run: SyncProducer) -> None:
    """Fail in both attempts, with a countdown that is longer than a short lease."""
    run.publish("number", 1)
    raise ConnectionError("nobody is there")


@streamed_task(acks_late=True, reject_on_worker_lost=True)
def survive(run: SyncProducer, gate: str) -> None:
    """Wait for a file to be there, so that the test can kill the first attempt meanwhile."""
    _wait(run, gate)


@streamed_task
def die(run: SyncProducer, gate: str) -> None:
    """Do the same without a second attempt."""
    _wait(run, gate)


@streamed_task
def ignore(run: SyncProducer) -> None:
    run.publish("number", 1)
    raise Ignore


@streamed_task
def publish_for_ever(run: SyncProducer) -> None:
    while True:
        run.publish("number", 1)
        time.sleep(POLL_SECONDS)


def _wait(run: SyncProducer, gate: str) -> None:
    run.publish("pid", os.getpid())
    run.flush()
    while not Path(gate).exists():
        time.sleep(POLL_SECONDS)
    run.publish("done", os.getpid())
