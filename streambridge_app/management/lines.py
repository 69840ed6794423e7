"""
Lines as they come, from a file descriptor that may be silent for hours or never end a line.

It must never hold more than one line of the size allowed, and never be torn apart by a signal:
signals are raised only while nothing but waiting is done.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, Final, NamedTuple, Self

IDLE_SECONDS: Final = 1.0
"""Seconds of silence after which a reader is asked whether to go on."""

_CHUNK: Final = 65_536


class Line(NamedTuple):
    """One line without its end."""

    number: int
    """1, 2, 3 …"""
    content: bytes


class LineTooLong(Exception):
    """A line is longer than allowed; it was not read to its end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Stopped(KeyboardInterrupt):
    """The work is to be given up: a producer handle that it leaves ends its run ``cancelled``."""

    def __init__(self, signum: int | None = None) -> None:
        super().__init__()
        self.signum = signum


class Signals:
    """
    Turns the signals that ask a process to end into :class:`Stopped`, inside :meth:`waiting` only.

    Anywhere else an exception could leave a producer handle's buffer half changed. The second
    signal does what it did before. A signal that the parent had ignored stays so (``nohup``).
    """

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}
        self._waiting = False
        self._received: int | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    self._previous[signum] = signal.signal(signum, self._receive)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous.clear()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Let signals interrupt the block, those that came before it too."""
        self._waiting = True
        try:
            # A signal after the line above raises by itself, one before it is found here.
            if self._received is not None:
                raise Stopped(self._received)
            yield
        finally:
            self._waiting = False

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self._received = signum
        self.__exit__()
        if self._waiting:
            raise Stopped(signum)


def read_lines(fd: int, limit: int, signals: Signals) -> Iterator[Line | None]:
    """
    Yield the lines of a file descriptor as they come, and None after each second of silence.

    A line ends with LF or CRLF; what follows the last one is a line too.

    Args:
        fd: a file descriptor open for reading.
        limit: the most bytes that a line may have.
        signals: those that may interrupt the wait for more.

    Raises:
        LineTooLong: a line has more bytes.
        Stopped: a signal came.
    """
    number = 1
    line = bytearray()
    while True:
        with signals.waiting():
            readable, _, _ = select.select([fd], [], [], IDLE_SECONDS)
        if not readable:
            yield None
            continue
        chunk = os.read(fd, _CHUNK)
        if not chunk:
            break
        first, *others = chunk.split(b"\n")
        line += first
        for following in others:
            yield _line(number, line, limit)
            number += 1
            line[:] = following
        if len(line) > limit:
            raise LineTooLong(number)
    if line:
        yield _line(number, line, limit)


def iterate_lines(stream: Iterable[str], limit: int) -> Iterator[Line]:
    """
    Yield the lines of text that is no file's, as tests put it in the place of standard input.

    Args and errors are those of :func:`read_lines`.
    """
    for number, text in enumerate(stream, 1):
        yield _line(number, bytearray(text.removesuffix("\n").encode()), limit)


def _line(number: int, content: bytearray, limit: int) -> Line:
    if len(content) > limit:
        raise LineTooLong(number)
    return Line(number, bytes(content).removesuffix(b"\r"))
