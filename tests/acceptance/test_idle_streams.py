"""What an open stream with nothing to say costs a server."""

from contextlib import AsyncExitStack

import psutil
import psycopg
from django.conf import settings

from streambridge_app import get_bridge
from streambridge_app.conf import OPTIONS
from tests.acceptance.clients import open_stream
from tests.acceptance.conftest import VISIBLE, Deployment
from tests.services import AsgiServer, async_wait_until

STREAMS = 500
WARM_UP = 150
RUNS = 10
MOST_KB = 35
LATE_READERS = OPTIONS["READ_THREADS"].default - 1
"""The server's readers, with a connection each, start as they are needed, up to a fixed number."""


async def test_idle_streams_hold_no_thread_and_no_connection(deployment: Deployment) -> None:
    server, bridge = deployment.server, get_bridge()
    runs = [await bridge.create_run(metadata=VISIBLE) for _ in range(RUNS)]
    for run_id in runs:
        await bridge.publish(run_id, "number", 1)
    await bridge.close()  # its own connections are not to be counted
    async with AsyncExitStack() as streams:

        async def open_streams(count: int) -> None:
            for i in range(count):
                await streams.enter_async_context(open_stream(server, runs[i % RUNS]))
            await _settled(server)

        await open_streams(WARM_UP)
        threads, connections, rss = server.threads(), _connections(deployment), server.rss_kb()
        await open_streams(STREAMS)

        each = (server.rss_kb() - rss) / STREAMS
        print(f"{server.name}, {deployment.database}: {each:.1f} KB per stream")
        assert server.threads() <= threads + LATE_READERS
        assert _connections(deployment) <= connections + LATE_READERS
        assert each <= MOST_KB


async def _settled(server: AsgiServer) -> None:
    """Return when the number of threads has been the same for a while."""
    seen: list[int] = []

    def same() -> bool:
        seen.append(server.threads())
        return len(seen) > 50 and len(set(seen[-50:])) == 1

    await async_wait_until(same, 20, "the server to come to rest")


def _connections(deployment: Deployment) -> int:
    if deployment.database == "default":
        files = psutil.Process(deployment.server.pid).open_files()
        return sum(file.path.endswith("sqlite3") for file in files)
    port = settings.DATABASES["postgres"]["PORT"]
    with psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres") as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = 'streambridge'"
        ).fetchone()
    assert row
    return int(row[0])
