"""
What a process is made of: threads, event loops, timers, green threads, transactions of its caller.

Everything above may use it. It imports ``exceptions``, the standard library and, where it is about
Django's connections, Django; it knows no run's log.
"""

from . import background, green_threads, redaction
from .background import (
    SIGNAL_SECONDS,
)
from .complaints import (
    Complaints,
)
from .database_creation import (
    before_test_databases,
)
from .redaction import (
    redact,
)
from .timer import (
    Alarm,
    resolve,
)
from .transactions import (
    after_commits,
    in_transaction,
    is_manual,
    join,
    may_block_others,
    overlooking_test_cases,
    refuse,
    with_hint,
)

__all__ = [
    "SIGNAL_SECONDS",
    "Alarm",
    "Complaints",
    "after_commits",
    "background",
    "before_test_databases",
    "green_threads",
    "in_transaction",
    "is_manual",
    "join",
    "may_block_others",
    "overlooking_test_cases",
    "redact",
    "redaction",
    "refuse",
    "resolve",
    "with_hint",
]
