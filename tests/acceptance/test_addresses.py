"""The addresses of runs as a real browser makes them, by fetch and by WebSocket."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.async_api import async_playwright

from streambridge_app import get_bridge
from streambridge_app.access import make_run_token
from tests.integration.test_outside import ODD_IDS
from tests.services import AsgiServer, chromium

pytestmark = pytest.mark.django_db(transaction=True)

APPLICATION = "tests.integration.apps.outside:application"
ASK = """
async ([pairs, protocols]) => {
  const answers = []
  for (const [id, token] of pairs) {
    const run = `/runs/${encodeURIComponent(id)}`
    const state = await fetch(`${run}?token=${token}`)
    const stream = await fetch(`${run}/stream/?token=${token}`)
    const cancel = await fetch(`${run}/cancel?token=${token}`, { method: "POST" })
    await stream.text()
    const frames = await new Promise((resolve) => {
      const address = `${location.origin.replace("http", "ws")}/ws${run}?token=${token}`
      const socket = new WebSocket(address, protocols)
      const runs = []
      socket.onmessage = (message) => runs.push(JSON.parse(message.data).run)
      socket.onclose = () => resolve([socket.protocol, ...runs])
    })
    answers.push([(await state.json()).run_id, stream.status, (await cancel.json()).code, frames])
  }
  return answers
}
"""


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_a_browser_reaches_every_legal_id_and_gets_its_subprotocol(kind: Any) -> None:
    for run_id in ODD_IDS:
        await get_bridge().publish(run_id, "step", 1)
        await get_bridge().publish_end(run_id)
    pairs = [[run_id, make_run_token(run_id)] for run_id in ODD_IDS]
    options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    with AsgiServer(kind, APPLICATION, env={"OUTSIDE": json.dumps({})}) as server:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=chromium(), args=options)
            page = await browser.new_page()
            await page.goto(server.url)
            answers = await page.evaluate(ASK, [pairs, ["one", "two"]])
            await browser.close()
    assert answers == [
        [run_id, 200, "csrf_failed", ["one", run_id, run_id, run_id]] for run_id in ODD_IDS
    ]
