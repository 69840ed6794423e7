"""
How long is an event on its way, from the call that publishes it to the client that reads it?

    python -m benchmarks.latency [--rounds 3]

Paced loads, all over HTTP: 20 events/s to one client, on both servers and both stacks; 500
events/s to 1 and to 20 clients; 20 events/s to 500 clients; and the everyday load, 200 runs of 20
events/s from four worker processes with one client each, once for a minute as well. Then the number
of such runs grows until p99 passes 250 ms or the rate is not kept. Of these loads, the processor
time of each process counts, from the word to begin to the last event; per event it is that of the
workers and the servers. All processes run on this machine, so one clock serves both ends; the
client notes the arrival when it reads from its socket.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from benchmarks.harness import Outcome, stream_or_note
from benchmarks.results import Results, rounds
from benchmarks.systems.bare_redis import BareRedis
from benchmarks.systems.base import System
from benchmarks.systems.langgraph import LangGraph
from benchmarks.systems.plain_channels import PlainChannels
from benchmarks.systems.redis_streams import RedisStreams
from benchmarks.systems.streambridge import StreamBridge

SECONDS = 6
LONG_SECONDS = 60
"""Of the everyday load, once: what a server keeps of its runs grows until then."""
SLOWEST_MS = 250
LEAST_RATE = 0.95
WORKERS = 4
RUNS = 200
STEPS = (300, 400, 500, 600, 800, 1000)
"""More runs at once, until they are too many."""


def main() -> None:
    repeat = rounds(__doc__, 3)
    results = Results("latency")
    embedded = StreamBridge("embedded")
    distributed = StreamBridge("distributed")
    on_daphne = [StreamBridge("embedded", "daphne"), StreamBridge("distributed", "daphne")]
    streams = RedisStreams()
    langgraph = LangGraph()
    channels = PlainChannels()
    redis = BareRedis()
    durable = BareRedis(durable=True)
    with ExitStack() as stack:
        peers = (streams, langgraph, channels, redis, durable)
        for system in (embedded, distributed, *on_daphne, *peers):
            stack.enter_context(system)
        for _ in range(repeat):
            for system in (embedded, distributed, *on_daphne):
                paced(results, "20/s, 1 clients", system, rate=20, clients=1)
            for clients in (1, 20):
                for system in (embedded, distributed, *peers):
                    paced(results, f"500/s, {clients} clients", system, rate=500, clients=clients)
            for system in (embedded, distributed, streams, channels):
                paced(results, "20/s, 500 clients", system, rate=20, clients=500)
            for system in (embedded, distributed, streams, channels):
                everyday(results, system, RUNS)
        everyday(results, distributed, RUNS, LONG_SECONDS)
        raise_runs(results, distributed)

    case, everyday_case = "500/s, 1 clients", case_of(RUNS)
    compare(results, case, distributed, streams, p50=2, p99=1.5)
    compare(results, "500/s, 20 clients", distributed, langgraph, p99=0.5)
    for clients in (1, 20):
        compare(results, f"500/s, {clients} clients", distributed, durable, p50=None, p99=None)
    compare(results, case, durable, streams, p50=None, p99=None)
    compare(results, "500/s, 20 clients", durable, langgraph, p99=None)
    for clients in (1, 20):
        rate = (f"500/s, {clients} clients", distributed.name)
        results.limit(f"500/s, {clients} clients, delivered", "of the rate", rate, (">=", 0.98))
    results.limit(
        f"{everyday_case}, distributed",
        "of the rate",
        (everyday_case, distributed.name),
        (">=", 0.98),
    )
    results.limit(
        f"{everyday_case}, distributed, p99",
        "ms p99",
        (everyday_case, distributed.name),
        ("<=", 40),
    )
    results.save()


def paced(results: Results, case: str, system: System, *, rate: float, clients: int) -> None:
    """Measure one run at a steady rate."""
    load = {"events": int(rate * SECONDS), "clients": clients, "rate": rate}
    outcome = stream_or_note(results, case, system, **load)
    if outcome is not None:
        keep(results, case, system, outcome)


def everyday(results: Results, system: System, runs: int, seconds: int = SECONDS) -> Outcome | None:
    """Measure many runs at once; keep also what the processes used."""
    case = case_of(runs, seconds)
    load = {"events": 20 * seconds, "runs": runs, "workers": WORKERS, "rate": 20}
    outcome = stream_or_note(results, case, system, **load)
    if outcome is None:
        return None
    keep(results, case, system, outcome, seconds)
    for name, cpu in outcome.cpu.items():
        results.add(case, f"{system.name}: {name}", cpu / outcome.seconds, "cores")
    cpu = sum(outcome.cpu.values()) - outcome.cpu["clients"]
    results.add(case, system.name, 1e6 * cpu / outcome.events, "µs cpu/event")
    return outcome


def raise_runs(results: Results, system: System) -> None:
    """Add runs until events are late, and say how far it went and what was busy then."""
    for runs in STEPS:
        outcome = everyday(results, system, runs)
        assert outcome  # ours raises
        rate = outcome.rate_kept(SECONDS)
        if outcome.p99 > SLOWEST_MS or rate < LEAST_RATE:
            cores = {name: cpu / outcome.seconds for name, cpu in outcome.cpu.items()}
            shares = sorted(cores.items(), key=lambda share: -share[1])
            results.note(
                f"{system.name}: {runs} runs of 20 events/s are too many: p99 is "
                f"{outcome.p99:.0f} ms, at {rate:.2f} of the rate. Of {os.cpu_count()} cores, "
                f"{sum(cores.values()):.2f} are busy with it: "
                + ", ".join(f"{name} {share:.2f}" for name, share in shares)
                + "."
            )
            return
    results.note(f"{system.name}: {STEPS[-1]} runs of 20 events/s are still in time.")


def keep(
    results: Results, case: str, system: System, outcome: Outcome, seconds: int = SECONDS
) -> None:
    results.add(case, system.name, outcome.p50, "ms p50")
    results.add(case, system.name, outcome.p99, "ms p99")
    results.add(case, system.name, outcome.p999, "ms p99.9")
    results.add(case, system.name, outcome.rate_kept(seconds), "of the rate")


def compare(
    results: Results, case: str, ours: System, other: System, **bounds: float | None
) -> None:
    """Compare the delays of two systems with the most that the first may take, if there is one."""
    for quantile, bound in bounds.items():
        results.ratio(
            f"{case}, {quantile}: {ours.name} / {other.name}",
            f"ms {quantile}",
            (case, ours.name),
            (case, other.name),
            None if bound is None else ("<=", bound),
        )


def case_of(runs: int, seconds: int = SECONDS) -> str:
    return f"{runs} runs at 20/s" + ("" if seconds == SECONDS else f" for {seconds} s")


if __name__ == "__main__":
    main()
