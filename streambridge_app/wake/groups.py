"""
The groups of a channel layer: to be in many of them, and to send to many.

A layer does one at a time. Here are many at once, by any layer's public methods, or over
connections of our own where :mod:`streambridge_app.wake.redis` knows the layer.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from channels.layers import BaseChannelLayer, InMemoryChannelLayer

from .redis import Message, Subscriber, address_of

CALL_DEADLINE: Final = 2.0
"""Seconds after which a call to the layer is given up."""

CONCURRENT_CALLS: Final = 64

PROBE_INTERVAL: Final = 2.0
"""Seconds between two messages to ourselves, which say whether the layer still knows us.

Well below 5: after as many seconds of silence, redis-py takes ``channels_redis.core`` for dead.
"""

LOST_PROBES: Final = 2
"""So many in a row mean that it doesn't; one may fall to a queue that is full."""

PROBE_TYPE: Final = "streambridge.probe"

Receive = Callable[[dict[str, Any]], None]


class Groups(Protocol):
    """The groups that one receiver is in. Its calls raise whatever the layer fails with."""

    async def serve(self) -> None:
        """Hand every message to the receiver, until the layer fails."""

    async def join(self, groups: Sequence[str]) -> None:
        """Join groups, or stay in them."""

    async def leave(self, groups: Sequence[str]) -> None:
        """Leave groups."""

    async def close(self) -> None:
        """Leave all groups."""


async def open_groups(layer: BaseChannelLayer, receive: Receive) -> Groups:
    """Return a place in no group yet, from which messages go to ``receive``."""
    address = address_of(layer)
    async with asyncio.timeout(CALL_DEADLINE):
        if address is not None:
            return await Subscriber.connect(address, receive)
        return LayerGroups(layer, await layer.new_channel(), receive)


class LayerGroups:
    """Groups of any layer, by its public methods."""

    def __init__(self, layer: BaseChannelLayer, channel: str, receive: Receive) -> None:
        self._layer = layer
        self._channel = channel
        self._receive = receive
        self._joined: set[str] = set()
        self._heard = asyncio.Event()

    async def serve(self) -> None:
        tasks = [asyncio.ensure_future(self._pump())]
        if not isinstance(self._layer, InMemoryChannelLayer):
            tasks.append(asyncio.ensure_future(self._probe()))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            ended, _ = await asyncio.wait(tasks, timeout=CALL_DEADLINE)
            for task in ended:
                if not task.cancelled():
                    task.exception()  # one failure of two is told; asyncio would tell of the other

    async def _pump(self) -> None:
        while True:
            message = await self._layer.receive(self._channel)
            if message.get("type") == PROBE_TYPE:
                self._heard.set()
            else:
                self._receive(message)

    async def _probe(self) -> None:
        """
        Raise once messages to ourselves are lost, though every call succeeds.

        A Redis that was flushed, or restarted empty, has forgotten its groups, and tells nobody.
        """
        group = f"{PROBE_TYPE}.{uuid.uuid4().hex}"
        await self.join([group])
        loop = asyncio.get_running_loop()
        renewal = getattr(self._layer, "group_expiry", 86_400) / 3
        renew_at = loop.time() + renewal
        lost = 0
        while lost < LOST_PROBES:
            self._heard.clear()
            lost += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CALL_DEADLINE):
                    await self._layer.group_send(group, {"type": PROBE_TYPE})
                    await self._heard.wait()
                lost = 0
                if loop.time() >= renew_at:  # only now: it would hide that the groups are gone
                    renew_at = loop.time() + renewal
                    await self.join([group])
                await asyncio.sleep(PROBE_INTERVAL)
        raise ConnectionError("messages to ourselves are lost")

    async def join(self, groups: Sequence[str]) -> None:
        await self._call(self._layer.group_add, groups)
        self._joined.update(groups)

    async def leave(self, groups: Sequence[str]) -> None:
        self._joined.difference_update(groups)
        await self._call(self._layer.group_discard, groups)

    async def close(self) -> None:
        await self.leave(list(self._joined))

    async def _call(
        self, method: Callable[[str, str], Awaitable[None]], groups: Sequence[str]
    ) -> None:
        for start in range(0, len(groups), CONCURRENT_CALLS):
            some = groups[start : start + CONCURRENT_CALLS]
            async with asyncio.timeout(CALL_DEADLINE):
                await asyncio.gather(*(method(group, self._channel) for group in some))


async def group_send_all(layer: BaseChannelLayer, messages: Sequence[Message]) -> None:
    """
    Send each message to its group.

    Raises:
        Exception: the layer failed for some of the messages; the others have been sent.
    """
    failed: list[BaseException] = []
    for start in range(0, len(messages), CONCURRENT_CALLS):
        some = messages[start : start + CONCURRENT_CALLS]
        failed += await _errors(layer.group_send(group, message) for group, message in some)
    if failed:
        raise failed[0]


async def _errors(calls: Iterable[Awaitable[Any]]) -> list[BaseException]:
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    return [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
