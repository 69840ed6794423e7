"""The channel layer: whether a message gets from one process to another."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from typing import Any, Final

from channels.layers import get_channel_layer
from django.conf import settings

from ..conf import streambridge_settings
from ..wake import Groups, is_process_local, open_groups
from .check import Visit
from .findings import WARNING, Found, Problem
from .times import median_and_worst

MESSAGES: Final = 5
LEAVE_SECONDS: Final = 1.0
"""Seconds for leaving the group; it expires if that fails."""

Received = asyncio.Queue[dict[str, Any] | Exception]


async def check_layer(visit: Visit) -> Found:
    """Have the second process send messages to a group, and receive them as a server does."""
    layer: Any = get_channel_layer(streambridge_settings.CHANNEL_LAYER)
    if is_process_local(layer):
        return _polling()
    group = f"streambridge-doctor-{secrets.token_hex(8)}"
    received: Received = asyncio.Queue()
    groups = await open_groups(layer, received.put_nowait)
    serving = asyncio.ensure_future(_serve(groups, received))
    try:
        await groups.join([group])
        times = []
        for number in range(MESSAGES):
            await visit.partner.send(group, number)
            times.append(await _seconds_of(number, received))
    finally:
        serving.cancel()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(LEAVE_SECONDS):
                await groups.close()
    return Found(f"{MESSAGES} messages from another process: {median_and_worst(times)}")


async def _serve(groups: Groups, received: Received) -> None:
    try:
        await groups.serve()
    except Exception as error:
        received.put_nowait(error)


async def _seconds_of(number: int, received: Received) -> float:
    """Wait for the message of this number and return the seconds that it took."""
    while True:
        message = await received.get()
        if isinstance(message, Exception):
            raise message
        if message["number"] == number:
            return float(time.time() - message["sent"])


def _polling() -> Found:
    text = "in memory: it reaches its own process only, servers poll the database"
    if settings.DEBUG:
        return Found(text)
    problem = Problem(
        WARNING,
        "without a layer across processes, each server asks the database 20 times a second",
        "Let CHANNEL_LAYERS name channels_redis.pubsub.RedisPubSubChannelLayer.",
    )
    return Found(text, (problem,))
