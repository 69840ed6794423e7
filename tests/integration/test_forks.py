"""A child process starts anew, and does its parent's connections no harm."""

import subprocess
import sys

import pytest

from tests.conftest import STACKS
from tests.services import spawn

SCRIPT = """
import asyncio, ctypes, gc, multiprocessing, os, sys, types, warnings

# From Python 3.12 on, of which this is what is tried.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)

how = {how!r}
if how == "untold":
    sys.modules["uwsgi"] = types.ModuleType("uwsgi")  # which forks without telling Python

import tests.settings

tests.settings.STREAMBRIDGE = {streambridge!r}

import django

django.setup()

from django.db import connections

from streambridge_app import get_bridge, get_sync_bridge
from streambridge_app.exceptions import BridgeClosed


def use(run_id):
    # In each way that opens something, and leave all of it open.
    bridge = get_sync_bridge()
    asyncio.run(get_bridge().publish(run_id, "number", 1))
    run = bridge.producer(run_id)
    run.__enter__()
    run.publish("number", 2)
    run.flush()
    events = bridge.subscribe(run_id)
    assert [next(events).data for _ in range(2)] == [1, 2]
    return bridge, run, events


parents = use("parent")
connections.close_all()  # those of this thread are its own business
own = get_bridge()


def child():
    global parents
    bridge, run, events = parents
    for refused in (bridge.get_run, bridge.publish_end):
        try:
            refused("parent")
        except BridgeClosed:
            pass
        else:
            raise AssertionError(refused)
    own.shut()  # of no account here
    del parents, bridge, run, events
    gc.collect()
    assert get_bridge() is not own
    if how == "untold":  # with threads that wait for what the parent's had, any Python may hang
        return
    kept = use("child-%d" % os.getpid())
    get_sync_bridge().close()
    del kept
    gc.collect()
    use("again-%d" % os.getpid())
    connections.close_all()


def forked():
    pid = ctypes.PyDLL(None).fork() if how == "untold" else os.fork()
    if pid == 0:
        try:
            child()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def multiprocessed():
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    return process.exitcode


for _ in range(3):
    assert (multiprocessed if how == "multiprocessing" else forked)() == 0
    bridge, run, events = parents
    assert get_bridge() is own and not own.closed
    run.publish("number", 3)
    run.flush()
    assert next(events).data == 3
    asyncio.run(own.publish("parent", "number", 4))
    assert next(events).data == 4
print(bridge.get_run("parent").head)
"""


@pytest.mark.parametrize("stack", STACKS[1:3], indirect=True)
@pytest.mark.parametrize("how", ["os.fork", "multiprocessing", "untold"])
def test_a_forked_child_starts_anew_and_leaves_the_parent_alone(stack, settings, how, request):
    script = spawn(
        [sys.executable, "-c", SCRIPT.format(how=how, streambridge=settings.STREAMBRIDGE)],
        env={"DJANGO_SETTINGS_MODULE": "tests.settings"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    out, _ = script.output()
    assert (script.returncode, out) == (0, "8\n"), out
    if stack.database == "postgres":  # which would log a message in the middle of another
        log = request.getfixturevalue("postgres_server").log_text()
        assert "invalid frontend message" not in log
        assert "protocol" not in log
