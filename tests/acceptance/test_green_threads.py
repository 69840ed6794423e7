"""Real workers whose threads are greenlets: what they stream, and that they harm nobody else."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.db import connections
from pytest_django import Settings

from streambridge_app import END_SENTINEL, StreamEvent, get_bridge
from streambridge_app.contrib.celery import stream
from tests.acceptance import green_app
from tests.services import (
    HOST,
    TIMEOUT_SCALE,
    CeleryWorker,
    GunicornServer,
    RedisServer,
    async_wait_until,
)

LEASE = 4
LONGEST_STALL = 2
"""Seconds between two ticks of a greenlet that ticks every 10 ms, at most: a lock is held for 3."""


def _on(database: str, layer: str, pool: str = "gevent") -> Any:
    return pytest.param(
        (database, layer, pool),
        marks=pytest.mark.django_db(transaction=True, databases=[database]),
        id=f"{database}-{layer}-{pool}",
    )


on_all = pytest.mark.parametrize(
    "environment",
    [_on(database, layer) for database in ("default", "postgres") for layer in ("memory", "redis")],
    indirect=True,
)
on_both_databases = pytest.mark.parametrize(
    "environment", [_on("default", "memory"), _on("postgres", "redis")], indirect=True
)
on_eventlet = pytest.mark.parametrize(
    "environment", [_on("default", "redis", "eventlet")], indirect=True
)


@pytest.fixture
def environment(
    request: pytest.FixtureRequest, settings: Settings, redis_server: RedisServer
) -> dict[str, str]:
    """What a process needs to use the same database and layer as this one."""
    redis_server.flush()
    name, layer = request.param[:2]
    settings.STREAMBRIDGE = {
        "CHANNEL_LAYER": "pubsub" if layer == "redis" else "default",
        "DATABASE": name,
    }
    database = connections[name].settings_dict
    url = f"sqlite:///{database['NAME']}"
    if name == "postgres":
        url = f"postgresql://postgres@{HOST}:{database['PORT']}/{database['NAME']}"
    return {
        "DJANGO_SETTINGS_MODULE": "tests.acceptance.celery_settings",
        "DATABASE_URL": url,
        "REDIS_URL": redis_server.url,
        "LAYER": layer,
        "LEASE_SECONDS": str(LEASE),
        "URLS": "tests.acceptance.green_site",
        "POOL": request.param[2],
    }


@pytest.fixture
def worker(environment: dict[str, str]) -> Iterator[CeleryWorker]:
    pool: Any = environment["POOL"]
    with CeleryWorker("tests.acceptance.green_app", pool, env=environment) as worker:
        yield worker
        assert "SynchronousOnlyOperation" not in worker.log_text()


@on_all
async def test_many_streams_at_once_are_whole_and_leave_the_orm_of_others_alone(
    worker: CeleryWorker, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    queries = [tmp_path / f"queries-{number}" for number in range(3)]
    ticks = tmp_path / "ticks"
    for result in queries:
        await _send(green_app.query_until, str(gate), str(result))
    await _send(green_app.tick_until, str(gate), str(ticks))
    counted = [await _stream(green_app.count, 2_000, 20) for _ in range(6)]
    flushed = [await _stream(green_app.flush_often, 100) for _ in range(4)]
    plain = "plain"
    await _send(green_app.publish, plain, 50)
    streams = await asyncio.gather(*map(_events, [*counted, *flushed, plain]))
    gate.touch()
    for events, expected in zip(streams, [2_000] * 6 + [100] * 4 + [50], strict=True):
        assert [event.data for event in events] == list(range(expected))
    statuses = await asyncio.gather(*map(_status, [*counted, *flushed, plain]))
    assert set(statuses) == {"success"}
    for result in queries:
        assert int(await _content(result)) > 10
    assert float(await _content(ticks)) < LONGEST_STALL


@on_both_databases
async def test_others_run_while_a_task_waits_for_a_lock(
    worker: CeleryWorker, tmp_path: Path
) -> None:
    gate, ticks, held = tmp_path / "gate", tmp_path / "ticks", tmp_path / "held"
    await _send(green_app.tick_until, str(gate), str(ticks))
    waiting = await _stream(green_app.wait_idly)
    await _event(waiting, "started")
    run_id = await _in_thread(stream, green_app.flush_often, [20], countdown=1)
    await _send(green_app.hold, run_id, str(held), 3)
    await _content(held)
    assert [event.data for event in await _events(run_id)] == [0, *range(20)]
    await get_bridge().request_cancel(waiting)
    await _events(waiting)
    gate.touch()
    assert float(await _content(ticks)) < LONGEST_STALL


@on_both_databases
async def test_an_idle_handle_learns_that_it_is_to_stop(worker: CeleryWorker) -> None:
    run_id = await _stream(green_app.wait_idly)
    await _event(run_id, "started")
    await get_bridge().request_cancel(run_id)
    assert [event.event for event in await _events(run_id)] == ["started"]
    assert await _status(run_id) == "cancelled"


@on_both_databases
async def test_tasks_follow_a_run_of_another_task(worker: CeleryWorker, tmp_path: Path) -> None:
    results = [tmp_path / f"followed-{number}" for number in range(3)]
    run_id = await _in_thread(stream, green_app.count, [300, 10], countdown=1)
    for result in results:
        await _send(green_app.follow, run_id, str(result))
    assert {await _content(result) for result in results} == {"300"}


@on_both_databases
async def test_transaction_of_a_task_decides_what_is_seen(worker: CeleryWorker) -> None:
    await _send(green_app.publish_in_transactions, "run")
    assert [event.data for event in await _events("run")] == [1, 2]


@on_both_databases
async def test_runs_of_a_worker_that_is_killed_are_lost(worker: CeleryWorker) -> None:
    run_ids = [await _stream(green_app.wait_idly) for _ in range(3)]
    for run_id in run_ids:
        await _event(run_id, "started")
    worker.kill()
    for events in await asyncio.gather(*map(_events, run_ids)):
        assert events[-1].data["error"] == "ProducerLost"
    assert {await _status(run_id) for run_id in run_ids} == {"lost"}


@on_both_databases
async def test_worker_that_is_told_to_end_finishes_its_tasks(worker: CeleryWorker) -> None:
    run_ids = [await _stream(green_app.count, 500, 5) for _ in range(5)]
    for run_id in run_ids:
        await _event(run_id, "number")
    os.kill(worker.pid, signal.SIGTERM)
    for events in await asyncio.gather(*map(_events, run_ids)):
        assert [event.data for event in events] == list(range(500))
    await async_wait_until(lambda: not worker.running, 20, "the worker to end")
    assert worker.exit_code == 0
    assert "Traceback" not in worker.log_text()


@on_both_databases
async def test_plain_views_of_gunicorn_publish(environment: dict[str, str]) -> None:
    ways = {f"{way}-{n}": way for way in ("by_handle", "by_transaction") for n in range(5)}
    with GunicornServer("tests.acceptance.green_site:application", env=environment) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            answers = await asyncio.gather(
                *(http.get(f"/{way}/{run_id}/100") for run_id, way in ways.items())
            )
        assert {answer.text for answer in answers} == {"done"}
        for events in await asyncio.gather(*map(_events, ways)):
            assert [event.data for event in events] == list(range(100))
        server.stop()
        assert "Traceback" not in server.log_text()


@on_eventlet
async def test_eventlet_is_refused_and_others_go_on(worker: CeleryWorker, tmp_path: Path) -> None:
    gate, queries, refusal = tmp_path / "gate", tmp_path / "queries", tmp_path / "refusal"
    await _send(green_app.learn_refusal, str(refusal))
    assert "eventlet" in await _content(refusal)
    await _send(green_app.query_until, str(gate), str(queries))
    await _send(green_app.learn_refusal, str(tmp_path / "again"))
    await _content(tmp_path / "again")
    gate.touch()
    assert int(await _content(queries)) > 0


async def _send(task: Any, *args: object) -> None:
    await asyncio.to_thread(task.delay, *args)


async def _stream(task: Any, *args: object) -> str:
    run_id: str = await _in_thread(stream, task, args)
    return run_id


async def _in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    def call() -> Any:
        try:
            return function(*args, **kwargs)
        finally:
            connections.close_all()

    return await asyncio.to_thread(call)


async def _content(path: Path) -> str:
    await async_wait_until(path.exists, 30, f"{path.name} to be written")
    return await asyncio.to_thread(path.read_text)


async def _event(run_id: str, name: str) -> StreamEvent:
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
