"""
The worker processes that the demo page starts.

Each is a process of its own, in a session of its own: it goes on when the server is stopped, and
its run is whole when the server is back. What it runs is fixed here, never given by a request.
"""

import contextlib
import logging
import subprocess
import sys
import threading

from django.conf import settings
from django.db import connections

from streambridge_app import get_sync_bridge
from streambridge_app.exceptions import RunNotFound

from .jobs import JOBS

MAX_WORKERS = 4

logger = logging.getLogger(__name__)
_slots = threading.BoundedSemaphore(MAX_WORKERS)


class TooManyWorkers(Exception):
    """All worker processes that the demo may have at once are busy."""


def start(job_name: str) -> str:
    """
    Create a run, start a process that does a job and publishes it, and return the run's id.

    Raises:
        TooManyWorkers: nothing was created.
    """
    if not _slots.acquire(blocking=False):
        raise TooManyWorkers
    try:
        bridge = get_sync_bridge()
        run_id = bridge.create_run(metadata={"demo": True, "job": job_name})
        process = subprocess.Popen(
            _command(run_id, job_name),
            cwd=settings.BASE_DIR,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        threading.Thread(target=_reap, args=(process, run_id), daemon=True).start()
    except BaseException:
        _slots.release()
        raise
    return run_id


def _command(run_id: str, job_name: str) -> list[str]:
    publish = ["manage.py", "streambridge_publish", run_id, "--json"]
    work = [sys.executable, "-u", "-m", "project.jobs", job_name]
    return [sys.executable, *publish, "--event", JOBS[job_name].event, "--", *work]


def _reap(process: subprocess.Popen[bytes], run_id: str) -> None:
    try:
        status = process.wait()
        logger.info("The worker of run %s has ended with status %d.", run_id, status)
        bridge = get_sync_bridge()
        with contextlib.suppress(RunNotFound):  # deleted meanwhile: an end would make it again
            bridge.get_run(run_id)
            # Changes nothing for a worker that has ended its run, as all do that aren't killed.
            bridge.publish_end(run_id, status="lost")
    finally:
        connections.close_all()
        _slots.release()
