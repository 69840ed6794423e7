"""The bridge of each stack."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core.management.sql import emit_post_migrate_signal
from django.db import DatabaseError, connections
from django.db.models.signals import post_migrate
from pytest_django import DjangoDbBlocker, Settings

from streambridge_app import StreamBridge, SyncStreamBridge, get_bridge, get_sync_bridge
from tests.conftest import STACKS, Stack

DATABASE_STACKS = STACKS[1:]
LAYER_STACKS = STACKS[2:]


@pytest.fixture(scope="package", autouse=True)
def _without_permissions(django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Let no permissions be made while this suite runs.

    Emptying the databases after a test makes them all anew, which would take half of the time.
    """
    receivers, post_migrate.receivers = post_migrate.receivers, []
    post_migrate.sender_receivers_cache.clear()
    yield
    post_migrate.receivers = receivers
    post_migrate.sender_receivers_cache.clear()
    with django_db_blocker.unblock():
        for alias in connections:
            with contextlib.suppress(DatabaseError):  # no test needed this database
                emit_post_migrate_signal(verbosity=0, interactive=False, db=alias)
            connections[alias].close()


@pytest.fixture
async def bridge(stack: Stack) -> AsyncIterator[StreamBridge]:
    """The bridge, closed on the event loop of its test."""
    bridge = get_bridge()
    yield bridge
    await bridge.close()


@pytest.fixture
def bridge_with(stack: Stack, settings: Settings) -> Callable[..., Any]:
    """Make the bridge with more options: `async with bridge_with(POLL_INTERVAL=1) as bridge`."""

    @contextlib.asynccontextmanager
    async def make(**options: Any) -> AsyncIterator[StreamBridge]:
        settings.STREAMBRIDGE = {**settings.STREAMBRIDGE, **options}
        bridge = get_bridge()
        try:
            yield bridge
        finally:
            await bridge.close()

    return make


@pytest.fixture
def sync_bridge(bridge: StreamBridge) -> SyncStreamBridge:
    """The same bridge without await, to be called `in_thread`."""
    return get_sync_bridge()


@pytest.fixture
async def in_thread() -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Call functions in one other thread, whose database connections are closed at the end."""
    with ThreadPoolExecutor(1) as thread:
        loop = asyncio.get_running_loop()

        def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Awaitable[Any]:
            return loop.run_in_executor(thread, functools.partial(function, *args, **kwargs))

        yield call
        await call(connections.close_all)
