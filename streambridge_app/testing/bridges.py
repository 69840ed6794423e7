"""A clean bridge for each test, that sees what the test's transaction has."""

from __future__ import annotations

import contextlib
import unittest
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from django.db import connections
from django.test import AsyncClient, TestCase

from .. import registry
from ..conf import streambridge_settings
from ..runtime import overlooking_test_cases
from .published import Recorder, recorder
from .sse_client import SSEClient

_REPLACED: Final = "streambridge_app.backends.channel_layer.ChannelLayerBridge"
_REPLACEMENT: Final = "streambridge_app.backends.in_transaction.InTransactionBridge"


@contextlib.contextmanager
def clean_bridge(*, commits: bool) -> Iterator[None]:
    """
    Let what is tested in the block have a bridge of its own.

    Where the settings name the default backend, that works on the test's connection if the test
    commits nothing, and on SQLite in memory, where its threads would lock each other out. Any other
    backend stays what it is, and to that the test's transaction is one.

    Args:
        commits: whether the test commits what it writes.
    """

    def is_replaced() -> bool:
        is_default = streambridge_settings.BACKEND == _REPLACED
        return is_default and (not commits or _is_in_memory())

    def choose(path: str) -> str:
        return _REPLACEMENT if is_replaced() else path

    registry.reset()
    try:
        with registry.choosing(choose), overlooking_test_cases(is_replaced):
            yield
    finally:
        registry.reset()


def _is_in_memory() -> bool:
    connection = connections[streambridge_settings.DATABASE]
    return connection.vendor == "sqlite" and bool(connection.is_in_memory_db())  # type: ignore[attr-defined]


if TYPE_CHECKING:
    _Base = TestCase
else:
    _Base = object


class StreamBridgeTestMixin(_Base):
    """
    Gives each test of a ``TestCase`` or ``TransactionTestCase`` a clean bridge.

    It comes first: ``class ChatTests(StreamBridgeTestMixin, TestCase)``.
    """

    async_client: AsyncClient

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        before = cls.__mro__[: cls.__mro__.index(StreamBridgeTestMixin)]
        if any(
            issubclass(base, unittest.TestCase) and not issubclass(base, StreamBridgeTestMixin)
            for base in before
        ):
            raise TypeError(
                "StreamBridgeTestMixin must come before the test case it is mixed into: class "
                f"{cls.__name__}(StreamBridgeTestMixin, …)."
            )

    @classmethod
    def setUpClass(cls) -> None:
        cls.enterClassContext(clean_bridge(commits=not issubclass(cls, TestCase)))
        super().setUpClass()

    def run(self, result: Any = None) -> Any:
        """Run the test, with a bridge that nobody has used before it."""
        registry.reset()
        try:
            return super().run(result)
        finally:
            registry.reset()

    recorder: Recorder = recorder
    """Looks at what was published."""

    @property
    def sse_client(self) -> SSEClient:
        """Opens event streams, as the user that ``self.async_client`` is logged in as."""
        return SSEClient(self.async_client)
