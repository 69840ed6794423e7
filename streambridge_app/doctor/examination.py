"""
Make the checks one after the other: each with its own deadline, none in the way of another.

It must come to its end whatever a service does. A call that hangs in a thread is left behind: the
thread is a daemon, and what it holds goes with the process.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final

from . import passwords
from .check import Check, Visit
from .findings import FAIL, SKIPPED, Failed, Found, Outcome, Problem, status_of

GRACE: Final = 2.0
"""Seconds that a check may take after its deadline, to clean up behind itself."""

_LONGEST: Final = 600
"""Characters of a text; the rest is cut."""


async def examine(checks: Sequence[Check], visit: Visit) -> AsyncIterator[Outcome]:
    """Make the checks and yield what comes of each; ends the partner."""
    secrets = passwords.configured()
    missing: set[str] = set()
    try:
        for check in checks:
            outcome = await _outcome(check, visit, missing)
            if outcome.status in (FAIL, SKIPPED):
                missing.add(check.name)
            yield _printable(outcome, secrets)
    finally:
        await visit.partner.end()


async def _outcome(check: Check, visit: Visit, missing: set[str]) -> Outcome:
    needed = [name for name in check.needs if name in missing]
    if needed:
        return Outcome(check.name, SKIPPED, f"needs {', '.join(needed)}")
    started = time.perf_counter()
    try:
        found = await _in_time(check, visit)
    except Failed as failure:
        found = Found("", (Problem(FAIL, str(failure), failure.hint or check.hint),))
    except Exception as error:
        found = Found("", (Problem(FAIL, f"{type(error).__name__}: {error}", check.hint),))
    return Outcome(
        check.name,
        status_of(found.problems),
        found.text,
        round(time.perf_counter() - started, 6),
        found.problems,
    )


async def _in_time(check: Check, visit: Visit) -> Found:
    """
    Make a check, and leave it behind if it doesn't even end when it is cancelled.

    Raises:
        Failed: its time is over.
    """
    seconds = max(visit.timeout, check.least)
    task = asyncio.ensure_future(_limited(check, visit, seconds))
    try:
        await asyncio.wait((task,), timeout=seconds + GRACE)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait((task,), timeout=GRACE)
        raise
    if not task.done():
        task.cancel()
        raise Failed(f"no answer within {seconds:g} s")
    return task.result()


async def _limited(check: Check, visit: Visit, seconds: float) -> Found:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await check.examine(visit)
    except TimeoutError as error:  # this deadline, or a shorter one within
        late = f"no answer within {seconds:g} s" if limit.expired() else "no answer in time"
        # A client that tries again and again hides what it fails at.
        reason = _reason(error)
        raise Failed(f"{late} ({reason})" if reason else late) from error


def _reason(error: BaseException) -> str:
    """Return the error that a deadline interrupted the handling of, if there is one."""
    behind: BaseException | None = error
    while behind is not None:
        if not isinstance(behind, TimeoutError | asyncio.CancelledError):
            return f"{type(behind).__name__}: {behind}"
        behind = behind.__cause__ or behind.__context__
    return ""


def _printable(outcome: Outcome, secrets: set[str]) -> Outcome:
    def printable(text: str) -> str:
        text = passwords.without(" ".join(text.split()), secrets)
        text = "".join(character if character.isprintable() else "?" for character in text)
        return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"

    return dataclasses.replace(
        outcome,
        text=printable(outcome.text),
        problems=tuple(
            Problem(problem.status, printable(problem.text), printable(problem.hint))
            for problem in outcome.problems
        ),
    )
