"""The tests' settings with the log in a database of its own, for child processes."""

import os

import dj_database_url

from tests.settings import *  # noqa: F403 - all of them
from tests.settings import DATABASES as _DATABASES
from tests.settings import INSTALLED_APPS as _APPS


def _database(url: str) -> dict[str, object]:
    database = dict(dj_database_url.parse(url))
    if url.startswith("sqlite"):
        database["OPTIONS"] = _DATABASES["default"]["OPTIONS"]
    return database


class Router:
    """As one writes it: this app to its database, the rest to the default one."""

    def db_for_read(self, model: object, **hints: object) -> str | None:
        return "log" if model._meta.app_label == "streambridge_app" else None  # type: ignore[attr-defined]

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **hints: object) -> bool:
        return (db == "log") is (app_label == "streambridge_app")


DATABASES = {name: _database(os.environ[f"{name.upper()}_URL"]) for name in ("default", "log")}
DATABASE_ROUTERS = [Router()] if os.environ["ROUTED"] == "yes" else []
INSTALLED_APPS = [*_APPS, "tests.integration.apps.customers"]
ROOT_URLCONF = "tests.urls"
STREAMBRIDGE = {"DATABASE": "log"}
