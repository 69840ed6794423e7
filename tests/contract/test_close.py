"""A closed bridge stays closed, the next is a new one, and whoever closes never hangs."""

import asyncio
import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections
from django.dispatch import receiver

from streambridge_app import get_bridge, get_sync_bridge, registry
from streambridge_app.exceptions import BridgeClosed
from streambridge_app.signals import run_ended
from tests.contract.clients import client, deadline
from tests.services import TIMEOUT_SCALE, spawn, wait_until


@pytest.mark.parametrize("how", ["async", "sync"])
def test_after_close_the_next_bridge_is_a_new_one(stack, how):
    old, old_sync = get_bridge(), get_sync_bridge()
    old_sync.publish("run", "number", 1)
    if how == "sync":
        get_sync_bridge().close()
    else:
        asyncio.run(get_bridge().close())
    assert old.closed
    for refused in (old_sync.get_run, old_sync.request_cancel, old_sync.publish_end):
        with pytest.raises(BridgeClosed, match=r"Get a new one from get_bridge\(\)"):
            refused("run")
    new = get_bridge()
    assert new is not old
    assert new is get_bridge()
    assert not new.closed
    asyncio.run(new.publish("another", "number", 1))
    assert get_sync_bridge().get_run("another").head == 1
    with pytest.raises(BridgeClosed):
        asyncio.run(old.publish("another", "number", 2))


async def test_it_is_closed_on_a_loop_with_open_subscriptions(bridge):
    follow = functools.partial(client, bridge, heartbeat=0.01)
    async with follow("run") as one, follow("other") as two:
        await one.attached()
        await two.attached()
        async with deadline():
            await asyncio.gather(bridge.close(), bridge.close(), bridge.close())
        for follower in (one, two):
            with pytest.raises(BridgeClosed):
                await follower.rest()
    assert get_bridge() is not bridge


async def test_a_closing_that_is_cancelled_goes_on(bridge):
    await bridge.publish("run", "number", 1)
    closing = asyncio.create_task(bridge.close())
    await asyncio.sleep(0)
    closing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await closing
    wait_until(
        lambda: not [name for name in _threads() if name.startswith("streambridge")],
        10,
        f"the threads to end: {_threads()}",
    )


def test_threads_that_use_a_bridge_go_on_with_the_next(stack):
    written, refused, stop = [], [], threading.Event()

    def use(number):
        while not stop.is_set():
            try:
                get_sync_bridge().publish(f"run-{number}", "number", len(written))
                with get_sync_bridge().producer(f"handle-{number}-{len(written)}") as run:
                    run.publish("number", 1)
            except BridgeClosed as error:
                refused.append(error)
            else:
                written.append(number)
        connections.close_all()

    with ThreadPoolExecutor(4) as threads:
        uses = [threads.submit(use, number) for number in range(2)]
        for _ in range(5):
            count = len(written)
            wait_until(lambda: len(written) > count + 3, 30, "some use")  # noqa: B023
            closes = [threads.submit(get_sync_bridge().close) for _ in range(2)]
            for closing in closes:
                closing.result(30)
        stop.set()
        for using in uses:
            using.result(30)
    assert written


def test_a_stream_that_blocks_its_thread_is_let_go(stack):
    events = get_sync_bridge().subscribe("run", heartbeat_interval=60)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(next, events)
        wait_until(lambda: "streambridge-loop" in _threads(), 10, "the stream to begin")
        get_sync_bridge().close()
        assert isinstance(waiting.exception(30), BridgeClosed)


def test_a_receiver_of_our_signals_may_close(stack):
    closed = threading.Event()

    @receiver(run_ended)
    def close(**kwargs):
        get_sync_bridge().close()
        closed.set()

    try:
        old = get_bridge()
        asyncio.run(old.publish_end("run"))
        assert closed.wait(20 * TIMEOUT_SCALE)
        assert get_bridge() is not old
    finally:
        run_ended.disconnect(close)


SIGNALLED = """
import os, signal, sys, threading
import django
from django.conf import settings
import tests.settings
tests.settings.STREAMBRIDGE = {streambridge!r}
django.setup()
from streambridge_app import get_sync_bridge
from streambridge_app.exceptions import BridgeClosed

closed = 0

def close(number, frame):
    global closed
    get_sync_bridge().close()
    closed += 1

get_sync_bridge().publish("first", "number", 1)  # nobody can close what is being imported
signal.signal(signal.SIGUSR1, close)
print("ready", flush=True)
while closed < 20:
    try:
        with get_sync_bridge().producer(f"run-{{closed}}-{{os.urandom(4).hex()}}") as run:
            for number in range(50):
                run.publish("number", number)
            run.flush()
        get_sync_bridge().publish("sync", "number", 1)
    except BridgeClosed:
        pass
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
print("done", flush=True)
"""


def test_a_signals_handler_may_close_in_the_middle_of_a_publish(stack, settings):
    script = spawn(
        [sys.executable, "-c", SIGNALLED.format(streambridge=settings.STREAMBRIDGE)],
        env={"DJANGO_SETTINGS_MODULE": "tests.settings"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert script.stdout.readline() == "ready\n"
        stop = threading.Event()

        def disturb():
            while not stop.wait(0.05) and script.poll() is None:
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.kill(script.pid, signal.SIGUSR1)

        disturbing = threading.Thread(target=disturb)
        disturbing.start()
        try:
            out, _ = script.output()
        finally:
            stop.set()
            disturbing.join()
    finally:
        script.kill()
    assert (script.returncode, out) == (0, "done\n"), out


def test_each_test_of_somebody_starts_with_what_the_settings_say(stack, settings):
    get_sync_bridge().publish_end("run")
    settings.STREAMBRIDGE = settings.STREAMBRIDGE  # as override_settings does
    if type(get_bridge()).__name__ == "MemoryBridge":  # which forgets its runs with it
        get_sync_bridge().publish("run", "number", 1)
        assert get_sync_bridge().get_run("run").head == 1
    registry.reset()
    if type(get_bridge()).__name__ == "MemoryBridge":
        get_sync_bridge().publish_end("run")


def _threads():
    return [thread.name for thread in threading.enumerate()]
