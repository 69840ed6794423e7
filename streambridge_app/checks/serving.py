"""What serves the project, and stands between it and the streams."""

from __future__ import annotations

from typing import Any, Final

import django
from django.conf import settings
from django.core.checks import CheckMessage
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import get_commands
from django.utils.module_loading import import_string

from .messages import TAG, error_of, warning_of

_GZIP: Final = "django.middleware.gzip.GZipMiddleware"


def check_gzip(**kwargs: Any) -> list[CheckMessage]:
    """W004."""
    if django.VERSION >= (6, 1) or _GZIP not in settings.MIDDLEWARE:
        return []
    return [
        warning_of(
            "W004",
            "On this version of Django, GZipMiddleware holds streamed responses back until its "
            "buffer is full. StreamBridge's own streams pass it by; those of views that build "
            "another streaming response from get_bridge() don't.",
            "Return streambridge_app.serve.event_stream_response(), use Django 6.1 or newer, or "
            f"silence this with SILENCED_SYSTEM_CHECKS = ['{TAG}.W004'].",
        )
    ]


def check_asgi_application(**kwargs: Any) -> list[CheckMessage]:
    """W005."""
    if getattr(settings, "ASGI_APPLICATION", None):
        return []
    return [
        warning_of(
            "W005",
            "ASGI_APPLICATION is not set, so that `runserver` can't serve ASGI. Under WSGI, "
            "the stream of a run is refused, and there are no WebSockets.",
            "Set ASGI_APPLICATION = 'yourproject.asgi.application' and put 'daphne' first in "
            "INSTALLED_APPS.",
        )
    ]


def check_asgi_application_loads(**kwargs: Any) -> list[CheckMessage]:
    """E110, W011."""
    path = getattr(settings, "ASGI_APPLICATION", None)
    if not path:
        return []
    try:
        application = import_string(path)
    except ImportError as error:
        problem = f"can't be imported: {type(error).__name__}: {error}"
    except Exception as error:  # a project's own code, which may raise anything
        return [
            warning_of(
                "W011",
                f"ASGI_APPLICATION = {path!r} can't be imported here: {type(error).__name__}: "
                f"{error}.",
                "If only the servers have what it needs, all is well: silence this with "
                f"SILENCED_SYSTEM_CHECKS = ['{TAG}.W011'].",
            )
        ]
    else:
        if callable(application) and not isinstance(application, WSGIHandler):
            return []
        problem = f"is no ASGI application but {application!r}"
    return [
        error_of(
            "E110",
            f"ASGI_APPLICATION = {path!r} {problem}.",
            "Name the application of your project's asgi.py; `django-admin startproject` makes one "
            "to copy.",
        )
    ]


def check_runserver(**kwargs: Any) -> list[CheckMessage]:
    """W010."""
    if not settings.DEBUG or not getattr(settings, "ASGI_APPLICATION", None):
        return []
    if get_commands().get("runserver") not in {"django.core", "django.contrib.staticfiles"}:
        return []
    return [
        warning_of(
            "W010",
            "The `runserver` of this project serves WSGI, by which the stream of a run is refused.",
            "Put 'daphne' first in INSTALLED_APPS; or, if you serve the ASGI application in "
            f"another way, silence this with SILENCED_SYSTEM_CHECKS = ['{TAG}.W010'].",
        )
    ]
