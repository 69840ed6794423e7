"""
One pass of the sweeper, by hand or by cron.

Servers sweep by themselves; this is for when there is none, and to delete more. It must never hold
a lock for longer than one bounded transaction.
"""

from __future__ import annotations

import argparse
import datetime
import re
from typing import Any, Final

from django.core.management.base import CommandError, CommandParser

from ...backends.channel_layer import ChannelLayerBridge
from ...backends.in_transaction import InTransactionBridge
from ...log import Swept, guarded, orphans, past_keep, retention, sweep_alone
from ...registry import get_bridge
from ..base import BridgeCommand

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
        "Deletes the runs that ended longer ago than their keep time, those whose cleanup "
        "deadline has passed, those that a publish made and nobody has ended for "
        "KEEP_SILENT_SECONDS, and what runs have over their limits; ends runs whose lease has "
        "expired; and deletes what is left of runs that are gone. Other runs that go on are never "
        "touched."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--older-than",
            type=duration,
            metavar="DURATION",
            help="Keep time of all runs, counted from their end: seconds, or 90s, 15m, 12h, 7d, "
            "2w (default: what runs and settings say).",
        )
        parser.add_argument("--dry-run", action="store_true", help="Delete nothing, only count.")

    def handle(self, *args: Any, **options: Any) -> None:
        bridge = get_bridge()
        if not isinstance(bridge, ChannelLayerBridge | InTransactionBridge):
            raise CommandError("The runs of this backend are not in the database.")
        using, older_than = bridge.using, options["older_than"]
        total = sum(guarded(using, query.count) for query in past_keep(using, older_than))
        orphaned = guarded(using, orphans.find, using)
        total += len(orphaned)
        if options["dry_run"]:
            limited = len(guarded(using, retention.over_limits, using))
            trims = f" and trim {_count(limited, 'run')}" if limited else ""
            self.stdout.write(f"Would delete {_count(total, 'run')}{trims}.")
            return
        guarded(using, orphans.adopt, orphaned, using)
        progress = _Progress(self, total)
        steps = sweep_alone(using, bridge.committed, older_than)
        while (step := guarded(using, next, steps, None)) is not None:
            progress.add(step)
        progress.close()
        self.stdout.write(_report(progress.done))


def _report(done: Swept) -> str:
    report = f"Deleted {_count(done.runs, 'run')} with {_count(done.events, 'event')}."
    if done.trimmed:
        report += f" Trimmed {_count(done.trimmed, 'event')} of runs over their limits."
    if done.lost:
        report += f" Ended {_count(done.lost, 'run')} as lost."
    return report


class _Progress:
    """Counts what was deleted and, on a terminal, draws a bar."""

    def __init__(self, command: BridgeCommand, total: int) -> None:
        self.done = Swept()
        self._total = total
        self._stderr = command.stderr
        self._drawn = command.verbosity > 0 and self._stderr.isatty()

    def add(self, step: Swept) -> None:
        self.done = self.done.plus(step)
        if self._drawn:
            self._draw()

    def close(self) -> None:
        if self._drawn and self.done != Swept():
            self._stderr.write("")

    def _draw(self) -> None:
        share = min(1.0, self.done.runs / max(1, self._total))
        bar = ("#" * round(share * _BAR_WIDTH)).ljust(_BAR_WIDTH, ".")
        text = f"\r[{bar}] {self.done.runs}/{self._total} runs, {self.done.events} events"
        self._stderr.write(text, style_func=str, ending="")
        self._stderr.flush()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
