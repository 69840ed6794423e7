"""
One event loop per process, in a thread of its own, for code that has no loop or must outlive it.

A channel layer opens connections per loop: a worker that made a loop per call would open a
pool per call and find it closed in the next. The thread starts at the first use, so a forked
child gets its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, wait
from typing import Any, Final, TypeVar

from . import green_threads

INTERRUPT_DEADLINE: Final = 5.0
"""Seconds for which an interrupted caller waits for what it has called to stop."""

SIGNAL_SECONDS: Final = 1.0
"""
Seconds after which a waiting caller sees to a signal that didn't wake it.

One that comes in the last instructions before a thread sleeps, or that the kernel gives to another
thread, wakes nobody; Python handles it when the main thread next runs.
"""

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None


def loop() -> asyncio.AbstractEventLoop:
    """Return the process's background loop, starting its thread if need be."""
    global _loop, _thread
    starting = None
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            _thread = threading.Thread(
                target=_run_forever, args=(_loop,), name="streambridge-loop", daemon=True
            )
            starting = _thread
        running = _loop
    if starting is not None:  # not under the lock: a green thread's start lets others run
        starting.start()
    return running


def _run_forever(running: asyncio.AbstractEventLoop) -> None:
    if green_threads.are_used():
        green_threads.run_hidden(running)
    else:
        running.run_forever()


def submit(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine on the background loop and return its future, for other threads."""
    return asyncio.run_coroutine_threadsafe(coroutine, loop())


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """
    Run a coroutine on the background loop and wait for it, from any other thread.

    Raises:
        RuntimeError: on the loop's own thread, which would wait for itself.
    """
    if is_current_thread():
        coroutine.close()
        raise RuntimeError("The sync bridge was called on StreamBridge's own event loop.")
    result: Future[T] = Future()
    tasks: list[asyncio.Task[T]] = []

    def start() -> None:
        task = asyncio.ensure_future(coroutine)
        task.add_done_callback(lambda task: _hand_over(task, result))
        tasks.append(task)

    def stop() -> None:
        if tasks:
            tasks[0].cancel()
        else:  # the interrupt came before the start
            coroutine.close()
            result.cancel()
            result.set_running_or_notify_cancel()  # or who waits for it is not told

    running = loop()
    try:
        running.call_soon_threadsafe(start)
        while not result.done():
            with contextlib.suppress(TimeoutError):
                result.result(SIGNAL_SECONDS)
        return result.result()
    except BaseException:
        if not result.done():
            # This thread was interrupted, by Ctrl-C for one. What it called must have stopped
            # before the caller cleans up after it.
            running.call_soon_threadsafe(stop)
            wait((result,), INTERRUPT_DEADLINE)
        raise


async def in_thread(function: Callable[[], None]) -> None:
    """Call what may block off the running loop, whichever that is."""
    try:
        await asyncio.to_thread(function)
    except RuntimeError:
        return  # the interpreter is ending: it has joined the threads already


def is_current_thread() -> bool:
    """Return whether this is the loop's own thread, which must not wait for the loop."""
    return _thread is threading.current_thread()


def _hand_over(task: asyncio.Task[T], result: Future[T]) -> None:
    if task.cancelled():
        result.set_exception(CancelledError())
    elif (error := task.exception()) is not None:
        result.set_exception(error)
    else:
        result.set_result(task.result())


def _forget_after_fork() -> None:
    global _lock, _loop, _thread
    _lock = threading.Lock()  # may have been held by a thread that the child doesn't have
    _loop = _thread = None


os.register_at_fork(after_in_child=_forget_after_fork)
