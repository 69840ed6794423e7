"""One test per id of the system checks, and one for silence."""

from __future__ import annotations

import re
from typing import Any

import django
import pytest
from django.core.checks import CheckMessage, run_checks
from django.db import connections
from pytest_django import Settings

from streambridge_app import checks
from streambridge_app.conf import OPTIONS

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
}


@pytest.fixture(autouse=True)
def quiet(settings: Settings) -> None:
    """Settings about which no check has anything to say."""
    settings.ASGI_APPLICATION = "project.asgi.application"
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer"}
    }


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
    by_function = [check.__doc__.strip(".") for check in checks.CHECKS if check.__doc__]
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
        ("streambridge_app.bridge.Producer", "no subclass of StreamBridge"),
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
    assert found() == []


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
