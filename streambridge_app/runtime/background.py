"""
One event loop per process, in a thread of its own, for code that has no loop or must outlive it.

A channel layer opens connections per loop: a worker that made a loop per call would open a
pool per call and find it closed in the next. The thread starts at the first use, so a forked
child gets its own. :func:`end` ends it when nobody uses the loop; the next use starts another.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, wait
from functools import partial
from typing import Any, Final, TypeVar

from ..exceptions import BridgeClosed, interpreter_ending
from . import green_threads

END_DEADLINE: Final = 2.0
"""Seconds for which who ends the loop waits for its thread."""

INTERRUPT_DEADLINE: Final = 5.0
"""Seconds for which an interrupted caller waits for what it has called to stop."""

SIGNAL_SECONDS: Final = 1.0
"""
Seconds after which a waiting caller sees to a signal that didn't wake it.

One that comes in the last instructions before a thread sleeps, or that the kernel gives to another
thread, wakes nobody; Python handles it when the main thread next runs.
"""

T = TypeVar("T")

_lock = threading.RLock()  # a signal's handler may come in the middle
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None
_process = 0
_users: set[object] = set()
"""The calls that run on the loop, and what else would die with it."""
_inherited: list[object] = []
"""Loops of parent processes: to close one would change what its owner waits for."""


def loop() -> asyncio.AbstractEventLoop:
    """
    Return the process's background loop, starting its thread if need be.

    Raises:
        BridgeClosed: the interpreter is ending, and takes no new thread.
    """
    global _loop, _thread, _process
    with _lock:
        running = _loop
        if running is None or not is_running():
            started = asyncio.new_event_loop()
            thread = threading.Thread(
                target=_serve, args=(started,), name="streambridge-loop", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:
                started.close()
                if "shutdown" not in str(error):  # there is no thread to be had
                    raise
                raise interpreter_ending() from error
            running = _loop
            if running is not None and is_running():  # a signal's handler came first
                started.call_soon_threadsafe(started.stop)
                return running
            if running is not None:
                _inherited.append(running)
            running = started
            _loop, _thread, _process = started, thread, os.getpid()
        return running


def is_running() -> bool:
    """Return whether the loop has a thread in this process, and that is alive."""
    # Not counted at forks: uWSGI does not tell of its own.
    return _thread is not None and _thread.is_alive() and _process == os.getpid()


def hold(user: object) -> None:
    """Keep the loop from ending until :func:`release`, if this is its thread."""
    if is_current_thread():
        _users.add(user)


def release(user: object) -> None:
    """Undo :func:`hold`."""
    _users.discard(user)


def end() -> None:
    """Let the loop go with its thread, unless somebody uses it; the next use starts another."""
    with _lock:
        running, thread = _loop, _thread
        if running is None or thread is None or _users or not is_running():
            return
        _forget(running)
        running.call_soon_threadsafe(running.stop)
    if thread is not threading.current_thread():
        thread.join(END_DEADLINE)


def submit(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine on the background loop and return its future, for other threads."""
    user = object()
    try:
        future = asyncio.run_coroutine_threadsafe(coroutine, _use(user))
    except BaseException:
        _users.discard(user)
        coroutine.close()
        raise
    future.add_done_callback(lambda _: _users.discard(user))
    return future


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """
    Run a coroutine on the background loop and wait for it, from any other thread.

    When the interpreter is ending and there is no such loop, it runs on this thread.

    Raises:
        RuntimeError: on the loop's own thread, which would wait for itself.
    """
    try:
        check_thread()
    except RuntimeError:
        coroutine.close()
        raise
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

    try:
        running = _use(result)
    except BridgeClosed:
        _users.discard(result)
        return asyncio.run(coroutine)
    except BaseException:
        _users.discard(result)
        coroutine.close()
        raise
    result.add_done_callback(_users.discard)
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
    finally:
        if result.done():  # its callbacks may be late
            _users.discard(result)


async def in_thread(function: Callable[[], None]) -> None:
    """
    Call what may block off the running loop, whichever that is, on a thread of its own.

    A caller that is cancelled, or whose loop ends, leaves it to go on.
    """
    running = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = running.create_future()
    failed: list[BaseException] = []

    def call() -> None:
        try:
            function()
        except BaseException as error:
            failed.append(error)
        with contextlib.suppress(RuntimeError):  # the loop was closed, and who waited is gone
            running.call_soon_threadsafe(_wake, waiter)

    try:
        threading.Thread(target=call, name="streambridge-close").start()
    except RuntimeError:
        return  # the interpreter is ending: it has joined the threads already
    await waiter
    for error in failed:
        raise error


def check_thread() -> None:
    """Raise RuntimeError where the sync bridge would wait for itself."""
    if is_current_thread():
        raise RuntimeError("The sync bridge was called on StreamBridge's own event loop.")


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


def _use(user: object) -> asyncio.AbstractEventLoop:
    """Return the loop, which does not end before its user is gone."""
    with _lock:
        _users.add(user)  # first: a signal's handler may end the loop at any line
        return loop()


def _serve(running: asyncio.AbstractEventLoop) -> None:
    if green_threads.are_used():
        green_threads.run_hidden(running, partial(_run, running))
    else:
        _run(running)


def _run(running: asyncio.AbstractEventLoop) -> None:
    try:
        with contextlib.suppress(SystemExit):  # somebody's, who is told by his call
            running.run_forever()
    finally:
        _forget(running)
        try:
            running.run_until_complete(_finish())
        finally:
            running.close()


async def _finish() -> None:
    """Let nothing be pending when the loop is closed."""
    running = asyncio.get_running_loop()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=END_DEADLINE)
    with contextlib.suppress(RuntimeError):  # the interpreter is ending
        await running.shutdown_default_executor()


def _forget(running: asyncio.AbstractEventLoop) -> None:
    global _loop, _thread
    with _lock:
        if _loop is running:
            _loop = _thread = None


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _forget_after_fork() -> None:
    global _lock, _loop, _thread
    _lock = threading.RLock()  # may have been held by a thread that the child doesn't have
    if _loop is not None:
        _inherited.append(_loop)
    _loop = _thread = None
    _users.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
