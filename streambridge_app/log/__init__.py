"""
The truth: the rows of runs and events, in PostgreSQL or SQLite, and whatever reads or writes them.

It imports the contract and the models. Its functions are synchronous and use the connection of
their caller; our own threads and connections are here as well. It sends no message.
"""

from . import leases, orphans, read, retention
from .append import append, unlocked
from .connections import (
    SQLITE_TIMEOUT,
    committing,
    own_connection,
)
from .creation import Claim, claim, create
from .exactly_once import (
    Appender,
    Locked,
    Outcome,
)
from .guard import (
    guarded,
    guarded_on,
    guarded_repeatable,
)
from .handover import (
    extend_lease,
)
from .read import (
    FEW,
    Place,
)
from .state import exists, request_cancel, state
from .sweeper import (
    Swept,
    past_keep,
    sweep,
    sweep_alone,
)
from .threads import (
    LogThreads,
    check_process,
)
from .watch import (
    LOOK_INTERVAL,
    Watch,
)
from .writes import (
    Write,
    Written,
)

__all__ = [
    "FEW",
    "LOOK_INTERVAL",
    "SQLITE_TIMEOUT",
    "Appender",
    "Claim",
    "Locked",
    "LogThreads",
    "Outcome",
    "Place",
    "Swept",
    "Watch",
    "Write",
    "Written",
    "append",
    "check_process",
    "claim",
    "committing",
    "create",
    "exists",
    "extend_lease",
    "guarded",
    "guarded_on",
    "guarded_repeatable",
    "leases",
    "orphans",
    "own_connection",
    "past_keep",
    "read",
    "request_cancel",
    "retention",
    "state",
    "sweep",
    "sweep_alone",
    "unlocked",
]
