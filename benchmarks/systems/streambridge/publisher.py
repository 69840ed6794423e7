"""
A process that publishes as it is told by lines of JSON, and answers by one line each.

It measures itself, and counts its commits: a function around ``log.append``, no more.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from typing import Any
from unittest import mock

import django

from benchmarks.load import payload

django.setup()

from streambridge_app import get_bridge, get_sync_bridge  # noqa: E402
from streambridge_app.log import exactly_once  # noqa: E402
from streambridge_app.log.append import Appended, append  # noqa: E402
from streambridge_app.log.writes import Write  # noqa: E402
from streambridge_app.models import Event  # noqa: E402

Data = list[dict[str, Any]]

NAME = "message"

_commits = 0


def counted(writes: Sequence[Write], *args: Any) -> list[Appended]:
    global _commits
    _commits += 1
    return append(writes, *args)


def create(order: dict[str, Any]) -> dict[str, Any]:
    for run in order["runs"]:
        get_sync_bridge().create_run(run, metadata={"demo": True})
    return {}


def fill(order: dict[str, Any]) -> dict[str, Any]:
    create(order)
    bridge = get_sync_bridge()
    events = order["events"]
    for run in order["runs"]:
        handle = bridge.producer(run)
        for number in range(events):
            handle.publish(NAME, payload(number, events))
        handle.flush()
    return {"epochs": {run: bridge.get_run(run).epoch for run in order["runs"]}}


def publish(order: dict[str, Any]) -> dict[str, Any]:
    create(order)
    runs, events, how = order["runs"], order["events"], order["how"]
    data = [payload(number, events) for number in range(events)]
    commits = _commits
    cpu = time.process_time()
    if how == "sync":
        seconds = publish_sync(runs[0], data)
    elif how == "sync handle":
        seconds = publish_by_handle(runs[0], data)
    elif how == "async":
        seconds = asyncio.run(publish_async(runs, data, order["tasks"]))
    else:
        seconds = asyncio.run(publish_by_async_handle(runs[0], data))
    cpu = time.process_time() - cpu
    check(runs, events, order["tasks"])
    return {
        "events_per_second": events / seconds,
        "events_per_commit": events / (_commits - commits),
        "cpu_us": 1e6 * cpu / events,
        "publish_ms": [],
    }


def check(runs: Sequence[str], events: int, tasks: int) -> None:
    """Raise RuntimeError unless the log has each event once, those of each task in their order."""
    found: list[list[int]] = [[] for _ in range(tasks)]
    for run in runs:
        rows = Event.objects.filter(run__run_id=run).order_by("seq").values_list("seq", "data")
        for place, (seq, text) in enumerate(rows, 1):
            number = json.loads(text)["n"]
            found[number % tasks].append(number)
            if seq != place:
                raise RuntimeError(f"Event {place} of {run} has the number {seq}.")
    if found != [list(range(task, events, tasks)) for task in range(tasks)]:
        raise RuntimeError(f"The log has not each of the {events} events once and in order.")


def publish_sync(run: str, data: Data) -> float:
    bridge = get_sync_bridge()
    started = time.perf_counter()
    for one in data:
        bridge.publish(run, NAME, one)
    return time.perf_counter() - started


def publish_by_handle(run: str, data: Data) -> float:
    handle = get_sync_bridge().producer(run)
    started = time.perf_counter()
    for one in data:
        handle.publish(NAME, one)
    handle.flush()
    return time.perf_counter() - started


async def publish_async(runs: Sequence[str], data: Data, tasks: int) -> float:
    bridge = get_bridge()

    async def one_after_another(task: int) -> None:
        for one in data[task::tasks]:
            await bridge.publish(runs[task % len(runs)], NAME, one)

    started = time.perf_counter()
    await asyncio.gather(*map(one_after_another, range(tasks)))
    return time.perf_counter() - started


async def publish_by_async_handle(run: str, data: Data) -> float:
    handle = get_bridge().producer(run)
    started = time.perf_counter()
    for one in data:
        await handle.publish(NAME, one)
    await handle.flush()
    return time.perf_counter() - started


def paced(order: dict[str, Any]) -> dict[str, Any]:
    bridge = get_sync_bridge()
    events, run = order["events"], order["run"]
    taken = []
    started = due = time.monotonic()
    cpu = time.process_time()
    for number in range(events):
        time.sleep(max(0.0, due - time.monotonic()))
        due += 1 / order["rate"]
        data = payload(number, events)
        before = time.perf_counter()
        bridge.publish(run, NAME, data)
        taken.append(1000 * (time.perf_counter() - before))
    return {
        "events_per_second": events / (time.monotonic() - started),
        "events_per_commit": 1,
        "cpu_us": 1e6 * (time.process_time() - cpu) / events,
        "publish_ms": taken,
    }


def main() -> None:
    orders = {"create": create, "fill": fill, "publish": publish, "paced": paced}
    with mock.patch.object(exactly_once, "append", counted):
        for line in sys.stdin:
            order = json.loads(line)
            print(json.dumps(orders[order["do"]](order)), flush=True)


if __name__ == "__main__":
    main()
