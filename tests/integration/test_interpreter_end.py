"""A script or a worker that ends, whatever it has left open: in silence, with all written."""

import contextlib
import sqlite3
import subprocess
import sys
from functools import partial

import psycopg
import pytest

from tests.services import TIMEOUT_SCALE, spawn

SETUP = """
import asyncio, atexit, threading, time

import django

django.setup()

from streambridge_app import get_bridge, get_sync_bridge
"""

WITHOUT_THREADS = """
# From here on Python 3.12 starts no thread any more; what has begun goes on.
def no_more_threads():
    def start(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    threading.Thread.start = start

threading._register_atexit(no_more_threads)
"""

SCRIPT = """
bridge = get_sync_bridge()
bridge.publish("run", "number", 1)
events = bridge.subscribe("run")
print(next(events).data, flush=True)
"""

ENDS = {
    "an open stream": SCRIPT,
    "a forgotten stream": SCRIPT + "del events",
    # So long do the looks at the log go on after the executors have been shut down.
    "an open stream, slowly": SCRIPT + "atexit.register(time.sleep, 0.5)",
    "a handle's last event": SCRIPT + "bridge.producer('other').publish('number', 1)",
    "sync calls only": """
get_sync_bridge().publish("run", "number", 1)
print(get_sync_bridge().get_run("run").head)
""",
    "a handle": """
with get_sync_bridge().producer("run") as run:
    run.publish("number", 1)
print(1)
""",
    "a handle that stays open": """
run = get_sync_bridge().producer("run")
run.__enter__()
run.publish("number", 1)
print(1)
""",
    "async calls": """
asyncio.run(get_bridge().publish("run", "number", 1))
print(1)
""",
    "a loop with an open stream": """
async def follow():
    await get_bridge().publish("run", "number", 1)
    return await anext(get_bridge().subscribe("run"))
print(asyncio.run(follow()).data)
""",
    "sync calls at the very end": """
def end():
    bridge = get_sync_bridge()
    bridge.publish("run", "number", 1)
    print(bridge.get_run("run").head, flush=True)
    bridge.close()
atexit.register(end)
""",
    "a close at the very end": """
get_sync_bridge().publish("run", "number", 1)
print(1)
atexit.register(get_sync_bridge().close)
""",
    "an async close at the very end": """
bridge = get_bridge()
asyncio.run(bridge.publish("run", "number", 1))
print(1)
atexit.register(lambda: asyncio.run(bridge.close()))
""",
}


@pytest.fixture(params=["sqlite", "postgres and redis"], scope="module")
def site(request, tmp_path_factory):
    """Where a script finds its database and layer; and how to look into the database."""
    if request.param == "sqlite":
        path = tmp_path_factory.mktemp("end") / "db.sqlite3"
        env, connect = {"DATABASE_URL": f"sqlite:///{path}"}, partial(sqlite3.connect, path)
    else:
        url = request.getfixturevalue("postgres_server").create_database("interpreter_end")
        redis = request.getfixturevalue("redis_server")
        env, connect = {"DATABASE_URL": url, "REDIS_URL": redis.url}, partial(psycopg.connect, url)
    env["DJANGO_SETTINGS_MODULE"] = "project.settings"
    migration = spawn([sys.executable, "manage.py", "migrate", "-v0"], env=env)
    assert migration.wait(60 * TIMEOUT_SCALE) == 0
    return env, connect


@pytest.fixture
def written(site):
    """Run a script to its end; return how it ended and the events in the log."""
    env, connect = site

    def run(script):
        pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
        process = spawn([sys.executable, "-c", script], env=env, text=True, **pipes)
        out, err = process.output(timeout=30)
        with contextlib.closing(connect()) as connection:
            cursor = connection.execute("SELECT event FROM streambridge_app_event")
            events = [name for (name,) in cursor.fetchall()]
            connection.execute("DELETE FROM streambridge_app_event")
            connection.execute("DELETE FROM streambridge_app_run")
            connection.commit()
        return (process.returncode, out, err), events

    return run


@pytest.mark.parametrize(
    ("end", "threads"),
    [
        *[(end, WITHOUT_THREADS) for end in ENDS],
        *[(end, "") for end in list(ENDS)[:4]],
    ],
    ids=lambda value: "no thread starts" if value == WITHOUT_THREADS else value,
)
def test_the_interpreter_ends(written, end, threads):
    ended, events = written(SETUP + threads + ENDS[end])
    assert ended == (0, "1\n", "")
    assert events == ["number"] * (2 if "last event" in end else 1)
