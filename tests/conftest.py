"""The servers, started only for the tests that need them, and the stacks of the contract suite."""

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import hypothesis
import pytest
from asgiref.sync import SyncToAsync
from channels.layers import channel_layers
from django.conf import settings as django_settings
from django.db import connections
from pytest_django import Settings

from streambridge_app import registry
from tests.services import PostgresServer, RedisServer

# A shell starts its background jobs with SIGINT ignored, nohup what it runs with SIGHUP, and their
# servers would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The children of the tests import the same modules, some hundred times: once they compile them.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# For more examples: --hypothesis-profile=default.
hypothesis.settings.register_profile("suite", max_examples=25, deadline=None)
hypothesis.settings.load_profile("suite")

MEMORY = "streambridge_app.backends.memory.MemoryBridge"
CHANNEL_LAYER = "streambridge_app.backends.channel_layer.ChannelLayerBridge"


@dataclass(frozen=True)
class Stack:
    """A bridge and what it stands on, as `settings.STREAMBRIDGE` names them."""

    backend: str
    channel_layer: str = "default"
    database: str = "default"


def _stack(name: str, stack: Stack, *databases: str) -> object:
    marks = [pytest.mark.django_db(transaction=True, databases=databases)] if databases else []
    return pytest.param(stack, id=name, marks=marks)


STACKS = [
    _stack("memory", Stack(MEMORY)),
    _stack("inmemory-sqlite", Stack(CHANNEL_LAYER), "default"),
    _stack("pubsub-postgres", Stack(CHANNEL_LAYER, "pubsub", "postgres"), "postgres"),
    _stack("core-postgres", Stack(CHANNEL_LAYER, "core", "postgres"), "postgres"),
]


@pytest.fixture(params=STACKS)
def stack(request: pytest.FixtureRequest, settings: Settings) -> Stack:
    """Set the bridge of the test up on each stack in turn."""
    stack: Stack = request.param
    if stack.channel_layer != "default":
        request.getfixturevalue("redis_server").flush()
    settings.STREAMBRIDGE = {
        "BACKEND": stack.backend,
        "CHANNEL_LAYER": stack.channel_layer,
        "DATABASE": stack.database,
    }
    return stack


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The Redis of CHANNEL_LAYERS. A test that kills it starts it again."""
    with RedisServer(django_settings.REDIS_PORT) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The PostgreSQL of DATABASES["postgres"]. A test that kills it starts it again."""
    with PostgresServer(int(django_settings.DATABASES["postgres"]["PORT"])) as server:
        yield server


@pytest.fixture(scope="session")
def django_db_modify_db_settings(request: pytest.FixtureRequest) -> Iterator[None]:
    """Make room for the test databases, with PostgreSQL only if a test asks for it.

    Their names stay as they are in each worker of pytest-xdist, for it has servers of its own.
    """
    if any("postgres" in _databases(item) for item in request.session.items):
        request.getfixturevalue("postgres_server")
    django_settings.TEST_DIRECTORY.mkdir(mode=0o700)
    yield
    shutil.rmtree(django_settings.TEST_DIRECTORY)


def _databases(item: pytest.Item) -> list[str]:
    marker = item.get_closest_marker("django_db")
    databases = marker.kwargs.get("databases") if marker else None
    return list(connections if databases == "__all__" else databases or [])


@pytest.fixture(autouse=True)
def _leave_nothing_open(_django_db_marker: None) -> Iterator[None]:
    """Close the bridge and what it holds before the marker `django_db` empties the databases."""
    yield
    registry.reset()
    channel_layers.backends.clear()
    # The ORM of an async test runs in this thread, whose connections nobody else closes.
    SyncToAsync.single_thread_executor.submit(connections.close_all).result()
