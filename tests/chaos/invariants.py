"""
What must hold after a chaos run, as pure functions of what was seen.

Each yields a sentence for every violation. What a producer was told, what the log has and what a
client got come from three different places.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count, pairwise
from typing import NamedTuple

from tests.chaos.schedule import Job

ENDS = {"success", "error", "cancelled", "lost"}


class Logged(NamedTuple):
    """An event in the log; ``data`` is its JSON text."""

    seq: int
    event: str
    data: str


@dataclass
class LoggedRun:
    """A run in the log."""

    run_id: str
    epoch: int
    head: int
    floor: int
    """The last number that was trimmed."""
    status: str
    lease_expires: int | None
    ended_at: datetime.datetime | None
    events: Sequence[Logged]
    """Those that were trimmed included: the database keeps them aside."""


class Refused(NamedTuple):
    """A publish that raised, and what the error said of it."""

    number: int
    attempt: int
    written: bool | None


@dataclass
class Told:
    """What the bridge told the producers of a run, and what befell them."""

    confirmed: list[tuple[int, int, int]] = field(default_factory=list)
    """Attempt, first and last number."""
    refused: list[Refused] = field(default_factory=list)
    outcomes: dict[int, str] = field(default_factory=dict)
    """
    By attempt: success, fenced, ended, cancelled, unavailable, died, or a traceback.

    A Celery task can't know whether it succeeds, only that it has "returned", or is "tried again".
    """
    cancel_requested: bool = False
    disturbed: bool = False
    """Whether a fault may have kept a producer from the log for as long as its lease."""


class Gap(NamedTuple):
    """A client was told that part of the log is gone; numbers of events, 0 before the first."""

    requested: int
    earliest: int


class Transcript:
    """What a client got, in little memory: the numbers, gaps, and a digest of the events."""

    def __init__(self) -> None:
        self.seqs = array("q")
        self.gaps: list[tuple[int, Gap]] = []
        """Each with how many events came before."""
        self._digest = hashlib.blake2b()

    def add(self, id: bytes, event: bytes, data: bytes) -> None:
        self.seqs.append(int(id.partition(b"-")[2]))
        self._digest.update(b"%b\n%b\n%b\n" % (id, event, data))

    def add_gap(self, data: Mapping[str, str | None]) -> None:
        requested, earliest = (
            int(id.partition("-")[2]) if id else 0 for id in (data["requested"], data["earliest"])
        )
        self.gaps.append((len(self.seqs), Gap(requested, earliest)))

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()


@dataclass
class Followed:
    """A client's account of a run that it followed to the end."""

    name: str
    run_id: str
    transcript: Transcript
    status: str | None = None
    """What the end brought; None if it came as 204, which says no status."""
    ended: bool = False
    failures: Counter[str] = field(default_factory=Counter)
    """Answers that no outage explains."""


def check_log(run: LoggedRun) -> Iterator[str]:
    """The log is whole, and has ended once."""
    seqs = [event.seq for event in run.events]
    if seqs != list(range(1, run.head + 1)):
        yield f"{run.run_id}: the numbers are not 1 to {run.head}: {_first_break(seqs)}"
    if run.status not in ENDS:
        yield f"{run.run_id}: it has not ended, but is {run.status}"
    if run.lease_expires is not None:
        yield f"{run.run_id}: its lease is left over"
    losses = [
        event.seq
        for event in run.events
        if event.event == "error" and json.loads(event.data)["error"] == "ProducerLost"
    ]
    expected = [run.head] if run.status == "lost" else []
    if losses != expected:
        yield f"{run.run_id}: {run.status} with ProducerLost at {losses}, not at {expected}"


def check_told(run: LoggedRun, told: Told, job: Job) -> Iterator[str]:
    """What was committed is in the log once and in order; what was not, isn't."""
    numbers = [json.loads(event.data)["n"] for event in run.events if event.event == "number"]
    seen = Counter(numbers)
    if doubled := [number for number, count in seen.items() if count > 1]:
        yield f"{run.run_id}: in the log more than once: {doubled[:5]}"
    if any(one > two for one, two in pairwise(numbers)):
        yield f"{run.run_id}: not in order: {_first_break(numbers)}"
    if not _may_skip(job) and sorted(seen) != list(range(1, len(seen) + 1)):
        yield f"{run.run_id}: a number is missing: {_first_break(sorted(seen))}"
    for attempt, first, last in told.confirmed:
        if missing := [number for number in range(first, last + 1) if number not in seen]:
            yield f"{run.run_id}: confirmed to attempt {attempt}, not in the log: {missing[:5]}"
    for refused in told.refused:
        # With a key, it was tried again.
        if refused.written is False and not job.keyed and refused.number in seen:
            yield f"{run.run_id}: raised as not written, but in the log: {refused.number}"
    for attempt, outcome in told.outcomes.items():
        if outcome.startswith("Traceback"):
            yield f"{run.run_id}: attempt {attempt} failed: {outcome}"
    if run.status == "success":
        raised = {refused.number for refused in told.refused}
        if missing := [n for n in range(1, job.events + 1) if n not in seen and n not in raised]:
            yield f"{run.run_id}: a success without {missing[:5]}"


def check_end(run: LoggedRun, told: Told) -> Iterator[str]:
    """The run ended as what befell it says."""
    outcomes = set(told.outcomes.values())
    if "success" in outcomes and run.status not in {"success", "lost"}:
        yield f"{run.run_id}: its producer succeeded, but it ended {run.status}"
    if run.status == "success" and not outcomes & {"success", "returned", "died", "unavailable"}:
        yield f"{run.run_id}: success, but its producers' outcomes are {sorted(outcomes)}"
    if run.status == "cancelled" and not told.cancel_requested:
        yield f"{run.run_id}: cancelled, and nobody asked"
    if run.status in {"lost", "error"} and not told.disturbed:
        yield f"{run.run_id}: {run.status}, though nothing kept its producer from the log"


def check_client(run: LoggedRun, client: Followed) -> Iterator[str]:
    """The client has the log exactly, but for what its gaps name, and its end."""
    name = f"{run.run_id}, client {client.name}"
    transcript = client.transcript
    gone = _gone(transcript)
    for place, numbers in gone.items():
        had = transcript.seqs[place - 1] if place else 0
        if not (had + 1 == numbers.start < numbers.stop <= run.floor + 1):
            yield f"{name}: a gap after {had} names {numbers}, trimmed was to {run.floor}"
    named = set(chain.from_iterable(gone.values()))
    expected = [number for number in range(1, run.head + 1) if number not in named]
    if list(transcript.seqs) != expected:
        yield f"{name}: it has not 1 to {run.head}: {_first_break(transcript.seqs, expected)}"
    elif transcript.digest != _digest(run, named):
        yield f"{name}: it has other events than the log"
    if not client.ended:
        yield f"{name}: it was told of no end"
    elif client.status not in {None, run.status}:
        yield f"{name}: it was told {client.status}, the run ended {run.status}"
    for failure, times in client.failures.items():
        yield f"{name}: {times} times {failure}"


def _gone(transcript: Transcript) -> dict[int, range]:
    """Return the numbers that gaps name, by how many events the client had before."""
    gone: dict[int, range] = {}
    for place, gap in transcript.gaps:
        before = gone.get(place)
        # More was trimmed before the first event came; or the client has come back without one.
        goes_on = before is not None and before.stop == gap.requested + 1
        start = before.start if before is not None and goes_on else gap.requested + 1
        gone[place] = range(start, gap.earliest)
    return gone


def check_rest(name: str, left: Collection[object]) -> Iterator[str]:
    """Nothing of a kind is left over."""
    if left:
        yield f"left over: {name}: {sorted(map(str, left))[:5]}"


def _may_skip(job: Job) -> bool:
    """Whether the producer goes on after a publish that raised."""
    return not job.keyed and job.how in {"publish", "sync publish", "transactions"}


def _digest(run: LoggedRun, gone: Collection[int]) -> str:
    transcript = Transcript()
    for event in run.events:
        if event.seq not in gone:
            transcript.add(
                f"{run.epoch}-{event.seq}".encode(), event.event.encode(), event.data.encode()
            )
    return transcript.digest


def _first_break(numbers: Sequence[int], expected: Iterable[int] | None = None) -> str:
    for index, (number, wanted) in enumerate(zip(numbers, expected or count(1), strict=False)):
        if number != wanted:
            return f"{numbers[index]} after {list(numbers[max(0, index - 2) : index])}"
    return f"{len(numbers)} of them"
