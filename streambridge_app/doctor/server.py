"""The ASGI application as a server would load it, and the routes of this app in it."""

from __future__ import annotations

import time
from typing import Any, Final
from urllib.parse import unquote

from django.conf import settings
from django.urls import Resolver404, resolve
from django.utils.module_loading import import_string

from ..asgi import is_controlled
from ..serve import RunsConsumer, stream
from .addresses import Address, http_addresses, socket_addresses
from .check import Visit, in_thread
from .client import converse
from .findings import FAIL, WARNING, Failed, Found, Problem
from .times import shown

HTTP: Final = 'path("", include("streambridge_app.urls")) to the urlpatterns of ROOT_URLCONF'
WEBSOCKET: Final = (
    "streambridge_app.routing.websocket_urlpatterns to the URLRouter of the ASGI application, "
    'under "websocket" in its ProtocolTypeRouter'
)
SOCKET_PATH: Final = "/ws/runs/"
RUN: Final = "RUN"


def check_application() -> Found:
    """Import the application, as the server does."""
    started = time.perf_counter()
    path, _ = application_and_path()
    return Found(f"{path} imported in {shown(time.perf_counter() - started)}")


def check_flow_control() -> Found:
    """Look at the application's outermost wrapper."""
    path, application = application_and_path()
    if is_controlled(application):
        return Found("slow clients are waited for")
    problem = Problem(
        FAIL,
        f"{path} has no flow control as its outermost wrapper: under Daphne, one client that "
        "stops reading grows the server without limit, an event of about 1 MiB closes a "
        "WebSocket, and tokens are in the access log",
        "End asgi.py with: application = flow_control(application), from streambridge_app.asgi.",
    )
    return Found("", (problem,))


async def check_routes(visit: Visit) -> Found:
    """Look for the stream of a run in the URLconf, and for the WebSocket in the application."""
    http, catcher = await in_thread(_http_route)
    _, application = await in_thread(application_and_path)
    socket, answers = await _socket_route(application)
    status = WARNING if http or answers else FAIL
    problems = []
    if not http:
        problems.append(
            Problem(status, f"no HTTP route leads to a run's stream{catcher}", f"Add {HTTP}.")
        )
    if not answers:
        problems.append(
            Problem(
                status,
                f"no WebSocket of this app answers at {socket}",
                f"Add {WEBSOCKET}; unless the routes are elsewhere, or need another origin.",
            )
        )
    found = [http] * bool(http) + [f"WebSocket {socket}"] * answers
    return Found(", ".join(found), tuple(problems))


def application_and_path() -> tuple[str, Any]:
    """Return the application and its dotted path."""
    path = getattr(settings, "ASGI_APPLICATION", None)
    if not path:
        raise Failed(
            "ASGI_APPLICATION is not set",
            "Set ASGI_APPLICATION = 'yourproject.asgi.application', which the server must serve.",
        )
    return path, import_string(path)


def _http_route() -> tuple[str, str]:
    """Return the route of a run's stream; if there is none that leads to it, nothing and why."""
    catcher = ""
    for address in http_addresses(stream, RUN):
        if not address.path:
            return address.route, ""
        try:
            found = resolve(unquote(address.path)).func
        except Resolver404:  # a guess that doesn't fit
            return address.route, ""
        if found is stream:
            return address.path if not address.guessed else address.route, ""
        catcher = f": another pattern catches {address.path} before"
    return "", catcher


async def _socket_route(application: Any) -> tuple[str, bool]:
    """
    Return where the socket of many runs is, and whether it answers there.

    It is told something wrong: this app's answer to that is known. Nothing else tells what an ASGI
    application would do: its middleware may hide the routes.
    """
    addresses = await in_thread(socket_addresses, application, RunsConsumer, RUN)
    for address in addresses or [Address(SOCKET_PATH, SOCKET_PATH, guessed=False)]:
        if not address.path:
            return address.route, True
        try:
            texts = await converse(application, address.path, {}, ("",), "invalid_message")
        except ValueError:  # no route, or no WebSockets at all
            texts = []
        if any("invalid_message" in text for text in texts):
            return address.route, True
    return (addresses[0].route if addresses else SOCKET_PATH), False
