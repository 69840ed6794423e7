"""
A worker process: `python -m tests.acceptance.worker RUN EVENTS PAUSE`.

EVENTS is a number, or `-`: until its standard input ends.
"""

import itertools
import sys
import threading

import django

django.setup()

from streambridge_app import get_sync_bridge  # noqa: E402 - the apps are ready from here on


def main(run_id: str, events: str, pause: str) -> None:
    told = threading.Event()
    if events == "-":
        threading.Thread(target=_hear, args=[told], daemon=True).start()
        numbers = itertools.takewhile(lambda _: not told.is_set(), itertools.count(1))
    else:
        numbers = iter(range(1, int(events) + 1))
    never = threading.Event()
    with get_sync_bridge().producer(run_id) as run:
        for number in numbers:
            run.publish("number", {"n": number, "text": "é\u2028\n" * 5})
            if float(pause):
                never.wait(float(pause))  # the pace of the work, not a wait for anything


def _hear(told: threading.Event) -> None:
    sys.stdin.read()
    told.set()


if __name__ == "__main__":
    main(*sys.argv[1:])
