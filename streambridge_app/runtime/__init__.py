"""
What a process is made of: threads, event loops, timers, green threads, and what its log may say.

Everything above may use it. It imports only ``conf``, ``exceptions`` and the standard library, and
knows nothing of runs.
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
from .repeats import (
    Repeats,
)
from .timer import (
    Alarm,
    resolve,
)

__all__ = [
    "SIGNAL_SECONDS",
    "Alarm",
    "Complaints",
    "Repeats",
    "background",
    "before_test_databases",
    "green_threads",
    "redact",
    "redaction",
    "resolve",
]
