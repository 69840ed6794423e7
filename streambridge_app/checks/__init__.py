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

from collections.abc import Callable, Sequence
from typing import Final

from django.core.checks import CheckMessage, Tags, register

from . import channel_layers, databases, options, serving, task_queues
from .databases import ENCODING_HINT
from .messages import TAG

__all__ = ["CHECKS", "ENCODING_HINT", "TAG", "install"]

CHECKS: Final[Sequence[Callable[..., list[CheckMessage]]]] = (
    options.check_type,
    options.check_values,
    options.check_unknown,
    databases.check_database_alias,
    channel_layers.check_channel_layer_alias,
    options.check_backend,
    options.check_authorizer,
    databases.check_database_vendor,
    channel_layers.check_channel_layer_class,
    databases.check_database_in_memory,
    databases.check_postgresql_driver,
    databases.check_sqlite_version,
    options.check_encoder,
    channel_layers.check_in_memory_layer,
    databases.check_sqlite_options,
    databases.check_conn_max_age,
    serving.check_gzip,
    serving.check_asgi_application,
    channel_layers.check_channel_layer_configured,
    serving.check_asgi_application_loads,
    serving.check_runserver,
    task_queues.check_tasks_run_elsewhere,
)


DATABASE_CHECKS: Final[Sequence[Callable[..., list[CheckMessage]]]] = (databases.check_encoding,)


def install() -> None:
    """Register the checks with Django."""
    for check in CHECKS:
        register(check, TAG)
    for check in DATABASE_CHECKS:  # not by our tag: Django 6.1 would give them all databases
        register(check, Tags.database)
