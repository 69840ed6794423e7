"""A worker process publishes, a server process delivers: to every client exactly 1…N, in order."""

import asyncio
import random

from streambridge_app import get_bridge
from tests.acceptance.clients import SseClient, follow_by_socket
from tests.acceptance.conftest import VISIBLE, Deployment
from tests.services import async_wait_until

EVENTS = 5_000


async def test_clients_that_drop_and_stay_get_the_same_whole_run(deployment: Deployment) -> None:
    run_id = await get_bridge().create_run("a run/with é", metadata=VISIBLE)
    steady = SseClient(deployment.server, run_id)
    dropping = SseClient(deployment.server, run_id)
    worker = deployment.worker(run_id, EVENTS, pause=0.0002)

    _, _, by_socket = await asyncio.gather(
        steady.follow(),
        dropping.follow(random.Random(1)),  # noqa: S311 - a reproducible schedule
        follow_by_socket(deployment.server, run_id, random.Random(2)),  # noqa: S311
    )

    assert worker.wait(10) == 0
    run = await get_bridge().get_run(run_id)
    expected = [
        (f"{run.epoch}-{n}", "number", {"n": n, "text": "é\u2028\n" * 5})
        for n in range(1, EVENTS + 1)
    ]
    assert (run.status, run.head) == ("success", EVENTS)
    for client in (steady, dropping):
        assert [(frame.id, frame.event, frame.data) for frame in client.frames] == expected
        assert client.ended == "success"
    assert [(frame["id"], frame["event"], frame["data"]) for frame in by_socket] == expected
    assert steady.connections == 1
    assert dropping.connections > 10


async def test_killed_server_costs_its_clients_nothing(deployment: Deployment) -> None:
    run_id = await get_bridge().create_run(metadata=VISIBLE)
    client = SseClient(deployment.server, run_id)
    with deployment.endless_worker(run_id, pause=0.0005):
        following = asyncio.create_task(client.follow())
        await async_wait_until(lambda: len(client.frames) > 1_000, 20, "some events")
        await asyncio.to_thread(deployment.server.kill)
        await asyncio.wait([following])
        assert following.exception() is not None
        await asyncio.to_thread(deployment.server.start)
        got = len(client.frames)
        following = asyncio.create_task(client.follow())
        await async_wait_until(lambda: len(client.frames) > got + 1_000, 20, "more events")
    await following

    head = (await get_bridge().get_run(run_id)).head
    assert [frame.data["n"] for frame in client.frames] == list(range(1, head + 1))
    assert client.ended == "success"


async def test_reconnect_at_the_end_is_told_to_stop(deployment: Deployment) -> None:
    run_id = await get_bridge().create_run(metadata=VISIBLE)
    assert deployment.worker(run_id, 10).wait(20) == 0
    client = SseClient(deployment.server, run_id)
    await client.follow()
    assert len(client.frames) == 10

    client.ended = None
    await client.follow()

    assert len(client.frames) == 10
    assert client.ended is None, "204 brings no frame"
