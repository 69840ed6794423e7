"""
Messages that only wake: word of a commit, sent to the group of its run and received by servers.

It imports the log and the contract. A message may be lost, late, doubled or out of order, and a
layer that is down costs a publisher nothing.
"""

from .announcer import (
    Announcer,
)
from .groups import (
    Groups,
    open_groups,
)
from .layer import (
    Outage,
    is_process_local,
)
from .membership import (
    Membership,
)
from .news import (
    News,
)

__all__ = [
    "Announcer",
    "Groups",
    "Membership",
    "News",
    "Outage",
    "is_process_local",
    "open_groups",
]
