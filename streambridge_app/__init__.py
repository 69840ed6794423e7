"""StreamBridge for Django: follow what background workers do, live, without losing an event."""

from .bridge import Producer, StreamBridge
from .events import END_SENTINEL, HEARTBEAT_SENTINEL, GapEvent, StreamEvent
from .registry import get_bridge, get_sync_bridge
from .runs import RunState
from .sync import SyncProducer, SyncStreamBridge

__all__ = [
    "END_SENTINEL",
    "HEARTBEAT_SENTINEL",
    "GapEvent",
    "Producer",
    "RunState",
    "StreamBridge",
    "StreamEvent",
    "SyncProducer",
    "SyncStreamBridge",
    "get_bridge",
    "get_sync_bridge",
]

__version__ = "0.1.0"
