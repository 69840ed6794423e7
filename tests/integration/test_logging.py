"""The lines of StreamBridge appear where a project, as the demo one, wants to read them."""

import ast
import asyncio
import contextlib
import os
import signal
from pathlib import Path

import httpx
import pytest

import streambridge_app
from streambridge_app import get_bridge
from tests.services import AsgiServer, async_wait_until

PACKAGE = Path(streambridge_app.__file__).parent


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_every_module_writes_to_one_logger(path: Path) -> None:
    loggers = {
        ast.unparse(node.value)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assign) and "getLogger" in ast.unparse(node.value)
    }
    if path == PACKAGE / "doctor" / "client.py":
        loggers -= {"logging.getLogger('django.request')"}  # which it keeps quiet
    assert loggers <= {"logging.getLogger('streambridge')"}


@pytest.mark.django_db(transaction=True)
async def test_demo_project_shows_what_a_server_says_at_its_end(settings: object) -> None:
    run_id = await get_bridge().create_run(metadata={"demo": True})
    env = {
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "DATABASE_URL": f"sqlite:///{settings.DATABASES['default']['NAME']}",  # type: ignore[attr-defined]
        "DEBUG": "0",
        "SECRET_KEY": "tests",
    }
    with AsgiServer("uvicorn", env=env) as server:
        async with (
            httpx.AsyncClient(timeout=20) as http,
            http.stream("GET", f"{server.url}/runs/{run_id}/stream") as response,
        ):
            assert response.status_code == 200
            body = response.aiter_raw()
            await anext(body)
            os.kill(server.pid, signal.SIGTERM)
            with contextlib.suppress(httpx.HTTPError, StopAsyncIteration):
                await asyncio.wait_for(_read_all(body), 20)
        await async_wait_until(lambda: not server.running, 20, "the server to end")
        assert "INFO streambridge: Stopping: 1 connections" in server.log_text()


async def _read_all(body: object) -> None:
    async for _ in body:  # type: ignore[attr-defined]
        pass
