"""
The writer of a process: what many publishers hand in leaves in few commits, once and in order.

It imports the log and the contract. Whoever wants to know what was committed is called back.
"""

from .callers import (
    refuse_transaction_of,
    waiting_caller,
)
from .handle import (
    PipelineBridge,
    PipelinedProducer,
    PipelinedSyncProducer,
)
from .keeper import (
    Keeper,
)
from .pipeline import (
    Pipeline,
)
from .queue import (
    Publication,
)
from .writer import (
    Writer,
)

__all__ = [
    "Keeper",
    "Pipeline",
    "PipelineBridge",
    "PipelinedProducer",
    "PipelinedSyncProducer",
    "Publication",
    "Writer",
    "refuse_transaction_of",
    "waiting_caller",
]
