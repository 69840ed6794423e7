"""A Django project of one file with endless event streams, the default middleware and a database.

EVENT_STREAMS_DATABASE names its SQLite file; EVENT_STREAMS_GZIP adds GZipMiddleware. Every request
opens a database connection twice: in the view, and in middleware after it (a changed session).
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import django
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.management import call_command
from django.db import connections
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.urls import path

from streambridge_app.asgi import flow_control

GZIP = ["django.middleware.gzip.GZipMiddleware"] if "EVENT_STREAMS_GZIP" in os.environ else []

settings.configure(
    SECRET_KEY="only for tests",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ["EVENT_STREAMS_DATABASE"],
            "OPTIONS": {
                "init_command": "PRAGMA synchronous=OFF",
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
            },
        }
    },
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.messages",
        "django.contrib.sessions",
    ],
    MIDDLEWARE=[
        *GZIP,
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
)
django.setup()

from streambridge_app.serve import event_stream_response  # noqa: E402 - the apps are ready now

state = {"open": 0, "sent": 0, "cancelled": 0, "closed": 0}


@contextmanager
def _watched() -> Iterator[None]:
    state["open"] += 1
    try:
        yield
    except asyncio.CancelledError:
        state["cancelled"] += 1
        raise
    except GeneratorExit:
        state["closed"] += 1
        raise
    finally:
        state["open"] -= 1


async def _idle() -> AsyncIterator[bytes]:
    with _watched():
        yield b"event: first\ndata: 1\n\n"
        await asyncio.Event().wait()


async def _endless() -> AsyncIterator[bytes]:
    frame = b"event: big\ndata: " + bytes(65536) + b"\n\n"
    with _watched():
        while True:
            yield frame
            state["sent"] += 1
            # Uvicorn's send never suspends once the client has gone, so this must.
            await asyncio.sleep(0)


async def idle(request: HttpRequest) -> HttpResponseBase:
    from django.contrib.auth.models import User

    await User.objects.acount()
    request.session["seen"] = True
    return event_stream_response(_idle())


async def endless(request: HttpRequest) -> HttpResponseBase:
    return event_stream_response(_endless())


async def report(request: HttpRequest) -> HttpResponseBase:
    return JsonResponse(state)


urlpatterns = [path("", report), path("idle", idle), path("endless", endless)]

for needed in ("auth", "sessions"):
    call_command("migrate", needed, verbosity=0)
connections.close_all()
application = flow_control(ASGIHandler())
