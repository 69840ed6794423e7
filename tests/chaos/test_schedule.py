"""The seed reproduces the schedule."""

import os
import subprocess
import sys

from tests.chaos.schedule import COUNTS, FAULTS, draw
from tests.services import ROOT


def test_a_seed_and_a_length_are_always_the_same_schedule() -> None:
    assert draw(7, 60) == draw(7, 60)


def test_another_process_draws_the_same() -> None:
    script = "from tests.chaos.schedule import draw; print(draw(7, 60))"
    printed = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=ROOT,
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert printed == [f"{draw(7, 60)}\n"] * 2


def test_another_seed_is_another_schedule() -> None:
    assert draw(7, 60).faults != draw(8, 60).faults
    assert draw(7, 60).jobs != draw(8, 60).jobs


def test_a_short_run_has_each_kind_of_fault() -> None:
    for seed in range(20):
        assert {fault.kind for fault in draw(seed, 20).faults} == set(FAULTS)


def test_faults_lie_in_the_run_and_hit_what_there_is() -> None:
    for fault in draw(3, 600).faults:
        target, shortest, longest = FAULTS[fault.kind]
        assert 0 < fault.at < 600
        assert fault.target == target
        assert 0 <= fault.index < COUNTS[target]
        assert shortest <= fault.seconds <= longest


def test_a_long_run_has_hundreds_of_runs_and_a_million_events() -> None:
    for seed in range(5):
        jobs = draw(seed, 600).jobs
        assert len(jobs) > 500
        assert sum(job.events for job in jobs) > 1_000_000
