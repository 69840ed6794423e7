"""
Note when an event passes each stage, in the worker and in the server.

The server is started with this module's ``application``; the worker runs this module. Both append
lines of stage, number of the event and time in microseconds to the file named in TRACE.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import django
from django.core.asgi import get_asgi_application

from benchmarks.load import Work, wait_for_go

_trace = open(os.environ["TRACE"], "a", buffering=1)  # noqa: SIM115 - for the process's life


def _note(stage: str, number: int) -> None:
    _trace.write(f"{stage} {number} {time.time_ns() // 1000}\n")


def _trace_server() -> None:
    from streambridge_app.follow.hub import Hub

    receive = Hub.receive

    def traced(self: Hub, message: dict[str, Any]) -> None:
        _note("received", message["head"] - 1)
        receive(self, message)

    Hub.receive = traced  # type: ignore[method-assign]


def _work() -> None:
    django.setup()
    from streambridge_app import get_sync_bridge
    from streambridge_app.log import exactly_once
    from streambridge_app.log.append import append
    from streambridge_app.log.writes import Written

    def traced(*args: Any) -> Any:
        began = time.time_ns() // 1000
        outcomes = append(*args)
        for outcome in outcomes:
            if isinstance(outcome, Written) and len(outcome.batch):
                _trace.write(f"taken {outcome.batch.last - 1} {began}\n")
                _note("committed", outcome.batch.last - 1)
        return outcomes

    exactly_once.append = traced  # type: ignore[assignment, attr-defined]
    work = Work.load(sys.argv[1])
    bridge = get_sync_bridge()
    (run_id,) = work.runs
    bridge.create_run(run_id, metadata={"demo": True})
    wait_for_go()
    with bridge.producer(run_id) as run:
        for _, data in work.events_when_due():
            run.publish("message", data)


if __name__ == "__main__":
    _work()
else:
    application = get_asgi_application()
    _trace_server()
