"""
Publish the lines of standard input, or of a command's output while it runs, as events of a run.

The shell's way into a run: it must leave the run ended, whatever becomes of the input, of the
command or of itself.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

from django.core.management.base import CommandError, CommandParser

from ...conf import streambridge_settings
from ...contract import SyncStreamBridge, check_event_name
from ...exceptions import InvalidEvent, LogUnavailable, RunExists, RunNotFound, run_ended
from ...registry import get_sync_bridge
from ..base import BridgeCommand
from ..child import Child
from ..lines import Line, LineTooLong, Signals, Stopped, iterate_lines, read_lines

CANNOT_START: Final = 127
"""Exit status for a command that can't be started, as shells have it."""

_EXCERPT: Final = 60


class BadLine(CommandError):
    """A line that can't be published."""

    def __init__(self, number: int, complaint: str) -> None:
        super().__init__(f"Line {number} {complaint}")


class CommandFailed(CommandError):
    """The command whose output was published can't be started, or failed."""


class Command(BridgeCommand):
    help = (
        "Publishes each line of standard input as an event of RUN, as it comes: the data is "
        '{"line": …}. With "-- CMD …", the lines of that command\'s output, while it runs; its '
        "errors go to the terminal. The run is created if it doesn't exist. It ends as success; "
        "as error on a bad line, or when the command fails; as cancelled when this is interrupted "
        "or the run is asked to cancel, and then the command is ended too. Many programs hold "
        "back what they print into a pipe: run them unbuffered, like python -u or stdbuf -oL."
    )
    # From Python: call_command("streambridge_publish", run, command=["make", "all"]).
    stealth_options = ("command",)
    command: Sequence[str] | None = None

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        usage = "%(prog)s RUN [--event NAME] [--json] [options] [-- CMD …]"
        return super().create_parser(prog_name, subcommand, usage=usage, **kwargs)

    def run_from_argv(self, argv: list[str]) -> None:
        # argparse would take the command's own options for ours.
        if "--" in argv:
            split = argv.index("--")
            argv, self.command = argv[:split], argv[split + 1 :]
        super().run_from_argv(argv)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.set_defaults(command=self.command)
        parser.add_argument("run", metavar="RUN", help="Id of the run.")
        parser.add_argument(
            "--event", default="line", metavar="NAME", help="Name of the events (default: line)."
        )
        parser.add_argument(
            "--json",
            action="store_true",
            help="Each line is JSON, and the data of its event; blank lines are skipped.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        run_id, command = options["run"], options["command"]
        event = check_event_name(options["event"])
        if command is not None and not command:
            raise CommandError("No command follows the two dashes.")
        if command is None and sys.stdin is None:
            raise CommandError("Standard input is closed.")
        bridge = get_sync_bridge()
        with contextlib.suppress(RunExists):
            bridge.create_run(run_id)
        _refuse_ended(bridge, run_id)
        self._published = 0
        try:
            with Signals() as signals:
                self._publish(bridge, run_id, event, options["json"], command, signals)
        except (CommandError, Stopped) as error:
            self._report(run_id, error)
            if not isinstance(error, Stopped):
                raise
            if error.signum is None:
                raise CommandError(f"The run {run_id!r} was cancelled on request.") from None
            self.remark(f"Stopped by {signal.Signals(error.signum).name}.")
            sys.exit(128 + error.signum)
        self._report(run_id)

    def _publish(
        self,
        bridge: SyncStreamBridge,
        run_id: str,
        event: str,
        as_json: bool,
        command: Sequence[str] | None,
        signals: Signals,
    ) -> None:
        limit = streambridge_settings.MAX_EVENT_BYTES
        # The command ends first, then the run: who sees the end sees it done.
        with bridge.producer(run_id) as producer, _source(command, limit, signals) as lines:
            try:
                for line in lines:
                    if line is not None and not (as_json and not line.content.strip()):
                        try:
                            producer.publish(event, _data(line, as_json))
                        except InvalidEvent as error:
                            raise BadLine(line.number, f"can't be published: {error}") from error
                        self._published += 1
                    if producer.cancel_requested or (
                        line is None and _cancel_requested(bridge, run_id)
                    ):
                        raise Stopped
            except LineTooLong as error:
                raise BadLine(
                    error.number,
                    f"has more than {limit} bytes, which is all that "
                    "STREAMBRIDGE['MAX_EVENT_BYTES'] allows.",
                ) from error

    def _report(self, run_id: str, error: BaseException | None = None) -> None:
        plural = "" if self._published == 1 else "s"
        self.remark(f"Published {self._published} event{plural} to the run {run_id!r}.")
        for note in getattr(error, "__notes__", ()):
            self.remark(note)


@contextlib.contextmanager
def _source(
    command: Sequence[str] | None, limit: int, signals: Signals
) -> Iterator[Iterator[Line | None]]:
    """Open what is to be published; on leaving, raise CommandFailed if the command did."""
    if command is None:
        try:
            fd = sys.stdin.fileno()
        except OSError:
            yield iterate_lines(sys.stdin, limit)
        else:
            yield read_lines(fd, limit, signals)
        return
    try:
        child = Child(command)
    except OSError as error:
        raise CommandFailed(
            f"The command {command[0]!r} can't be started: {error.strerror}.",
            returncode=CANNOT_START,
        ) from error
    with child:
        yield child.lines(limit, signals)
    status = child.returncode
    if status:
        ended = f"exit status {status}" if status > 0 else f"the signal {-status}"
        # Not its arguments: they may hold secrets, and the run's readers see this.
        raise CommandFailed(
            f"The command {command[0]!r} ended with {ended}.",
            returncode=status if status > 0 else 128 - status,
        )


def _data(line: Line, as_json: bool) -> Any:
    try:
        text = line.content.decode()
    except UnicodeDecodeError as error:
        raise BadLine(
            line.number,
            f"is not UTF-8: byte 0x{line.content[error.start]:02x} at position {error.start + 1}.",
        ) from error
    if not as_json:
        return {"line": text}
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        complaint = f"{error.msg} at column {error.colno}"
    except (ValueError, RecursionError) as error:
        complaint = str(error)
    raise BadLine(line.number, f"is not JSON ({complaint}): {text[:_EXCERPT]!r}.")


def _cancel_requested(bridge: SyncStreamBridge, run_id: str) -> bool:
    """Ask the log for what a producer handle learns from its commits only."""
    try:
        return _refuse_ended(bridge, run_id)
    except (RunNotFound, LogUnavailable):
        return False  # for the next event to find out


def _refuse_ended(bridge: SyncStreamBridge, run_id: str) -> bool:
    """Return whether a run was asked to cancel; raise RunEnded if it has ended."""
    state = bridge.get_run(run_id)
    if state.ended:
        raise run_ended(run_id)
    return state.cancel_requested
