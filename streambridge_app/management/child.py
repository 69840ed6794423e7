"""
A command whose output is read while it runs.

It must never outlive the block that started it when that is left by an exception.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import IO, Final, Self, cast

from .lines import IDLE_SECONDS, Line, Signals, read_lines

TERMINATE_SECONDS: Final = 5.0
"""Seconds between asking a command to end and killing it."""

_POLL_SECONDS: Final = 0.05


class Child:
    """
    A command in a process group of its own, so that what it starts ends with it.

    Its standard error is ours. So is its standard input, unless that is a terminal: only the
    group in the foreground may read from one.

    Raises:
        OSError: the command can't be started.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        terminal = sys.stdin is None or sys.stdin.isatty()
        self._process = subprocess.Popen(  # noqa: S603 - the caller's own command, without a shell
            argv,
            stdin=subprocess.DEVNULL if terminal else None,
            stdout=subprocess.PIPE,
            process_group=0,
        )
        self._output = cast("IO[bytes]", self._process.stdout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if exc is not None:
                self._end()
        finally:
            self._output.close()

    def lines(self, limit: int, signals: Signals) -> Iterator[Line | None]:
        """Yield what :func:`read_lines` does, and go on with None until the command ends."""
        yield from read_lines(self._output.fileno(), limit, signals)
        while True:
            with signals.waiting(), contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(IDLE_SECONDS)
                return
            yield None

    @property
    def returncode(self) -> int:
        """The exit status; minus the number of a signal that ended the command."""
        return self._process.returncode

    def _end(self) -> None:
        """Ask the group to end, and kill what is left of it."""
        self._send(signal.SIGTERM)
        deadline = time.monotonic() + TERMINATE_SECONDS
        try:
            while self._alive() and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
        finally:
            self._send(signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(IDLE_SECONDS)

    def _alive(self) -> bool:
        # Until the command itself is reaped, it counts as a member of its group.
        return self._process.poll() is None or self._send(0)

    def _send(self, signum: int) -> bool:
        """Send a signal to the group; return whether there is one to send to."""
        try:
            os.killpg(self._process.pid, signum)
        except (ProcessLookupError, PermissionError):
            return False
        return True
