"""PostgreSQL is restarted and Redis goes away under real processes: nothing is lost or doubled."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Literal

import psycopg
import pytest

from tests.acceptance.clients import SseClient
from tests.services import (
    TIMEOUT_SCALE,
    AsgiServer,
    PostgresServer,
    RedisServer,
    async_wait_until,
    spawn,
)

MOST_CONNECTIONS = 4 + 3
"""What the README promises of a server process: READ_THREADS and 3."""

PATIENCE = 60
"""Seconds for which workers try again: a restart of PostgreSQL on a busy machine takes fewer."""


class Site:
    """PostgreSQL, Redis and a server that may be broken, and the environment of their workers."""

    def __init__(self, postgres: PostgresServer, redis: RedisServer) -> None:
        self.postgres = postgres
        self.redis = redis
        self.database = postgres.create_database("site")
        self.env = {
            "DJANGO_SETTINGS_MODULE": "tests.acceptance.outage_settings",
            "DEBUG": "0",
            "SECRET_KEY": "tests",
            "DATABASE_URL": self.database,
            "REDIS_URL": redis.url,
        }
        migrate = spawn([sys.executable, "manage.py", "migrate", "--verbosity=0"], env=self.env)
        assert migrate.wait(60) == 0

    def worker(self, how: str, run_id: str, pause: float, **options: Any) -> subprocess.Popen[str]:
        arguments = [how, run_id, str(pause)]
        return spawn(
            [sys.executable, "-m", "tests.acceptance.outage_worker", *arguments],
            env={**self.env, "BRIDGE_OPTIONS": json.dumps(options)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def log_of(self, run_id: str) -> list[int]:
        """Return the data of a run's events in order, and check their numbers."""
        with psycopg.connect(self.database) as connection:
            rows = connection.execute(
                "SELECT seq, data FROM streambridge_app_event WHERE run_id = "
                "(SELECT id FROM streambridge_app_run WHERE run_id = %s) ORDER BY seq",
                [run_id],
            ).fetchall()
        assert [seq for seq, _ in rows] == list(range(1, len(rows) + 1))
        return [json.loads(data) for _, data in rows]

    def connections(self) -> int:
        """Return how many there are to the database, without our own."""
        with psycopg.connect(self.database) as connection:
            count = connection.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchone()
        assert count
        return int(count[0])


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with PostgresServer() as postgres, RedisServer() as redis:
        yield Site(postgres, redis)


@pytest.fixture
def server(site: Site) -> Iterator[AsgiServer]:
    with AsgiServer("uvicorn", env=site.env) as server:
        yield server


async def end(worker: subprocess.Popen[str]) -> tuple[int, list[tuple[int, bool | None]]]:
    """
    Let a worker end.

    Returns:
        How many it has published, and the numbers that raised since, with what was said of them.
    """

    def rest() -> str:
        assert worker.stdin
        assert worker.stdout
        with worker:  # not communicate(): readline() may have taken more than a line
            worker.stdin.close()
            return str(worker.stdout.read())

    async with asyncio.timeout(60 * TIMEOUT_SCALE):
        output = await asyncio.to_thread(rest)
    assert worker.returncode == 0
    *failed, published = [json.loads(line) for line in output.splitlines()]
    return published, [tuple(error) for error in failed]


def numbers(client: SseClient) -> list[int]:
    return [frame.data for frame in client.frames]


async def further(clients: list[SseClient], count: int) -> None:
    """Wait until each of the clients has got so many more events."""
    for client, wanted in [(client, len(client.frames) + count) for client in clients]:
        await async_wait_until(
            lambda client=client, wanted=wanted: len(client.frames) >= wanted,  # type: ignore[misc]
            30,
            f"{count} events",
        )


@pytest.mark.parametrize("how", ["fast", "immediate", "crash"])
async def test_postgresql_restarts(
    site: Site, server: AsgiServer, how: Literal["fast", "immediate", "crash"]
) -> None:
    runs = {kind: f"{kind} {how}" for kind in ("plain", "sync", "handle")}
    workers = {
        kind: site.worker(kind, run, 0.01, RETRY_SECONDS=PATIENCE) for kind, run in runs.items()
    }
    await async_wait_until(
        lambda: all(site.log_of(run) for run in runs.values()), 30, "the workers to begin"
    )
    clients = {kind: [SseClient(server, run) for _ in range(3)] for kind, run in runs.items()}
    everybody = [client for some in clients.values() for client in some]
    async with asyncio.TaskGroup() as following:
        for client in everybody:
            following.create_task(client.follow())
        for _ in range(3):
            await further(everybody, 100)
            await asyncio.to_thread(site.postgres.restart, how)
        await further(everybody, 100)
        ends = {kind: await end(worker) for kind, worker in workers.items()}

    for kind, run in runs.items():
        published, failed = ends[kind]
        assert failed == []
        assert site.log_of(run) == list(range(1, published + 1))
        for client in clients[kind]:
            assert numbers(client) == list(range(1, published + 1))
            assert (client.ended, client.connections) == ("success", 1)
    assert site.connections() <= MOST_CONNECTIONS
    assert "Traceback" not in server.log_text()


@pytest.mark.parametrize("kind", ["plain", "sync"])
async def test_a_publish_that_raises_is_not_in_the_log(
    site: Site, server: AsgiServer, kind: str
) -> None:
    run = f"raises {kind}"
    worker = site.worker(kind, run, 0.01, RETRY_SECONDS=0.1)
    await async_wait_until(lambda: site.log_of(run), 30, "the worker to begin")
    client = SseClient(server, run)
    failed: list[tuple[int, bool | None]] = []
    async with asyncio.TaskGroup() as following:
        following.create_task(client.follow())
        for _ in range(3):
            await further([client], 30)
            await asyncio.to_thread(site.postgres.stop)
            failed.append(await asyncio.to_thread(next_error, worker))
            while failed[-1][1] is not False:  # the first may be of the connection that broke
                failed.append(await asyncio.to_thread(next_error, worker))
            await asyncio.to_thread(site.postgres.start)
        await further([client], 30)
        published, rest = await end(worker)
        failed += rest

    log = site.log_of(run)
    unknown = {number for number, written in failed if written is None}
    assert len(unknown) <= 3, "one for each connection that broke"
    gone = {number for number, _ in failed} - (unknown & set(log))
    assert log == [number for number in range(1, published + 1) if number not in gone]
    assert numbers(client) == log


def next_error(worker: subprocess.Popen[str]) -> tuple[int, bool | None]:
    assert worker.stdout
    number, written = json.loads(worker.stdout.readline())
    return number, written


async def test_redis_goes_away(site: Site, server: AsgiServer) -> None:
    run = "without redis"
    worker = site.worker("handle", run, 0.01)
    await async_wait_until(lambda: site.log_of(run), 30, "the worker to begin")
    clients = [SseClient(server, run) for _ in range(3)]

    async with asyncio.TaskGroup() as following:
        for client in clients:
            following.create_task(client.follow())
        await further(clients, 50)
        await asyncio.to_thread(site.redis.kill)
        await further(clients, 100)
        await asyncio.to_thread(site.redis.start)
        await further(clients, 50)
        site.redis.pause()
        await further(clients, 100)
        site.redis.resume()
        site.redis.flush()
        await further(clients, 50)
        published, failed = await end(worker)

    assert failed == []
    assert site.log_of(run) == list(range(1, published + 1))
    for client in clients:
        assert numbers(client) == list(range(1, published + 1))
        assert (client.ended, client.connections) == ("success", 1)
    assert site.connections() <= MOST_CONNECTIONS
