"""
Encode the JSON frames of the WebSocket routes, and nothing else.

Every frame is an object with a ``type`` and, if it is about one run, a ``run``.
"""

from __future__ import annotations

import json
from typing import Any

from ..contract import Batch

# In ASCII, because an error frame names the run as the client did, and that may be with lone
# surrogates, which no UTF-8 can carry.
_encode = json.JSONEncoder(separators=(",", ":")).encode


def encode(kind: str, run_id: str | None = None, **fields: Any) -> str:
    """Return a frame; ``kind`` is subscribed, unsubscribed, end, gap, heartbeat or error."""
    run = {} if run_id is None else {"run": run_id}
    return _encode({"type": kind, **run, **fields})


def encode_events(batch: Batch, run_id: str) -> list[str]:
    """Return a frame for each of some consecutive events of a run."""
    start = f'{{"type":"event","run":{_encode(run_id)},"id":"{batch.epoch}-'
    return [
        f'{start}{seq}","event":{_encode(name)},"data":{text}}}'
        for seq, (name, text) in enumerate(zip(batch.names, batch.data, strict=True), batch.first)
    ]
