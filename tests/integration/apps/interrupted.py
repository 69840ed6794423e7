"""
A process that gets signals as it publishes: `python -m tests.integration.apps.interrupted WHAT`.

WHAT is `handle`: the signal comes before each line in turn of a publish through a producer handle,
and of all that this calls, and its handler publishes. Or it is `call`: it comes some time in the
middle of an awaited publish, and its handler raises; then another publish is awaited.

It prints how often, and never comes to that if somebody waits for ever.
"""

import asyncio
import itertools
import signal
import sys

import django
from django.core.management import call_command

django.setup()

from streambridge_app import get_bridge, get_sync_bridge  # noqa: E402 - the apps are ready now
from streambridge_app.publish import writer  # noqa: E402 - the apps are ready now

ENOUGH = 60


class Interruption:
    """A trace function that raises a signal at a line."""

    def __init__(self, line):
        self.happened = False
        self._left = line

    def __call__(self, frame, event, arg):
        if event == "line":
            if not self._left:
                sys.settrace(None)
                self.happened = True
                signal.raise_signal(signal.SIGUSR1)
            self._left -= 1
        return self


def publish(run):
    get_sync_bridge()
    run.publish("update", 1)
    run._pipeline.hurry()  # as a flush does


def interrupt_handles(bridge):
    for line in itertools.count():
        with bridge.producer(f"run{line}") as run:
            signal.signal(signal.SIGUSR1, lambda *_, run=run: publish(run))
            interruption = Interruption(line)
            sys.settrace(interruption)
            publish(run)
            sys.settrace(None)
        assert bridge.get_run(run.run_id).head == 1 + interruption.happened
        if not interruption.happened:
            break
    return line


class Raised(Exception):
    pass


def stop(_, frame):
    """Raise in what the writer does for its caller, and in nothing else."""
    if "/streambridge_app/" not in frame.f_code.co_filename:
        return
    while frame is not None:
        if frame.f_code is writer.Writer.publish.__code__:
            raise Raised
        frame = frame.f_back


async def interrupt_calls(bridge):
    signal.signal(signal.SIGALRM, stop)
    writer.LINGER = 0  # so that most calls have to start the thread
    raised = number = 0
    while raised < ENOUGH:
        number += 1
        run_id = f"run{number}"
        signal.setitimer(signal.ITIMER_REAL, number % 300 * 1e-6)  # 0 is none
        try:
            await bridge.publish(run_id, "update", 1)
        except Raised:
            raised += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        await bridge.publish(run_id, "update", 2)
    return raised


def main(what):
    call_command("migrate", verbosity=0)
    if what == "handle":
        bridge = get_sync_bridge()
        print(interrupt_handles(bridge))
        bridge.close()
    else:

        async def interrupt():
            bridge = get_bridge()
            print(await interrupt_calls(bridge))
            await bridge.close()

        asyncio.run(interrupt())


if __name__ == "__main__":
    main(sys.argv[1])
