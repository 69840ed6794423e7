"""Channel layers that do what layers may do at worst."""

import asyncio
import random
from typing import Any

from channels.layers import BaseChannelLayer, InMemoryChannelLayer
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer

from streambridge_app.wake.groups import PROBE_TYPE


class Unreliable:
    """Drops, doubles, delays and reorders a third of all messages, the same ones every time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.suffered = {"dropped": 0, "doubled": 0, "delayed": 0, "overtaken": 0}
        self._chance = random.Random(20)  # noqa: S311 - not for secrets
        self._late: tuple[str, dict[str, Any]] | None = None
        self._delays: set[asyncio.Task[None]] = set()

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        fate = self._chance.choice([*self.suffered, *["delivered"] * 8])
        if fate in self.suffered:
            self.suffered[fate] += 1
        if fate == "overtaken" and self._late is None:
            self._late = group, message
            return
        if fate == "delayed":
            delay = asyncio.create_task(self._send_later(group, message))
            self._delays.add(delay)
            delay.add_done_callback(self._delays.discard)
        elif fate != "dropped":
            await self._deliver(group, message)
        if fate == "doubled":
            await self._deliver(group, message)
        late, self._late = self._late, None
        if late:
            await self._deliver(*late)

    async def _deliver(self, group: str, message: dict[str, Any]) -> None:
        await super().group_send(group, message)  # type: ignore[misc]

    async def _send_later(self, group: str, message: dict[str, Any]) -> None:
        await asyncio.sleep(self._chance.uniform(0, 0.1))
        await self._deliver(group, message)


class UnreliableInMemoryLayer(Unreliable, InMemoryChannelLayer):
    pass


class UnreliablePubSubLayer(Unreliable, RedisPubSubChannelLayer):
    async def _deliver(self, group: str, message: dict[str, Any]) -> None:
        # The class has no such method: it passes on what it finds missing.
        await RedisPubSubChannelLayer.__getattr__(self, "group_send")(group, message)


class UnreliableCoreLayer(Unreliable, RedisChannelLayer):
    pass


class DeadLayer(BaseChannelLayer):
    """Fails every call."""

    extensions = ["groups"]  # noqa: RUF012 - as the base declares it

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.calls = 0

    async def _answer(self) -> Any:
        self.calls += 1
        raise ConnectionError("the layer is down")

    async def new_channel(self, prefix: str = "specific") -> str:
        return await self._answer()

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        await self._answer()

    async def receive(self, channel: str) -> dict[str, Any]:
        return await self._answer()

    async def group_add(self, group: str, channel: str) -> None:
        await self._answer()

    async def group_discard(self, group: str, channel: str) -> None:
        await self._answer()

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        await self._answer()


class HangingLayer(DeadLayer):
    """Answers no call."""

    async def _answer(self) -> Any:
        self.calls += 1
        await asyncio.Event().wait()


class DeafLayer(DeadLayer):
    """Gives out a channel and takes everything, but never delivers."""

    async def _answer(self) -> Any:
        return None

    async def new_channel(self, prefix: str = "specific") -> str:
        return "specific.deaf!channel"

    async def receive(self, channel: str) -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError


class Losing:
    """Loses the next message that is not a probe, whenever it is told to."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lose_next = False
        self.sent = 0

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        if message["type"] != PROBE_TYPE:
            self.sent += 1
            if self.lose_next:
                self.lose_next = False
                return
        await self._deliver(group, message)

    async def _deliver(self, group: str, message: dict[str, Any]) -> None:
        await super().group_send(group, message)  # type: ignore[misc]


class LosingPubSubLayer(Losing, RedisPubSubChannelLayer):
    async def _deliver(self, group: str, message: dict[str, Any]) -> None:
        await RedisPubSubChannelLayer.__getattr__(self, "group_send")(group, message)


class LosingCoreLayer(Losing, RedisChannelLayer):
    pass
