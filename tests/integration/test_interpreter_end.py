"""A script, a shell or a worker that ends with streams of the sync API still open."""

import subprocess
import sys

import pytest

from tests.services import TIMEOUT_SCALE, spawn

SCRIPT = """
import atexit, time

import django

django.setup()

from streambridge_app import get_sync_bridge

bridge = get_sync_bridge()
bridge.publish("run", "number", 1)
events = bridge.subscribe("run")
print(next(events).data, flush=True)
{end}
"""


@pytest.mark.parametrize(
    "end",
    [
        "",
        "del events",
        # So long do the looks at the log go on after the executors have been shut down.
        "atexit.register(time.sleep, 0.5)",
        "bridge.producer('other').publish('number', 1)",
    ],
)
def test_the_interpreter_ends(tmp_path, end):
    env = {
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3",
    }
    migration = spawn([sys.executable, "manage.py", "migrate", "-v0"], env=env)
    assert migration.wait(60 * TIMEOUT_SCALE) == 0
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    script = spawn([sys.executable, "-c", SCRIPT.format(end=end)], env=env, text=True, **pipes)
    try:
        out, err = script.communicate(timeout=30 * TIMEOUT_SCALE)
    finally:
        script.kill()
        script.communicate()
    assert (script.returncode, out, err) == (0, "1\n", "")
