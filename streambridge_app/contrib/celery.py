"""
Celery tasks that stream: each holds the producer of a run, and ends it.

The run's id is the task's: it stays the same when Celery tries the task again, and each attempt
takes the run over from the one before.
"""

from __future__ import annotations

import datetime
import functools
import inspect
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from contextvars import ContextVar
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from celery import shared_task, states
from celery.contrib.django.task import DjangoTask
from celery.exceptions import Ignore, Reject, Retry

from ..contract import RunOptions, SyncProducer
from ..exceptions import CancelRequested, ProducerFenced, RunEnded, cancel_requested
from ..registry import get_sync_bridge
from .enqueue import end_if_refused, enqueue, seconds_until

logger = logging.getLogger("streambridge")
_open_run: ContextVar[SyncProducer] = ContextVar("streambridge_open_run")

P = ParamSpec("P")
R = TypeVar("R")


class StreamedTask(DjangoTask, Generic[P, R]):  # type: ignore[misc] # Celery has no types
    """
    The base class of streamed tasks; a task's own ``base`` has to be a subclass.

    It is here, around the whole attempt, that the run is held: Celery's ``autoretry_for`` works
    inside. To type checkers it has the parameters of its senders and the result of the function.
    """

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Hold the producer of the run while the task runs, called by a worker or directly."""
        try:
            with ExitStack() as block:
                run = self._enter(block)
                return self._attempt(run, args, kwargs)
        except CancelRequested as error:
            if isinstance(error.__cause__, Ignore):
                raise error.__cause__ from None
            if not (self.request.is_eager or self.request.called_directly):
                self.update_state(state=states.REVOKED)
            raise Ignore(str(error)) from error
        except ProducerFenced as error:  # the attempt that has the run now says how it ends
            raise Ignore(str(error)) from error

    def retry(self, *args: Any, **kwargs: Any) -> Any:
        """Try the task again: see Celery. What was published so far is committed before."""
        # The next attempt may begin at once: what this one still had to write would be refused.
        _open_run.get().flush()
        return super().retry(*args, **kwargs)

    if TYPE_CHECKING:  # Celery's own methods, with the arguments that they take here

        def delay(self, *args: P.args, **kwargs: P.kwargs) -> Any: ...
        def s(self, *args: P.args, **kwargs: P.kwargs) -> _Signature: ...
        def si(self, *args: P.args, **kwargs: P.kwargs) -> _Signature: ...

    def _enter(self, block: ExitStack) -> SyncProducer:
        run_id = self.request.id or str(uuid.uuid4())
        try:
            with end_if_refused(run_id):
                run = get_sync_bridge().producer(run_id, take_over=True, raise_on_cancel=True)
                block.enter_context(run)
        except RunEnded as error:  # cancelled or lost before this attempt
            logger.info("Task %s does not run: %s", self.name, error)
            raise Ignore(str(error)) from error
        block.callback(_open_run.reset, _open_run.set(run))
        return run

    def _attempt(self, run: SyncProducer, args: Sequence[Any], kwargs: Mapping[str, Any]) -> R:
        if run.cancel_requested:
            raise cancel_requested(run.run_id)
        try:
            result: R = self.run(run, *args, **kwargs)
            return result
        except Retry as retry:
            with suppress(ProducerFenced):  # the next attempt has begun
                run.release(wait=seconds_until(retry.when))
            raise
        except Reject as reject:
            if reject.requeue:
                run.release()
            raise
        except Ignore as ignore:
            raise cancel_requested(run.run_id) from ignore


if TYPE_CHECKING:

    class _Signature:
        """A Celery signature of a streamed task."""

        def __getattr__(self, name: str) -> Any: ...


class StreamOptions(RunOptions, total=False):
    """
    What :func:`stream` can be told: of the run, and what Celery documents of ``apply_async``.

    What else a broker or an ``apply_async`` of your own takes, type checkers accept with
    ``task.s(…).set(…)``.
    """

    countdown: float | None
    eta: datetime.datetime | None
    expires: float | datetime.datetime | None
    queue: Any
    exchange: Any
    routing_key: str | None
    priority: int | None
    headers: Mapping[str, Any] | None
    link: Any
    link_error: Any
    shadow: str | None
    time_limit: float | None
    soft_time_limit: float | None
    ignore_result: bool
    add_to_parent: bool
    serializer: str | None
    compression: str | None
    retry: bool
    retry_policy: Mapping[str, Any] | None
    connection: Any
    producer: Any


@overload
def streamed_task(
    function: Callable[Concatenate[Any, SyncProducer, P], R],
    /,
    *,
    bind: Literal[True],
    **options: Any,
) -> StreamedTask[P, R]: ...
@overload
def streamed_task(
    function: Callable[Concatenate[SyncProducer, P], R],
    /,
    *,
    bind: Literal[False] = False,
    **options: Any,
) -> StreamedTask[P, R]: ...
@overload
def streamed_task(
    *, bind: Literal[True], **options: Any
) -> Callable[[Callable[Concatenate[Any, SyncProducer, P], R]], StreamedTask[P, R]]: ...
@overload
def streamed_task(
    *, bind: Literal[False] = False, **options: Any
) -> Callable[[Callable[Concatenate[SyncProducer, P], R]], StreamedTask[P, R]]: ...
def streamed_task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """
    Make a Celery task of a function whose first argument is an open producer handle.

    With ``bind=True``, the first after the task itself. The run is ended ``success``, or
    ``error`` by an exception, or ``cancelled`` by a wish to cancel, which makes ``publish``
    raise CancelRequested; it goes on while Celery tries the task again. A task whose run has
    ended doesn't run.

    Args:
        function: what the task does.
        options: those of Celery's ``shared_task``.
    """
    if function is None:
        return functools.partial(streamed_task, **options)
    options = {"base": StreamedTask, **options}
    return shared_task(**options)(_without_run(function, bound=options.get("bind", False)))


def stream(
    task: StreamedTask[..., Any] | _Signature,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    **options: Unpack[StreamOptions],
) -> str:
    """
    Create a run, send its task, and return the id of both.

    Inside ``transaction.atomic()`` the task is sent after the commit, on
    whichever database that is.

    Args:
        task: a streamed task; or its signature, ``task.s(…)``, whose arguments type checkers can
            check against the function's.
        args, kwargs: what it is called with, after the handle; not with a signature.
        options: as for ``create_run``: see :class:`streambridge_app.RunOptions`. Here the lease
            counts from when the task is due, and is a day if it is left out. All others are for
            Celery's ``apply_async``: ``queue``, ``countdown`` …

    Raises:
        InsideTransaction: in a manual transaction, of whose commit nobody hears.
        What ``create_run`` raises; what Celery raises when the broker can't be reached, after
        which the run has ended ``error``.
    """
    sending: dict[str, Any] = {**options}
    said = {name: sending.pop(name) for name in RunOptions.__annotations__ if name in sending}

    def send(run_id: str) -> None:
        task.apply_async(list(args), dict(kwargs or {}), task_id=run_id, **sending)

    wait = seconds_until(options.get("countdown") or options.get("eta"))
    return enqueue(send, wait, cast("RunOptions", said))


def _without_run(function: Callable[..., Any], *, bound: bool) -> Callable[..., Any]:
    """Return the function with the signature that senders see, by which Celery checks calls."""

    @functools.wraps(function)
    def task(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    del parameters[1 if bound else 0]
    task.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return task
