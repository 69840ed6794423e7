"""A worker process that sends each event to its run's group, in one event loop."""

from __future__ import annotations

import asyncio
import os
import sys
import time

from channels_redis.pubsub import RedisPubSubChannelLayer

from benchmarks.load import Work, payload, wait_for_go


async def emit(work: Work) -> None:
    layer = RedisPubSubChannelLayer(hosts=[os.environ["REDIS_URL"]])
    await layer.group_send("nobody", {"type": "connects"})
    wait_for_go()
    for due, run, number in work.schedule():
        if work.rate:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await layer.group_send(run, {"type": "event", "data": payload(number, work.events)})


if __name__ == "__main__":
    asyncio.run(emit(Work.load(sys.argv[1])))
