"""
A Celery task that says what it does while it does it.

Whoever sends it decides who may follow::

    run_id = stream(checksum, ["/some/directory"], owner=request.user)
"""

from pathlib import Path

from streambridge_app import SyncProducer
from streambridge_app.contrib.celery import streamed_task

from .jobs import checksums


@streamed_task
def checksum(run: SyncProducer, directory: str) -> None:
    """Publish the SHA-256 of each file below a directory."""
    for step in checksums.of_files_below(Path(directory)):
        run.publish("file", step)
