"""The whole way: a run that another process publishes and this one follows."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from typing import Final

from django.db import transaction

from ..backends.channel_layer import ChannelLayerBridge
from ..contract import END_SENTINEL, HEARTBEAT_SENTINEL, StreamBridge
from ..registry import get_bridge, get_sync_bridge
from .check import Visit, in_thread
from .database import log_connection
from .findings import Failed, Found
from .times import median_and_worst

EVENTS: Final = 20
PREFIX: Final = "streambridge-doctor-"

KEEP_SECONDS: Final = 60.0
"""Seconds after which a server or ``streambridge_prune`` deletes the run if this process dies."""

DELETE_SECONDS: Final = 1.5
"""Seconds for deleting the run after a failure."""


async def check_round_trip(visit: Visit) -> Found:
    """Follow a run to its end, which the second process publishes, and delete it."""
    bridge = get_bridge()
    if not isinstance(bridge, ChannelLayerBridge):
        raise Failed(
            f"The bridge of this process is a {type(bridge).__name__}, and only the default one is "
            "known to reach other processes",
            "Leave STREAMBRIDGE['BACKEND'] out in a deployment; the others are for tests.",
        )
    run_id = f"{PREFIX}{uuid.uuid4().hex}"
    try:
        await in_thread(create, run_id)
        times = await _exchange(bridge, run_id, visit)
    except BaseException:
        # The partner first: what it still publishes would make the run anew.
        await visit.partner.end()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(DELETE_SECONDS):
                await bridge.cleanup(run_id)
        raise
    await bridge.cleanup(run_id)
    return Found(f"{EVENTS} events and the end: {median_and_worst(times)}")


def create(run_id: str) -> None:
    """Create the run with the deadline of its deletion, both or nothing."""
    bridge = get_sync_bridge()
    with log_connection() as connection, transaction.atomic(using=connection.alias):
        bridge.create_run(run_id)
        bridge.cleanup(run_id, delay=KEEP_SECONDS)


async def _exchange(bridge: StreamBridge, run_id: str, visit: Visit) -> list[float]:
    """Return the seconds that each event took, once the end has come."""
    following = asyncio.ensure_future(_follow(bridge, run_id))
    try:
        await visit.partner.publish(run_id, EVENTS)
        numbers, times = await following
    finally:
        following.cancel()
    if numbers != list(range(EVENTS)):
        raise Failed(
            f"of {EVENTS} events, these came: {numbers}",
            "Please report this, with the version of the database.",
        )
    return times


async def _follow(bridge: StreamBridge, run_id: str) -> tuple[list[int], list[float]]:
    numbers, times = [], []
    async for event in bridge.subscribe(run_id):
        if event is HEARTBEAT_SENTINEL or event is END_SENTINEL:
            continue
        numbers.append(event.data["number"])
        times.append(time.time() - event.data["sent"])
    return numbers, times
