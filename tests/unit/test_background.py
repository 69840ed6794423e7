import asyncio
import concurrent.futures
import inspect
import os
import signal
import threading

import pytest

from streambridge_app import get_bridge, get_sync_bridge
from streambridge_app.runtime import background
from tests.conftest import MEMORY
from tests.services import wait_until


async def _answer(value):
    await asyncio.sleep(0)
    return value


async def _fail():
    raise KeyError("missing")


def test_results_and_errors_come_back():
    assert background.run(_answer(7)) == 7
    assert background.submit(_answer(8)).result(5) == 8
    with pytest.raises(KeyError):
        background.run(_fail())


def test_all_threads_share_one_loop():
    loops = []
    threads = [threading.Thread(target=lambda: loops.append(background.loop())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(loops)) == 1


def _interrupt_when(ready):
    """Do what Ctrl-C does, to the main thread, once it waits."""

    def interrupt():
        wait_until(ready, 5, "the main thread to wait")
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()


def test_an_interrupted_call_has_stopped_when_it_returns():
    started, stopped = threading.Event(), []

    async def work():
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            stopped.append(True)

    _interrupt_when(started.is_set)
    with pytest.raises(KeyboardInterrupt):
        background.run(work())
    assert stopped == [True]


def test_a_signal_that_does_not_wake_the_caller_is_seen_to():
    cancelled = []

    async def work():
        # What another thread receives, the main one sleeps on through.
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with pytest.raises(KeyboardInterrupt):
        background.run(work())
    assert cancelled


@pytest.mark.parametrize("scheduled", [False, True])
def test_an_interrupt_as_early_as_the_start_stops_what_was_called(monkeypatch, scheduled):
    running = background.loop()

    class Interrupted:
        def call_soon_threadsafe(self, callback):
            monkeypatch.setattr(self, "call_soon_threadsafe", running.call_soon_threadsafe)
            if scheduled:
                running.call_soon_threadsafe(callback)
            raise KeyboardInterrupt

    left = []

    def wait(futures, timeout):
        left.extend(concurrent.futures.wait(futures, timeout).not_done)

    monkeypatch.setattr(background, "wait", wait)
    interrupted = Interrupted()
    monkeypatch.setattr(background, "loop", lambda: interrupted)
    coroutine = asyncio.sleep(20)
    with pytest.raises(KeyboardInterrupt):
        background.run(coroutine)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
    assert not left


def test_a_call_may_last_longer_than_a_look_for_signals(monkeypatch):
    monkeypatch.setattr(background, "SIGNAL_SECONDS", 0.001)
    assert background.run(asyncio.sleep(0.02, 7)) == 7


def test_a_timeout_of_what_was_called_comes_back():
    async def give_up():
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        background.run(give_up())


def test_an_interrupted_sync_subscription_can_be_closed_and_taken_up_again(settings):
    settings.STREAMBRIDGE = {"BACKEND": MEMORY}
    bridge, sync_bridge = get_bridge(), get_sync_bridge()
    sync_bridge.publish("run", "number", 1)
    events = sync_bridge.subscribe("run", heartbeat_interval=60)
    first = next(events)
    _interrupt_when(lambda: "run" in bridge._wakers)
    with pytest.raises(KeyboardInterrupt):
        next(events)
    sync_bridge.publish("run", "number", 2)
    sync_bridge.publish_end("run")
    rest = list(sync_bridge.subscribe("run", last_event_id=first.id))
    assert [event.data for event in rest] == [2, None]


def test_a_forked_child_gets_a_loop_of_its_own():
    loop = background.loop()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        answer = b"own" if background.loop() is not loop and background.run(_answer(1)) else b"no"
        os.write(writing, answer)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answers:
        assert answers.read() == b"own"
    os.waitpid(child, 0)


def test_the_loop_ends_when_nobody_uses_it_and_the_next_use_starts_another():
    first = background.loop()
    assert background.run(_answer(1)) == 1
    background.end()
    assert first.is_closed()
    assert "streambridge-loop" not in [thread.name for thread in threading.enumerate()]
    assert background.run(_answer(2)) == 2
    assert background.loop() is not first


def test_the_loop_does_not_end_under_a_call():
    going_on = threading.Event()

    async def wait():
        while not going_on.is_set():  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(0.01)
        return 7

    result = background.submit(wait())
    running = background.loop()
    background.end()
    assert background.loop() is running
    going_on.set()
    assert result.result(10) == 7


def test_a_loop_whose_thread_has_died_is_replaced():
    async def leave():
        raise SystemExit

    running = background.loop()
    with pytest.raises(SystemExit):
        background.run(leave())
    wait_until(running.is_closed, 10, "the thread to die")
    assert background.run(_answer(7)) == 7


def test_a_loop_that_cannot_be_started_leaves_no_coroutine(monkeypatch):
    background.end()

    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    for call in (background.run, background.submit):
        coroutine = _answer(7)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            call(coroutine)
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


def test_a_call_at_the_interpreters_end_runs_where_it_is_made(monkeypatch):
    background.end()

    def start(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert background.run(_answer(7)) == 7
