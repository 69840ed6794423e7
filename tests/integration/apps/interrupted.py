"""
A process whose handler of a signal publishes: `python -m tests.integration.apps.interrupted`.

The signal comes before each line in turn of what :func:`publish` does, and of all that it calls.
It prints for how many lines, and never comes to that if a handler waits for a lock that its own
thread holds.
"""

import itertools
import signal
import sys

import django
from django.core.management import call_command

django.setup()

from streambridge_app import get_sync_bridge  # noqa: E402 - the apps are ready now


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


def main():
    call_command("migrate", verbosity=0)
    bridge = get_sync_bridge()
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
    bridge.close()
    print(line)


if __name__ == "__main__":
    main()
