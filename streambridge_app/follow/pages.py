"""
Pages of the log, read once for all clients of an event loop that want them at about the same time.

Twenty readers of the same history cost the database what one costs, and its frames are encoded
once. A page never changes: events are only ever added after it, or deleted with a gap to show.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from ..contract import Batch

KEPT_PAGES: Final = 8
"""Pages in memory per event loop, at most; each around 256 KiB of data, and its frames."""

READ_AHEAD: Final = 4
"""Of these, as many are kept for readers that are about to ask for them, at most."""

AHEAD_SECONDS: Final = 1.0
"""Seconds for which such a page is kept: a client that takes longer has no use for haste."""

Place = tuple[int, int, int]
"""A run's key, its epoch, and the number of the event to start after."""

ReadPage = Callable[[int, int, int, int], Awaitable[Batch | None]]


class Pages:
    """The pages asked for last. Use it on one event loop only."""

    def __init__(self, read: ReadPage, page_events: int) -> None:
        """
        Args:
            read: reads a page, given a run's key, its epoch, the number to start after and how
                many events to read at most.
            page_events: events in a page, at most.
        """
        self._read = read
        self._page_events = page_events
        self._pages: OrderedDict[Place, asyncio.Future[Batch | None]] = OrderedDict()
        """The one asked for last at the end."""
        self._ahead: dict[Place, float] = {}
        """Until when (``time.monotonic``) those are kept that nobody has asked for yet."""

    async def read(self, key: int, epoch: int, seq: int, head: int) -> Batch | None:
        """
        Return a page of what is after ``seq``; None if there is nothing.

        The page after it is read ahead, while this one is on its way to the client. With many
        readers elsewhere it is not: it would be dropped for theirs, and be read twice.

        Args:
            key: primary key of the run.
            epoch: its epoch.
            seq: number of the event to start after.
            head: number of the newest event that has to be read.

        Raises:
            LogUnavailable: the log can't be reached.
        """
        place = (key, epoch, seq)
        self._ahead.pop(place, None)
        # A client that goes away must not take the page from the others.
        page = await asyncio.shield(self._page(place))
        if page is not None and page.last < head:
            self._read_ahead((key, epoch, page.last))
        return page

    def _read_ahead(self, place: Place) -> None:
        if place in self._pages:
            self._pages.move_to_end(place)
        elif len(self._awaited()) < READ_AHEAD:
            self._ahead[place] = time.monotonic() + AHEAD_SECONDS
            self._page(place)

    def _awaited(self) -> Collection[Place]:
        """Return the pages that are read ahead, without those that were kept long enough."""
        now = time.monotonic()
        self._ahead = {place: until for place, until in self._ahead.items() if until > now}
        return self._ahead

    def _page(self, place: Place) -> asyncio.Future[Batch | None]:
        page = self._pages.get(place)
        if page is not None:
            self._pages.move_to_end(place)
            return page
        key, epoch, seq = place
        # Pages end at multiples of their size, so that readers that began elsewhere soon share.
        most = self._page_events - seq % self._page_events
        page = self._pages[place] = asyncio.ensure_future(self._read(key, epoch, seq, most))
        page.add_done_callback(lambda page: self._forget_failure(place, page))
        if len(self._pages) > KEPT_PAGES:
            awaited = self._awaited()
            del self._pages[next(place for place in self._pages if place not in awaited)]
        return page

    def _forget_failure(self, place: Place, page: asyncio.Future[Batch | None]) -> None:
        failed = page.cancelled() or page.exception() is not None or page.result() is None
        if failed and self._pages.get(place) is page:
            del self._pages[place]
            self._ahead.pop(place, None)

    async def close(self) -> None:
        """Wait for what is being read."""
        await asyncio.gather(*self._pages.values(), return_exceptions=True)
