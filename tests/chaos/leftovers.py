"""What a run has left behind that it should not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from streambridge_app import get_bridge
from tests.chaos.courses import persistently
from tests.chaos.invariants import check_rest
from tests.chaos.site import KEEP_NO_MORE, Site
from tests.services import HOST, async_wait_until

MOST_CONNECTIONS: Final = 4 + 3
"""What the README promises of a server process: READ_THREADS and 3."""

MOST_THREADS: Final = 1 + 1 + MOST_CONNECTIONS + 1 + min(32, (os.cpu_count() or 1) + 4)
"""
What a server may keep: the main one, asgiref's, those with a connection to the log, the background
loop's, and the executor of its event loop.
"""

REST_SECONDS: Final = 20
"""Within which threads and connections are given back."""

DELETION_SECONDS: Final = 120

EXPLAINED: Final = (
    "/stream",  # refused by 503, as the clients check
    "Internal Server Error: /",  # the demo page needs the database, and its server asks for it
)
"""How those lines of a log end that come of an outage."""

NOT_OF_CELERY: Final = re.compile(
    r" ERROR (streambridge|asyncio)| raised unexpected: (?!LogUnavailable)"
)
"""Errors of Celery workers that are ours: with its broker killed, Celery has many of its own."""


async def check(site: Site) -> list[str]:
    """Delete all runs, end the workers, and return what is left that shouldn't be."""
    with site.connect() as connection:
        connection.execute(KEEP_NO_MORE)
    await _delete_all(site)
    for worker in (*site.workers, *site.celery):
        await asyncio.to_thread(worker.stop)
    with contextlib.suppress(TimeoutError):
        await async_wait_until(lambda: not list(_left(site)), REST_SECONDS, "rest")
    return list(_left(site))


async def _delete_all(site: Site) -> None:
    """Delete half of the runs by ourselves; store the deadline of the others for the servers."""
    bridge = get_bridge()
    with site.connect() as connection:
        rows = connection.execute(
            "SELECT run_id FROM streambridge_app_run WHERE run_id IS NOT NULL"
        )
        run_ids = [run_id for (run_id,) in rows]
    left_to_servers = [
        asyncio.create_task(bridge.cleanup(run_id, delay=DELETION_SECONDS))
        for run_id in run_ids[::2]
    ]
    await asyncio.gather(
        *(persistently(partial(bridge.cleanup, run_id)) for run_id in run_ids[1::2])
    )
    with site.connect() as connection:
        await async_wait_until(
            lambda: (
                _count(connection, "SELECT 1 FROM streambridge_app_run WHERE delete_at IS NULL")
                == 0
            ),
            60,
            "the deadlines",
        )
        for task in left_to_servers:
            task.cancel()
        await asyncio.wait(left_to_servers)
        connection.execute("UPDATE streambridge_app_run SET delete_at = now()")
        with contextlib.suppress(TimeoutError):
            await async_wait_until(
                lambda: _count(connection, "SELECT 1 FROM streambridge_app_run") == 0,
                DELETION_SECONDS,
                "the servers to delete the runs",
            )


def _count(connection: Any, rows: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM ({rows}) AS rows").fetchone()[0])  # noqa: S608


def _left(site: Site) -> Iterator[str]:
    with site.connect() as connection:
        for table in ("run", "event", "eventkey"):
            rows = connection.execute(
                f"SELECT * FROM streambridge_app_{table} LIMIT 5"  # noqa: S608
            ).fetchall()
            yield from check_rest(f"rows of {table}", rows)
        sessions = Counter(
            name
            for (name,) in connection.execute(
                "SELECT application_name FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name <> 'check'"
            )
        )
    servers = [f"server-{index}" for index in range(len(site.servers))]
    most = dict.fromkeys([*servers, "chaos"], MOST_CONNECTIONS)
    yield from check_rest(
        "database connections",
        [f"{name}: {count}" for name, count in sessions.items() if count > most.get(name, 0)],
    )
    yield from check_rest("groups in Redis", _channels(site))
    yield from check_rest(
        "threads",
        [
            f"{server.name}: {server.threads()}"
            for server in site.servers
            if server.threads() > MOST_THREADS
        ],
    )
    workers = [*site.workers, *site.celery]
    yield from check_rest("workers", [worker.pid for worker in workers if worker.running])


def _channels(site: Site) -> list[str]:
    """Return the channels of runs that somebody is subscribed to."""
    with socket.create_connection((HOST, site.redis.port), timeout=5) as connection:
        connection.sendall(b"PUBSUB CHANNELS *\r\n")
        answer = connection.makefile("rb")
        count = int(answer.readline()[1:])
        channels = []
        for _ in range(count):
            answer.readline()
            channels.append(answer.readline().strip().decode())
    return [name for name in channels if "streambridge." in name]


def check_logs(site: Site) -> Iterator[str]:
    """No server or worker has met an error that no outage explains."""
    for process in [*site.servers, *site.workers]:
        for line in process.log_text().splitlines():
            if "ERROR" in line and not line.endswith(EXPLAINED):
                yield f"{process.name}, port {process.port}: {line}"
    for worker in site.celery:
        for line in worker.log_text().splitlines():
            if NOT_OF_CELERY.search(line):
                yield f"{worker.name}: {line}"
