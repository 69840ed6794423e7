"""What a check is, and how one that blocks is made."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

from django.db import connections

from .findings import Found
from .partner import Partner

P = ParamSpec("P")
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Visit:
    """What the checks of one examination share."""

    timeout: float
    """Seconds for each check."""
    partner: Partner


@dataclasses.dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    examine: Callable[[Visit], Awaitable[Found]]
    hint: str
    """What to do when it comes to no end."""
    needs: tuple[str, ...] = ()
    """Names of the checks without whose success this one says nothing."""
    least: float = 0.0
    """Seconds for it at least, however few the others are given."""


def blocking(function: Callable[[], Found]) -> Callable[[Visit], Awaitable[Found]]:
    """Make a check of a function that may block."""

    async def examine(visit: Visit) -> Found:
        return await in_thread(function)

    return examine


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call what may block, for ever perhaps. A caller that is cancelled leaves it behind."""
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()

    def call() -> None:
        try:
            try:
                result = function(*args, **kwargs)
            finally:
                connections.close_all()
        except BaseException as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)

    threading.Thread(target=call, name="streambridge-doctor", daemon=True).start()
    return await asyncio.wrap_future(outcome)
