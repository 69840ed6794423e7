"""Whatever was accepted reaches every client by every way, however large."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import websockets
from pytest_django import Settings

from streambridge_app import get_bridge
from tests.acceptance.clients import DEADLINE, socket_frames
from tests.acceptance.conftest import VISIBLE, Deployment

MIB = 2**20
LARGEST = 20 * MIB
"""Of a project that has raised MAX_EVENT_BYTES, and MESSAGE_BYTES with it."""

RUN_ID = "\N{WHITE SMILING FACE}" * 190
NAME = "\N{PARTY POPPER}" * 255


def filled(text: str, size: int) -> str:
    """Return a string of a character whose JSON takes so many bytes."""
    return text * ((size - 2) // len(json.dumps(text, ensure_ascii=False).encode()[1:-1]))


DATA = [
    filled("x", MIB),
    filled("é", MIB),
    filled("\N{PARTY POPPER}", MIB),
    filled('"', MIB),
    filled("\x01", MIB),
    filled("é", LARGEST),
    "small",
]
ERROR = filled("é", 3 * MIB)
"""An exception's message, of which the log keeps the beginning."""


@pytest.fixture(autouse=True)
def _largest(database: str, settings: Settings) -> None:
    settings.STREAMBRIDGE = {
        **settings.STREAMBRIDGE,
        "MAX_EVENT_BYTES": LARGEST,
        "MESSAGE_BYTES": 2 * LARGEST,
    }


async def by_sse(deployment: Deployment, run_id: str) -> list[Any]:
    async with httpx.AsyncClient(timeout=DEADLINE) as http:
        response = await http.get(f"{deployment.server.url}/runs/{quote(run_id)}/stream")
    frames = [dict(map(_field, frame.split("\n"))) for frame in response.text.split("\n\n")]
    assert frames[-2]["event"] == "end"
    return [json.loads(frame["data"]) for frame in frames[:-2] if "data" in frame]


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(": ")
    return name, value


async def by_socket(deployment: Deployment, run_id: str) -> list[Any]:
    frames = [frame async for frame in socket_frames(deployment.server, run_id)]
    assert frames[-1]["type"] == "end"
    return [frame["data"] for frame in frames if frame["type"] == "event"]


async def by_socket_of_many(deployment: Deployment, run_id: str) -> list[Any]:
    server, found = deployment.server, []
    async with websockets.connect(
        f"{server.ws_url}/ws/runs/",
        max_size=None,
        compression=None,
        origin=server.url,  # type: ignore[arg-type]
    ) as socket:
        await socket.send(json.dumps({"type": "subscribe", "run": run_id}))
        async for message in socket:
            frame = json.loads(message)
            if frame["type"] == "end":
                break
            if frame["type"] == "event":
                found.append(frame["data"])
    return found


async def test_the_largest_events_by_every_way_live_and_replayed(deployment: Deployment) -> None:
    ways = (by_sse, by_socket, by_socket_of_many)
    bridge = get_bridge()
    await bridge.create_run(RUN_ID, metadata=VISIBLE)

    async def produce() -> None:
        for data in DATA:
            await bridge.publish(RUN_ID, NAME, data)
        await bridge.publish_end(RUN_ID, error=ERROR)

    async with asyncio.timeout(DEADLINE):
        live = [asyncio.create_task(way(deployment, RUN_ID)) for way in ways]
        await produce()
        found = await asyncio.gather(*live)
        for way in ways:
            found.append(await way(deployment, RUN_ID))
    for one in found:
        *events, error = one
        assert [len(data) for data in events] == [len(data) for data in DATA]
        assert events == DATA
        assert error["message"].removesuffix("…") == ERROR[: len(error["message"]) - 1]


async def test_what_a_client_says_is_limited_as_before(deployment: Deployment) -> None:
    run_id = await get_bridge().create_run(metadata=VISIBLE)
    await get_bridge().publish(run_id, "text", DATA[4])
    async with (
        asyncio.timeout(DEADLINE),
        websockets.connect(
            f"{deployment.server.ws_url}/ws/runs/{run_id}/",
            max_size=None,
            origin=deployment.server.url,  # type: ignore[arg-type]
        ) as socket,
    ):
        assert json.loads(await socket.recv())["type"] == "subscribed"
        assert json.loads(await socket.recv())["data"] == DATA[4]
        with contextlib.suppress(websockets.ConnectionClosed):
            await socket.send("x" * 17 * MIB)
        with pytest.raises(websockets.ConnectionClosedError):
            await socket.recv()
