"""The client of event streams for tests does what an EventSource does."""

import pytest
from django.test import AsyncClient
from pytest_django import Settings

from streambridge_app import StreamBridge, get_bridge
from streambridge_app.access import make_run_token
from streambridge_app.testing import SSEClient
from tests.conftest import MEMORY


@pytest.fixture
def bridge(settings: Settings) -> StreamBridge:
    settings.STREAMBRIDGE = {"BACKEND": MEMORY, "HEARTBEAT_INTERVAL": 0.05}
    return get_bridge()


def address(run_id: str) -> str:
    return f"/runs/{run_id}/stream?token={make_run_token(run_id)}"


async def test_events_as_they_come_to_the_end(bridge: StreamBridge) -> None:
    await bridge.create_run("run")
    async with SSEClient(AsyncClient()).open(address("run")) as stream:
        assert stream.response.headers["Content-Type"].startswith("text/event-stream")
        await bridge.publish("run", "word", "Grüße\n\u2028 …")
        first = await anext(stream)
        assert (first.event, first.data) == ("word", "Grüße\n\u2028 …")
        assert first.id == stream.last_event_id
        await bridge.publish_end("run", error="too late")
        rest = [event async for event in stream]
    assert [event.event for event in rest] == ["__error", "end"]
    assert rest[-1].data["status"] == "error"


async def test_it_comes_back_where_it_was(bridge: StreamBridge) -> None:
    client = SSEClient(AsyncClient())
    for number in range(3):
        await bridge.publish("run", "number", number)
    async with client.open(address("run")) as stream:
        assert (await anext(stream)).data == 0
    async with client.open(address("run"), last_event_id=stream.last_event_id) as stream:
        assert [(await anext(stream)).data for _ in range(2)] == [1, 2]
    async with client.open(address("run"), last_event_id="1-1") as stream:
        assert (await anext(stream)).event == "gap"


async def test_silence_and_refusals_are_told(bridge: StreamBridge) -> None:
    await bridge.create_run("run")
    async with SSEClient(AsyncClient(), timeout=0.2).open(address("run")) as stream:
        with pytest.raises(AssertionError, match=r"No event came in 0\.2 s"):
            await anext(stream)
    with pytest.raises(AssertionError, match=r'/runs/run/stream answered 401.*"code"'):
        async with SSEClient(AsyncClient()).open("run"):
            pass
