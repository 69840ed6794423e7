"""Break what the schedule says, and mend it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.chaos.schedule import Fault, Target
from tests.chaos.site import Site, Worker
from tests.services import Server


class Injected(NamedTuple):
    """A fault that was; times are seconds of the monotonic clock."""

    kind: str
    began: float
    mended: float


async def inject(site: Site, fault: Fault, disturb: Callable[[Target], None]) -> Injected:
    """
    Break something for a while, after whatever else is being done to it.

    Args:
        site: where.
        fault: what and for how long.
        disturb: called with the target before and after it is broken.
    """
    async with site.lock(fault.target, fault.index):
        began = time.monotonic()
        disturb(fault.target)
        await _break(site, fault)
        disturb(fault.target)
        return Injected(fault.kind, began, time.monotonic())


async def _break(site: Site, fault: Fault) -> None:
    match fault.kind:
        case "connections cut":
            site.proxy.cut_all()
        case "Redis flushed":
            with contextlib.suppress(OSError):  # it is down, and empty
                await asyncio.to_thread(site.redis.flush)
        case "PostgreSQL restarted (fast)":
            await asyncio.to_thread(site.postgres.restart, "fast")
        case "PostgreSQL restarted (immediate)":
            await asyncio.to_thread(site.postgres.restart, "immediate")
        case "PostgreSQL killed":
            await asyncio.to_thread(site.postgres.restart, "crash")
        case "Celery task's process killed":
            async with site.lock("celery", 0):
                await asyncio.to_thread(site.celery[0].kill_child)
        case kind if kind.endswith("paused"):
            await _pause(_target(site, fault), fault.seconds)
        case kind if kind.endswith("killed"):
            await _restart(_target(site, fault).kill, fault, site)
        case _:  # stopped, or down
            await _restart(_target(site, fault).stop, fault, site)


async def _pause(server: Server, seconds: float) -> None:
    if isinstance(server, Worker):
        server.paused_since = time.monotonic()
    await asyncio.to_thread(server.pause)
    try:
        await asyncio.sleep(seconds)
    finally:
        await asyncio.to_thread(server.resume)
        if isinstance(server, Worker):
            server.paused_since = None


async def _restart(end: Callable[[], Any], fault: Fault, site: Site) -> None:
    await asyncio.to_thread(end)
    await asyncio.sleep(fault.seconds)
    await asyncio.to_thread(_target(site, fault).start)


def _target(site: Site, fault: Fault) -> Server:
    match fault.target:
        case "worker":
            return site.workers[fault.index]
        case "celery":
            return site.celery[fault.index]
        case "server":
            return site.servers[fault.index]
        case "redis":
            return site.redis
        case "broker":
            return site.broker
        case _:
            return site.postgres
