"""What must hold after a chaos run can be found broken."""

import dataclasses
import json
from collections.abc import Callable, Iterator

import pytest

from tests.chaos import schedule
from tests.chaos.invariants import (
    Followed,
    Gap,
    Logged,
    LoggedRun,
    Refused,
    Told,
    Transcript,
    check_client,
    check_end,
    check_log,
    check_rest,
    check_told,
)
from tests.chaos.schedule import Job

EPOCH = 1_000


def a_job(**changes: object) -> Job:
    job = schedule.draw(1, 20).jobs[0]
    return dataclasses.replace(
        job, run_id="run", how="handle", events=5, keyed=False, retried=True, **changes
    )


def number(seq: int, n: int | None = None, by: int = 1) -> Logged:
    return Logged(seq, "number", json.dumps({"n": n or seq, "by": by}))


def a_run(*events: Logged, **changes: object) -> LoggedRun:
    logged = events or tuple(number(seq) for seq in range(1, 6))
    run = LoggedRun("run", EPOCH, len(logged), 0, "success", None, None, logged)
    return dataclasses.replace(run, **changes)


def told(**changes: object) -> Told:
    return dataclasses.replace(Told([(1, 1, 5)], [], {1: "success"}), **changes)


def a_client(*events: Logged, **changes: object) -> Followed:
    transcript = Transcript()
    for event in events or a_run().events:
        transcript.add(f"{EPOCH}-{event.seq}".encode(), b"number", event.data.encode())
    return dataclasses.replace(
        Followed("0 (sse)", "run", transcript, "success", ended=True), **changes
    )


def violations(run: LoggedRun, told: Told, job: Job, client: Followed) -> Iterator[str]:
    yield from check_log(run)
    yield from check_told(run, told, job)
    yield from check_end(run, told)
    yield from check_client(run, client)


def test_a_run_without_fault_is_right() -> None:
    assert list(violations(a_run(), told(), a_job(), a_client())) == []


LOST = Logged(6, "error", json.dumps({"error": "ProducerLost", "message": ""}))
FIVE = tuple(number(seq) for seq in range(1, 6))


def lost(*events: Logged) -> LoggedRun:
    return a_run(*events, status="lost")


def test_a_lost_run_is_right_with_one_error_event_at_its_end() -> None:
    run = lost(*FIVE, LOST)
    assert list(check_log(run)) == []
    assert list(check_end(run, told(disturbed=True, outcomes={1: "died"}))) == []


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (a_run(number(1), number(3), head=3), "the numbers are not 1 to 3: 3 after [1]"),
        (a_run(number(1), number(1, 2)), "the numbers are not 1 to 2: 1 after [1]"),
        (a_run(head=6), "the numbers are not 1 to 6: 5 of them"),
        (a_run(status="running"), "it has not ended, but is running"),
        (a_run(lease_expires=1), "its lease is left over"),
        (lost(*FIVE), "lost with ProducerLost at [], not at [5]"),
        (lost(LOST._replace(seq=1), number(2)), "lost with ProducerLost at [1], not at [2]"),
        (
            lost(*FIVE, LOST, LOST._replace(seq=7)),
            "lost with ProducerLost at [6, 7], not at [7]",
        ),
        (a_run(*FIVE, LOST), "success with ProducerLost at [6], not at []"),
    ],
)
def test_a_broken_log(run: LoggedRun, sentence: str) -> None:
    assert list(check_log(run)) == [f"run: {sentence}"]


@pytest.mark.parametrize(
    ("run", "told", "job", "sentence"),
    [
        pytest.param(
            a_run(*FIVE, number(6, 5)),
            told(),
            a_job(),
            "in the log more than once: [5]",
            id="an event inserted twice",
        ),
        pytest.param(
            a_run(*FIVE[:4], status="lost"),
            told(),
            a_job(),
            "confirmed to attempt 1, not in the log: [5]",
            id="a confirmed event deleted",
        ),
        pytest.param(
            a_run(number(1, 2), number(2, 1), status="lost"),
            told(confirmed=[]),
            a_job(),
            "not in order: 2 after []",
            id="out of order",
        ),
        pytest.param(
            a_run(number(1), number(2, 3), status="lost"),
            told(confirmed=[]),
            a_job(),
            "a number is missing: 3 after [1]",
            id="a handle left something out",
        ),
        pytest.param(
            a_run(),
            told(refused=[Refused(5, 1, False)]),
            a_job(),
            "raised as not written, but in the log: 5",
            id="an error that was wrong",
        ),
        pytest.param(
            a_run(*FIVE[:4]),
            told(confirmed=[]),
            a_job(),
            "a success without [5]",
            id="half of a success",
        ),
        pytest.param(
            a_run(),
            told(outcomes={1: "Traceback: KeyError"}),
            a_job(),
            "attempt 1 failed: Traceback: KeyError",
            id="an unexpected error",
        ),
    ],
)
def test_a_log_that_is_not_what_the_producer_was_told(
    run: LoggedRun, told: Told, job: Job, sentence: str
) -> None:
    assert list(check_told(run, told, job)) == [f"run: {sentence}"]


def test_what_raised_may_be_there_if_nobody_knew_or_it_was_tried_again() -> None:
    assert list(check_told(a_run(), told(refused=[Refused(5, 1, None)]), a_job())) == []
    keyed = dataclasses.replace(a_job(), keyed=True)
    assert list(check_told(a_run(), told(refused=[Refused(5, 1, False)]), keyed)) == []


@pytest.mark.parametrize(
    ("run", "told", "sentence"),
    [
        (
            a_run(status="error"),
            told(disturbed=True),
            "its producer succeeded, but it ended error",
        ),
        (
            a_run(),
            told(outcomes={1: "fenced"}),
            "success, but its producers' outcomes are ['fenced']",
        ),
        (a_run(status="cancelled"), told(outcomes={}), "cancelled, and nobody asked"),
        (
            a_run(status="lost"),
            told(outcomes={}),
            "lost, though nothing kept its producer from the log",
        ),
        (
            a_run(status="error"),
            told(outcomes={1: "ended"}),
            "error, though nothing kept its producer from the log",
        ),
    ],
)
def test_an_end_that_nothing_explains(run: LoggedRun, told: Told, sentence: str) -> None:
    assert list(check_end(run, told)) == [f"run: {sentence}"]


def test_a_task_that_returned_may_have_succeeded() -> None:
    assert list(check_end(a_run(), told(outcomes={1: "died", 2: "returned"}))) == []
    assert list(check_end(lost(*FIVE, LOST), told(disturbed=True, outcomes={1: "returned"}))) == []


@pytest.mark.parametrize(
    ("client", "sentence"),
    [
        (lambda: a_client(*FIVE[:2], *FIVE[3:]), "it has not 1 to 5: 4 after [1, 2]"),
        (lambda: a_client(*FIVE[:2], *FIVE[1:]), "it has not 1 to 5: 2 after [1, 2]"),
        (lambda: a_client(*FIVE[:4]), "it has not 1 to 5: 4 of them"),
        (lambda: a_client(*FIVE[:4], number(5, 6)), "it has other events than the log"),
        (lambda: a_client(ended=False), "it was told of no end"),
        (lambda: a_client(status="lost"), "it was told lost, the run ended success"),
        (lambda: a_client(failures={"HTTP 500": 2}), "2 times HTTP 500"),
    ],
)
def test_a_client_that_has_not_the_log(client: Callable[[], Followed], sentence: str) -> None:
    assert list(check_client(a_run(), client())) == [f"run, client 0 (sse): {sentence}"]


def with_gaps(client: Followed, *gaps: tuple[int, int, int]) -> Followed:
    """Let the client be told after so many events that what follows a number is gone."""
    client.transcript.gaps = [(place, Gap(*gap)) for place, *gap in gaps]
    return client


@pytest.mark.parametrize(
    "client",
    [
        pytest.param(lambda: with_gaps(a_client(*FIVE[3:]), (0, 0, 4)), id="at the start"),
        pytest.param(lambda: with_gaps(a_client(FIVE[0], *FIVE[3:]), (1, 1, 4)), id="later"),
        pytest.param(
            lambda: with_gaps(a_client(*FIVE[3:]), (0, 0, 3), (0, 2, 4)),
            id="more trimmed before the first event came",
        ),
        pytest.param(
            lambda: with_gaps(a_client(*FIVE[2:]), (0, 0, 4), (0, 0, 3)),
            id="back without an event, at a server that has more in memory",
        ),
        pytest.param(
            lambda: with_gaps(a_client(FIVE[1], FIVE[4]), (0, 0, 2), (1, 2, 5)), id="twice"
        ),
        pytest.param(lambda: a_client(*FIVE), id="had it before"),
    ],
)
def test_a_client_of_a_trimmed_run_has_all_but_what_its_gaps_name(
    client: Callable[[], Followed],
) -> None:
    assert list(check_client(a_run(floor=4), client())) == []


@pytest.mark.parametrize(
    ("client", "sentence"),
    [
        pytest.param(
            lambda: a_client(*FIVE[3:]), "it has not 1 to 5: 4 after []", id="without a gap"
        ),
        pytest.param(
            lambda: with_gaps(a_client(*FIVE[:2], FIVE[4]), (2, 2, 5)),
            "a gap after 2 names range(3, 5), trimmed was to 3",
            id="what was not trimmed",
        ),
        pytest.param(
            lambda: with_gaps(a_client(*FIVE[1:]), (0, 0, 3)),
            "it has not 1 to 5: 2 after []",
            id="what it has",
        ),
        pytest.param(
            lambda: with_gaps(a_client(*FIVE), (2, 2, 3)),
            "a gap after 2 names range(3, 3), trimmed was to 3",
            id="nothing",
        ),
    ],
)
def test_a_client_whose_gaps_are_wrong(client: Callable[[], Followed], sentence: str) -> None:
    found = list(check_client(a_run(floor=3), client()))
    assert found == [f"run, client 0 (sse): {sentence}"]


def test_a_gap_as_a_client_reads_it() -> None:
    transcript = Transcript()
    transcript.add_gap({"requested": None, "earliest": "1000-3", "latest": "1000-9"})
    transcript.add(b"1000-3", b"number", b"3")
    transcript.add_gap({"requested": "1000-3", "earliest": "1000-7", "latest": "1000-9"})
    assert transcript.gaps == [(0, Gap(0, 3)), (1, Gap(3, 7))]


def test_leftovers() -> None:
    assert list(check_rest("threads", [])) == []
    assert list(check_rest("threads", ["two", "one"])) == ["left over: threads: ['one', 'two']"]
