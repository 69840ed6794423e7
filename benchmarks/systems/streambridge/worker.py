"""A worker process that publishes each of its runs through a producer handle."""

from __future__ import annotations

import sys
from contextlib import ExitStack

import django

from benchmarks.load import Work, wait_for_go


def main() -> None:
    work = Work.load(sys.argv[1])
    django.setup()
    from streambridge_app import get_sync_bridge

    bridge = get_sync_bridge()
    for run in work.runs:
        bridge.create_run(run, metadata={"demo": True})
    wait_for_go()
    with ExitStack() as stack:
        handles = {run: stack.enter_context(bridge.producer(run)) for run in work.runs}
        for run, data in work.events_when_due():
            handles[run].publish("message", data)


if __name__ == "__main__":
    main()
