"""A client that stops reading must not make the server grow."""

import asyncio

import pytest
import websockets
from django.db import connections

from streambridge_app import get_bridge
from streambridge_app.models import Event, Run
from tests.acceptance.clients import DEADLINE, open_stream
from tests.acceptance.conftest import STACKS, VISIBLE, Deployment
from tests.services import async_wait_until_idle

EVENTS, SIZE = 2_000, 100_000
"""A log of 200 MB."""

MOST_KB = 30 * 1024


@pytest.mark.parametrize("database", STACKS[:1], indirect=True)
@pytest.mark.parametrize("route", ["sse", "websocket"])
async def test_stalled_replay_does_not_grow_the_server(deployment: Deployment, route: str) -> None:
    server = deployment.server
    run_id = await get_bridge().create_run(metadata=VISIBLE)
    await asyncio.to_thread(_fill, run_id)
    small = await get_bridge().create_run(metadata=VISIBLE)
    async with open_stream(server, small):  # the server has opened its connections
        before = server.rss_kb()

    if route == "sse":
        async with open_stream(server, run_id) as reader:
            await async_wait_until_idle(server)
            grown = server.rss_kb() - before
            received = 0
            while received < EVENTS * SIZE:
                received += len(await asyncio.wait_for(reader.read(2**20), DEADLINE))
    else:
        url = f"{server.ws_url}/ws/runs/{run_id}/"
        async with websockets.connect(url, max_size=None, max_queue=1, origin=server.url) as socket:
            await socket.recv()
            await async_wait_until_idle(server)
            grown = server.rss_kb() - before
            received = sum([len(message) async for message in socket])

    print(f"{server.name}, {route}: grown by {grown / 1024:.1f} MB")
    assert received >= EVENTS * SIZE
    assert grown < MOST_KB


def _fill(run_id: str) -> None:
    run = Run.objects.get(run_id=run_id)
    text = '"' + "x" * (SIZE - 2) + '"'
    for start in range(1, EVENTS + 1, 100):
        Event.objects.bulk_create(
            Event(
                run=run,
                seq=seq,
                byte_offset=(seq - 1) * SIZE,
                event="text",
                data=text,
                created_at=run.created_at,
            )
            for seq in range(start, start + 100)
        )
    Run.objects.filter(run_id=run_id).update(head=EVENTS, status="success")
    connections.close_all()
