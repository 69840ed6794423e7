"""
The reader: what the clients of an event loop follow, read from the log once for all of them.

It imports the log, the messages that wake it, and the contract. It knows no HTTP.
"""

from .hub import (
    Hub,
    HubOptions,
)
from .subscription import (
    follow,
)

__all__ = [
    "Hub",
    "HubOptions",
    "follow",
]
