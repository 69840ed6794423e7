"""Programs that gevent or eventlet patches: wholly, in part or too late. Each is a process."""

import subprocess
import sys
import textwrap

import pytest

SETUP = """
    import os
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    import django
    django.setup()
    from django.test import override_settings
    memory = {"BACKEND": "streambridge_app.backends.memory.MemoryBridge"}
    override_settings(STREAMBRIDGE=memory).enable()
"""
PATCH = """
    from gevent import monkey
    monkey.patch_all()
"""
USE = """
    from streambridge_app import get_sync_bridge
    with get_sync_bridge().producer("run") as run:
        run.publish("number", 1)
    print([event.event for event in get_sync_bridge().subscribe("run")])
"""


def _output(*parts: str) -> str:
    """Run a program of its own and return the last line that it wrote, errors included."""
    return _lines(*parts)[-1]


def _lines(*parts: str) -> list[str]:
    program = "\n".join(map(textwrap.dedent, parts))
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.stdout.strip().splitlines()


def test_patched_before_anything_else() -> None:
    assert _output(PATCH, SETUP, USE) == "['number', '__end__']"


def test_loop_is_seen_by_its_own_greenlet_only() -> None:
    look = """
    import asyncio, gevent
    from streambridge_app.runtime import background
    seen, stop = [], []
    def look():
        while not stop:
            seen.append(asyncio._get_running_loop())
            gevent.sleep(0)
    async def work():
        for _ in range(100):
            gevent.sleep(0)  # as a callback may that waits for a lock
            await asyncio.sleep(0)
            assert asyncio.get_running_loop() is background.loop()
    looking = gevent.spawn(look)
    background.run(work())
    stop.append(True)
    looking.join()
    print(set(seen), len(seen) >= 100)
    """
    assert _output(PATCH, SETUP, look) == "{None} True"


def test_loop_of_another_greenlet_is_its_own() -> None:
    look = """
    import asyncio
    from streambridge_app.runtime import background
    async def work():
        for _ in range(20):
            await asyncio.sleep(0.001)
        return asyncio.get_running_loop() is background.loop()
    async def outer():
        ours = background.submit(work())  # first used while another loop runs
        here = asyncio.get_running_loop()
        for _ in range(20):
            await asyncio.sleep(0.001)
            assert asyncio.get_running_loop() is here
        return await asyncio.wrap_future(ours)
    print(asyncio.run(outer()), asyncio._get_running_loop())
    """
    assert _output(PATCH, SETUP, look) == "True None"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ((SETUP, PATCH, USE), "gevent has patched this process after Django was loaded"),
        ((SETUP, USE, PATCH, USE), "were patched after StreamBridge's first use"),
        (
            ("from gevent import monkey; monkey.patch_thread()", SETUP, USE),
            "but not select, socket, time",
        ),
        (("import eventlet; eventlet.monkey_patch()", SETUP, USE), "eventlet has patched"),
    ],
    ids=["after Django", "after the first use", "in part", "eventlet"],
)
def test_what_can_not_work_is_refused_with_a_sentence(
    program: tuple[str, ...], reason: str
) -> None:
    # Not always the last line: real threads of before the patch can't end without a word.
    (line,) = [line for line in _lines(*program) if "GreenThreadsUnsupported: " in line]
    assert line.startswith("streambridge_app.exceptions.GreenThreadsUnsupported: ")
    assert reason in line


def test_gevent_and_eventlet_are_not_imported() -> None:
    names = "import sys; print({'gevent', 'eventlet', 'greenlet'} & {*sys.modules})"
    assert _output(SETUP, USE, names) == "set()"


def test_executor_runs_all_and_ends() -> None:
    work = """
    import threading, time
    from streambridge_app.runtime.green_threads import GreenExecutor
    seen = set()
    def name(number):
        seen.add(threading.get_ident())
        time.sleep(0.001)
        return number
    executor = GreenExecutor(3, name="test", initializer=lambda: seen.add("prepared"))
    results = [executor.submit(name, number) for number in range(20)]
    failed = executor.submit(int, "x")
    executor.shutdown()
    try:
        executor.submit(name, 1)
    except RuntimeError as error:
        refused = str(error)
    print(
        [result.result() for result in results] == list(range(20)),
        type(failed.exception()).__name__, len(seen), "shutdown" in refused,
    )
    """
    assert _output(PATCH, SETUP, work) == "True ValueError 4 True"
