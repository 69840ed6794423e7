"""What is broken: PostgreSQL, Redis, servers, workers, and the proxy before the servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import psycopg

from tests.chaos.proxy import Proxy
from tests.chaos.schedule import LEASE_SECONDS, SERVERS, WORKERS, Target
from tests.services import HOST, AsgiServer, PostgresServer, RedisServer, Server, spawn

OPTIONS: Final = {
    "LEASE_SECONDS": LEASE_SECONDS,
    "HEARTBEAT_INTERVAL": 1,
    "RETRY_SECONDS": 3,
    "SHUTDOWN_SECONDS": 2,
    "SWEEP_INTERVAL": 2,
}

VISIBLE: Final = {"demo": True}
"""Metadata of a run that the demo project lets anybody follow."""


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
        self._told = self.directory / "told"
        self._read = 0

    def start(self) -> Self:
        self.incarnation += 1
        return super().start()

    def _command(self) -> list[str | Path]:
        return [sys.executable, "-m", "tests.chaos.worker", str(self.port), self._told]

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

    def told(self) -> Iterator[list[Any]]:
        """Yield what it has written since the last call."""
        if not self._told.exists():
            return
        with self._told.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._read += len(line)
                yield json.loads(line)


class Site:
    """All of it; entered, PostgreSQL and Redis run already."""

    def __init__(self, postgres: PostgresServer, redis: RedisServer, seed: int) -> None:
        self.postgres = postgres
        self.redis = redis
        self.servers = [
            AsgiServer(kind, env=self.environment(f"server-{index}"))
            for index, kind in enumerate(SERVERS)
        ]
        self.workers = [Worker(self.environment(f"worker-{index}")) for index in range(WORKERS)]
        ports = [server.port for server in self.servers]
        self.proxy = Proxy(ports, random.Random(f"proxy {seed}"))
        self._locks: dict[tuple[Target, int], asyncio.Lock] = {}
        self._stack = contextlib.AsyncExitStack()

    def environment(self, application: str) -> dict[str, str]:
        """Return the environment of a process; the database knows it by the name."""
        return environment(self.postgres, self.redis, application)

    def lock(self, target: Target, index: int) -> asyncio.Lock:
        """Return what is held while something is broken."""
        return self._locks.setdefault((target, index), asyncio.Lock())

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.postgres.url, application_name="check", autocommit=True)

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.proxy)
            processes: list[Server] = [*self.servers, *self.workers]
            for process in processes:
                stack.push_async_callback(asyncio.to_thread, process.close)
            await asyncio.gather(*(asyncio.to_thread(process.start) for process in processes))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()


def environment(postgres: PostgresServer, redis: RedisServer, application: str) -> dict[str, str]:
    return {
        "DJANGO_SETTINGS_MODULE": "tests.acceptance.outage_settings",
        "DEBUG": "0",
        "SECRET_KEY": "tests",
        "DATABASE_URL": f"{postgres.url}?application_name={application}",
        "REDIS_URL": redis.url,
        "BRIDGE_OPTIONS": json.dumps(OPTIONS),
    }


def migrate(env: dict[str, str]) -> None:
    """Make the tables."""
    if spawn([sys.executable, "manage.py", "migrate", "--verbosity=0"], env=env).wait(60):
        raise RuntimeError("manage.py migrate failed")
