"""Clients that read a stream by Python's own idea of a line, from a real Daphne and Uvicorn."""

import json

import httpx
import pytest

from streambridge_app import get_bridge
from streambridge_app.access import make_run_token
from tests.services import AsgiServer

pytestmark = pytest.mark.django_db(transaction=True)

LINE_ENDS = "".join(one for one in map(chr, range(0xD800)) if len(f"a{one}b".splitlines()) > 1)
SENT = [
    {LINE_ENDS: f"ü{LINE_ENDS}🎉{LINE_ENDS}"},
    LINE_ENDS,
    [f"{one}ü" for one in LINE_ENDS],
    "plain",
]


@pytest.fixture
async def url(runs_server: AsgiServer) -> str:
    """The stream of a run that has ended."""
    bridge = get_bridge()
    for data in SENT:
        await bridge.publish("run", "ünï", data)
    await bridge.publish_end("run")
    return f"{runs_server.url}/runs/run/stream?token={make_run_token('run')}"


def published(lines: list[str]) -> list[object]:
    """Return the data of the frames that have an event of the test."""
    frames = "\n".join(lines).split("\n\n")
    fields = [dict(line.split(": ", 1) for line in frame.split("\n") if line) for frame in frames]
    return [json.loads(frame["data"]) for frame in fields if frame.get("event") == "ünï"]


async def test_httpx(url: str) -> None:
    async with httpx.AsyncClient() as client, client.stream("GET", url) as response:
        lines = [line async for line in response.aiter_lines()]
    assert published(lines) == SENT


@pytest.mark.parametrize("size", [1, 7, 512, 100_000])
async def test_splitlines_piece_by_piece(url: str, size: int) -> None:
    """The way of `requests`: each piece is decoded and split, its last line is left to the next."""
    lines: list[str] = []
    pending = ""
    async with httpx.AsyncClient() as client, client.stream("GET", url) as response:
        async for piece in response.aiter_text(size):
            *whole, pending = f"{pending}{piece}|".splitlines()
            pending = pending.removesuffix("|")
            lines += whole
    assert pending == ""
    assert published(lines) == SENT
