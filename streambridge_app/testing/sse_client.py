"""A client of event streams over Django's ``AsyncClient``, for tests."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import dataclasses
import json
from collections.abc import AsyncGenerator, AsyncIterator
from http import HTTPStatus
from typing import Any, Self

from django.http import StreamingHttpResponse
from django.test import AsyncClient
from django.urls import reverse


@dataclasses.dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """An event as an ``EventSource`` gets it."""

    event: str
    """Its name: ``end`` and ``gap`` are the stream's own."""
    data: Any
    """What its JSON says."""
    id: str
    """The ``lastEventId`` after it."""


class SSEClient:
    """Opens event streams: ``async with sse_client.open(run_id) as stream``."""

    def __init__(self, client: AsyncClient, *, timeout: float = 5.0) -> None:
        """
        Args:
            client: whose session it uses.
            timeout: seconds for which each event may take.
        """
        self._client = client
        self._timeout = timeout

    @contextlib.asynccontextmanager
    async def open(
        self, run: Any, *, last_event_id: str | None = None, **extra: Any
    ) -> AsyncGenerator[EventStream]:
        """
        Open the stream of a run, and close it with the block.

        Args:
            run: its id, or what has a ``run_id``; a text that begins with ``/`` is the address.
            last_event_id: goes into the header ``Last-Event-ID``.
            extra: arguments of ``AsyncClient.get``.

        Raises:
            AssertionError: the answer is no stream; its status and text are in the message.
        """
        path = getattr(run, "run_id", run)
        if not (isinstance(path, str) and path.startswith("/")):
            path = reverse("streambridge:stream", kwargs={"run_id": path})
        headers = {"Accept": "text/event-stream", **extra.pop("headers", {})}
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        response: Any = await self._client.get(path, headers=headers, **extra)
        if response.status_code != HTTPStatus.OK or not response.streaming:
            text = "" if response.streaming else response.text
            raise AssertionError(f"{path} answered {response.status_code}, no stream: {text:.500}")
        parts = aiter(response)
        try:
            yield EventStream(response, parts, self._timeout)
        finally:
            await parts.aclose()
            response.close()


class EventStream:
    """
    Yields the events of an open stream, and stops when the server ends it.

    What is no event, as a heartbeat, is passed over.
    """

    def __init__(
        self, response: StreamingHttpResponse, parts: AsyncIterator[bytes], timeout: float
    ) -> None:
        self.response = response
        self.last_event_id = ""
        """The ``lastEventId``, with which an ``EventSource`` would come back."""
        self._parts = parts
        self._timeout = timeout
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._buffer = ""
        self._event = ""
        self._data: list[str] = []

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ServerSentEvent:
        """Return the next event; AssertionError if none comes in time."""
        try:
            async with asyncio.timeout(self._timeout):
                while True:
                    while "\n" in self._buffer:
                        line, _, self._buffer = self._buffer.partition("\n")
                        if found := self._take(line):
                            return found
                    self._buffer += self._decoder.decode(await anext(self._parts))
        except TimeoutError:
            raise AssertionError(f"No event came in {self._timeout:g} s.") from None

    def _take(self, line: str) -> ServerSentEvent | None:
        # https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.6.
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._event = value
        elif field == "data":
            self._data.append(value)
        elif field == "id":
            self.last_event_id = value
        elif not line:
            event, data = self._event or "message", self._data
            self._event, self._data = "", []
            if data:
                return ServerSentEvent(event, json.loads("\n".join(data)), self.last_event_id)
        return None
