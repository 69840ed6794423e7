"""The WebSocket routes, for ``channels.routing.URLRouter``."""

from typing import Any

from django.urls import path

from . import converters as converters  # registers the converter
from .consumers import RunConsumer, RunsConsumer

_runs: Any = RunsConsumer.as_asgi()  # Django's stubs know no ASGI application in a route
_run: Any = RunConsumer.as_asgi()

websocket_urlpatterns = [
    path("ws/runs/", _runs),
    path("ws/runs/<run_id:run_id>/", _run),
]
