"""What a chaos run does, drawn from its seed and length alone: its faults, runs and clients."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final, Literal

SERVERS: Final = ("daphne", "uvicorn", "daphne")
WORKERS: Final = 4
POOLS: Final[tuple[Literal["prefork", "threads"], ...]] = ("prefork", "threads")
"""Of the Celery workers."""

LEASE_SECONDS: Final = 4.0

TASK_LEASE_SECONDS: Final = 20.0
"""Of Celery tasks: longer than the broker may need to deliver one again."""

Target = Literal["worker", "celery", "prefork", "server", "redis", "broker", "postgres", "proxy"]
How = Literal["handle", "sync handle", "publish", "sync publish", "transactions", "celery"]

FAULTS: Final[dict[str, tuple[Target, float, float]]] = {
    "worker killed": ("worker", 0, 0),
    "worker paused": ("worker", 1, 2.5 * LEASE_SECONDS),
    "Celery worker killed": ("celery", 0, 2),
    "Celery worker stopped": ("celery", 0, 2),
    "Celery worker paused": ("celery", 1, 2.5 * LEASE_SECONDS),
    "Celery task's process killed": ("prefork", 0, 0),
    "Celery's broker killed": ("broker", 0, 2),
    "server killed": ("server", 0, 2),
    "server stopped": ("server", 0, 1),
    "server paused": ("server", 1, 5),
    "Redis killed": ("redis", 0, 4),
    "Redis stopped": ("redis", 0, 2),
    "Redis paused": ("redis", 1, 5),
    "Redis flushed": ("redis", 0, 0),
    "PostgreSQL restarted (fast)": ("postgres", 0, 0),
    "PostgreSQL restarted (immediate)": ("postgres", 0, 0),
    "PostgreSQL killed": ("postgres", 0, 0),
    "PostgreSQL down": ("postgres", 1, 5),
    "connections cut": ("proxy", 0, 0),
}
"""What is done to what, and for how many seconds at least and at most."""

OFTEN: Final = ("worker killed", "worker killed", "worker paused")
"""Drawn in addition: what a dead worker leaves is the heart of it."""

COUNTS: Final[dict[Target, int]] = {
    "worker": WORKERS,
    "celery": len(POOLS),
    "prefork": 1,
    "server": len(SERVERS),
    "redis": 1,
    "broker": 1,
    "postgres": 1,
    "proxy": 1,
}

FIRST_FAULT: Final = 1.0
"""Seconds into the run."""


LONGEST_INTERVAL: Final = 3.0
"""Seconds between two faults, on average."""


@dataclass(frozen=True)
class Fault:
    """Something that is broken, and mended after a while."""

    at: float
    """Seconds into the run."""
    kind: str
    target: Target
    index: int
    """Which of the targets."""
    seconds: float
    """How long it stays down."""


@dataclass(frozen=True)
class ClientPlan:
    """A client of a run, which stays to the end."""

    kind: Literal["sse", "socket"]
    delay: float
    """Seconds after the run's start."""
    seed: int
    """Of where it drops and stalls."""
    drops: bool
    stalls: bool


@dataclass(frozen=True)
class Job:
    """A run: how its worker publishes, and what becomes of the work if the worker dies."""

    run_id: str
    at: float
    how: How
    events: int
    pause: float
    """Seconds between two events."""
    flush_every: int
    keyed: bool
    retried: bool
    """Whether another worker takes the run over; else its lease ends it."""
    patience: float
    """Seconds of a paused worker's silence after which the work is retried."""
    nap: float
    """Seconds of silence in the middle."""
    retries: int
    """How often its Celery task asks to be tried again."""
    cancel_after: float | None
    trims: tuple[float, int] | None
    """How often it is trimmed, in seconds, and to how many events."""
    clients: tuple[ClientPlan, ...]


@dataclass(frozen=True)
class Schedule:
    """All that the seed decides."""

    seed: int
    seconds: float
    faults: tuple[Fault, ...]
    jobs: tuple[Job, ...]


def draw(seed: int, seconds: float) -> Schedule:
    """
    Return the schedule of a seed.

    Args:
        seed: any number.
        seconds: for how long faults are injected and runs are started. Each kind of fault comes
            once before any comes twice.
    """
    return Schedule(
        seed,
        seconds,
        tuple(_faults(random.Random(f"faults {seed}"), seconds)),
        tuple(_jobs(random.Random(f"jobs {seed}"), seed, seconds)),
    )


def _faults(rng: random.Random, seconds: float) -> list[Fault]:
    # In a short run, everything comes once.
    interval = min(LONGEST_INTERVAL, (seconds - FIRST_FAULT) / len([*FAULTS, *OFTEN]))
    faults = []
    deck: list[str] = []
    slot = 0
    while (start := FIRST_FAULT + slot * interval) + interval <= seconds + 1e-9:
        if not deck:
            deck = [*FAULTS, *OFTEN]
            rng.shuffle(deck)
        kind = deck.pop()
        target, shortest, longest = FAULTS[kind]
        faults.append(
            Fault(
                at=start + rng.uniform(0, interval),
                kind=kind,
                target=target,
                index=rng.randrange(COUNTS[target]),
                seconds=rng.uniform(shortest, longest),
            )
        )
        slot += 1
    return faults


def _jobs(rng: random.Random, seed: int, seconds: float) -> list[Job]:
    jobs = []
    at = 0.0
    while at < seconds:
        jobs.append(_job(rng, f"chaos-{seed}-{len(jobs)}", at))
        at += rng.uniform(0.3, 1.4)
    return jobs


def _job(rng: random.Random, run_id: str, at: float) -> Job:
    pace = rng.choices(["burst", "paced", "one by one"], [35, 40, 25])[0]
    keyed = rng.random() < 0.5
    how: How
    if pace == "one by one":
        how = rng.choice(["publish", "sync publish", "transactions"])
        keyed = keyed and how != "transactions"
        events, pause, flush_every = rng.randrange(50, 600), rng.uniform(0, 0.01), 1
    else:
        how = rng.choice(["handle", "sync handle", "celery"])
        if pace == "burst":
            events, pause = rng.randrange(1_000, 4_000 if keyed else 15_000), 0.0
            flush_every = rng.choice([500, 2_000])
        else:
            pause = rng.uniform(0.002, 0.01)
            events = int(rng.uniform(1, 4 if how == "celery" else 12) / pause)
            flush_every = rng.choice([1, 20, 100])
    cancelled = pace == "paced" and rng.random() < 0.15
    return Job(
        run_id=run_id,
        at=at,
        how=how,
        events=events,
        pause=pause,
        flush_every=flush_every,
        keyed=keyed,
        # One who only publishes, without keys, can't know where to go on.
        retried=how == "celery" or ((keyed or pace != "one by one") and rng.random() < 0.7),
        patience=rng.uniform(0.5, LEASE_SECONDS),
        nap=1.5 * LEASE_SECONDS if pace == "paced" and rng.random() < 0.1 else 0.0,
        retries=rng.choice([0, 0, 1, 2]) if how == "celery" else 0,
        cancel_after=rng.uniform(0.5, 5) if cancelled else None,
        trims=(rng.uniform(0.2, 1), rng.randrange(1, 1_000)) if rng.random() < 0.25 else None,
        clients=tuple(_client(rng) for _ in range(rng.choice([1, 2, 2, 3, 4]))),
    )


def _client(rng: random.Random) -> ClientPlan:
    return ClientPlan(
        kind=rng.choice(["sse", "sse", "socket"]),
        delay=rng.choice([0.0, 0.0, rng.uniform(0, 5), rng.uniform(5, 10)]),
        seed=rng.randrange(2**32),
        drops=rng.random() < 0.4,
        stalls=rng.random() < 0.2,
    )
