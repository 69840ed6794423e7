"""
Encode frames of the event stream format, and nothing else.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.6. Names
and data have been checked on their way into the log: neither has a CR or LF here.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any, Final

from ..contract import Batch

STREAMS_OWN: Final = frozenset({"end", "gap", "open", "error"})
"""
Names that an EventSource's listeners get from the stream and the browser, not from a run.

An event of the run that is named so goes out with two underscores before its name, which no event
of a run may begin with.
"""

HEARTBEAT: Final = b": heartbeat\n\n"
"""A comment: clients ignore it, but it keeps the connection open and shows that it lives."""


def encode_events(batch: Batch, run_id: str) -> bytes:
    """Return the frames of consecutive events in one piece. They don't name their run."""
    epoch, first, names, data = batch.epoch, batch.first, batch.names, batch.data
    if not STREAMS_OWN.isdisjoint(names):
        names = [f"__{name}" if name in STREAMS_OWN else name for name in names]
    if len(names) == len(data) == 1:  # as for most events: four times as fast as the way of many
        return f"event: {names[0]}\ndata: {data[0]}\nid: {epoch}-{first}\n\n".encode()
    numbers = range(first, first + len(names))
    before_number = f"\nid: {epoch}-"
    return "".join(
        [
            f"event: {name}\ndata: {text}{before_number}{number}\n\n"
            for name, text, number in zip(names, data, numbers, strict=True)
        ]
    ).encode()


def encode_gap(data: Mapping[str, Any], position: str | None = None) -> bytes:
    """
    Return the frame that says that part of what was asked for is not in the log.

    It has no id, for it is no event; the position from which reading goes on follows it in a frame
    that dispatches nothing.
    """
    frame = f"event: gap\ndata: {_json(data)}\n\n"
    return (frame if position is None else f"{frame}id: {position}\n\n").encode()


def encode_end(status: str, error: Mapping[str, str] | None, position: str) -> bytes:
    """Return the frame that ends a stream; with its id, a reconnect can be answered by 204."""
    data = _json({"status": status, "error": error})
    return f"event: end\ndata: {data}\nid: {position}\n\n".encode()


def encode_retry(lowest: int, highest: int, position: str | None = None) -> bytes:
    """
    Return the frame that sets a client's reconnection delay, and its position if that is given.

    The delay is drawn between the two bounds, in milliseconds, so that the clients of a
    server that stops don't all come back in the same instant. An id without data dispatches
    nothing, but a client comes back with it.
    """
    delay = random.randint(lowest, highest)  # noqa: S311 - jitter
    return (f"retry: {delay}\n" + ("\n" if position is None else f"id: {position}\n\n")).encode()


def _json(data: Mapping[str, Any]) -> str:
    return json.dumps(data, separators=(",", ":"))
