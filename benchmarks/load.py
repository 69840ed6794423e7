"""The events that every worker emits, and its pace. Standard library only: all peers import it."""

from __future__ import annotations

import dataclasses
import heapq
import json
import sys
import time
from collections.abc import Iterator
from typing import Any, Self

LAST = "~last~"
"""Stands in the last event of a run: a client that has read it is done."""

TEXT = "the quick brown fox jumps over the lazy dog, again and again and so on"


@dataclasses.dataclass(frozen=True)
class Work:
    """What one worker process emits."""

    runs: tuple[str, ...]
    events: int
    """Events per run."""
    rate: float = 0
    """Events per second and run; 0: as fast as it can."""

    def dump(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def load(cls, text: str) -> Self:
        values = json.loads(text)
        return cls(tuple(values["runs"]), values["events"], values["rate"])

    def events_when_due(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield run and event data, each when it is due; blocks until then."""
        if not self.rate:
            for number in range(self.events):
                for run in self.runs:
                    yield run, payload(number, self.events)
            return
        for due, run, number in self.schedule():
            time.sleep(max(0.0, due - time.monotonic()))
            yield run, payload(number, self.events)

    def schedule(self) -> Iterator[tuple[float, str, int]]:
        """
        Yield when each event is due (``time.monotonic``), its run and its number.

        The runs take turns, and their events are spread evenly over time.
        """
        start = time.monotonic()
        step = 1 / self.rate if self.rate else 0
        turns = [(start + step * i / len(self.runs), run, 0) for i, run in enumerate(self.runs)]
        while turns:
            due, run, number = turns[0]
            yield due, run, number
            if number + 1 < self.events:
                heapq.heapreplace(turns, (due + step, run, number + 1))
            else:
                heapq.heappop(turns)


def payload(number: int, events: int) -> dict[str, Any]:
    """Return the data of event ``number`` of ``events``, some 120 bytes; ``at`` in microseconds."""
    text = LAST + TEXT[len(LAST) :] if number == events - 1 else TEXT
    return {"n": number, "at": time.time_ns() // 1000, "text": text}


def wait_for_go() -> None:
    """Tell the benchmark that this worker is ready, and wait for its word."""
    print("ready", flush=True)
    if not sys.stdin.readline():
        raise SystemExit("The benchmark has ended.")
