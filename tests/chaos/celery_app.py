"""
Celery workers' part: `celery --app tests.chaos.celery_app worker`.

The broker delivers a task at least once. It does so again at once when the task's process was
killed, and, when all of its worker was, after a time in which a task may just as well be at work
still, or be waiting in a worker that has taken too many.
"""

from __future__ import annotations

import dataclasses
import os
import time
import traceback
from functools import cache
from typing import Any, Final

from celery.exceptions import Reject, Retry

from project.celery import app
from streambridge_app import SyncProducer
from streambridge_app.contrib.celery import streamed_task
from tests.chaos.attempt import OUTCOMES, Attempt
from tests.chaos.schedule import Job

__all__ = ["app", "work"]

COUNTDOWN: Final = 0.5
"""Seconds from a task's wish to be tried again to its next attempt."""

app.conf.worker_log_format = "%(asctime)s %(levelname)s %(name)s: %(message)s"
app.conf.worker_prefetch_multiplier = 1
app.conf.broker_transport_options = {"visibility_timeout": 6, "unacked_restore_interval": 1}


@streamed_task(bind=True, acks_late=True, reject_on_worker_lost=True, max_retries=None)
def work(self: Any, run: SyncProducer, job: dict[str, Any]) -> None:
    """Publish the numbers of a job; half of them first, if it is to be tried again."""
    job_of_run = dataclasses.replace(Job(**job), run_id=run.run_id)
    attempt = Attempt(job_of_run, time.time_ns(), _file())
    attempt.note("began")
    try:
        if self.request.retries < job_of_run.retries:
            attempt.publish_through(run, job_of_run.events // 2)
            raise self.retry(countdown=COUNTDOWN)
        attempt.publish_through(run, job_of_run.events)
    except (Retry, Reject):  # it is rejected if the broker takes no retry
        attempt.note("over", "tried again")
        raise
    except Exception as error:
        attempt.note("over", OUTCOMES.get(type(error)) or traceback.format_exc())
        raise
    attempt.note("over", "returned")  # the end is written after that


@cache
def _file() -> int:
    """Return this process's descriptor of the file that its worker tells what it was told."""
    return os.open(os.environ["CHAOS_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
