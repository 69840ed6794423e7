"""The WebSocket routes, for ``channels.routing.URLRouter``, and who may bring cookies to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import urlparse

from channels.security.websocket import AllowedHostsOriginValidator
from django.urls import path

from .serve import OriginRefused, RunConsumer, RunsConsumer

Scope = MutableMapping[str, Any]

_runs: Any = RunsConsumer.as_asgi()  # Django's stubs know no ASGI application in a route
_run: Any = RunConsumer.as_asgi()
_refused: Any = OriginRefused.as_asgi()

# All below ``ws/runs/`` has a route: Channels fails at an address that has none.
websocket_urlpatterns = [
    path("ws/runs", _runs),
    path("ws/runs/", _runs),
    path("ws/runs/<run_id:run_id>/", _run),
    path("ws/runs/<run_id:run_id>", _run),
]


def checked_origin(application: Callable[..., Any]) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """
    Let the pages of this site open WebSockets, and programs that are no browsers.

    A browser says by ``Origin`` whose page opens a socket, and sends this site's cookies whosever
    it is. As in Channels' ``AllowedHostsOriginValidator``, the origin's host must be in
    ``ALLOWED_HOSTS``; another one is refused with a frame that says why. A socket without an
    ``Origin`` is no browser's: it is let in, but who it is, no cookie may say, only what comes
    after. It belongs around what reads the cookies::

        checked_origin(AuthMiddlewareStack(URLRouter(websocket_urlpatterns)))

    Args:
        application: an ASGI 3 application for WebSockets.

    Returns:
        An ASGI 3 application.
    """

    async def checked(scope: Scope, receive: Any, send: Any) -> None:
        if all(name != b"origin" for name, _ in scope["headers"]):
            await application(_without_cookies(scope), receive, send)
        elif _is_allowed(scope):
            await application(scope, receive, send)
        else:
            await _refused(scope, receive, send)

    return checked


_FROM_COOKIES: Final = frozenset({"cookies", "session", "user"})
"""Keys of a scope in which Channels' middleware keeps what it has made of the cookies."""


def _without_cookies(scope: Scope) -> Scope:
    """Return a scope without the cookies, and without what somebody has made of them before."""
    told = {key: value for key, value in scope.items() if key not in _FROM_COOKIES}
    told["headers"] = [(name, value) for name, value in scope["headers"] if name != b"cookie"]
    return told


def _is_allowed(scope: Scope) -> bool:
    validator = AllowedHostsOriginValidator(_refused)
    origin = [value for name, value in scope["headers"] if name == b"origin"][-1]
    try:
        parsed = urlparse(origin.decode("latin-1"))
        _ = parsed.port
    except ValueError:  # no address at all
        return False
    return bool(validator.valid_origin(parsed))
