"""
Delete the runs that have been kept long enough.

Servers delete what is past its cleanup deadline by themselves; this command also takes the runs
that nobody cleans up. It must never hold a lock for longer than one bounded transaction.
"""

from __future__ import annotations

import argparse
import datetime
import re
import sys
from collections.abc import Iterator
from typing import Any, Final

from django.core.management.base import CommandParser
from django.db.models import QuerySet
from django.utils import timezone

from ... import log
from ...conf import streambridge_settings
from ...log_threads import guarded
from ...models import Run
from ..base import BridgeCommand

RUNS_AT_ONCE: Final = 100
"""Keys of runs read in one query."""

_UNIT_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)([smhdw]?)", re.ASCII)
_BAR_WIDTH: Final = 30


def duration(text: str) -> datetime.timedelta:
    """
    Return the duration that ``90``, ``90s``, ``15m``, ``12h``, ``7d`` or ``2w`` means.

    Raises:
        argparse.ArgumentTypeError: it is none of these, or longer than Python can express.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a duration: give seconds, or a number with s, m, h, d or w."
        )
    try:
        return datetime.timedelta(seconds=float(match[1]) * _UNIT_SECONDS[match[2]])
    except OverflowError:
        raise argparse.ArgumentTypeError(f"{text!r} is too long.") from None


class Command(BridgeCommand):
    help = (
        "Deletes the runs that ended longer ago than their keep time, and those whose cleanup "
        "deadline has passed. Runs that go on are never touched without such a deadline."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--older-than",
            type=duration,
            metavar="DURATION",
            help="Keep time, counted from a run's end: seconds, or 90s, 15m, 12h, 7d, 2w "
            '(default: STREAMBRIDGE["KEEP_SECONDS"]).',
        )
        parser.add_argument("--dry-run", action="store_true", help="Delete nothing, only count.")

    def handle(self, *args: Any, **options: Any) -> None:
        using = streambridge_settings.DATABASE
        now = timezone.now()
        due = guarded(using, log.due, using, now, sys.maxsize)
        expired = _expired(using, now, options["older_than"])
        total = len(due) + guarded(using, expired.count)
        if options["dry_run"]:
            self.stdout.write(f"Would delete {_count(total, 'run')}.")
            return
        progress = _Progress(self, total)
        for key in _keys(due, expired, using):
            for number, events in enumerate(_deletion(key, using)):
                # Nothing is yielded for a run that another prune has deleted.
                progress.add(runs=0 if number else 1, events=events)
        progress.close()
        self.stdout.write(
            f"Deleted {_count(progress.runs, 'run')} with {_count(progress.events, 'event')}."
        )


def _expired(
    using: str, now: datetime.datetime, older_than: datetime.timedelta | None
) -> QuerySet[Run]:
    """Return the runs past their keep time, but for those that are due for cleanup anyway."""
    keep_seconds = streambridge_settings.KEEP_SECONDS
    try:
        if older_than is None:
            if keep_seconds is None:
                return Run.objects.none()
            older_than = datetime.timedelta(seconds=keep_seconds)
        ended_before = now - older_than
    except OverflowError:  # before the first year there is
        return Run.objects.none()
    return log.kept_too_long(using, ended_before).exclude(delete_at__lte=now)


def _keys(due: list[int], expired: QuerySet[Run], using: str) -> Iterator[int]:
    yield from due
    last = 0
    while True:
        batch = expired.filter(id__gt=last).order_by("id").values_list("id", flat=True)
        keys: list[int] = guarded(using, list, batch[:RUNS_AT_ONCE])
        if not keys:
            return
        yield from keys
        last = keys[-1]


def _deletion(key: int, using: str) -> Iterator[int]:
    """Yield the events that each transaction deletes; may raise LogUnavailable."""
    deletion = log.delete(key, using)
    while (events := guarded(using, next, deletion, None)) is not None:
        yield events


class _Progress:
    """Counts what was deleted and, on a terminal, draws a bar."""

    def __init__(self, command: BridgeCommand, total: int) -> None:
        self.runs = 0
        self.events = 0
        self._total = total
        self._stderr = command.stderr
        self._drawn = command.verbosity > 0 and self._stderr.isatty()

    def add(self, *, runs: int, events: int) -> None:
        self.runs += runs
        self.events += events
        if self._drawn:
            self._draw()

    def close(self) -> None:
        if self._drawn and self.runs:
            self._stderr.write("")

    def _draw(self) -> None:
        share = min(1.0, self.runs / max(1, self._total))
        bar = ("#" * round(share * _BAR_WIDTH)).ljust(_BAR_WIDTH, ".")
        text = f"\r[{bar}] {self.runs}/{self._total} runs, {self.events} events"
        self._stderr.write(text, style_func=str, ending="")
        self._stderr.flush()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
