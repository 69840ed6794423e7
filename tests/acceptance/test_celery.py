"""Streamed tasks in real Celery workers, over Redis, that end their runs whatever happens."""

import asyncio
import os
import signal
import sysconfig
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Task
from django.db import connections, transaction
from django.utils import timezone
from pytest_django import Settings

from project.jobs import checksums
from project.tasks import checksum
from streambridge_app import END_SENTINEL, StreamEvent, get_bridge, get_sync_bridge
from streambridge_app.contrib.celery import stream
from streambridge_app.models import Event, Run
from streambridge_app.tasks import sweep
from tests.acceptance import celery_app
from tests.services import HOST, TIMEOUT_SCALE, CeleryWorker, RedisServer, async_wait_until

LIBRARY = sysconfig.get_path("stdlib")


LEASE = 60
SHORT_LEASE = 4
"""Less than a countdown of :func:`celery_app.retry_by_itself`; and by how much that may be late."""


def _on(database: str, pool: str = "prefork", lease: float = LEASE) -> Any:
    return pytest.param(
        (database, pool, lease),
        marks=pytest.mark.django_db(transaction=True, databases=[database]),
        id=f"{database}-{pool}",
    )


on_sqlite = pytest.mark.parametrize("worker", [_on("default")], indirect=True)
on_both_databases = pytest.mark.parametrize(
    "worker", [_on("default"), _on("postgres")], indirect=True
)
on_all_pools = pytest.mark.parametrize(
    "worker",
    [
        *(_on("postgres", pool) for pool in ("prefork", "threads", "gevent")),
        _on("default", "gevent"),
    ],
    indirect=True,
)
with_short_lease = pytest.mark.parametrize(
    "worker", [_on(name, lease=SHORT_LEASE) for name in ("default", "postgres")], indirect=True
)


@pytest.fixture
def worker(
    request: pytest.FixtureRequest, settings: Settings, redis_server: RedisServer
) -> Iterator[CeleryWorker]:
    redis_server.flush()
    name, pool, lease = request.param
    settings.STREAMBRIDGE = {"CHANNEL_LAYER": "pubsub", "DATABASE": name}
    database = connections[name].settings_dict
    url = f"sqlite:///{database['NAME']}"
    if name == "postgres":
        url = f"postgresql://postgres@{HOST}:{database['PORT']}/{database['NAME']}"
    env = {
        "DJANGO_SETTINGS_MODULE": "tests.acceptance.celery_settings",
        "DATABASE_URL": url,
        "REDIS_URL": redis_server.url,
        "LEASE_SECONDS": str(lease),
    }
    with CeleryWorker("tests.acceptance.celery_app", pool, env=env) as worker:
        yield worker


@on_both_databases
async def test_events_of_tasks_at_once_arrive_whole_and_in_order(worker: CeleryWorker) -> None:
    expected = list(checksums.of_library())
    run_ids = [await _stream(checksum, LIBRARY) for _ in range(4)]
    streams = await asyncio.gather(*map(_events, run_ids))

    for run_id, events in zip(run_ids, streams, strict=True):
        run = await get_bridge().get_run(run_id)
        assert run.status == "success"
        assert [event.id for event in events] == [
            f"{run.epoch}-{seq}" for seq in range(1, len(expected) + 1)
        ]
        assert {event.event for event in events} == {"file"}
        assert [event.data for event in events] == expected
    assert all(f"ForkPoolWorker-{child}" in worker.log_text() for child in (1, 2))


@on_all_pools
async def test_task_that_fails_ends_its_run_with_the_error(worker: CeleryWorker) -> None:
    run_id = await _stream(celery_app.fail)
    _, error = await _events(run_id)
    assert error.data == {"error": "ValueError", "message": "it went wrong"}
    assert await _status(run_id) == "error"


@on_all_pools
async def test_attempts_of_a_task_are_one_run(worker: CeleryWorker) -> None:
    run_ids = [await _stream(celery_app.retry, 100) for _ in range(10)]
    for run_id, events in zip(run_ids, await asyncio.gather(*map(_events, run_ids)), strict=True):
        assert [event.data for event in events] == [[a, n] for a in range(3) for n in range(100)]
        run = await get_bridge().get_run(run_id)
        assert (run.status, run.generation) == ("success", 3)


@with_short_lease
async def test_run_outlives_a_countdown_that_is_longer_than_its_lease(worker: CeleryWorker) -> None:
    run_id = await _stream(celery_app.retry_by_itself)
    *numbers, error = await _events(run_id)
    assert [event.data for event in numbers] == [1, 1]
    assert error.data["error"] == "ConnectionError"
    assert await _status(run_id) == "error"


@on_all_pools
async def test_task_that_is_asked_to_stop_ends_its_run_cancelled(worker: CeleryWorker) -> None:
    run_id = await _stream(celery_app.publish_for_ever)
    await _event(run_id, "number")
    await get_bridge().request_cancel(run_id)
    assert await _events(run_id)
    assert await _status(run_id) == "cancelled"


@on_sqlite
async def test_task_that_was_asked_to_stop_before_it_began_does_not_run(
    worker: CeleryWorker, tmp_path: Path
) -> None:
    def cancelled_first() -> str:
        with transaction.atomic():  # the task is sent after it
            run_id = stream(celery_app.die, [str(tmp_path / "gate")])
            get_sync_bridge().request_cancel(run_id)
        return run_id

    run_id = await _in_thread(cancelled_first)
    assert await _events(run_id) == []
    assert await _status(run_id) == "cancelled"


@on_sqlite
async def test_task_whose_run_has_ended_does_not_run(worker: CeleryWorker) -> None:
    run_id = await get_bridge().create_run()
    await get_bridge().publish_end(run_id, status="cancelled")
    celery_app.fail.apply_async(task_id=run_id)
    await async_wait_until(lambda: "has ended" in worker.log_text(), 20, "the task to be ignored")
    assert (await get_bridge().get_run(run_id)).head == 0


@on_sqlite
async def test_task_that_is_ignored_ends_its_run_cancelled(worker: CeleryWorker) -> None:
    run_id = await _stream(celery_app.ignore)
    assert [event.data for event in await _events(run_id)] == [1]
    assert await _status(run_id) == "cancelled"


@on_both_databases
async def test_task_whose_process_is_killed_is_taken_over_by_the_next(
    worker: CeleryWorker, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    run_id = await _stream(celery_app.survive, str(gate))
    killed = await _event(run_id, "pid")
    os.kill(killed.data, signal.SIGKILL)
    gate.touch()
    first, second, done = await _events(run_id)
    assert first == killed
    assert second.data == done.data != first.data
    run = await get_bridge().get_run(run_id)
    assert (run.status, run.generation) == ("success", 2)


@with_short_lease
async def test_task_that_nobody_tries_again_is_lost(worker: CeleryWorker, tmp_path: Path) -> None:
    run_id = await _stream(celery_app.die, str(tmp_path / "gate"))
    killed = await _event(run_id, "pid")
    os.kill(killed.data, signal.SIGKILL)
    first, error = await _events(run_id)
    assert first == killed
    assert error.data["error"] == "ProducerLost"
    assert await _status(run_id) == "lost"


@on_all_pools
async def test_worker_that_is_told_to_end_finishes_its_tasks(
    worker: CeleryWorker, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    run_id = await _stream(celery_app.die, str(gate))
    await _event(run_id, "pid")
    os.kill(worker.pid, signal.SIGTERM)
    await async_wait_until(lambda: "Warm shutdown" in worker.log_text(), 20, "the signal")
    gate.touch()
    assert [event.event for event in await _events(run_id)] == ["pid", "done"]
    assert await _status(run_id) == "success"
    await async_wait_until(lambda: not worker.running, 20, "the worker to end")


@pytest.mark.django_db(transaction=True)
async def test_run_of_a_task_that_can_not_be_sent_ends_with_the_error() -> None:
    sent: list[str] = []

    class Unreachable:
        def apply_async(self, *args: object, task_id: str, **options: object) -> None:
            sent.append(task_id)
            raise ConnectionError("no broker")

    with pytest.raises(ConnectionError):
        await _in_thread(stream, Unreachable())
    (error,) = await _events(sent[0])
    assert error.data["message"] == "no broker"


class Queue:
    """A task that no worker ever takes."""

    def apply_async(self, *args: object, **options: object) -> None:
        return


@pytest.mark.django_db(transaction=True)
async def test_run_of_a_task_that_never_starts_is_lost() -> None:
    (error,) = await _events(await _stream(Queue(), lease=0.2))
    assert error.data["error"] == "ProducerLost"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({}, 86_400),
        ({"countdown": 60}, 86_460),
        ({"eta": timedelta(days=365), "lease": 10}, 365 * 86_400),
        ({"lease": 600, "countdown": 60}, 660),
    ],
)
def test_task_has_time_to_start_once_it_is_due(options: dict[str, Any], seconds: float) -> None:
    if "eta" in options:
        options = {**options, "eta": timezone.now() + options["eta"]}
    run = Run.objects.get(run_id=stream(Queue(), **options))
    assert run.lease_ms == pytest.approx(1_000 * seconds, rel=0.01)
    assert run.lease_expires == pytest.approx(1_000 * (time.time() + seconds), abs=600_000)


@pytest.mark.django_db(transaction=True)
def test_task_may_have_all_the_time_there_is() -> None:
    assert Run.objects.get(run_id=stream(Queue(), lease=None)).lease_expires is None


def test_call_with_other_arguments_than_those_after_the_handle_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="count"):
        celery_app.retry.apply_async()
    with pytest.raises(TypeError, match="takes 0 positional"):
        celery_app.fail.apply_async([1])


@pytest.mark.django_db(transaction=True)
def test_all_of_an_attempt_is_committed_before_the_next_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heads = []

    def send(self: Task, **options: object) -> None:
        heads.append(get_sync_bridge().get_run(self.request.id).head)
        raise ConnectionError("no broker")

    monkeypatch.setattr(Task, "retry", send)
    celery_app.retry.apply([100], task_id="run")
    assert heads == [100]
    assert get_sync_bridge().get_run("run").status == "error"


async def _stream(task: Any, *args: object, **options: Any) -> str:
    run_id: str = await _in_thread(stream, task, args, **options)
    return run_id


async def _in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    def call() -> Any:
        try:
            return function(*args, **kwargs)
        finally:
            connections.close_all()

    return await asyncio.to_thread(call)


async def _event(run_id: str, name: str) -> StreamEvent:
    """Return the first event of a run that has this name."""
    async with asyncio.timeout(60 * TIMEOUT_SCALE):
        async for event in get_bridge().subscribe(run_id, heartbeat_interval=60):
            if event.event == name:
                return event
    raise AssertionError(f"{run_id} has no {name}")


async def _events(run_id: str) -> list[StreamEvent]:
    events = []
    async with asyncio.timeout(60 * TIMEOUT_SCALE):
        async for event in get_bridge().subscribe(run_id, heartbeat_interval=60):
            if event is END_SENTINEL:
                break
            events.append(event)
    return events


async def _status(run_id: str) -> str:
    return (await get_bridge().get_run(run_id)).status


@on_both_databases
async def test_the_sweeper_as_a_task(worker: CeleryWorker) -> None:
    bridge = get_bridge()
    await bridge.create_run("limited", max_events=1)
    await bridge.create_run("kept long enough", keep=0)
    await bridge.create_run("lost", lease=0.01)
    for _ in range(3):
        await bridge.publish("limited", "number", 1)
    await bridge.publish_end("kept long enough")
    hour_ago = timezone.now() - timedelta(hours=1)  # what is new is left for a while
    await Event.objects.using(bridge.using).aupdate(created_at=hour_ago)
    await Run.objects.using(bridge.using).filter(keep__isnull=False).aupdate(ended_at=hour_ago)
    await asyncio.to_thread(sweep.delay)

    async def swept() -> bool:
        runs = [run async for run in Run.objects.using(bridge.using).order_by("id")]
        return [(run.run_id, run.floor, run.status) for run in runs] == [
            ("limited", 2, "running"),
            ("lost", 0, "lost"),
        ]

    await async_wait_until(swept, 30, "the task to have swept")
