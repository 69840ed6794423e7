"""
HTTP and WebSockets: who may come in, what bytes leave, and how a server stops.

It imports the contract, the registry and the rules of access. Others use its views, its consumers,
and what :mod:`streambridge_app.asgi` wraps around an application.
"""

from . import shutdown, views
from .consumers import (
    OriginRefused,
    RunConsumer,
    RunsConsumer,
)
from .converters import (
    RunIdConverter,
)
from .daphne import (
    Application,
    Intake,
    Receive,
    Scope,
    Send,
    Valve,
    protocol_behind,
    redact_address,
)
from .open_streams import (
    server_send,
)
from .views import (
    stream,
)

__all__ = [
    "Application",
    "Intake",
    "OriginRefused",
    "Receive",
    "RunConsumer",
    "RunIdConverter",
    "RunsConsumer",
    "Scope",
    "Send",
    "Valve",
    "protocol_behind",
    "redact_address",
    "server_send",
    "shutdown",
    "stream",
    "views",
]
