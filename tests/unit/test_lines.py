"""Lines from a pipe: their ends, their limit, silence and signals."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from streambridge_app.management.lines import Line, LineTooLong, Signals, Stopped, read_lines


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Return a pipe: its end to read from, and its end to write to, for the test to close."""
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)


def read(pipe: tuple[int, int], content: bytes, limit: int = 10) -> list[Line | None]:
    reader, writer = pipe
    os.write(writer, content)
    os.close(writer)
    return [*read_lines(reader, limit, Signals())]


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"one", [b"one"]),
        (b"one\n", [b"one"]),
        (b"one\r\ntwo", [b"one", b"two"]),
        (b"\n\n", [b"", b""]),
        (b"a\rb\n", [b"a\rb"]),
        (b"0123456789\n", [b"0123456789"]),
    ],
)
def test_lines(pipe: tuple[int, int], content: bytes, lines: list[bytes]) -> None:
    assert read(pipe, content) == [*map(Line, range(1, len(lines) + 1), lines)]


@pytest.mark.parametrize("end", [b"", b"\n", b"\nmore\n"])
def test_a_line_over_the_limit(pipe: tuple[int, int], end: bytes) -> None:
    with pytest.raises(LineTooLong) as caught:
        read(pipe, b"short\n01234567890" + end)
    assert caught.value.number == 2


def test_a_line_that_comes_in_pieces_and_silence(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    lines = read_lines(reader, 10, Signals())
    os.write(writer, b"on")
    assert next(lines) is None
    os.write(writer, b"e\ntw")
    assert next(lines) == Line(1, b"one")
    os.write(writer, b"o")
    os.close(writer)
    assert next(lines) == Line(2, b"two")
    assert next(lines, "end") == "end"


def test_a_signal_waits_until_nothing_but_waiting_is_done(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.write(writer, b"one\n")
    before = signal.getsignal(signal.SIGTERM)
    with Signals() as signals:
        lines = read_lines(reader, 10, signals)
        assert next(lines) == Line(1, b"one")
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is before  # so that a second one is not held back
        with pytest.raises(Stopped) as caught:
            next(lines)
    assert caught.value.signum == signal.SIGTERM
    os.close(writer)


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
