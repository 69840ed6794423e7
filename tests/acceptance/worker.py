"""A worker process: `python -m tests.acceptance.worker RUN EVENTS PAUSE`."""

import sys
import threading

import django

django.setup()

from streambridge_app import get_sync_bridge  # noqa: E402 - the apps are ready from here on


def main(run_id: str, events: str, pause: str) -> None:
    never = threading.Event()
    with get_sync_bridge().producer(run_id) as run:
        for number in range(1, int(events) + 1):
            run.publish("number", {"n": number, "text": "é\u2028\n" * 5})
            if float(pause):
                never.wait(float(pause))  # the pace of the work, not a wait for anything


if __name__ == "__main__":
    main(*sys.argv[1:])
