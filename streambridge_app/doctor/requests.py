"""What the ASGI application answers to real requests for a run of the doctor's own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from typing import Any, Final

from django.conf import settings

from ..access import make_run_token
from ..registry import get_bridge
from ..serve import RunConsumer, views
from .addresses import Address, http_addresses, socket_addresses
from .check import Visit, in_thread
from .client import Answer, ask, converse
from .findings import FAIL, WARNING, Found, Problem
from .round_trip import DELETE_SECONDS, PREFIX, create
from .server import application_and_path

EVENT: Final = "doctor"
REFUSALS: Final = ("forbidden", "csrf_failed", "not_authenticated", "invalid_token", "not_found")
"""Codes by which our views say no: they have been reached, and the project's rule has spoken."""

HINT: Final = (
    "Look at MIDDLEWARE, ROOT_URLCONF and the settings that apply to views; the server's log has "
    "the whole error."
)


async def check_requests(visit: Visit) -> Found:
    """Ask for a run in each way that clients have, through all that the project puts before."""
    _, application = await in_thread(application_and_path)
    bridge = get_bridge()
    run_id = f"{PREFIX}{uuid.uuid4().hex}"
    try:
        await in_thread(create, run_id)
        await bridge.publish(run_id, EVENT, None)
        await bridge.publish_end(run_id)
        found = [
            await _by_http(application, "GET", views.stream, run_id),
            await _by_http(application, "GET", views.detail, run_id),
            await _by_http(application, "POST", views.cancel, run_id),
            *await _by_socket(application, run_id),
        ]
    finally:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(DELETE_SECONDS):
                await bridge.cleanup(run_id)
    return Found(
        ", ".join(one.text for one in found if one.text),
        tuple(problem for one in found for problem in one.problems),
    )


async def _by_http(application: Any, method: str, view: Any, run_id: str) -> Found:
    address = next(iter(await in_thread(http_addresses, view, run_id)), None)
    if address is None:
        return Found("")  # the check of the routes has said so
    asked = f"{method} {address.route}"
    if not address.path:
        return Found(f"{asked} not asked: no value is known for a part of it")
    prefix = (settings.FORCE_SCRIPT_NAME or "").rstrip("/")
    query = {"token": make_run_token(run_id)}
    answer = await ask(application, method, prefix + address.path, query)
    if _is_right(view, answer):
        return Found(f"{asked} {answer.status}")
    return _wrong(asked, address, _shown(answer))


def _is_right(view: Any, answer: Answer) -> bool:
    """Return whether a view of ours has answered, and with what it should."""
    if answer.status in (401, 403, 404):
        return answer.code() in REFUSALS
    if view is views.stream:
        return answer.status == 200 and f"event: {EVENT}\n".encode() in answer.body
    if view is views.detail:
        return answer.status == 200 and answer.headers.get("content-type") == "application/json"
    return answer.status in (202, 409)


def _shown(answer: Answer) -> str:
    if not answer.status:
        return f"fails: {answer.error}" if answer.error else "gets no answer"
    texts = [f"is answered by {answer.status}"]
    if "location" in answer.headers:
        texts.append(f"to {answer.headers['location'].partition('?')[0]}")
    if answer.headers.get("content-encoding", "identity") != "identity":
        texts.append(f"in {answer.headers['content-encoding']}, which holds events back")
    reason = answer.error or answer.code() or answer.headers.get("content-type", "")
    return f"{' '.join(texts)} ({reason})" if reason else " ".join(texts)


async def _by_socket(application: Any, run_id: str) -> list[Found]:
    found = await in_thread(socket_addresses, application, RunConsumer, run_id)
    if not found:
        return []  # hidden, perhaps; the check of the routes has tried the other socket
    address = found[0]
    asked = f"WebSocket {address.route}"
    if not address.path:
        return [Found(f"{asked} not asked: no value is known for a part of it")]
    query = {"token": make_run_token(run_id)}
    try:
        texts = await converse(application, address.path, query, (), '"type":"end"')
    except Exception as error:
        return [_wrong(asked, address, f"fails: {type(error).__name__}: {error}")]
    frames = [json.loads(text) for text in texts]
    first = frames[0] if frames else {}
    if first.get("type") == "subscribed":
        return [Found(f"{asked} follows")]
    if first.get("code") in REFUSALS:
        return [Found(f"{asked} {first['code']}")]
    return [_wrong(asked, address, f"is refused ({first.get('code', 'without a word')})")]


def _wrong(asked: str, address: Address, what: str) -> Found:
    guess = f", asked as {address.path}, for which values were guessed" if address.guessed else ""
    status = WARNING if address.guessed else FAIL
    return Found("", (Problem(status, f"{asked} {what}{guess}", HINT),))
