"""One test per id of the system checks, and one for silence."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from typing import Any

import django
import pytest
from django.conf import settings as django_settings
from django.core import mail
from django.core.checks import CheckMessage, run_checks
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections
from pytest_django import Settings

from streambridge_app import checks
from streambridge_app.checks import serving, task_queues
from streambridge_app.conf import OPTIONS
from tests.services import spawn

not_callable = "text"
wsgi = WSGIHandler()

WRONG_VALUES: dict[str, Any] = {
    "BACKEND": 1,
    "DATABASE": None,
    "CHANNEL_LAYER": "",
    "AUTHORIZER": object,
    "HEARTBEAT_INTERVAL": 0,
    "POLL_INTERVAL": -1,
    "READ_THREADS": 0,
    "PAGE_EVENTS": "500",
    "TAIL_EVENTS": 1.5,
    "TAIL_BYTES": True,
    "MESSAGE_BYTES": -1,
    "MAX_EVENT_BYTES": 0,
    "PRODUCER_BUFFER": None,
    "KEEP_SECONDS": float("inf"),
    "SWEEP_INTERVAL": float("nan"),
    "TOKEN_MAX_AGE": "1h",
    "MAX_STREAMS": 0,
    "MAX_RUNS_PER_SOCKET": 0,
    "RETRY_MS": (2000, 500),
    "SHUTDOWN_SECONDS": 0,
    "LEASE_SECONDS": 0,
    "RETRY_SECONDS": 0,
    "KEEP_UNOWNED_SECONDS": 0,
    "MAX_RUN_EVENTS": 0,
    "MAX_RUN_BYTES": 1.5,
    "TUNE_GC": 1,
    "ENCODER": len,
    "KEEP_SILENT_SECONDS": 0,
}


IMMEDIATE = {"default": {"BACKEND": "django.tasks.backends.immediate.ImmediateBackend"}}


@pytest.fixture(autouse=True)
def quiet(settings: Settings) -> None:
    """Settings about which no check has anything to say."""
    settings.ASGI_APPLICATION = "project.asgi.application"
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer"}
    }
    settings.TASKS = {"default": {"BACKEND": "some.queue.Backend"}}


def found() -> list[CheckMessage]:
    return run_checks(tags=[checks.TAG])


def the_only(number: str) -> CheckMessage:
    """Return the one message there is; it must have this id, and a hint."""
    (message,) = found()
    assert message.id == f"streambridge.{number}"
    assert message.hint
    assert message.is_serious() is number.startswith("E")
    return message


def test_says_nothing_about_good_settings() -> None:
    assert found() == []


def test_every_id_is_listed_once() -> None:
    listed = re.findall(r"^``([EW]\d{3})``", checks.__doc__ or "", re.MULTILINE)
    every = [*checks.CHECKS, *checks.DATABASE_CHECKS]
    told = [check.__doc__.strip(".") for check in every if check.__doc__]
    by_function = [one for ids in told for one in ids.split(", ")]
    assert listed == [*dict.fromkeys(listed)]
    assert {*by_function} - {"E001 and following: the numbers of the options"} == {*listed}


def test_option_numbers_are_unique_and_below_those_of_other_checks() -> None:
    numbers = [option.number for option in OPTIONS.values()]
    assert len({*numbers}) == len(numbers)
    assert max(numbers) < 100


def test_e000_not_a_dict(settings: Settings) -> None:
    settings.STREAMBRIDGE = ["BACKEND"]
    assert "must be a dict" in the_only("E000").msg


def test_every_option_has_a_wrong_value_below() -> None:
    assert WRONG_VALUES.keys() == OPTIONS.keys()


@pytest.mark.parametrize("name", OPTIONS)
def test_e001_and_following_wrong_value(name: str, settings: Settings) -> None:
    settings.STREAMBRIDGE = {name: WRONG_VALUES[name]}
    message = the_only(f"E{OPTIONS[name].number:03}")
    assert name in message.msg
    assert repr(WRONG_VALUES[name]) in message.msg
    assert repr(OPTIONS[name].default) in str(message.hint)


def test_e100_unknown_option(settings: Settings) -> None:
    settings.STREAMBRIDGE = {"heartbeat_intervall": 5}
    assert the_only("E100").hint == "Did you mean 'HEARTBEAT_INTERVAL'?"


def test_e100_option_like_no_other(settings: Settings) -> None:
    settings.STREAMBRIDGE = {"X": 5}
    assert "'AUTHORIZER', 'BACKEND'" in str(the_only("E100").hint)


def test_e101_unknown_database(settings: Settings) -> None:
    settings.STREAMBRIDGE = {"DATABASE": "logs"}
    message = the_only("E101")
    assert "'logs'" in message.msg
    assert message.hint == "Name one of 'default', 'postgres'."


def test_e102_unknown_channel_layer(settings: Settings) -> None:
    settings.STREAMBRIDGE = {"CHANNEL_LAYER": "fast"}
    message = the_only("E102")
    assert "'fast'" in message.msg
    assert message.hint == "Name one of 'default'."


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("nonesuch.Bridge", "can't be imported"),
        ("streambridge_app.contract.bridge.Producer", "no subclass of StreamBridge"),
        ("streambridge_app.registry.get_bridge", "no subclass of StreamBridge"),
    ],
)
def test_e103_no_bridge(path: str, complaint: str, settings: Settings) -> None:
    settings.STREAMBRIDGE = {"BACKEND": path}
    assert complaint in the_only("E103").msg


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("project.access.Nonesuch", "can't be imported"),
        ("streambridge_app.access.Access", "no subclass of Authorizer"),
    ],
)
def test_e104_no_authorizer(path: str, complaint: str, settings: Settings) -> None:
    settings.STREAMBRIDGE = {"AUTHORIZER": path}
    assert complaint in the_only("E104").msg


@pytest.mark.parametrize("engine", ["django.db.backends.dummy", "nonesuch"])
def test_e105_other_database(engine: str, settings: Settings) -> None:
    connections.settings["other"] = {**connections.settings["default"], "ENGINE": engine}
    settings.STREAMBRIDGE = {"DATABASE": "other"}
    try:
        assert engine in the_only("E105").msg
    finally:
        del connections.settings["other"]
        if hasattr(connections._connections, "other"):
            del connections["other"]


def test_e106_channel_layer_that_is_not_installed(settings: Settings) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "nonesuch.Layer"}}
    assert "'nonesuch.Layer'" in the_only("E106").msg


def test_e107_database_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings["default"], "NAME", ":memory:")
    assert "one of its own" in the_only("E107").msg


PSYCOPG2_ONLY = """
import sys
sys.modules["psycopg"] = None
import django
from django.conf import settings
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "log"}},
    INSTALLED_APPS=[
        "django.contrib.auth", "django.contrib.contenttypes", "streambridge_app",
    ],
)
django.setup()
from django.core.checks import run_checks
from streambridge_app import checks
for message in run_checks(tags=[checks.TAG]):
    print(message.id, message.msg, message.hint)
"""


def test_e120_psycopg2() -> None:
    argv = [sys.executable, "-c", PSYCOPG2_ONLY]
    out, _ = spawn(argv, stdout=subprocess.PIPE, text=True).output()
    (line,) = [line for line in out.splitlines() if line.startswith("streambridge.E")]
    assert line.startswith("streambridge.E120 The driver of PostgreSQL is psycopg2")
    assert "Install psycopg 3" in line


def test_e121_old_sqlite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.34.1")
    assert the_only("E121").msg == "SQLite is 3.34.1: the log needs 3.35.0 or newer."


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("nonesuch.encode", "can't be imported"),
        ("streambridge_app.conf.NAME", "can't be called"),
    ],
)
def test_e150_no_encoder(path: str, complaint: str, settings: Settings) -> None:
    settings.STREAMBRIDGE = {"ENCODER": path}
    assert complaint in the_only("E150").msg


def test_w001_in_memory_layer(settings: Settings) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    the_only("W001")
    settings.DEBUG = True
    assert "streambridge.W001" not in [message.id for message in found()]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("init_command", "PRAGMA synchronous=NORMAL;"),
        ("transaction_mode", None),
        ("transaction_mode", "DEFERRED"),
    ],
)
def test_w002_sqlite_options(option: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings["default"]["OPTIONS"], option, value)
    assert "journal_mode=WAL" in str(the_only("W002").hint)


@pytest.mark.parametrize("pragma", ["PRAGMA journal_mode = wal", "pragma JOURNAL_MODE='WAL'"])
def test_w002_other_spellings_of_wal(pragma: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings["default"]["OPTIONS"], "init_command", pragma)
    assert found() == []


@pytest.mark.parametrize("seconds", [60, None])
def test_w003_conn_max_age(seconds: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings["postgres"], "CONN_MAX_AGE", seconds)
    assert "'postgres'" in the_only("W003").msg


def test_w004_gzip(settings: Settings) -> None:
    settings.MIDDLEWARE = ["django.middleware.gzip.GZipMiddleware", *settings.MIDDLEWARE]
    if django.VERSION >= (6, 1):
        assert found() == []
    else:
        assert "event_stream_response" in str(the_only("W004").hint)


def test_w005_no_asgi_application(settings: Settings) -> None:
    del settings.ASGI_APPLICATION
    the_only("W005")


def test_w006_no_channel_layer(settings: Settings) -> None:
    settings.CHANNEL_LAYERS = {}
    the_only("W006")


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("nonesuch.asgi.application", "ModuleNotFoundError: No module named 'nonesuch'"),
        ("project.asgi.nonesuch", "ImportError"),
        ("project", "ImportError"),
        (f"{__name__}.not_callable", "is no ASGI application but 'text'"),
        (f"{__name__}.wsgi", "is no ASGI application but <django.core.handlers.wsgi.WSGIHandler"),
    ],
)
def test_e110_application_that_cannot_be_served(
    path: str, complaint: str, settings: Settings
) -> None:
    settings.ASGI_APPLICATION = path
    message = the_only("E110")
    assert repr(path) in message.msg
    assert complaint in message.msg


def test_w011_application_that_only_servers_can_import(settings: Settings) -> None:
    settings.ASGI_APPLICATION = f"{__name__}.of_the_web_only"
    assert "KeyError: 'WEB_PORT'" in the_only("W011").msg


def __getattr__(name: str) -> str:
    """Be a module that is imported where the environment lacks something."""
    if name == "of_the_web_only":
        raise KeyError("WEB_PORT")
    raise AttributeError(name)


def test_w010_runserver_without_daphne(settings: Settings) -> None:
    settings.DEBUG = True
    assert "'daphne' first" in str(the_only("W010").hint)
    settings.DEBUG = False
    assert found() == []


def test_w010_runserver_of_daphne(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.DEBUG = True
    monkeypatch.setattr(serving, "get_commands", lambda: {"runserver": "daphne"})
    assert found() == []


@pytest.mark.parametrize(
    ("name", "value"), [("CELERY_TASK_ALWAYS_EAGER", True), ("TASKS", IMMEDIATE)]
)
def test_w040_tasks_run_where_they_are_sent(
    name: str, value: object, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    setattr(settings, name, value)
    assert found() == []  # in a test run
    monkeypatch.delattr(mail, "outbox")
    message = the_only("W040")
    assert name in message.msg
    assert "waits" in message.msg


def test_w040_is_silent_where_workers_run_the_tasks(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(mail, "outbox")
    settings.CELERY_TASK_ALWAYS_EAGER = False
    assert found() == []


class SettingsOfDjango6:
    """Those of the test run, with the default that TASKS has there."""

    TASKS = IMMEDIATE

    def is_overridden(self, name: str) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(django_settings, name)


def test_w040_of_the_default_of_django_needs_a_streamed_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(mail, "outbox")
    monkeypatch.setattr(task_queues, "settings", SettingsOfDjango6())
    monkeypatch.delitem(sys.modules, "streambridge_app.contrib.tasks", raising=False)
    assert found() == []
    monkeypatch.setitem(sys.modules, "streambridge_app.contrib.tasks", checks)
    assert "ImmediateBackend" in the_only("W040").msg
