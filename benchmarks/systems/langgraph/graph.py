"""The graph that LangGraph's server runs: one node that waits for a file, then emits its events."""

from __future__ import annotations

import asyncio
import os.path
import time
from typing import TypedDict

from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph

from benchmarks.load import Work, payload

POLL_SECONDS = 0.01
BURST = 16
"""
Events between two turns of the event loop, if the run has no pace.

The server streams from the same loop: without any turn it sends nothing before the last event was
written. Of 1, 16, 128 and no turn at all, 16 was fastest most often, by a tenth at best.
"""


class State(TypedDict):
    """The input of a run."""

    work: str
    """A dumped :class:`benchmarks.load.Work`."""
    go: str
    """The file to wait for."""


async def emit(state: State) -> None:
    """Emit each event when it is due."""
    work = Work.load(state["work"])
    writer = get_stream_writer()
    # Another process makes the file: there is nothing to await.
    while not await asyncio.to_thread(os.path.exists, state["go"]):  # noqa: ASYNC110
        await asyncio.sleep(POLL_SECONDS)
    for due, _, number in work.schedule():
        if work.rate:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        elif number % BURST == 0:
            await asyncio.sleep(0)
        writer(payload(number, work.events))


builder = StateGraph(State)
builder.add_node("emit", emit)
builder.add_edge(START, "emit")
builder.add_edge("emit", END)
graph = builder.compile()
