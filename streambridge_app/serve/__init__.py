"""
HTTP and WebSockets: who may come in, and what bytes leave.

It imports the contract, the registry, the rules of access and the open streams. Others use its
views and consumers.
"""

from . import views
from .consumers import (
    OriginRefused,
    RunConsumer,
    RunsConsumer,
)
from .converters import (
    RunIdConverter,
)
from .event_stream import event_stream_response
from .views import (
    stream,
)

__all__ = [
    "OriginRefused",
    "RunConsumer",
    "RunIdConverter",
    "RunsConsumer",
    "event_stream_response",
    "stream",
    "views",
]
