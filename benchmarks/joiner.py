"""
A client process that joins runs again and again, and says how long each took.

    python -m benchmarks.joiner < SPEC

It is told by one line of JSON what to request, which events to expect, and how often. The joins of
all cases take turns, with a pause in between in which the server forgets the client before.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks.clients import Client, WrongStreamError
from benchmarks.systems.base import Request
from tests.services import spawn

PAUSE_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Join:
    """A request, the number of the first event it must bring, and the one to read up to."""

    request: Request
    first: int
    last: int


class Joined(NamedTuple):
    """Milliseconds from the connection to two events, for each time."""

    first: list[float]
    last: list[float]


def join(joins: Mapping[str, Join], times: int) -> dict[str, Joined]:
    """Join each so often in a process of its own; raises RuntimeError for a wrong event."""
    spec = {
        "times": times,
        "joins": {
            case: {**dataclasses.asdict(one), "request": one.request.spec()}
            for case, one in joins.items()
        },
    }
    process = spawn(
        [sys.executable, "-m", "benchmarks.joiner"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    output, _ = process.communicate(json.dumps(spec) + "\n", timeout=300)
    result: dict[str, Any] = json.loads(output or '{"error": "the joining process died"}')
    if "error" in result:
        raise RuntimeError(result["error"])
    return {case: Joined(*taken) for case, taken in result.items()}


def _measure(request: dict[str, Any], first: int, last: int) -> tuple[float, float]:
    began = time.time()
    client = Client(request)
    client.read_head()
    while not (found := list(client.events())) or found[-1][0] < last:
        client.read()
    client.socket.close()
    numbers = [number for number, _, _ in found]
    if numbers != list(range(first, numbers[-1] + 1)):
        raise WrongStreamError(f"got {numbers[:5]} and so on, instead of {first} and so on")
    return 1000 * (found[0][2] - began), 1000 * (found[last - first][2] - began)


def main() -> None:
    spec = json.loads(sys.stdin.readline())
    taken: dict[str, tuple[list[float], list[float]]] = {case: ([], []) for case in spec["joins"]}
    try:
        for _ in range(spec["times"]):
            for case, one in spec["joins"].items():
                to_first, to_last = _measure(**one)
                taken[case][0].append(to_first)
                taken[case][1].append(to_last)
                time.sleep(PAUSE_SECONDS)
    except (WrongStreamError, OSError) as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        return
    print(json.dumps(taken), flush=True)


if __name__ == "__main__":
    main()
