"""
Check a deployment as it stands, and say what to do about what is wrong.

It must come to an end whatever hangs, print no password, and leave nothing behind.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, Final

from django.core.management.base import CommandError, CommandParser

from ...doctor import CHECKS, FAIL, OK, WARNING, Outcome, Partner, Visit, examine, serve
from ..base import BridgeCommand, awaited

WIDTH: Final = 96
"""Columns of the report."""

_STATUS: Final = {FAIL: "FAIL"}
"""How a status is written, if not as it is."""

_STATUS_WIDTH: Final = 9
_NAME_WIDTH: Final = 2 + max(len(check.name) for check in CHECKS)


def seconds(text: str) -> float:
    """
    Return a number of seconds above 0.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0.")
    return value


class Command(BridgeCommand):
    help = (
        "Checks whether StreamBridge will work with these settings, in this environment: the "
        "settings, the log's database, the channel layer from process to process, the ASGI "
        "application, and the way of events from a publisher to a subscriber. The exit status "
        "is 1 if a check failed. It publishes a run of its own and deletes it."
    )
    program: Sequence[str] = ("-m", "django")
    """How the second process is started, but for the interpreter."""
    hanging = False
    """Whether a thread may have been left in a call that doesn't end."""

    def run_from_argv(self, argv: list[str]) -> None:
        if argv[0].endswith(".py") and os.path.basename(argv[0]) != "__main__.py":
            self.program = (argv[0],)
        # What the services say while they fail is in the report, and may hold passwords elsewhere.
        logging.disable()
        status: Any = 0
        try:
            super().run_from_argv(argv)
        except SystemExit as end:
            status = end.code
        if self.hanging:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        sys.exit(status)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--timeout",
            type=seconds,
            default=5.0,
            metavar="SECONDS",
            help="Time for each check (default: 5).",
        )
        parser.add_argument("--json", action="store_true", help="Print one JSON object.")
        parser.add_argument("--partner", action="store_true", help=argparse.SUPPRESS)

    def handle(self, *args: Any, **options: Any) -> None:
        if options["partner"]:
            serve()
        outcomes = []
        visit = Visit(options["timeout"], Partner(self.program))
        self.hanging = True
        try:
            for outcome in awaited(examine(CHECKS, visit)):
                outcomes.append(outcome)
                if not options["json"]:
                    self._show(outcome)
        except KeyboardInterrupt:
            sys.exit(130)
        failed = [outcome for outcome in outcomes if outcome.status == FAIL]
        self.hanging = bool(failed)
        if options["json"]:
            checks = [outcome.as_json() for outcome in outcomes]
            self.stdout.write(json.dumps({"ok": not failed, "checks": checks}, indent=2))
        if failed:
            raise CommandError(f"{len(failed)} of {len(CHECKS)} checks failed.")

    def _show(self, outcome: Outcome) -> None:
        texts = [outcome.text] if outcome.text else []
        for problem in outcome.problems:
            texts.append(problem.text)
            if problem.hint:
                texts.append(f"-> {problem.hint}")
        status = _STATUS.get(outcome.status, outcome.status).ljust(_STATUS_WIDTH)
        margin = " " * (_STATUS_WIDTH + _NAME_WIDTH)
        lines = [line for text in texts for line in _wrapped(text)]
        self.stdout.write(
            self._style_of(outcome)(status)
            + outcome.check.ljust(_NAME_WIDTH)
            + f"\n{margin}".join(lines)
        )
        self.stdout.flush()

    def _style_of(self, outcome: Outcome) -> Any:
        styles = {OK: self.style.SUCCESS, WARNING: self.style.WARNING, FAIL: self.style.ERROR}
        return styles.get(outcome.status, self.style.NOTICE)


def _wrapped(text: str) -> list[str]:
    width = WIDTH - _STATUS_WIDTH - _NAME_WIDTH
    indent = "   " if text.startswith("-> ") else ""
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False)
