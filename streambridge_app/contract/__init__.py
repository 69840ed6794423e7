"""
What a bridge promises, whatever carries the events: methods, arguments, and what comes back.

It imports only :mod:`streambridge_app.runtime`, ``conf``, ``exceptions`` and what turns data into
JSON: no model, no channel layer. Backends implement it, and everything else speaks in its terms.
"""

from . import cursor
from .arguments import (
    check_delay,
    check_keep,
    check_subscription,
    milliseconds,
)
from .batch import (
    BATCH_BYTES,
    Batch,
    Holder,
)
from .bridge import (
    Producer,
    StreamBridge,
)
from .closing import (
    close_within,
    shut,
)
from .cursor import (
    Cursor,
    Verdict,
)
from .events import (
    END_SENTINEL,
    GAP_EVENT,
    HEARTBEAT_SENTINEL,
    GapEvent,
    RunId,
    StreamEvent,
    check_event_name,
    check_key,
    check_run_id,
)
from .items import (
    HEARTBEAT,
    End,
    Gap,
    Heartbeat,
    Item,
)
from .lifecycle import (
    NewRun,
    RunOptions,
    new_end,
    new_loss,
    new_run,
)
from .payload import (
    MAX_ERROR_DATA,
    encode_data,
)
from .runs import (
    CANCELLED,
    ERROR,
    LOST,
    RUNNING,
    SUCCESS,
    RunHead,
    RunState,
    error_in,
)
from .sync import (
    PRODUCE,
    Runner,
    SyncProducer,
    SyncStreamBridge,
    refuse_event_loop,
)
from .unreadable import (
    gap,
    is_readable,
)

__all__ = [
    "BATCH_BYTES",
    "CANCELLED",
    "END_SENTINEL",
    "ERROR",
    "GAP_EVENT",
    "HEARTBEAT",
    "HEARTBEAT_SENTINEL",
    "LOST",
    "MAX_ERROR_DATA",
    "PRODUCE",
    "RUNNING",
    "SUCCESS",
    "Batch",
    "Cursor",
    "End",
    "Gap",
    "GapEvent",
    "Heartbeat",
    "Holder",
    "Item",
    "NewRun",
    "Producer",
    "RunHead",
    "RunId",
    "RunOptions",
    "RunState",
    "Runner",
    "StreamBridge",
    "StreamEvent",
    "SyncProducer",
    "SyncStreamBridge",
    "Verdict",
    "check_delay",
    "check_event_name",
    "check_keep",
    "check_key",
    "check_run_id",
    "check_subscription",
    "close_within",
    "cursor",
    "encode_data",
    "error_in",
    "gap",
    "is_readable",
    "milliseconds",
    "new_end",
    "new_loss",
    "new_run",
    "refuse_event_loop",
    "shut",
]
