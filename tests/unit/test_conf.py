import pytest
from django.core.exceptions import ImproperlyConfigured

from streambridge_app.conf import NAME, OPTIONS, Settings, given, streambridge_settings


def test_every_option_has_a_number_of_its_own_a_rule_and_a_help():
    numbers = [option.number for option in OPTIONS.values()]
    assert len(set(numbers)) == len(numbers)
    for name, option in OPTIONS.items():
        assert option.name == name
        assert option.help.endswith(".")
        assert option.must


@pytest.mark.parametrize("name", OPTIONS)
def test_defaults_are_valid_and_used(name, settings):
    settings.STREAMBRIDGE = {}
    assert OPTIONS[name].valid(OPTIONS[name].default)
    assert getattr(streambridge_settings, name) == OPTIONS[name].default


def test_no_setting_at_all_means_all_defaults(settings):
    if hasattr(settings, NAME):
        del settings.STREAMBRIDGE
    assert given() == {}
    assert streambridge_settings.PAGE_EVENTS == 2000


def test_settings_are_read_at_each_use(settings):
    settings.STREAMBRIDGE = {"PAGE_EVENTS": 7}
    assert streambridge_settings.PAGE_EVENTS == 7
    settings.STREAMBRIDGE = {"PAGE_EVENTS": 8}
    assert streambridge_settings.PAGE_EVENTS == 8


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("PAGE_EVENTS", 0),
        ("PAGE_EVENTS", 1.5),
        ("PAGE_EVENTS", True),
        ("PAGE_EVENTS", "500"),
        ("MESSAGE_BYTES", -1),
        ("HEARTBEAT_INTERVAL", 0),
        ("HEARTBEAT_INTERVAL", None),
        ("HEARTBEAT_INTERVAL", float("inf")),
        ("HEARTBEAT_INTERVAL", float("nan")),
        ("POLL_INTERVAL", -1),
        ("BACKEND", ""),
        ("DATABASE", None),
        ("RETRY_MS", (2, 1)),
        ("RETRY_MS", (1,)),
        ("RETRY_MS", 5),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_and_the_rule(name, wrong, settings):
    settings.STREAMBRIDGE = {name: wrong}
    with pytest.raises(ImproperlyConfigured) as caught:
        getattr(streambridge_settings, name)
    assert str(caught.value).startswith(f"STREAMBRIDGE['{name}'] must be {OPTIONS[name].must}")


@pytest.mark.parametrize(
    ("name", "value"),
    [("POLL_INTERVAL", None), ("KEEP_SECONDS", None), ("RETRY_MS", [0, 0]), ("MESSAGE_BYTES", 0)],
)
def test_special_values(name, value, settings):
    settings.STREAMBRIDGE = {name: value}
    assert getattr(streambridge_settings, name) == value


def test_the_setting_must_be_a_dict(settings):
    settings.STREAMBRIDGE = ["BACKEND"]
    with pytest.raises(ImproperlyConfigured, match="STREAMBRIDGE must be a dict"):
        given()


def test_options_describe_themselves_on_the_class():
    assert Settings.PAGE_EVENTS is OPTIONS["PAGE_EVENTS"]
