"""
The doctor's second process: it sends and publishes what the first one must receive.

What goes from process to process can't be tried by one alone. The partner is the same program with
the same settings; it reads requests from its standard input, a line of JSON each, and answers each
with a line. It must never outlive the doctor, whatever becomes of that.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO, Any, Final, NoReturn

from channels.layers import get_channel_layer

from ..conf import streambridge_settings
from ..registry import get_bridge
from ..runtime import background
from .findings import Failed

PAUSE: Final = 0.02
"""Seconds between two events of the partner, so that each makes its own way."""

_READY: Final = 0
"""Number of the answer that it gives without a request."""


class Partner:
    """The doctor's end of it."""

    def __init__(self, program: Sequence[str]) -> None:
        self._argv = [sys.executable, *program, "streambridge_doctor", "--partner"]
        self._numbers = itertools.count(_READY + 1)
        self._process: asyncio.subprocess.Process | None = None
        self._errors: IO[bytes] | None = None

    async def start(self) -> None:
        """
        Start the process and return when it is ready.

        Raises:
            Failed: it has ended instead.
        """
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - end() closes it
        self._process = await asyncio.create_subprocess_exec(
            *self._argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            process_group=0,  # Ctrl-C is the doctor's
        )
        await self._answer(_READY)

    async def send(self, group: str, number: int) -> None:
        """
        Have a message sent to a group of the channel layer: its number, and when it was sent.

        Raises:
            Failed: the layer failed.
        """
        await self._ask("send", group=group, number=number)

    async def publish(self, run_id: str, events: int) -> None:
        """
        Have a number of events published to a run, and its end.

        Raises:
            Failed: the log failed.
        """
        await self._ask("publish", run_id=run_id, events=events)

    async def end(self) -> None:
        """End the process. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self._errors is not None:
            self._errors.close()

    async def _ask(self, what: str, **request: Any) -> None:
        process = self._running()
        number = next(self._numbers)
        line = json.dumps({"number": number, "what": what, "request": request})
        process.stdin.write(f"{line}\n".encode())  # type: ignore[union-attr]
        await self._answer(number)

    async def _answer(self, number: int) -> None:
        """Wait for the answer of this number: earlier ones were given up, other lines not ours."""
        output: Any = self._running().stdout
        while line := await output.readline():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                answer = json.loads(line)
                if answer["answer"] == number:
                    break
        else:
            raise Failed(f"the second process has ended: {self._last_error()}")
        if answer["error"]:
            raise Failed(f"in the second process: {answer['error']}")

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise Failed("the second process was ended")
        return self._process

    def _last_error(self) -> str:
        errors: Any = self._errors
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it gave no reason"


def serve() -> NoReturn:
    """Be the partner: do what is asked on standard input, until it closes."""
    _say(_READY)
    for line in sys.stdin:
        background.submit(_do(**json.loads(line)))
    # Nothing here is worth waiting for: not a service that hangs either.
    os._exit(0)


async def _do(number: int, what: str, request: dict[str, Any]) -> None:
    try:
        await (_send if what == "send" else _publish)(**request)
    except Exception as error:
        _say(number, f"{type(error).__name__}: {error}")
    else:
        _say(number)


def _say(number: int, error: str = "") -> None:
    sys.stdout.write(json.dumps({"answer": number, "error": error}) + "\n")
    sys.stdout.flush()


async def _send(group: str, number: int) -> None:
    layer: Any = get_channel_layer(streambridge_settings.CHANNEL_LAYER)
    message = {"type": "streambridge.doctor", "number": number, "sent": time.time()}
    await layer.group_send(group, message)


async def _publish(run_id: str, events: int) -> None:
    bridge = get_bridge()
    for number in range(events):
        await bridge.publish(run_id, "doctor", {"number": number, "sent": time.time()})
        await asyncio.sleep(PAUSE)
    await bridge.publish_end(run_id)
