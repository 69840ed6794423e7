"""No password gets into the report."""

from types import SimpleNamespace

import pytest

from streambridge_app.doctor import passwords
from streambridge_app.doctor.passwords import configured, without


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    settings = SimpleNamespace()
    settings.DATABASES = {
        "default": {
            "NAME": "log",
            "USER": "ada",
            "PASSWORD": "s3/same",
            "OPTIONS": {"passfile": ""},
        }
    }
    settings.CHANNEL_LAYERS = {
        "default": {
            "CONFIG": {
                "hosts": [
                    "redis://:open%20it@one:6379/0",
                    {"address": "redis://two", "password": "hush"},
                    ("three", 6379),
                ],
                "symmetric_encryption_keys": ["k3y"],
            }
        }
    }
    monkeypatch.setattr(passwords, "settings", settings)
    return settings


def test_the_passwords_of_the_settings_are_known() -> None:
    assert configured() >= {"s3/same", "s3%2Fsame", "open%20it", "open it", "hush", "k3y"}
    assert not configured() & {"", "ada", "log", "three"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("invalid 's3/same'", "invalid '***'"),
        ("s3%2Fsame, open it; open%20it", "***, ***; ***"),
        ("key b'k3y'", "key b'***'"),
        ("redis://:unknown@host:1/0 is down", "redis://:***@host:1/0 is down"),
        ("postgresql://ada:p@ss@host/log", "postgresql://ada:***@host/log"),
        ("host=h password=unknown user=u", "host=h password=*** user=u"),
        ("password = 'two words' user=u", "password = *** user=u"),
        ("GET /runs/x?token=abc.def&y=1", "GET /runs/x?token=***&y=1"),
        ("connection to host at 10:30 refused", "connection to host at 10:30 refused"),
    ],
)
def test_texts_without_them(text: str, shown: str) -> None:
    assert without(text, configured()) == shown


def test_the_longer_secret_goes_first() -> None:
    assert without("abcdef", {"abc", "abcdef"}) == "***"


def test_a_project_without_channel_layers(settings: SimpleNamespace) -> None:
    settings.CHANNEL_LAYERS = None
    assert "s3/same" in configured()
