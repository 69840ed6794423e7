"""A token appears in no line that a real Daphne or Uvicorn writes."""

import asyncio
import http.client
from contextlib import closing

import pytest
import websockets
from django.conf import settings

from streambridge_app import get_bridge
from streambridge_app.access import make_run_token
from tests.services import HOST, TIMEOUT_SCALE, AsgiServer, async_wait_until

pytestmark = pytest.mark.django_db(transaction=True)

UNSIGNED = "a-token-that-nobody-signed"


@pytest.fixture
async def token() -> str:
    """A good token for the run "told", which has ended."""
    await get_bridge().publish("told", "only", 1)
    await get_bridge().publish_end("told")
    return make_run_token("told")


async def get(server: AsgiServer, path: str) -> int:
    def request() -> int:
        with closing(http.client.HTTPConnection(HOST, server.port, timeout=20)) as client:
            client.request("GET", path)
            response = client.getresponse()
            response.read()
            return response.status

    return await asyncio.to_thread(request)


async def follow(server: AsgiServer, path: str, origin: str) -> int | None:
    """Return the code with which a WebSocket is closed, or the status that refuses it."""
    async with asyncio.timeout(20 * TIMEOUT_SCALE):
        try:
            async with websockets.connect(server.ws_url + path, origin=origin) as client:
                await client.wait_closed()
        except websockets.InvalidStatus as error:
            return error.response.status_code
        return client.close_code


async def test_token_is_not_logged(runs_server: AsgiServer, token: str) -> None:
    query = f"?last_event_id=-1&token={token}&told=yes"
    here, elsewhere = runs_server.url, "http://elsewhere.example"
    assert await get(runs_server, f"/runs/told/stream{query}") == 200
    assert await get(runs_server, f"/runs/told{query}") == 200
    assert await get(runs_server, f"/runs/told/cancel{query}") == 405
    assert await get(runs_server, f"/runs/untold/stream{query}") == 401
    assert await get(runs_server, f"/runs/told/stream?token={UNSIGNED}") == 401
    assert await get(runs_server, f"/no/such/page{query}") == 404
    assert await follow(runs_server, f"/ws/runs/told/{query}", here) == 1000
    assert await follow(runs_server, f"/ws/runs/untold/{query}", here) == 4401
    assert await follow(runs_server, f"/ws/runs/told/{query}", elsewhere) == 403

    # The last line of what each of them writes proves that the lines before were written.
    assert await get(runs_server, "/runs/last") == 401
    await async_wait_until(lambda: "/runs/last" in runs_server.log_text(), 10, "the access log")
    log = runs_server.log_text()
    assert "/runs/told/stream?last_event_id=-1&token=***&told=yes" in log
    assert "/ws/runs/told/" in log
    assert "/ws/runs/untold/" in log
    assert token not in log
    assert UNSIGNED not in log
    assert settings.SECRET_KEY not in log
