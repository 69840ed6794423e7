"""
Is this tree as fast as another revision?

    python -m benchmarks --against REV [publish] [burst] [replay] [latency] [idle] [--rounds 5]

The other revision is checked out beside this tree, and its own workers and servers are started from
there, by the Python of this environment. Both answer the same questions in turns, so that a slow
minute of the machine meets both, and so do databases and Redis of their own. What counts is the
ratio of the medians, ours to the other's: of rates at least 0.95, of delays at most 1 / 0.95, of
the memory of an idle stream at most 1.03. It prints, and writes no file.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from benchmarks.harness import replay, stream
from benchmarks.idle import FEW, FIRST_SWEEP_SECONDS, KB, Held, case_of
from benchmarks.load import Work
from benchmarks.open_streams import allow_open_files
from benchmarks.publish import (
    CONCURRENT,
    CONCURRENT_CASES,
    HANDLE_CASES,
    MANY,
    SINGLE,
    SINGLE_CASES,
    TASKS,
)
from benchmarks.results import Results
from benchmarks.systems.streambridge import StreamBridge
from tests.services import ROOT

EVENTS = 50_000
HISTORY = 100_000
PACED_SECONDS = 6
RATE = 500
RATE_UNIT = "events/s"

Bound = tuple[Literal[">=", "<="], float]
FASTER: Bound = (">=", 0.95)
SOONER: Bound = ("<=", 1 / 0.95)
SMALLER: Bound = ("<=", 1.03)


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """Have a worktree of a revision for as long as the block lasts."""
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory, "tree")
        _git("worktree", "add", "--detach", str(tree), revision)
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True)


class Comparison:
    """What both trees answer to one question."""

    def __init__(self, question: str, revision: str, tree: Path, repeat: int) -> None:
        self._question = question
        self._trees = {"this tree": ROOT, revision: tree}
        self._revision = revision
        self._repeat = repeat
        self._results = Results(f"{question} against {revision}")
        self._bounds: dict[tuple[str, str], Bound] = {}

    def systems(
        self, stack: ExitStack, server: Literal["uvicorn"] | None = "uvicorn"
    ) -> dict[StreamBridge, tuple[str, str]]:
        """Start all stacks of both trees; return the stack and the tree of each."""
        found = {}
        for kind in ("embedded", "distributed"):
            for name, tree in self._trees.items():
                system = StreamBridge(kind, server, tree=tree)
                found[stack.enter_context(system)] = kind, name
        return found

    def rounds(self) -> range:
        return range(self._repeat)

    def add(self, case: str, tree: str, value: float, unit: str, bound: Bound) -> None:
        self._results.add(case, tree, value, unit)
        self._bounds[case, unit] = bound

    def close(self) -> None:
        for (case, unit), bound in self._bounds.items():
            ours, other = (case, "this tree"), (case, self._revision)
            self._results.ratio(f"{case}, {unit}", unit, ours, other, bound)
        self._results.show()


def compare(revision: str, questions: Sequence[str], repeat: int) -> None:
    """Ask both trees each of the questions."""
    allow_open_files()
    with checked_out(revision) as tree:
        for question in questions or QUESTIONS:
            print(f"\n==> {question}", flush=True)
            comparison = Comparison(question, revision, tree, repeat)
            QUESTIONS[question](comparison)
            comparison.close()


def _publish(comparison: Comparison) -> None:
    cases = [(case, how, SINGLE, 1, 1) for case, how in SINGLE_CASES.items()]
    cases += [(case, "async", CONCURRENT, runs, TASKS) for case, runs in CONCURRENT_CASES.items()]
    cases += [(case, how, MANY, 1, 1) for case, how in HANDLE_CASES.items()]
    with ExitStack() as stack:
        publishers = {}
        for system, names in comparison.systems(stack, server=None).items():
            publisher = publishers[system, names] = stack.enter_context(system.publisher())
            publisher.publish("sync", [system.new_run()], SINGLE // 20)  # connects, and so on
        for _ in comparison.rounds():
            for case, how, events, runs, tasks in cases:
                for (system, (kind, tree)), publisher in publishers.items():
                    ids = [system.new_run() for _ in range(runs)]
                    found = publisher.publish(how, ids, events, tasks)
                    rate = found.events_per_second
                    comparison.add(f"{case}, {kind}", tree, rate, RATE_UNIT, FASTER)


def _burst(comparison: Comparison) -> None:
    with ExitStack() as stack:
        systems = comparison.systems(stack)
        for _ in comparison.rounds():
            for clients in (1, 20):
                for system, (kind, tree) in systems.items():
                    outcome = stream(system, events=EVENTS, clients=clients)
                    rate = outcome.delivered_per_second
                    comparison.add(f"{clients} clients, {kind}", tree, rate, RATE_UNIT, FASTER)


def _replay(comparison: Comparison) -> None:
    with ExitStack() as stack:
        runs = {}
        for system, names in comparison.systems(stack).items():
            run = system.new_run()
            worker = system.worker(Work((run,), HISTORY))
            worker.go()
            worker.wait()
            runs[system, names] = run
        for _ in comparison.rounds():
            for readers in (1, 20):
                for (system, (kind, tree)), run in runs.items():
                    outcome = replay(system, run, events=HISTORY, clients=readers)
                    rate = outcome.events / (outcome.finished - outcome.opened)
                    comparison.add(f"{readers} readers, {kind}", tree, rate, RATE_UNIT, FASTER)


def _latency(comparison: Comparison) -> None:
    with ExitStack() as stack:
        systems = comparison.systems(stack)
        for _ in comparison.rounds():
            for clients in (1, 20):
                for system, (kind, tree) in systems.items():
                    outcome = stream(
                        system, events=RATE * PACED_SECONDS, clients=clients, rate=RATE
                    )
                    case = f"{RATE}/s, {clients} clients, {kind}"
                    comparison.add(case, tree, outcome.p50, "ms p50", SOONER)
                    comparison.add(case, tree, outcome.p99, "ms p99", SOONER)


def _idle(comparison: Comparison) -> None:
    for _ in comparison.rounds():
        with ExitStack() as stack:
            systems = comparison.systems(stack)
            held = {system: stack.enter_context(Held(system)) for system in systems}
            for streams in held.values():
                streams.warm_up()
            time.sleep(FIRST_SWEEP_SECONDS)  # see benchmarks.idle
            for system, streams in held.items():
                kind, tree = systems[system]
                streams.remember()
                found = Results("idle")
                streams.open(found, FEW)
                kilobytes = found.median(case_of(FEW), system.name, KB)
                comparison.add(f"{case_of(FEW)}, {kind}", tree, kilobytes, KB, SMALLER)


QUESTIONS: dict[str, Callable[[Comparison], None]] = {
    "publish": _publish,
    "burst": _burst,
    "replay": _replay,
    "latency": _latency,
    "idle": _idle,
}
