"""
Tasks of ``django.tasks`` that stream: each holds the producer of a run, and ends it.

Needs Django 6.0. A run has an id of its own here, since a backend names its tasks by itself: it is
sent as the task's first argument.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, Unpack, overload

import django

from ..contract import Producer, RunOptions, SyncProducer
from ..exceptions import cancel_requested
from ..registry import get_bridge, get_sync_bridge
from .enqueue import end_if_refused, enqueue, seconds_until

try:
    from django.tasks import task
except ImportError as error:
    raise ImportError(
        "streambridge_app.contrib.tasks needs django.tasks, which comes with Django 6.0; this is "
        f"Django {django.get_version()}."
    ) from error


if TYPE_CHECKING:
    from django.tasks import Task, TaskContext

P = ParamSpec("P")
R = TypeVar("R")
Handle = TypeVar("Handle", SyncProducer, Producer)


@overload
def streamed_task(
    function: Callable[Concatenate[TaskContext[..., Any], Handle, P], R],
    /,
    *,
    takes_context: Literal[True],
    **options: Any,
) -> Task[Concatenate[str, P], R]: ...
@overload
def streamed_task(
    function: Callable[Concatenate[Handle, P], R],
    /,
    *,
    takes_context: Literal[False] = False,
    **options: Any,
) -> Task[Concatenate[str, P], R]: ...
@overload
def streamed_task(
    *, takes_context: Literal[True], **options: Any
) -> Callable[
    [Callable[Concatenate[TaskContext[..., Any], Handle, P], R]], Task[Concatenate[str, P], R]
]: ...
@overload
def streamed_task(
    *, takes_context: Literal[False] = False, **options: Any
) -> Callable[[Callable[Concatenate[Handle, P], R]], Task[Concatenate[str, P], R]]: ...
def streamed_task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """
    Make a task of a function whose first argument is an open producer handle.

    With ``takes_context=True``, the first after the context. An ``async def`` gets the handle
    with ``await``. The run is ended ``success``, or ``error`` by an exception, or ``cancelled``
    by a wish to cancel, which makes ``publish`` raise CancelRequested. An attempt takes the run
    over from the one before. A task whose run has ended fails with RunEnded.

    Args:
        function: what the task does.
        options: those of ``django.tasks.task``.
    """
    if function is None:
        return functools.partial(streamed_task, **options)
    before = 1 if options.get("takes_context") else 0
    wrapped = _awaiting if iscoroutinefunction(function) else _blocking
    return task(**options)(wrapped(function, before))


def stream(
    task: Task[Concatenate[str, ...], Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    **options: Unpack[RunOptions],
) -> str:
    """
    Create a run, enqueue its task, and return the run's id.

    Inside ``transaction.atomic()`` the task is enqueued after the commit, on
    whichever database that is.

    Args:
        task: a streamed task; ``task.using(…)`` gives it a queue, a priority, a time.
        args, kwargs: what it is called with, after the handle.
        options: as for ``create_run``: see :class:`streambridge_app.RunOptions`. Here the lease
            counts from when the task is due, and is a day if it is left out.

    Raises:
        InsideTransaction: in a manual transaction, of whose commit nobody hears.
        What ``create_run`` raises; what the task's backend raises when it can't enqueue, after
        which the run has ended ``error``.
    """
    return enqueue(
        lambda run_id: task.enqueue(run_id, *args, **(kwargs or {})),
        seconds_until(task.run_after),
        options,
    )


def _blocking(function: Callable[..., Any], before: int) -> Callable[..., Any]:
    @functools.wraps(function)
    def attempt(*args: Any, **kwargs: Any) -> Any:
        context, run_id, rest = args[:before], args[before], args[before + 1 :]
        with ExitStack() as block:
            with end_if_refused(run_id):
                run = get_sync_bridge().producer(run_id, take_over=True, raise_on_cancel=True)
                block.enter_context(run)
            if run.cancel_requested:
                raise cancel_requested(run_id)
            return function(*context, run, *rest, **kwargs)

    return attempt


def _awaiting(function: Callable[..., Any], before: int) -> Callable[..., Any]:
    @functools.wraps(function)
    async def attempt(*args: Any, **kwargs: Any) -> Any:
        context, run_id, rest = args[:before], args[before], args[before + 1 :]
        async with get_bridge().producer(run_id, take_over=True, raise_on_cancel=True) as run:
            if run.cancel_requested:
                raise cancel_requested(run_id)
            return await function(*context, run, *rest, **kwargs)

    return attempt
