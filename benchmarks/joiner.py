"""
A client process that joins runs again and again, and says how long each took.

    python -m benchmarks.joiner < SPEC

It is told by one line of JSON what to request and which events to expect. The joins of all cases
take turns, with a pause in between in which the server forgets the client before. A server that
keeps pages of the log is joined at another place each time.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
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


def join(joins: Mapping[str, Sequence[Join]]) -> dict[str, Joined]:
    """
    Do the joins of each case, in a process of its own.

    Args:
        joins: equally many for each case.

    Raises:
        RuntimeError: a join brought a wrong event.
    """
    spec = {
        case: [{**dataclasses.asdict(one), "request": one.request.spec()} for one in some]
        for case, some in joins.items()
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
    taken: dict[str, tuple[list[float], list[float]]] = {case: ([], []) for case in spec}
    try:
        for turn in zip(*spec.values(), strict=True):
            for case, one in zip(spec, turn, strict=True):
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
