"""How far the clock of this machine and that of the database are apart."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from .database import log_connection, query
from .findings import FAIL, WARNING, Found, Problem
from .times import shown

SAMPLES: Final = 5
WARNING_SECONDS: Final = 1.0
FAIL_SECONDS: Final = 5.0


class Sample(NamedTuple):
    """One look at the database's clock, all in seconds since 1970."""

    asked: float
    """This machine's time before."""
    told: float
    """The database's time."""
    answered: float
    """This machine's time after."""


def check_clock() -> Found:
    """Compare the two clocks."""
    with log_connection() as connection:
        if connection.vendor != "postgresql":
            return Found("the database has no other clock than this machine's")
        samples = []
        for _ in range(SAMPLES):
            asked = time.time()
            (told,) = query(connection, "SELECT extract(epoch FROM clock_timestamp())::float8")
            samples.append(Sample(asked, told, time.time()))
    return judge(samples)


def judge(samples: Sequence[Sample]) -> Found:
    """
    Return what the best sample says, the one with the shortest round trip.

    The database has read its clock at some moment of the round trip: only what lies beyond that
    is held against it.
    """
    best = min(samples, key=lambda sample: sample.answered - sample.asked)
    margin = (best.answered - best.asked) / 2
    ahead = best.told - (best.asked + best.answered) / 2
    apart = abs(ahead)
    text = f"the database is {shown(apart)} {'ahead' if ahead > 0 else 'behind'}, give or take "
    text += shown(margin)
    status = FAIL if apart - margin > FAIL_SECONDS else WARNING
    if apart - margin <= WARNING_SECONDS:
        return Found(text)
    problem = Problem(
        status,
        f"the clocks are {shown(apart)} apart: deadlines and keep times are off by as much",
        "Let both machines take their time from the network (chrony, systemd-timesyncd).",
    )
    return Found(text, (problem,))
