"""Tasks for a worker of green threads: some stream, some publish, some know nothing of streams."""

import time
from pathlib import Path

from celery import shared_task
from django.db import connections, transaction

from project.celery import app
from streambridge_app import END_SENTINEL, SyncProducer, get_sync_bridge
from streambridge_app.conf import streambridge_settings
from streambridge_app.contrib.celery import streamed_task
from streambridge_app.exceptions import StreamBridgeError

__all__ = ["app"]

POLL_SECONDS = 0.01


@streamed_task
def count(run: SyncProducer, events: int, pause_every: int) -> None:
    """Publish numbers; wait between them, as for a model that answers."""
    for number in range(events):
        run.publish("number", number)
        if number % pause_every == 0:
            time.sleep(POLL_SECONDS)


@streamed_task
def flush_often(run: SyncProducer, events: int) -> None:
    for number in range(events):
        run.publish("number", number)
        run.flush()


@streamed_task
def wait_idly(run: SyncProducer) -> None:
    """Wait for a wish to cancel without publishing anything more."""
    run.publish("started", None)
    run.flush()
    while not run.cancel_requested:
        time.sleep(POLL_SECONDS)
    run.publish("never", None)  # raises CancelRequested


@shared_task
def publish(run_id: str, events: int) -> None:
    bridge = get_sync_bridge()
    for number in range(events):
        bridge.publish(run_id, "number", number)
        time.sleep(0)
    bridge.publish_end(run_id)


@shared_task
def publish_in_transactions(run_id: str) -> None:
    """Publish in one transaction that is committed, and in one that is rolled back."""
    bridge = get_sync_bridge()
    using = streambridge_settings.DATABASE
    with transaction.atomic(using=using):
        bridge.publish(run_id, "number", 1)
        bridge.publish(run_id, "number", 2)
    with transaction.atomic(using=using):
        bridge.publish(run_id, "number", 3)
        transaction.set_rollback(True, using=using)
    bridge.publish_end(run_id)


@shared_task
def follow(run_id: str, result: str) -> None:
    """Follow a run to its end, and write how many events came."""
    events = get_sync_bridge().subscribe(run_id, heartbeat_interval=60)
    _write(result, str(sum(event is not END_SENTINEL for event in events)))


@shared_task
def hold(run_id: str, held: str, seconds: float) -> None:
    """Keep a run locked (on SQLite: the database) by a transaction that takes its time."""
    with transaction.atomic(using=streambridge_settings.DATABASE):
        get_sync_bridge().publish(run_id, "number", 0)
        Path(held).touch()
        time.sleep(seconds)


@shared_task
def query_until(gate: str, result: str) -> None:
    """Use the ORM only, until a file is there; write how often, or the error."""
    queries = 0
    try:
        while not queries or not Path(gate).exists():
            with connections[streambridge_settings.DATABASE].cursor() as cursor:
                cursor.execute("SELECT 1")
            queries += 1
            time.sleep(POLL_SECONDS)
    except Exception as error:
        _write(result, repr(error))
        raise
    _write(result, str(queries))


@shared_task
def tick_until(gate: str, result: str) -> None:
    """Tick every 10 ms until a file is there; write the longest time between two ticks."""
    longest, last = 0.0, time.monotonic()
    while not Path(gate).exists():
        time.sleep(POLL_SECONDS)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    _write(result, str(longest))


@shared_task
def learn_refusal(result: str) -> None:
    try:
        get_sync_bridge()
    except StreamBridgeError as error:
        _write(result, str(error))


def _write(path: str, text: str) -> None:
    """Write so that the file is whole as soon as it is there."""
    Path(f"{path}.new").write_text(text)
    Path(f"{path}.new").rename(path)
