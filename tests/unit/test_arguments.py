import datetime

import pytest

from streambridge_app.contract.arguments import (
    MAX_DELAY,
    check_delay,
    check_keep,
    check_limit,
    check_subscription,
    milliseconds,
)
from streambridge_app.exceptions import InvalidCursor, InvalidRunId


def test_what_is_no_number():
    hour = datetime.timedelta(hours=1)
    with pytest.raises(TypeError, match=r"delay must be a number, not datetime\.timedelta"):
        check_delay(hour)
    with pytest.raises(TypeError, match="keep must be a number, not '5'"):
        check_keep("5")
    with pytest.raises(TypeError, match="lease must be a number"):
        milliseconds("lease", hour)
    with pytest.raises(TypeError, match="max_events must be a number"):
        check_limit("max_events", [1])
    with pytest.raises(TypeError, match="heartbeat_interval must be a number"):
        check_subscription("run", None, "1")


def test_keep():
    assert check_keep(0) == 0
    with pytest.raises(ValueError, match="keep must be 0 or more events, not -1"):
        check_keep(-1)


def test_delay():
    assert check_delay(0).total_seconds() == 0
    assert check_delay(1.5).total_seconds() == 1.5
    assert check_delay(MAX_DELAY)
    for wrong in (-0.1, float("nan"), float("inf"), MAX_DELAY + 1):
        with pytest.raises(ValueError, match="delay must be 0 to"):
            check_delay(wrong)


def test_subscription():
    check_subscription("run", "now", 0.1)
    with pytest.raises(InvalidRunId):
        check_subscription("", None, 1)
    with pytest.raises(InvalidCursor):
        check_subscription("run", "x", 1)
    for wrong in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="heartbeat_interval must be more than 0"):
            check_subscription("run", None, wrong)
