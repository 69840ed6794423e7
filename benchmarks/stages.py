"""
Where does the time of one event go?

    python -m benchmarks.stages [--rounds 3]

A worker publishes 20 events/s through a producer handle; notes are taken in its process, in the
server's and in the client when each event passes. One clock serves all, since they run on one
machine. On SQLite the server learns of an event by looking, so there is no message to note.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.clients import measure_arrivals
from benchmarks.load import Work
from benchmarks.results import Results, rounds
from benchmarks.systems.base import ProcessWorker, Worker
from benchmarks.systems.streambridge import StreamBridge

EVENTS = 160
RATE = 20
STAGES = {
    "taken": "publish() to the start of the commit: JSON, hand-over to the writer",
    "committed": "the commit",
    "received": "the message: encoding, Redis, decoding",
    "arrived": "the server: tail, frame, socket, and the client's read",
}


class Traced(StreamBridge):
    """Ours, with notes of when an event passes."""

    application = "benchmarks.systems.streambridge.traced:application"

    def start(self) -> None:
        directory = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.trace = directory / "trace"
        self.more_env = {"TRACE": str(self.trace)}
        super().start()

    def worker(self, work: Work) -> Worker:
        self.trace.write_text("")
        return ProcessWorker("benchmarks.systems.streambridge.traced", work.dump(), env=self.env)


def main() -> None:
    repeat = rounds(__doc__, 3)
    results = Results("stages")
    for stack in ("distributed", "embedded"):
        with Traced(stack) as system:
            for _ in range(repeat):
                passed = passages(system)
                stages = [stage for stage in ("sent", "taken", *STAGES) if stage in passed]
                before = "sent"
                for stage in list(dict.fromkeys(stages))[1:]:
                    took = [
                        (passed[stage][number] - passed[before][number]) / 1000
                        for number in range(EVENTS)
                    ]
                    results.add(STAGES[stage], system.name, statistics.median(took), "ms p50")
                    before = stage
                whole = [
                    (passed["arrived"][number] - passed["sent"][number]) / 1000
                    for number in range(EVENTS)
                ]
                results.add("all of it", system.name, statistics.median(whole), "ms p50")
    results.save()


def passages(system: Traced) -> dict[str, dict[int, float]]:
    """Return when each event passed each stage, in microseconds."""
    run = system.new_run()
    worker = system.worker(Work((run,), EVENTS, RATE))
    arrivals = measure_arrivals(system.request(run).spec(), worker.go)
    worker.wait()
    passed: dict[str, dict[int, float]] = {"sent": {}, "arrived": {}}
    for number, sent, arrived in arrivals:
        passed["sent"][number] = sent * 1e6
        passed["arrived"][number] = arrived * 1e6
    if [number for number, _, _ in arrivals] != list(range(EVENTS)):
        sys.exit("The client did not get each event once and in order.")
    for line in system.trace.read_text().splitlines():
        stage, number_text, at = line.split()
        passed.setdefault(stage, {}).setdefault(int(number_text), float(at))
    complete = {stage: times for stage, times in passed.items() if len(times) >= EVENTS}
    expected = {"sent", *STAGES} - ({"received"} if system.postgres is None else set())
    if expected - set(complete):
        sys.exit("Events shared a commit: the machine is too busy to tell their stages apart.")
    return complete


if __name__ == "__main__":
    main()
