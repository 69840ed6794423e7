"""
Processes whose threads are greenlets, since gevent has patched them: found out, and lived with.

There a thread of ours is a greenlet too, and may wait like any other. Two things stay those of the
one real thread: asyncio's running loop, which Django's ORM takes for a sign that it must not be
called; and whatever blocks without gevent's knowledge. So a loop is hidden from all greenlets but
its own, and nothing here may wait in C.

This is the only module that knows gevent, eventlet and greenlet, and it imports none that the
process has not. It keeps to what they document (``is_module_patched``, ``settrace``; gevent 26.9,
eventlet 0.41, greenlet 3.5) and to ``asyncio._set_running_loop``, which is there for event loops.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, NamedTuple, Self, TypeVar

from ..exceptions import GreenThreadsUnsupported

T = TypeVar("T")

LOOP_THREADS: Final = 8
"""Green threads for what a hidden loop has others do: to resolve a name, for one."""

_PATCH_FIRST: Final = (
    "Call gevent.monkey.patch_all() before anything else, at the top of the program."
)
_NEEDED: Final = ("select", "socket", "time", "queue")


def are_used() -> bool:
    """Return whether the threads of this process are greenlets of gevent."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def check(thread_local: Callable[[], object]) -> None:
    """
    Check that the bridge can work with the threads of this process.

    Args:
        thread_local: returns something of Django's that each thread has for itself.

    Raises:
        GreenThreadsUnsupported: they are eventlet's; or gevent's, but half patched or too late.
    """
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is not None and patcher.is_monkey_patched("thread"):
        raise GreenThreadsUnsupported(
            "StreamBridge doesn't work in a process that eventlet has patched. Use gevent (for "
            "one, celery -P gevent) or real threads (celery -P threads) instead."
        )
    if not are_used():
        return
    is_patched = sys.modules["gevent.monkey"].is_module_patched
    if missing := [name for name in _NEEDED if not is_patched(name)]:
        raise GreenThreadsUnsupported(
            f"gevent has patched threading in this process, but not {', '.join(missing)}: to wait "
            f"for one run would stop them all. {_PATCH_FIRST}"
        )
    here, there = thread_local(), GreenExecutor(1, name="streambridge-check")
    try:
        if there.submit(thread_local).result() is here:
            raise GreenThreadsUnsupported(
                "gevent has patched this process after Django was loaded, so that all greenlets "
                f"share one database connection. {_PATCH_FIRST}"
            )
    finally:
        there.shutdown()


def patched_late() -> GreenThreadsUnsupported:
    """Return the error of a bridge that was made before the threads were patched."""
    return GreenThreadsUnsupported(
        "The threads of this process were patched after StreamBridge's first use, which has "
        f"started real ones. {_PATCH_FIRST}"
    )


def executor(
    threads: int, *, name: str, initializer: Callable[[], None] | None = None
) -> ThreadPoolExecutor:
    """Return an executor with the kind of threads that this process has."""
    if are_used():
        return GreenExecutor(threads, name=name, initializer=initializer)
    return ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=initializer or _nothing)


class GreenExecutor(ThreadPoolExecutor):
    """
    A ThreadPoolExecutor of green threads that never switches under a lock of the whole process.

    That of the standard library starts a thread under one, which is a real one if it was imported
    before the patch: the next greenlet that wants it stops them all.
    """

    def __init__(
        self, threads: int, *, name: str, initializer: Callable[[], None] | None = None
    ) -> None:
        self._name = name
        self._most = threads
        self._prepare = initializer or _nothing
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._changed = threading.Condition()
        self._workers: list[threading.Thread] = []
        self._idle = 0
        self._ending = False

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        with self._changed:
            if self._ending:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._waiting.append((future, lambda: function(*args, **kwargs)))
            if self._idle < len(self._waiting) and len(self._workers) < self._most:
                worker = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._workers.append(worker)
            else:
                worker = None
                self._changed.notify()
        if worker is not None:
            worker.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._changed:
            self._ending = True
            if cancel_futures:
                while self._waiting:
                    self._waiting.popleft()[0].cancel()
            self._changed.notify_all()
        if wait:
            for worker in self._workers:
                worker.join()

    def _work(self) -> None:
        self._prepare()
        while (job := self._next()) is not None:
            future, call = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = call()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
            del job, future, call  # or an idle worker keeps them alive

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._waiting or self._ending)
            self._idle -= 1
            return self._waiting.popleft() if self._waiting else None


def run_hidden(loop: asyncio.AbstractEventLoop, run: Callable[[], None]) -> None:
    """Call what runs a loop on this greenlet, so that no other one sees that it runs."""
    greenlet: Any = sys.modules["greenlet"]  # of which gevent is made
    ours = greenlet.getcurrent()
    earlier: Callable[[str, tuple[Any, Any]], None] | None = greenlet.gettrace()
    state = _LoopState.take()  # somebody else's: none may run here when ours starts
    _LoopState().put()

    def trace(event: str, switch: tuple[Any, Any]) -> None:
        nonlocal state
        if ours in switch and switch[0] is not switch[1]:
            found = _LoopState.take()
            state.put()
            state = found
        if earlier is not None:
            earlier(event, switch)

    loop.set_default_executor(GreenExecutor(LOOP_THREADS, name="streambridge-blocking"))
    greenlet.settrace(trace)
    try:
        run()
    finally:
        if greenlet.gettrace() is trace:
            greenlet.settrace(earlier)
        state.put()


class _LoopState(NamedTuple):
    """What asyncio keeps for each real thread while a loop runs there."""

    loop: asyncio.AbstractEventLoop | None = None
    firstiter: Any = None
    finalizer: Any = None

    @classmethod
    def take(cls) -> Self:
        """Return what this thread has."""
        return cls(asyncio._get_running_loop(), *sys.get_asyncgen_hooks())

    def put(self) -> None:
        """Let this thread have it."""
        asyncio._set_running_loop(self.loop)
        sys.set_asyncgen_hooks(self.firstiter, self.finalizer)


def _nothing() -> None:
    return None
