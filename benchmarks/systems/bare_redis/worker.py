"""
A worker process that publishes each event as a frame, so many per round trip.

If DATABASE_URL names a PostgreSQL, it first commits each of them there.

It uses a connection of the client library by itself: the library's pipeline takes twice as long.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack

import redis

from benchmarks import bare_sql
from benchmarks.load import Work, wait_for_go
from benchmarks.systems import sse


def main() -> None:
    work = Work.load(sys.argv[1])
    batch = int(sys.argv[2])
    connection = redis.Redis.from_url(os.environ["REDIS_URL"]).connection_pool.get_connection()
    commands: list[tuple[str, str, bytes]] = []

    def publish() -> None:
        packed = connection.pack_commands(commands)  # type: ignore[no-untyped-call]
        connection.send_packed_command(packed)  # type: ignore[no-untyped-call]
        for _ in commands:
            connection.read_response()
        commands.clear()

    with ExitStack() as stack:
        url = os.environ.get("DATABASE_URL")
        table = stack.enter_context(bare_sql.connected(url)) if url else None
        keys = {run: table.new_run() for run in work.runs} if table else {}
        wait_for_go()
        for run, data in work.events_when_due():
            text = json.dumps(data)
            if table:
                table.append(keys[run], [("message", text)])
            frame = sse.frame(b"message", text.encode(), b"%d" % data["n"])
            commands.append(("PUBLISH", run, frame))
            if len(commands) == batch:
                publish()
        publish()


if __name__ == "__main__":
    main()
