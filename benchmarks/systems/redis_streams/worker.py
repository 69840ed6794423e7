"""
A worker process that adds each event to its run's stream, and waits until Redis has it.

The blocking client emits more per second than the asynchronous one.
"""

from __future__ import annotations

import json
import os
import sys

import redis

from benchmarks.load import Work, wait_for_go

TTL_SECONDS = 3600


def main() -> None:
    work = Work.load(sys.argv[1])
    client = redis.Redis.from_url(os.environ["REDIS_URL"])
    client.ping()
    wait_for_go()
    for run, data in work.events_when_due():
        with client.pipeline(transaction=True) as transaction:
            transaction.xadd(run, {"event": "message", "data": json.dumps(data)})
            transaction.expire(run, TTL_SECONDS)
            transaction.execute()


if __name__ == "__main__":
    main()
