"""
Keep a hub in the groups of the runs it follows, and in no other.

One task compares the groups wanted with the groups joined and mends the difference, so that a
join and a leave of the same run can't overtake each other. It survives a layer that fails,
hangs or forgets: it tries again, with a new channel, and joins again before membership expires.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from channels.layers import BaseChannelLayer

from .groups import Groups, open_groups
from .layer import Outage, group_name

CLOSE_DEADLINE: Final = 2.0
"""Seconds for which leaving the groups may take."""

RETRY_DELAY: Final = 1.0
"""Seconds before the layer is tried again."""

logger = logging.getLogger("streambridge")


class Member(Protocol):
    """A followed run."""

    joined: asyncio.Event


class Membership:
    """The groups of one hub, and the channel through which their messages come."""

    def __init__(
        self,
        layer: BaseChannelLayer,
        wanted: Mapping[str, Member],
        receive: Callable[[dict[str, Any]], None],
        *,
        outage: Outage | None = None,
        missed: Callable[[str], None] = lambda run_id: None,
    ) -> None:
        """
        Args:
            layer: the channel layer.
            wanted: the runs followed, by id; it changes meanwhile.
            receive: takes the messages.
            outage: told of the layer's.
            missed: called with a run whose group was joined anew: its messages may have been lost.
        """
        self._layer = layer
        self._outage = outage or Outage()
        self._missed = missed
        self._wanted = wanted
        self._receive = receive
        self._joined: set[str] = set()
        """The runs whose groups were joined."""
        self._dirty: set[str] = set()
        """The runs that :attr:`_wanted` and :attr:`_joined` may differ about."""
        self._joins: set[str] = set()
        """The runs whose groups are being joined."""
        self._changed = asyncio.Event()
        self._failing = False
        self._renewal = getattr(layer, "group_expiry", 86_400) / 3
        self._task = asyncio.ensure_future(self._keep())

    @property
    def joining(self) -> bool:
        """Whether some runs are followed whose groups are being joined: their news is missed."""
        return bool(self._joins)

    def has_joined(self, run_id: str) -> bool:
        """Return whether messages of a run can come."""
        return run_id in self._joined

    def changed(self, run_id: str) -> None:
        """Say that a run is followed now, or no more."""
        self._dirty.add(run_id)
        self._changed.set()
        if self._failing and run_id in self._wanted:
            self._wanted[run_id].joined.set()  # its clients rely on polling from the start

    async def close(self) -> None:
        """Leave all groups, as far as the layer answers."""
        self.stop()
        await asyncio.wait((self._task,))

    def stop(self) -> None:
        """Do the same without waiting for it."""
        self._task.cancel()

    async def _keep(self) -> None:
        while True:
            self._dirty = set(self._wanted)
            self._changed.set()
            began = asyncio.get_running_loop().time()
            try:
                await self._serve(await open_groups(self._layer, self._receive))
            except Exception as error:
                self._outage.began(error)
            self._failing = True
            self._joined.clear()
            for member in self._wanted.values():
                member.joined.set()
            # What has worked for long and was cut may be made anew at once.
            await asyncio.sleep(began + RETRY_DELAY - asyncio.get_running_loop().time())

    async def _serve(self, groups: Groups) -> None:
        """Receive and mend until the layer fails."""
        tasks = [asyncio.ensure_future(groups.serve()), asyncio.ensure_future(self._mend(groups))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            # On a failure as on a cancellation: end both, and leave the groups if it goes.
            # The groups first: a layer may forget the channel with its last receiver.
            try:
                async with asyncio.timeout(CLOSE_DEADLINE):
                    await groups.close()
            except Exception:
                logger.debug("Groups were left to expire.", exc_info=True)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks, timeout=CLOSE_DEADLINE)

    async def _mend(self, groups: Groups) -> None:
        now = asyncio.get_running_loop().time
        renew_at = now() + self._renewal
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(renew_at):
                    await self._changed.wait()
            if now() >= renew_at:  # however often the runs followed change meanwhile
                renew_at = now() + self._renewal
                await groups.join(_names(self._joined))
            self._changed.clear()
            dirty, self._dirty = self._dirty, set()
            joins = [run_id for run_id in dirty if run_id in self._wanted]
            self._joins = set(joins) - self._joined
            try:
                await groups.join(_names(self._joins))
            finally:
                self._joins = set()
            self._joined.update(joins)
            if joins and self._failing:
                self._failing = False
                self._outage.is_over()
                for run_id in joins:
                    self._missed(run_id)
            for run_id in joins:
                if run_id in self._wanted:
                    self._wanted[run_id].joined.set()
            parts = {run_id for run_id in dirty if run_id not in self._wanted} & self._joined
            self._joined -= parts
            await groups.leave(_names(parts))


def _names(run_ids: Iterable[str]) -> list[str]:
    return [group_name(run_id) for run_id in run_ids]
