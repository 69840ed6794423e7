"""
How late is an event when each tenth message of the channel layer is lost?

    python -m benchmarks.lost [--seconds 20]

PostgreSQL and Redis, one run, publisher and client on one event loop: at 20 and at 500 events/s,
with no message lost and with each tenth. A delay counts from the call that publishes to the event
in the client. The messages that the publisher sends to have lost ones made good are lost as often.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import time
from typing import TYPE_CHECKING
from unittest import mock

from tests.services import PostgresServer, RedisServer

if TYPE_CHECKING:
    from collections.abc import Sequence

EACH = 10
"""Of so many messages, one is lost."""

RATES = (20, 500)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    seconds = parser.parse_args().seconds
    os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
    with RedisServer() as redis, PostgresServer(durable=True) as postgres:
        postgres.create_database("lost")
        os.environ["DATABASE_URL"] = f"postgresql://postgres@127.0.0.1:{postgres.port}/lost"
        os.environ["REDIS_URL"] = redis.url
        import django
        from django.core.management import call_command

        django.setup()
        call_command("migrate", verbosity=0)
        for rate in RATES:
            for losing in (False, True):
                delays = sorted(asyncio.run(_measure(rate, seconds, losing)))
                p50, p99 = statistics.median(delays), delays[int(len(delays) * 0.99)]
                print(
                    f"{rate}/s, {'each tenth' if losing else 'none'} lost: p50 {p50:.1f} ms, "
                    f"p99 {p99:.1f} ms, max {delays[-1]:.1f} ms, over 200 ms: "
                    f"{sum(delay > 200 for delay in delays)} of {len(delays)}",
                    flush=True,
                )


async def _measure(rate: int, seconds: float, losing: bool) -> list[float]:
    """Return the delays in milliseconds."""
    from streambridge_app import END_SENTINEL, HEARTBEAT_SENTINEL, get_bridge
    from streambridge_app.wake.redis import Message, Publisher

    sent, send = itertools.count(1), Publisher.send

    def lossy(self: Publisher, messages: Sequence[Message]) -> bool:
        kept = [one for one in messages if next(sent) % EACH or not losing]
        return send(self, kept) if kept else True

    bridge = get_bridge()
    run_id = await bridge.create_run()
    delays: list[float] = []

    async def follow() -> None:
        async for event in bridge.subscribe(run_id, heartbeat_interval=0.5):
            if event is HEARTBEAT_SENTINEL:
                attached.set()
            elif event is not END_SENTINEL:
                delays.append(1000 * (time.monotonic() - event.data))

    attached = asyncio.Event()
    following = asyncio.create_task(follow())
    await attached.wait()
    with mock.patch.object(Publisher, "send", lossy):
        async with bridge.producer(run_id) as run:
            began = time.monotonic()
            for number in range(int(rate * seconds)):
                await asyncio.sleep(max(0, began + number / rate - time.monotonic()))
                await run.publish("number", time.monotonic())
        await following
    await bridge.close()
    assert next(sent) > rate, "the messages have gone another way"
    return delays


if __name__ == "__main__":
    main()
