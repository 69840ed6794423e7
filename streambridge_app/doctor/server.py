"""The ASGI application as a server would load it, and the routes of this app in it."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from django.conf import settings
from django.urls import NoReverseMatch, resolve, reverse
from django.utils.module_loading import import_string

from ..flow_control import is_controlled
from ..views import stream
from .check import Visit, in_thread
from .findings import FAIL, WARNING, Failed, Found, Problem
from .times import shown

HTTP: Final = 'path("", include("streambridge_app.urls")) to the urlpatterns of ROOT_URLCONF'
WEBSOCKET: Final = (
    "streambridge_app.routing.websocket_urlpatterns to the URLRouter of the ASGI application, "
    'under "websocket" in its ProtocolTypeRouter'
)
SOCKET_PATH: Final = "/ws/runs/"


def check_application() -> Found:
    """Import the application, as the server does."""
    started = time.perf_counter()
    path, _ = _application()
    return Found(f"{path} imported in {shown(time.perf_counter() - started)}")


def check_flow_control() -> Found:
    """Look at the application's outermost wrapper."""
    path, application = _application()
    if is_controlled(application):
        return Found("slow clients are waited for")
    problem = Problem(
        FAIL,
        f"{path} has no flow control as its outermost wrapper: under Daphne, one client that "
        "stops reading grows the server without limit, an event of about 1 MiB closes a "
        "WebSocket, and tokens are in the access log",
        "End asgi.py with: application = flow_control(application), "
        "from streambridge_app.flow_control.",
    )
    return Found("", (problem,))


async def check_routes(visit: Visit) -> Found:
    """Ask the URLconf for the stream of a run, and the application for its WebSocket."""
    http = await in_thread(_http_route)
    _, application = await in_thread(_application)
    socket = await _socket_answers(application)
    status = WARNING if http or socket else FAIL
    problems = []
    if not http:
        problems.append(Problem(status, "no HTTP route leads to a run's stream", f"Add {HTTP}."))
    if not socket:
        problems.append(
            Problem(
                status,
                f"no WebSocket of this app answers at {SOCKET_PATH}",
                f"Add {WEBSOCKET}; unless the routes are elsewhere, or need another origin.",
            )
        )
    found = [http] * bool(http) + [f"WebSocket {SOCKET_PATH}"] * socket
    return Found(", ".join(found), tuple(problems))


def _application() -> tuple[str, Any]:
    """Return the application and its dotted path."""
    path = getattr(settings, "ASGI_APPLICATION", None)
    if not path:
        raise Failed(
            "ASGI_APPLICATION is not set",
            "Set ASGI_APPLICATION = 'yourproject.asgi.application', which the server must serve.",
        )
    return path, import_string(path)


def _http_route() -> str:
    """Return the address of a run's stream, or nothing if there is none that leads to it."""
    try:
        address = reverse("streambridge:stream", kwargs={"run_id": "RUN"})
    except NoReverseMatch:
        return ""
    # Another pattern may catch it before.
    return address if resolve(address).func is stream else ""


async def _socket_answers(application: Any) -> bool:
    """
    Open a socket of many runs and say something wrong: this app's answer to that is known.

    Nothing but that tells what an ASGI application would do: its middleware hides the routes.
    """
    received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    received.put_nowait({"type": "websocket.connect"})
    received.put_nowait({"type": "websocket.receive", "text": ""})
    answered = False

    async def send(message: dict[str, Any]) -> None:
        nonlocal answered
        if "invalid_message" in (message.get("text") or ""):
            answered = True
        if message["type"] == "websocket.close" or answered:
            received.put_nowait({"type": "websocket.disconnect", "code": 1000})

    host = _host()
    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": SOCKET_PATH,
        "raw_path": SOCKET_PATH.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", host.encode()), (b"origin", f"http://{host}".encode())],
        "client": ("127.0.0.1", 0),
        "server": (host, 80),
        "subprotocols": [],
        "extensions": {},
    }
    try:
        await application(scope, received.get, send)
    except ValueError:  # Channels' word for a path or a protocol without a route, and Django's
        return False
    return answered


def _host() -> str:
    """Return a host that the settings allow."""
    host = next(iter(settings.ALLOWED_HOSTS), "localhost")
    return "localhost" if host == "*" else f"doctor{host}" if host.startswith(".") else host
