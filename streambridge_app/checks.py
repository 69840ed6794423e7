"""
What ``manage.py check`` says about the settings: each mistake by an id, with what to do.

It must never connect to anything: what it finds, it finds in the settings. Only what Django calls
checks of databases, which run when one is named (``check --database``, ``migrate``), may ask that.

======== =====================================================================
``E000`` ``STREAMBRIDGE`` is not a dict
``E0NN`` an option has a wrong value; NN is its number in ``conf.py``
``E100`` an option that doesn't exist
``E101`` ``DATABASE`` is not in ``DATABASES``
``E102`` ``CHANNEL_LAYER`` is not in ``CHANNEL_LAYERS``
``E103`` ``BACKEND`` is no bridge class
``E104`` ``AUTHORIZER`` is no authorizer class
``E105`` the database is neither SQLite nor PostgreSQL
``E106`` the class of the channel layer can't be imported
``E107`` the SQLite database is in memory
``E110`` the ASGI application can't be imported or called, or is a WSGI one
``E120`` the driver of PostgreSQL is psycopg2
``E121`` the version of SQLite is too old
``E150`` ``ENCODER`` is no callable
``W001`` the in-memory channel layer outside ``DEBUG``
``W002`` SQLite without WAL or without IMMEDIATE transactions
``W003`` ``CONN_MAX_AGE`` is not 0
``W004`` ``GZipMiddleware`` on a Django that holds streams back
``W005`` no ``ASGI_APPLICATION``
``W006`` no channel layer
``W011`` the ASGI application raises something when it is imported
``W010`` in ``DEBUG``, a ``runserver`` that serves WSGI
``W040`` tasks run where they are sent, so that a page waits for all of its run
``W020`` the encoding of the PostgreSQL database is not UTF8
======== =====================================================================
"""

from __future__ import annotations

import difflib
import re
import sqlite3
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import django
from channels.layers import InMemoryChannelLayer
from django.conf import settings
from django.core import mail
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import get_commands
from django.db import connections
from django.utils.module_loading import import_string

from .access import Authorizer
from .conf import NAME, OPTIONS, given
from .contract import StreamBridge

TAG: Final = "streambridge"

_IMMEDIATE: Final = "django.tasks.backends.immediate.ImmediateBackend"
LEAST_SQLITE: Final = (3, 35, 0)
"""The first with ``RETURNING``."""

ENCODING_HINT: Final = (
    "Keep the log in a database made with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0; "
    f"{NAME}['DATABASE'] may name another one than the default."
)

_GZIP: Final = "django.middleware.gzip.GZipMiddleware"
_WAL: Final = re.compile(r"journal_mode\s*=\s*['\"]?wal\b", re.IGNORECASE)


def check_type(**kwargs: Any) -> list[CheckMessage]:
    """E000."""
    try:
        given()
    except ImproperlyConfigured as error:
        return [_error("E000", str(error), f"For example: {NAME} = {{'HEARTBEAT_INTERVAL': 5}}.")]
    return []


def check_values(**kwargs: Any) -> list[CheckMessage]:
    """E001 and following: the numbers of the options."""
    options = _given()
    return [
        _error(
            f"E{option.number:03}",
            option.complaint(options[name]),
            f"{option.help} Default: {option.default!r}.",
        )
        for name, option in OPTIONS.items()
        if name in options and not option.valid(options[name])
    ]


def check_unknown(**kwargs: Any) -> list[CheckMessage]:
    """E100."""
    return [
        _error("E100", f"{NAME} has no option {name!r}.", _hint_for_unknown(str(name)))
        for name in _given()
        if name not in OPTIONS
    ]


def check_database_alias(**kwargs: Any) -> list[CheckMessage]:
    """E101."""
    alias = _value("DATABASE")
    if alias is None or alias in connections.settings:
        return []
    return [
        _error(
            "E101",
            f"{NAME}['DATABASE'] is {alias!r}, which is not in DATABASES.",
            f"Name one of {_listed(connections.settings)}.",
        )
    ]


def check_channel_layer_alias(**kwargs: Any) -> list[CheckMessage]:
    """E102."""
    alias, layers = _value("CHANNEL_LAYER"), _channel_layers()
    if alias is None or not layers or alias in layers:
        return []
    return [
        _error(
            "E102",
            f"{NAME}['CHANNEL_LAYER'] is {alias!r}, which is not in CHANNEL_LAYERS.",
            f"Name one of {_listed(layers)}.",
        )
    ]


def check_backend(**kwargs: Any) -> list[CheckMessage]:
    """E103."""
    return _check_class("E103", "BACKEND", StreamBridge)


def check_authorizer(**kwargs: Any) -> list[CheckMessage]:
    """E104."""
    return _check_class("E104", "AUTHORIZER", Authorizer)


def check_database_vendor(**kwargs: Any) -> list[CheckMessage]:
    """E105."""
    alias = _value("DATABASE")
    if alias is None or alias not in connections.settings:
        return []
    try:
        if connections[alias].vendor in {"sqlite", "postgresql"}:
            return []
    except ImproperlyConfigured as error:
        problem = str(error)
    else:
        problem = f"its engine is {connections.settings[alias]['ENGINE']!r}"
    return [
        _error(
            "E105",
            f"The log can't be kept in the database {alias!r}: {problem}.",
            "Use SQLite or PostgreSQL, with its driver installed; "
            f"{NAME}['DATABASE'] may name another database than the default one.",
        )
    ]


def check_channel_layer_class(**kwargs: Any) -> list[CheckMessage]:
    """E106."""
    path = _layer_path()
    if path is None:
        return []
    try:
        import_string(path)
    except ImportError as error:
        return [
            _error(
                "E106",
                f"The channel layer {path!r} can't be imported: {error}.",
                "Install its package (for channels_redis: channels-redis) or correct the path.",
            )
        ]
    return []


def check_database_in_memory(**kwargs: Any) -> list[CheckMessage]:
    """E107."""
    database = _sqlite()
    if database is None or database["NAME"] != ":memory:":
        return []
    return [
        _error(
            "E107",
            "The log can't be kept in an SQLite database in memory: each thread would have one "
            "of its own.",
            "Let NAME be a file; or, in unit tests, BACKEND "
            "'streambridge_app.backends.memory.MemoryBridge'.",
        )
    ]


def check_postgresql_driver(**kwargs: Any) -> list[CheckMessage]:
    """E120."""
    if _vendor() != "postgresql":
        return []
    from django.db.backends.postgresql.psycopg_any import is_psycopg3  # there is one by now

    if is_psycopg3:
        return []
    return [
        _error(
            "E120",
            "The driver of PostgreSQL is psycopg2, whose errors don't say whether an event was "
            "stored.",
            "Install psycopg 3 (`pip install psycopg[binary]`); Django takes it when both are "
            "there.",
        )
    ]


def check_sqlite_version(**kwargs: Any) -> list[CheckMessage]:
    """E121."""
    if _vendor() != "sqlite" or sqlite3.sqlite_version_info >= LEAST_SQLITE:
        return []
    least = ".".join(map(str, LEAST_SQLITE))
    return [
        _error(
            "E121",
            f"SQLite is {sqlite3.sqlite_version}: the log needs {least} or newer.",
            "Use a Python that comes with a newer SQLite, or PostgreSQL.",
        )
    ]


def check_encoding(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """W020."""
    alias = _value("DATABASE")
    if _vendor() != "postgresql" or alias not in (databases or ()):
        return []
    with connections[alias].cursor() as cursor:
        cursor.execute("SHOW server_encoding")
        (encoding,) = cursor.fetchone()
    if encoding == "UTF8":
        return []
    return [
        _warning(
            "W020",
            f"The database {alias!r}, which holds the log, has the encoding {encoding}: events "
            "with other characters are refused.",
            ENCODING_HINT,
        )
    ]


def check_encoder(**kwargs: Any) -> list[CheckMessage]:
    """E150."""
    path = _value("ENCODER")
    if path is None:
        return []
    try:
        if callable(import_string(path)):
            return []
    except ImportError as error:
        message = f"{NAME}['ENCODER'] can't be imported: {error}."
    else:
        message = f"{NAME}['ENCODER'] is {path!r}, which can't be called."
    hint = "Name a function: given a value, it returns what to publish, or raises TypeError."
    return [_error("E150", message, hint)]


def check_in_memory_layer(**kwargs: Any) -> list[CheckMessage]:
    """W001."""
    path = _layer_path()
    if settings.DEBUG or path is None:
        return []
    try:
        layer = import_string(path)
    except ImportError:
        return []
    if not (isinstance(layer, type) and issubclass(layer, InMemoryChannelLayer)):
        return []
    return [
        _warning(
            "W001",
            "The in-memory channel layer reaches its own process only: events from other "
            "processes are found by polling the database, 20 times a second in each server.",
            "Use channels_redis.pubsub.RedisPubSubChannelLayer in production.",
        )
    ]


def check_sqlite_options(**kwargs: Any) -> list[CheckMessage]:
    """W002."""
    database = _sqlite()
    if database is None or database["NAME"] == ":memory:":
        return []
    options = database["OPTIONS"]
    missing = []
    if not _WAL.search(options.get("init_command") or ""):
        missing.append("WAL, readers and the writer wait for each other")
    if str(options.get("transaction_mode")).upper() not in {"IMMEDIATE", "EXCLUSIVE"}:
        missing.append("IMMEDIATE transactions, two writers can fail with 'database is locked'")
    return [
        _warning(
            "W002",
            f"The log is in SQLite: without {problem}.",
            "Set OPTIONS = {'init_command': 'PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;', "
            "'transaction_mode': 'IMMEDIATE', 'timeout': 20}.",
        )
        for problem in missing
    ]


def check_conn_max_age(**kwargs: Any) -> list[CheckMessage]:
    """W003."""
    kept = [alias for alias, one in connections.settings.items() if one["CONN_MAX_AGE"] != 0]
    if not kept:
        return []
    return [
        _warning(
            "W003",
            f"CONN_MAX_AGE is not 0 for {_listed(kept)}: under ASGI, requests run on ever new "
            "threads, and the connection that each opens is kept but never used again.",
            "Set CONN_MAX_AGE to 0; for PostgreSQL, OPTIONS['pool'] keeps connections open.",
        )
    ]


def check_gzip(**kwargs: Any) -> list[CheckMessage]:
    """W004."""
    if django.VERSION >= (6, 1) or _GZIP not in settings.MIDDLEWARE:
        return []
    return [
        _warning(
            "W004",
            "On this version of Django, GZipMiddleware holds streamed responses back until its "
            "buffer is full. StreamBridge's own streams pass it by; those of views that build "
            "another streaming response from get_bridge() don't.",
            "Return streambridge_app.serve.event_stream.event_stream_response(), use Django 6.1 or "
            f"newer, or silence this with SILENCED_SYSTEM_CHECKS = ['{TAG}.W004'].",
        )
    ]


def check_asgi_application(**kwargs: Any) -> list[CheckMessage]:
    """W005."""
    if getattr(settings, "ASGI_APPLICATION", None):
        return []
    return [
        _warning(
            "W005",
            "ASGI_APPLICATION is not set, so that `runserver` can't serve ASGI. Under WSGI, "
            "the stream of a run is refused, and there are no WebSockets.",
            "Set ASGI_APPLICATION = 'yourproject.asgi.application' and put 'daphne' first in "
            "INSTALLED_APPS.",
        )
    ]


def check_channel_layer_configured(**kwargs: Any) -> list[CheckMessage]:
    """W006."""
    if _channel_layers():
        return []
    return [
        _warning(
            "W006",
            "CHANNEL_LAYERS is empty: servers find new events by polling the database only.",
            "Set CHANNEL_LAYERS; in production to channels_redis.pubsub.RedisPubSubChannelLayer.",
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
            _warning(
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
        _error(
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
        _warning(
            "W010",
            "The `runserver` of this project serves WSGI, by which the stream of a run is refused.",
            "Put 'daphne' first in INSTALLED_APPS; or, if you serve the ASGI application in "
            f"another way, silence this with SILENCED_SYSTEM_CHECKS = ['{TAG}.W010'].",
        )
    ]


def check_tasks_run_elsewhere(**kwargs: Any) -> list[CheckMessage]:
    """W040."""
    if hasattr(mail, "outbox"):  # of a test run, where it is what one wants
        return []
    eager = []
    if getattr(settings, "CELERY_TASK_ALWAYS_EAGER", False):
        eager.append(("CELERY_TASK_ALWAYS_EAGER is set", "Unset it, and start a Celery worker."))
    if _has_immediate_tasks():
        eager.append(
            (
                "TASKS names ImmediateBackend",
                "Name a backend in TASKS that has workers, outside tests.",
            )
        )
    return [
        _warning(
            "W040",
            f"{why}: a request that sends a task waits until the task has ended, and a page gets "
            "all events of its run at once.",
            hint,
        )
        for why, hint in eager
    ]


CHECKS: Final[Sequence[Callable[..., list[CheckMessage]]]] = (
    check_type,
    check_values,
    check_unknown,
    check_database_alias,
    check_channel_layer_alias,
    check_backend,
    check_authorizer,
    check_database_vendor,
    check_channel_layer_class,
    check_database_in_memory,
    check_postgresql_driver,
    check_sqlite_version,
    check_encoder,
    check_in_memory_layer,
    check_sqlite_options,
    check_conn_max_age,
    check_gzip,
    check_asgi_application,
    check_channel_layer_configured,
    check_asgi_application_loads,
    check_runserver,
    check_tasks_run_elsewhere,
)


DATABASE_CHECKS: Final[Sequence[Callable[..., list[CheckMessage]]]] = (check_encoding,)


def install() -> None:
    """Register the checks with Django."""
    for check in CHECKS:
        register(check, TAG)
    for check in DATABASE_CHECKS:  # not by our tag: Django 6.1 would give them all databases
        register(check, Tags.database)


def _error(number: str, message: str, hint: str) -> Error:
    return Error(message, hint=hint, id=f"{TAG}.{number}")


def _warning(number: str, message: str, hint: str) -> Warning:
    return Warning(message, hint=hint, id=f"{TAG}.{number}")


def _given() -> dict[str, Any]:
    try:
        return given()
    except ImproperlyConfigured:
        return {}  # E000 says so


def _value(name: str) -> Any:
    """Return the value in force, or None if it is one that the checks of values report."""
    option = OPTIONS[name]
    value = _given().get(name, option.default)
    return value if option.valid(value) else None


def _hint_for_unknown(name: str) -> str:
    close = difflib.get_close_matches(name.upper(), OPTIONS, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"The options are {_listed(OPTIONS)}."


def _check_class(number: str, name: str, base: type) -> list[CheckMessage]:
    path = _value(name)
    if path is None:
        return []
    try:
        found = import_string(path)
    except ImportError as error:
        message = f"{NAME}[{name!r}] can't be imported: {error}."
    else:
        if isinstance(found, type) and issubclass(found, base):
            return []
        message = f"{NAME}[{name!r}] is {path!r}, which is no subclass of {base.__name__}."
    return [_error(number, message, f"Default: {OPTIONS[name].default!r}.")]


def _has_immediate_tasks() -> bool:
    """Return whether TASKS, or Django's default for it, lets streamed tasks run at once."""
    backends = getattr(settings, "TASKS", {})  # comes with Django 6.0
    if not any(one.get("BACKEND") == _IMMEDIATE for one in backends.values()):
        return False
    chosen = settings.is_overridden("TASKS")  # type: ignore[misc] # unknown to its stubs
    return chosen or f"{__package__}.contrib.tasks" in sys.modules


def _channel_layers() -> Mapping[str, Any]:
    return getattr(settings, "CHANNEL_LAYERS", None) or {}


def _layer_path() -> str | None:
    """Return the dotted path of the channel layer, if there is one by that alias."""
    layer = _channel_layers().get(_value("CHANNEL_LAYER"))
    return None if layer is None else str(layer.get("BACKEND", ""))


def _vendor() -> str | None:
    """Return what kind of database the log's is, if other checks have nothing to say of that."""
    alias = _value("DATABASE")
    if alias not in connections.settings:
        return None
    try:
        return connections[alias].vendor
    except ImproperlyConfigured:
        return None


def _sqlite() -> dict[str, Any] | None:
    """Return the settings of the log's database if that is SQLite."""
    alias = _value("DATABASE")
    database: dict[str, Any] | None = connections.settings.get(alias)
    return database if database and "sqlite" in database["ENGINE"] else None


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(map(repr, sorted(names)))
