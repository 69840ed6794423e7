"""
The plugin for pytest, which finds it by itself once StreamBridge is installed.

Each test gets a clean bridge: with pytest-django's ``db`` one that sees what the test's transaction
has, with ``transactional_db`` that of the settings. The fixture ``recorder`` looks at what was
published, and ``sse_client`` opens event streams as the user of pytest-django's ``async_client``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest
from django.conf import settings

from .. import registry

if TYPE_CHECKING:
    from .published import Recorder
    from .sse_client import SSEClient

_COMMITTING: Final = {
    "transactional_db",
    "django_db_reset_sequences",
    "django_db_serialized_rollback",
    "live_server",
}
"""Fixtures of pytest-django with which a test commits."""


@pytest.fixture(autouse=True)
def _streambridge(request: pytest.FixtureRequest) -> Iterator[None]:
    from .bridges import StreamBridgeTestMixin, clean_bridge

    test_class: type = request.cls or object
    if not settings.configured or issubclass(test_class, StreamBridgeTestMixin):
        yield
        return
    with clean_bridge(commits=_commits(request, test_class)):
        yield


def _commits(request: pytest.FixtureRequest, test_class: type) -> bool:
    from django.test import TestCase, TransactionTestCase

    if issubclass(test_class, TransactionTestCase):
        return not issubclass(test_class, TestCase)
    marker = request.node.get_closest_marker("django_db")
    transaction = marker and (marker.kwargs.get("transaction") or (*marker.args, False)[0])
    return bool(transaction) or not _COMMITTING.isdisjoint(request.fixturenames)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    """Let the bridge go before the database is emptied, which waits for its connections."""
    registry.reset()


@pytest.fixture
def recorder() -> Recorder:
    """Looks at the events of runs: see :class:`streambridge_app.testing.Recorder`."""
    from .published import recorder

    return recorder


@pytest.fixture
def sse_client(async_client: Any) -> SSEClient:
    """Opens event streams: see :class:`streambridge_app.testing.SSEClient`."""
    from .sse_client import SSEClient

    return SSEClient(async_client)
