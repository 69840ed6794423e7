"""The server: a channel for each client, which is in the run's group before the response begins."""

from __future__ import annotations

import json
import os

from channels_redis.pubsub import RedisPubSubChannelLayer

from benchmarks.systems import sse

_layer = RedisPubSubChannelLayer(hosts=[os.environ["REDIS_URL"]])


async def follow(scope: sse.Message, send: sse.Send) -> None:
    run = sse.run_of(scope)
    channel = await _layer.new_channel()
    await _layer.group_add(run, channel)
    try:
        await send(sse.HEAD)
        await send(sse.body(b""))
        while True:
            message = await _layer.receive(channel)
            data = json.dumps(message["data"]).encode()
            await send(sse.body(b"event: message\ndata: %b\n\n" % data))
    finally:
        await _layer.group_discard(run, channel)


application = sse.application(follow)
