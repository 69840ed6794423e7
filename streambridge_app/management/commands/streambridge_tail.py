"""
Follow a run in the terminal until it ends.

It must never show an event twice or skip one without saying so, nor let what others publish
control the terminal.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from django.core.management.base import CommandError, CommandParser

from ...contract import (
    END_SENTINEL,
    GAP_EVENT,
    SUCCESS,
    Batch,
    End,
    Gap,
    Heartbeat,
    Item,
    gap,
    is_readable,
)
from ...exceptions import RunNotFound
from ...registry import get_sync_bridge
from ..base import BridgeCommand

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""What a terminal could take for a command; JSON itself escapes only a part of it."""


class Command(BridgeCommand):
    help = (
        "Follows RUN from its start until it ends: one line an event, with its id, name and "
        "data. A run that doesn't exist yet is waited for. The exit status is 0 if the run ended "
        "as success, and 1 if it ended otherwise."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("run", metavar="RUN", help="Id of the run.")
        parser.add_argument(
            "--after",
            metavar="ID",
            help='Id of the last event you have; or "now", for what comes next only.',
        )
        parser.add_argument(
            "--json",
            action="store_true",
            help='Each line is a JSON object {"id", "event", "data"}; so are a gap, named '
            '"__gap__", and the end, named "__end__".',
        )

    def handle(self, *args: Any, **options: Any) -> None:
        run_id = options["run"]
        items = get_sync_bridge().follow(run_id, last_event_id=options["after"])
        show = self._show_json if options["json"] else self._show
        try:
            self._remark_missing(run_id)
            for item in items:
                show(run_id, item)
                self.stdout.flush()
                if isinstance(item, End) and item.status != SUCCESS:
                    raise CommandError(f"The run {run_id!r} ended as {item.status}.")
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
        except BrokenPipeError:
            # Python flushes standard output once more at its end, which must not fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)

    def _remark_missing(self, run_id: str) -> None:
        try:
            get_sync_bridge().get_run(run_id)
        except RunNotFound:
            self.remark(f"There is no run {run_id!r} yet; waiting for it.")

    def _show(self, run_id: str, item: Item) -> None:
        if isinstance(item, Gap):
            rest = f"going on with {item.earliest}" if item.earliest else "nothing of it is left"
            self.remark(f"Gap: not all that was asked for is in the log; {rest}.")
        elif isinstance(item, End):
            if item.status == SUCCESS:
                self.remark(f"The run {run_id!r} ended as {item.status}.")
        elif not isinstance(item, Heartbeat):
            rows = list(_rows(item))
            self._write(f"{row.id}  {_harmless(row.name)}  {_harmless(row.data)}" for row in rows)
            for row in rows:
                if not is_readable(row.data):
                    self.remark(f"The data of the event {row.id} is no JSON.")

    def _show_json(self, run_id: str, item: Item) -> None:
        if isinstance(item, Gap):
            rows: Iterable[_Row] = [_Row("", GAP_EVENT, json.dumps(item.data()))]
        elif isinstance(item, End):
            how = {"status": item.status, "error": item.error}
            rows = [_Row(item.position, END_SENTINEL.event, json.dumps(how))]
        elif isinstance(item, Heartbeat):
            return
        else:
            rows = _readable_rows(item)
        self._write(
            _harmless(f'{{"id": "{row.id}", "event": {json.dumps(row.name)}, "data": {row.data}}}')
            for row in rows
        )

    def _write(self, lines: Iterable[str]) -> None:
        self.stdout.write("\n".join(lines))


class _Row(NamedTuple):
    id: str
    name: str
    data: str
    """One line of JSON text, if nobody has changed it by hand."""


def _rows(batches: Sequence[Batch]) -> Iterator[_Row]:
    for batch in batches:
        for seq, (name, data) in enumerate(zip(batch.names, batch.data, strict=True), batch.first):
            yield _Row(f"{batch.epoch}-{seq}", name, data)


def _readable_rows(batches: Sequence[Batch]) -> Iterator[_Row]:
    """Yield a gap in the place of each row whose data would break the line of JSON."""
    for row in _rows(batches):
        if is_readable(row.data):
            yield row
        else:
            epoch, seq = map(int, row.id.split("-"))
            instead = gap(epoch, seq, seq, batches[-1].last)
            yield _Row("", GAP_EVENT, json.dumps(instead.data))


def _harmless(text: str) -> str:
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
