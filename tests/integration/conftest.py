"""Who comes to a run, and servers of the project in `apps/runs.py` on the test run's database."""

import contextlib
import gc
import http.client
import json
from collections.abc import Iterator

import pytest
from django.contrib.auth.models import Permission, User
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import AsyncClient

from streambridge_app.access import Access, Authorizer
from streambridge_app.asgi.open_streams import open_streams
from streambridge_app.log.connections import own_connection
from tests.services import HOST, AsgiServer

APPLICATION = "tests.integration.apps.runs:application"

PEOPLE: dict[str, dict[str, bool]] = {
    "owner": {},
    "stranger": {},
    "permitted stranger": {},
    "staff": {"is_staff": True},
    "viewer": {"is_staff": True},
    "changer": {"is_staff": True},
    "viewer and changer": {"is_staff": True},
    "inactive owner": {"is_active": False},
    "inactive viewer": {"is_staff": True, "is_active": False},
    "superuser": {"is_staff": True, "is_superuser": True},
}
PERMISSIONS = {
    "permitted stranger": ["view_run", "change_run"],
    "viewer": ["view_run"],
    "changer": ["change_run"],
    "viewer and changer": ["view_run", "change_run"],
    "inactive viewer": ["view_run"],
}


@pytest.fixture(params=["daphne", "uvicorn"], scope="module")
def runs_server(request: pytest.FixtureRequest, django_db_setup: None) -> Iterator[AsgiServer]:
    with AsgiServer(request.param, APPLICATION) as server:
        yield server


@pytest.fixture
def own() -> Iterator[BaseDatabaseWrapper]:
    """A connection to PostgreSQL as the log's own threads have it."""
    connection = own_connection("postgres")
    connection.ensure_connection()
    yield connection
    connection.close()


@pytest.fixture(autouse=True)
def _no_stream_stays_open() -> Iterator[None]:
    yield
    if open_streams():
        gc.collect()  # Django's test client ties responses in a knot
    assert open_streams() == 0


@contextlib.contextmanager
def requested(server: AsgiServer, path: str, **headers: str) -> Iterator[http.client.HTTPResponse]:
    with contextlib.closing(http.client.HTTPConnection(HOST, server.port, timeout=20)) as client:
        client.request("GET", path, headers=headers)
        with client.getresponse() as response:
            yield response


def streams_of(server: AsgiServer) -> int:
    with requested(server, "/") as response:
        return int(json.load(response)["open_streams"])


class OpenHouse(Authorizer):
    """Lets everybody in, and cancel."""

    async def can_read(self, access: Access) -> bool:
        return True

    async def can_cancel(self, access: Access) -> bool:
        return True


OPEN_HOUSE = f"{__name__}.OpenHouse"


async def person(kind: str) -> User:
    """Return one of PEOPLE."""
    user, created = await User.objects.aget_or_create(username=kind, defaults=PEOPLE[kind])
    if created:
        wanted = Permission.objects.filter(codename__in=PERMISSIONS.get(kind, []))
        await user.user_permissions.aset([permission async for permission in wanted])
    return user


async def client_of(kind: str | None) -> AsyncClient:
    """Return a client in whose browser one of PEOPLE is logged in, or nobody."""
    client = AsyncClient()
    if kind is not None:
        await client.aforce_login(await person(kind))
    return client
