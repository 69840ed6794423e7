"""
A client of the project's ASGI application that needs no server: it calls the application.

So what a request meets is what it meets in the deployment: all middleware, whatever settings do to
views, and the application's own wrappers.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote, urlencode

from django.conf import settings
from django.core.signals import got_request_exception

_CSRF: Final = "d" * 32


@dataclasses.dataclass
class Answer:
    """What came of a request."""

    status: int = 0
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b""
    error: str = ""
    """The exception behind it, if there was one."""

    def code(self) -> str:
        """Return the code of a refusal of this app; nothing if it is none."""
        if self.headers.get("content-type") != "application/json":
            return ""
        try:
            answer = json.loads(self.body)
        except ValueError:
            return ""
        return str(answer.get("code", "")) if isinstance(answer, dict) else ""


async def ask(application: Any, method: str, path: str, query: Mapping[str, str]) -> Answer:
    """Send a request and return the whole answer."""
    answer = Answer()
    requested = False

    def remember(**kwargs: Any) -> None:
        answer.error = _named(sys.exc_info()[1])

    async def receive() -> dict[str, Any]:
        nonlocal requested
        if requested:
            await asyncio.Event().wait()  # the client stays
        requested = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {
                name.decode("latin-1").lower(): value.decode("latin-1")
                for name, value in message["headers"]
            }
        elif message["type"] == "http.response.body":
            answer.body += message.get("body", b"")

    scope = {
        **_scope("http", "https", path, query),
        "method": method,
        "headers": [
            *_headers(),
            (b"accept-encoding", b"gzip"),
            # A browser would have both from a page of the site.
            (b"cookie", f"{settings.CSRF_COOKIE_NAME}={_CSRF}".encode()),
            (b"x-csrftoken", _CSRF.encode()),
        ],
    }
    log = logging.getLogger("django.request")
    got_request_exception.connect(remember)
    log.addFilter(_silent)
    try:
        await application(scope, receive, send)
    except Exception as error:
        answer.error = _named(error)
    finally:
        log.removeFilter(_silent)
        got_request_exception.disconnect(remember)
    return answer


async def converse(
    application: Any, path: str, query: Mapping[str, str], says: Sequence[str], until: str
) -> list[str]:
    """
    Open a socket, say something and return the texts that come, up to one with ``until`` in it.

    Raises:
        ValueError: Channels' word for a path or a protocol without a route, and Django's.
    """
    received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    received.put_nowait({"type": "websocket.connect"})
    for text in says:
        received.put_nowait({"type": "websocket.receive", "text": text})
    texts: list[str] = []

    async def send(message: dict[str, Any]) -> None:
        if text := message.get("text"):
            texts.append(text)
        if message["type"] == "websocket.close" or (text and until in text):
            received.put_nowait({"type": "websocket.disconnect", "code": 1000})

    scope = {**_scope("websocket", "wss", path, query), "headers": _headers(), "subprotocols": []}
    await application(scope, received.get, send)
    return texts


def _silent(record: logging.LogRecord) -> bool:
    """Keep from the log what is in the report."""
    return False


def _scope(kind: str, scheme: str, path: str, query: Mapping[str, str]) -> dict[str, Any]:
    """Return the scope of a request that is secure, for some projects redirect others."""
    return {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": scheme,
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": urlencode(query).encode(),
        "root_path": "",
        "client": ("127.0.0.1", 0),
        "server": (_host(), 443),
        "extensions": {},
    }


def _headers() -> list[tuple[bytes, bytes]]:
    host = _host()
    return [(b"host", host.encode()), (b"origin", f"https://{host}".encode())]


def _host() -> str:
    """Return a host that the settings allow."""
    host = next(iter(settings.ALLOWED_HOSTS), "localhost")
    return "localhost" if host == "*" else f"doctor{host}" if host.startswith(".") else host


def _named(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}" if error else ""
