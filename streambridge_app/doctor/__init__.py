"""
The checks of ``manage.py streambridge_doctor``: whether a deployment as it stands will work.

They ask the real services, and never change anything but a run of their own, which they delete.
"""

from __future__ import annotations

import time
from typing import Final

from . import (
    clock,
    configuration,
    database,
    garbage,
    layer,
    postgresql,
    requests,
    round_trip,
    server,
    sqlite,
)
from .check import Check, Visit, blocking
from .examination import examine
from .findings import FAIL, OK, WARNING, Found, Outcome
from .partner import Partner, serve
from .times import shown

__all__ = ["CHECKS", "FAIL", "OK", "WARNING", "Outcome", "Partner", "Visit", "examine", "serve"]

START_SECONDS: Final = 30.0
"""Seconds for the start of the second process: a project's imports may take long."""


def _check_database_settings() -> Found:
    with database.log_connection() as connection:
        if connection.vendor == "postgresql":
            return postgresql.check_settings(connection)
        return sqlite.check_settings(connection)


async def _check_second_process(visit: Visit) -> Found:
    started = time.perf_counter()
    await visit.partner.start()
    return Found(f"started in {shown(time.perf_counter() - started)}")


CHECKS: Final = (
    Check(
        "settings",
        blocking(configuration.check_settings),
        "Run manage.py check, which shows the whole error.",
    ),
    Check(
        "database",
        blocking(database.check_reachable),
        "Start the database, or correct its entry in DATABASES; is a firewall between, or "
        "are all connections taken?",
    ),
    Check(
        "migrations",
        blocking(database.check_migrated),
        "Run manage.py showmigrations streambridge_app, which shows the whole error.",
        needs=("database",),
    ),
    Check(
        "database settings",
        blocking(_check_database_settings),
        "Is another process in a long transaction? With SQLite, that keeps all writers waiting.",
        needs=("database",),
    ),
    Check(
        "clock",
        blocking(clock.check_clock),
        "The database has stopped to answer: look at its log.",
        needs=("database",),
    ),
    Check(
        "second process",
        _check_second_process,
        "Run manage.py check in the same environment: it must start without a question.",
        least=START_SECONDS,
    ),
    Check(
        "channel layer",
        layer.check_layer,
        "Start Redis, or correct the address in CHANNEL_LAYERS: host, port, password, TLS. "
        "Until then clients get events by polling.",
        needs=("second process",),
    ),
    Check(
        "server",
        blocking(server.check_application),
        "Import the ASGI application in manage.py shell, which shows the whole error.",
    ),
    Check(
        "flow control",
        blocking(server.check_flow_control),
        "Import the ASGI application in manage.py shell, which shows the whole error.",
        needs=("server",),
    ),
    Check(
        "garbage",
        blocking(garbage.check_garbage),
        "Import the ASGI application in manage.py shell, which shows the whole error.",
        needs=("server",),
    ),
    Check(
        "routes",
        server.check_routes,
        "Compare ROOT_URLCONF and the ASGI application with the README.",
        needs=("server",),
    ),
    Check(
        "round trip",
        round_trip.check_round_trip,
        "Is a transaction open that holds the log's tables? With POLL_INTERVAL above the "
        "timeout and no layer, give a longer --timeout.",
        needs=("settings", "migrations", "second process"),
    ),
    Check(
        "requests",
        requests.check_requests,
        "Does middleware wait for something? Ask the server itself, and look at its log.",
        needs=("routes", "round trip"),
    ),
)
