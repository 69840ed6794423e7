"""
A worker process: `python -m tests.chaos.worker PORT FILE`.

It takes jobs as lines of JSON over TCP, does many at once, and appends to the file what the bridge
told it: see :mod:`tests.chaos.attempt`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import django

django.setup()

from streambridge_app import get_bridge  # noqa: E402 - the apps are ready now
from tests.chaos.attempt import Attempt  # noqa: E402
from tests.chaos.schedule import Job  # noqa: E402
from tests.services import HOST  # noqa: E402

THREADS: Final = 16


async def main(port: int, path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS))
    working: set[asyncio.Task[None]] = set()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)

    async def work(line: bytes) -> None:
        job = json.loads(line)
        number = job.pop("attempt")
        attempt = Attempt(Job(**job), number, file)
        attempt.note("over", await attempt.perform())

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            task = asyncio.create_task(work(line))
            working.add(task)
            task.add_done_callback(working.discard)
        writer.close()

    async with await asyncio.start_server(take, HOST, port):
        await stop.wait()
        if working:
            await asyncio.wait(working)
    await get_bridge().close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
