"""
What is broken: PostgreSQL, Redis, servers, workers, and the proxy before the servers.

Celery's broker is a Redis of its own: what the layer's forgets is nobody's loss, but a broker that
forgets has lost tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, Self

import psycopg

from tests.chaos.proxy import Proxy
from tests.chaos.schedule import (
    LEASE_SECONDS,
    POOLS,
    SERVERS,
    TASK_LEASE_SECONDS,
    WORKERS,
    Target,
)
from tests.services import (
    HOST,
    AsgiServer,
    CeleryWorker,
    PostgresServer,
    RedisServer,
    Server,
    spawn,
)

OPTIONS: Final = {
    "HEARTBEAT_INTERVAL": 1,
    "RETRY_SECONDS": 3,
    "SHUTDOWN_SECONDS": 2,
    "SWEEP_INTERVAL": 2,
}

VISIBLE: Final = {"demo": True}
"""Metadata of a run that the demo project lets anybody follow."""


KEEP_TRIMMED: Final = """
CREATE TABLE trimmed AS SELECT * FROM streambridge_app_event;
CREATE FUNCTION keep_trimmed() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO trimmed SELECT * FROM gone; RETURN NULL; END';
CREATE TRIGGER keep_trimmed AFTER DELETE ON streambridge_app_event
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION keep_trimmed();
"""
"""Keeps aside, in the database, the events that leave the log: clients may have had them."""

KEEP_NO_MORE: Final = "DROP TRIGGER keep_trimmed ON streambridge_app_event"


class Notes:
    """The file in which a worker notes what it was told; it outlives the worker."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "told"
        self._read = 0

    def told(self) -> Iterator[list[Any]]:
        """Yield what was written since the last call."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._read += len(line)
                yield json.loads(line)


class Worker(Server):
    """A worker process of the run; it takes jobs on its port."""

    name = "worker"

    def __init__(self, env: dict[str, str]) -> None:
        super().__init__()
        self._env = env
        self.incarnation = 0
        """How often it was started."""
        self.paused_since: float | None = None
        """Seconds of the monotonic clock."""
        self.in_work = 0
        self.notes = Notes(self.directory)

    def start(self) -> Self:
        self.incarnation += 1
        return super().start()

    def _command(self) -> list[str | Path]:
        return [sys.executable, "-m", "tests.chaos.worker", str(self.port), self.notes.path]

    def _popen_options(self) -> dict[str, Any]:
        return {"env": self._env}

    def _answers(self) -> bool:
        socket.create_connection((HOST, self.port), timeout=5).close()
        return True

    async def take(self, job: dict[str, Any]) -> None:
        """Give it a job; one that dies just now has got it as well."""
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(HOST, self.port)
            writer.write(json.dumps(job).encode() + b"\n")
            writer.close()
            await writer.wait_closed()


class TaskWorker(CeleryWorker):
    """A Celery worker of the run."""

    def __init__(self, pool: Literal["prefork", "threads"], env: dict[str, str]) -> None:
        super().__init__("tests.chaos.celery_app", pool, env=env)
        self.notes = Notes(self.directory)
        env["CHAOS_FILE"] = str(self.notes.path)

    def start(self) -> Self:
        """Start it; should it fail, for want of its broker, it is :meth:`Site.supervise`'s turn."""
        with contextlib.suppress(RuntimeError, TimeoutError):
            super().start()
        return self

    def stop(self) -> None:
        """Let it end its tasks; one that can't, without its broker, is killed."""
        with contextlib.suppress(TimeoutError):
            super().stop()


class Site:
    """All of it; entered, PostgreSQL and both Redis run already."""

    def __init__(
        self, postgres: PostgresServer, redis: RedisServer, broker: RedisServer, seed: int
    ) -> None:
        self.postgres = postgres
        self.redis = redis
        self.broker = broker
        self.servers = [
            AsgiServer(kind, env=self.environment(f"server-{index}"))
            for index, kind in enumerate(SERVERS)
        ]
        self.workers = [Worker(self.environment(f"worker-{index}")) for index in range(WORKERS)]
        self.celery = [
            TaskWorker(pool, self.environment(f"celery-{pool}", lease=TASK_LEASE_SECONDS))
            for pool in POOLS
        ]
        ports = [server.port for server in self.servers]
        self.proxy = Proxy(ports, random.Random(f"proxy {seed}"))
        self.restarted = 0
        """How often a Celery worker had ended by itself."""
        self._locks: dict[tuple[Target, int], asyncio.Lock] = {}
        self._stack = contextlib.AsyncExitStack()

    def environment(self, application: str, lease: float = LEASE_SECONDS) -> dict[str, str]:
        """Return the environment of a process; the database knows it by the name."""
        return environment(self.postgres, self.redis, self.broker, application, lease)

    def lock(self, target: Target, index: int) -> asyncio.Lock:
        """Return what is held while something is broken."""
        return self._locks.setdefault((target, index), asyncio.Lock())

    async def supervise(self, disturb: Callable[[Target], None]) -> None:
        """Start Celery workers again that have ended by themselves, as without their broker."""
        while True:
            for index, worker in enumerate(self.celery):
                if not (worker.running or self.lock("celery", index).locked()):
                    async with self.lock("celery", index):
                        disturb("celery")
                        await asyncio.to_thread(worker.start)
                        disturb("celery")
                        self.restarted += 1
            await asyncio.sleep(0.1)

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.postgres.url, application_name="check", autocommit=True)

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.proxy)
            processes: list[Server] = [*self.servers, *self.workers, *self.celery]
            for process in processes:
                stack.push_async_callback(asyncio.to_thread, process.close)
            await asyncio.gather(*(asyncio.to_thread(process.start) for process in processes))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()


def environment(
    postgres: PostgresServer,
    redis: RedisServer,
    broker: RedisServer,
    application: str,
    lease: float = LEASE_SECONDS,
) -> dict[str, str]:
    return {
        "DJANGO_SETTINGS_MODULE": "tests.acceptance.outage_settings",
        "DEBUG": "0",
        "SECRET_KEY": "tests",
        "DATABASE_URL": f"{postgres.url}?application_name={application}",
        "REDIS_URL": redis.url,
        "CELERY_BROKER_URL": broker.url,
        "BRIDGE_OPTIONS": json.dumps({**OPTIONS, "LEASE_SECONDS": lease}),
    }


def migrate(env: dict[str, str]) -> None:
    """Make the tables, and one more for what is trimmed."""
    if spawn([sys.executable, "manage.py", "migrate", "--verbosity=0"], env=env).wait(60):
        raise RuntimeError("manage.py migrate failed")
    with psycopg.connect(env["DATABASE_URL"]) as connection:
        connection.execute(KEEP_TRIMMED)
