"""StreamBridge for Django: follow what background workers do, live, without losing an event."""

from .contract import (
    END_SENTINEL,
    HEARTBEAT_SENTINEL,
    GapEvent,
    Producer,
    RunOptions,
    RunState,
    StreamBridge,
    StreamEvent,
    SyncProducer,
    SyncStreamBridge,
)
from .registry import get_bridge, get_sync_bridge

__all__ = [
    "END_SENTINEL",
    "HEARTBEAT_SENTINEL",
    "GapEvent",
    "Producer",
    "RunOptions",
    "RunState",
    "StreamBridge",
    "StreamEvent",
    "SyncProducer",
    "SyncStreamBridge",
    "get_bridge",
    "get_sync_bridge",
]

__version__ = "0.1.0"
